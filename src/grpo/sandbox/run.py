"""Runs one program in the sandbox and says what became of it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from grpo.errors import RunError
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.order import NOBODY
from grpo.sandbox.watch import Report, watch

__all__ = ["namespaces_refused", "run_program", "run_reported"]

_PACKAGE = Path(__file__).resolve().parent
# The package is entered without its own first lines: they import what the launcher has no use for.
_BOOTSTRAP = (
    "import sys\n"
    f"for name, place in (('grpo', {str(_PACKAGE.parent)!r}), ('grpo.sandbox', {str(_PACKAGE)!r})):\n"
    "    sys.modules[name] = type(sys)(name)\n"
    "    sys.modules[name].__path__ = [place]\n"
    "from grpo.sandbox.jail import main\n"
)
_READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
)  # fmt: skip
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",  # sets in the same order each time, so that a program always scores the same
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def run_program(
    source: str,
    *,
    stdin: str = "",
    limits: Limits | None = None,
    python: str = sys.executable,
    packages: bool = False,
    namespaces: bool | None = None,
) -> Execution:
    """Run Python source as a program and return what became of it, when nothing of it is left.

    The program runs in a fresh folder with an environment of its own. Where namespaces are to be had, it sees neither
    network nor other processes nor any file but the interpreter, system libraries and its own; elsewhere the
    kernel's limits, a process group and what else the system offers hold it: see `protections`.

    Args:
        stdin: what it reads.
        python: the interpreter.
        packages: whether it may import what is installed beside the standard library.
        namespaces: True: run in them or not at all; False: without; None: in them where possible.

    Raises:
        RunError: the sandbox could not be set up. Nothing that a program does raises.
    """
    isolated = namespaces_refused() is None if namespaces is None else namespaces
    execution, _ = run_reported(
        source, stdin=stdin, limits=limits or Limits(), python=python, packages=packages, namespaces=isolated
    )
    return execution


_asking = threading.Lock()


def namespaces_refused() -> str | None:
    """Return why programs cannot run in namespaces of their own here; None when they can. Tried once a process."""
    with _asking:
        return _namespaces_refused()


@functools.lru_cache(maxsize=1)
def _namespaces_refused() -> str | None:
    if sys.platform != "linux":
        return "only Linux has namespaces"
    try:
        execution, _ = run_reported(
            "", stdin="", limits=Limits(), python=sys.executable, packages=False, namespaces=True
        )
    except RunError as error:
        return str(error)
    return None if execution.exit_code == 0 else f"the interpreter does not start in them: {execution.stderr[-200:]}"


def run_reported(
    source: str, *, stdin: str, limits: Limits, python: str, packages: bool, namespaces: bool
) -> tuple[Execution, Report]:
    """Return what became of a program, and what the launcher told of its jail.

    Raises:
        RunError: the sandbox could not be set up.
    """
    if os.name != "posix":
        raise RunError("programs can be run in a sandbox on Linux and macOS only: leave code rewards out here")
    # Imported for its byte code, which the launcher reads and does not write.
    from grpo.sandbox import jail  # noqa: F401

    interpreter = _interpreter(python)
    try:
        with _fresh_folder() as box:
            (box / "program.py").write_text(source, encoding="utf-8", errors="replace")
            user = None if namespaces else _other_user(interpreter.base, box)
            if user is not None:
                os.chown(box, user, user)
            given = {
                "command": [interpreter.path, "-s", "-B"] if packages else [interpreter.base, "-S", "-s", "-B"],
                "box": str(box),
                "readable": _outermost([*_READABLE, *interpreter.places[0 if packages else 1 :]]),
                "environment": dict(_ENVIRONMENT),
                "limits": _whole(limits),
                "namespaces": namespaces,
                "user": user,
            }
            return _launched(given, stdin, limits)
    except OSError as error:
        raise RunError(
            f"sandbox cannot be set up: {error}: free processes, descriptors or space for temporary files"
        ) from error


def _launched(given: dict[str, Any], stdin: str, limits: Limits) -> tuple[Execution, Report]:
    with contextlib.ExitStack() as opened:
        report, status = _pipe(opened)
        order, control = _pipe(opened)
        ours = {"status": status.fileno(), "control": order.fileno()}
        with _readable_file(stdin) as standard_input:
            process = subprocess.Popen(
                [_interpreter(sys.executable).base, "-I", "-S", "-B", "-c", f"{_BOOTSTRAP}main(**{given | ours!r})"],
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={},
                pass_fds=(status.fileno(), order.fileno()),
                start_new_session=True,
            )
        status.close()
        order.close()
        return watch(process, report, control, limits)


def _pipe(opened: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Return the ends of a pipe to read from and to write to."""
    reading, writing = os.pipe()
    return opened.enter_context(os.fdopen(reading, "rb", 0)), opened.enter_context(os.fdopen(writing, "wb", 0))


