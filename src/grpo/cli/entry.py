"""From the words of a command line to an exit code.

0 done, 1 failed while running, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from grpo.cli.commands import COMMANDS
from grpo.cli.printing import help_text, overview
from grpo.cli.words import take_switch
from grpo.errors import ConfigError, GrpoError, InputError

__all__ = ["main", "script"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = take_switch(words, "--debug")
    try:
        with _stage(debug):
            code = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted", debug)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        _complain(f"error: {error}", debug)
        return 2
    except GrpoError as error:
        _complain(f"error: {error}", debug)
        return 1
    except Exception as error:
        hint = "" if debug else " (grpo --debug … shows where)"
        _complain(f"error: {type(error).__name__}: {error}{hint}", debug)
        return 1
    return code


def script() -> NoReturn:
    """Run `main` as a program."""
    code = main()
    if code == _INTERRUPTED and any(thread.daemon for thread in threading.enumerate()):
        # A thread that is inside a library when the interpreter ends would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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


def _dispatch(words: list[str]) -> int:
    if take_switch(words, "--version"):
        import grpo

        print(f"grpo {grpo.__version__}")
        return 0
    wants_help = take_switch(words, "--help", "-h")
    if not words or words == ["help"]:
        print(overview({name: command.summary for name, command in COMMANDS.items()}))
        return 0
    if words[0] == "help":
        words, wants_help = words[1:], True
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version", "--debug"], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {name!r}: {hint}")
    if not wants_help:
        return COMMANDS[name].run(rest)
    print(help_text(COMMANDS[name].usage, lists_options=COMMANDS[name].lists_options))
    return 0


def _complain(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
