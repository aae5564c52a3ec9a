"""From the arguments of a command line to an exit code.

0 done, 1 failed while running, 2 bad input, 3 done with a bad verdict, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

import grpo
from grpo.cli.commands import app
from grpo.cli.streams import drop_output, is_text, open_closed_streams
from grpo.errors import ConfigError, GrpoError, InputError, remedies_of
from grpo.machine import OUT_OF_MEMORY, is_out_of_memory

__all__ = ["main", "script"]

_NAME = "grpo"
_STREAM_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

_SHOWN = 1500
"""Characters of each end of a message that are shown; few messages are longer than both."""

_INTERRUPTED = 130
_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Base class of Typer's errors about a command line. Typer exports only its subclass `BadParameter`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    # As an option of Typer, -h would be found in every prompt that begins with a dash and has an h.
    flags = ["--help" if arg == "-h" else arg for arg in args[:end] if arg != "--debug"]
    open_closed_streams()
    try:
        if (bad := next((arg for arg in args if not is_text(arg)), None)) is not None:
            raise ConfigError(f"the argument {bad[:40]!r} is not UTF-8 text: write it in UTF-8")
        with _stage(debug):
            code = _run(flags, args[end:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted", debug)
        return _INTERRUPTED
    except Exception as error:
        code, message = _verdict(error, debug=debug)
        if message is not None:
            _complain(message, debug)
    return code


def _verdict(error: Exception, *, debug: bool) -> tuple[int, str | None]:
    """Return the exit code for an error, and what to say about it."""
    remedies = "".join(f"; {remedy}" for remedy in remedies_of(error))
    if isinstance(error, GrpoError):
        return 2 if isinstance(error, InputError) else 1, f"error: {error}{remedies}"
    # Errors of files that we write have become a StorageError: this one is of the stream.
    if isinstance(error, OSError) and error.filename is None and error.errno in _STREAM_ERRORS:
        drop_output()
        # The reader (`head`, a pager) may leave when it has seen enough.
        left = isinstance(error, BrokenPipeError)
        return (0, None) if left else (1, f"error: cannot write to standard output: {error.strerror}")
    if is_out_of_memory(error):
        return 1, f"error: {OUT_OF_MEMORY}{remedies}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        shown = str(error.filename)
        return 2, f"error: the name {shown[:40]}… has {len(shown)} characters, more than the file system allows"
    hint = "" if debug else " (grpo --debug … shows where)"
    return 1, f"error: {type(error).__name__}: {error}{hint}{remedies}"


def script() -> NoReturn:
    """Run `main` as a program."""
    code = main()
    if code == _INTERRUPTED and any(thread.daemon for thread in threading.enumerate()):
        # A thread that is inside a library when the interpreter ends would abort the process.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(flags: list[str], literals: list[str]) -> int:
    """Return the exit code of the command that the arguments name: `flags`, and `literals` from `--` on.

    Raises:
        ConfigError: Typer refuses the arguments.
    """
    command = get_command(app)
    if f"_{_NAME.upper()}_COMPLETE" in os.environ:
        command.main(prog_name=_NAME)  # answers the shell and exits
    if "--version" in flags:
        print(f"grpo {grpo.__version__}")
        return 0
    if not flags or flags[0] == "help":
        flags = [*flags[1:], "--help"]
    try:
        with command.make_context(_NAME, [*flags, *literals]) as ctx:
            return int(command.invoke(ctx))
    except typer.Exit as end:
        return end.exit_code
    except _USAGE_ERROR as error:
        message = str(error.format_message())
        group = command if error.ctx is None else error.ctx.command
        # The message ends in a full stop unless it suggests a name.
        if isinstance(group, TyperGroup) and message.endswith("."):
            message = f"{message[:-1]}: use one of {', '.join(group.commands)}"
        raise ConfigError(message) from error


@contextmanager
def _stage(debug: bool) -> Iterator[None]:
    """Hold other packages' chatter back, show our own warnings, and find modules where `python` would."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for package in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{package}_VERBOSITY", "error")
    if not sys.stderr.isatty():
        for package in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{package}_DISABLE_PROGRESS_BARS", "1")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("grpo")
    logger.addHandler(handler)
    previous, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = previous


def _complain(message: str, debug: bool) -> None:
    # Standard error may be full, or closed by its reader: the exit code is left to say it.
    with contextlib.suppress(OSError):
        if debug:
            traceback.print_exc()
        print(_one_line(message), file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    """Return `message` on one line, without the middle of a value of thousands of characters."""
    line = " ".join(message.split())
    return line if len(line) <= 2 * _SHOWN else f"{line[:_SHOWN]} … {line[-_SHOWN:]}"