def _whole(limits: Limits) -> dict[str, int]:
    """Return the limits as the launcher takes them."""
    amounts = {name: max(1, round(getattr(limits, name))) for name in ("memory_mb", "processes", "file_kb")}
    return amounts | {"cpu_s": limits.cpu_seconds}


@contextlib.contextmanager
def _fresh_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="grpo-sandbox-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():  # the program took rights away, or nested folders too deep for Python
            subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, capture_output=True)
            subprocess.run(["rm", "-rf", str(folder)], check=False, capture_output=True)


@contextlib.contextmanager
def _readable_file(text: str) -> Iterator[int]:
    """Give a text as a file that has no name any more and cannot be written to."""
    if not text:
        yield subprocess.DEVNULL
        return
    descriptor, name = tempfile.mkstemp(prefix="grpo-sandbox-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", errors="replace"))
        reader = os.open(name, os.O_RDONLY)
    finally:
        Path(name).unlink()
    try:
        yield reader
    finally:
        os.close(reader)


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """A Python: the file named, the file behind it outside any virtual environment, and the folders they live in.

    The first of `places` is the virtual environment's, when it is one.
    """

    path: str
    base: str
    places: tuple[str, ...]


_ASK = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.base_exec_prefix]))"


@functools.lru_cache(maxsize=8)
def _interpreter(python: str) -> _Interpreter:
    """Return where an interpreter lives.

    Raises:
        RunError: it does not run.
    """
    if python == sys.executable:
        prefixes = [sys.prefix, sys.base_prefix, sys.base_exec_prefix]
    else:
        try:
            asked = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, check=True, timeout=30, text=True)
            prefixes = json.loads(asked.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise RunError(f"{python!r} cannot run programs: {error}: give the path of a Python interpreter") from error
    path = shutil.which(python) or python
    base = os.path.realpath(path)
    return _Interpreter(path, base, tuple(dict.fromkeys([*prefixes, str(Path(base).parent)])))


def _outermost(places: Sequence[str]) -> list[str]:
    """Return the places that exist and lie in no other of them; a link brings what it points to."""
    pointed_to = [os.path.realpath(place) for place in places if Path(place).is_symlink()]
    there = [place for place in dict.fromkeys([*places, *pointed_to]) if place != "/" and os.path.lexists(place)]
    folders = [f"{place.rstrip('/')}/" for place in there if not Path(place).is_symlink()]
    return [place for place in there if not any(place.startswith(folder) for folder in folders)]


def _other_user(interpreter: str, box: Path) -> int | None:
    """Return the user that a program of root's runs as when nothing else separates it; None: as whoever we are.

    That is only possible where that user may enter the folders above the interpreter and the program.
    """
    if os.geteuid() != 0:
        return None
    above = [*Path(interpreter).parents, *box.parents]
    return NOBODY if all(folder.stat().st_mode & 0o001 for folder in above) else None
