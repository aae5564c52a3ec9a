"""Runs one program in the sandbox and returns its execution."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any

from grpo.errors import ConfigError, SandboxError
from grpo.sandbox.folder import BOX, NOBODY, remove_folder
from grpo.sandbox.interpreter import find_interpreter
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.watch import START_S, Report, watch

__all__ = ["check_system", "namespaces_refused", "run_program", "run_reported"]

_log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent
# The bootstrap skips `grpo/__init__.py` and `grpo/sandbox/__init__.py`, whose imports the launcher does not need.
_BOOTSTRAP = (
    "import sys\n"
    f"for name, place in (('grpo', {str(_PACKAGE.parent)!r}), ('grpo.sandbox', {str(_PACKAGE)!r})):\n"
    "    sys.modules[name] = type(sys)(name)\n"
    "    sys.modules[name].__path__ = [place]\n"
    "from grpo.sandbox.launcher.main import main\n"
)
_SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_REMOVE_S = 10.0
_CAPABILITIES = (0, 6, 7)
"""CAP_CHOWN, CAP_SETGID, CAP_SETUID."""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",  # the same order of sets each time, so that a program always has the same score
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
    deadline: float | None = None,
) -> Execution:
    """Run Python source as a program and return its execution, after all its processes and files are gone.

    The program runs in a fresh folder with an environment of its own. Where namespaces are available, it sees no
    network, no other processes, and no files but those of the interpreter, system libraries and its own folder.
    Elsewhere the kernel's limits, a process group and further means of the system restrict it: see `protections`.

    Args:
        stdin: the program's standard input.
        python: the interpreter.
        packages: let it import packages that are installed beside the standard library.
        namespaces: True: require namespaces; False: use none; None: use them where possible.
        deadline: time at which the caller stops waiting, on the clock of `time.monotonic`.

    Raises:
        ConfigError: `python` is no interpreter, or the system neither Linux nor macOS.
        SandboxError: the sandbox could not be set up.
        TimeoutError: the deadline came before the program's end and its limits. No action of a program raises
            another exception.
    """
    isolated = namespaces_refused() is None if namespaces is None else namespaces
    execution, _ = run_reported(
        source,
        stdin=stdin,
        limits=limits or Limits(),
        python=python,
        packages=packages,
        namespaces=isolated,
        deadline=deadline,
    )
    return execution


def check_system() -> None:
    """Raise ConfigError on a system that cannot run programs in a sandbox."""
    if os.name != "posix":
        raise ConfigError("programs can be run in a sandbox on Linux and macOS only: leave code rewards out here")


_asking = threading.Lock()
_answer: list[str | None] = []


def namespaces_refused() -> str | None:
    """Return the reason why programs cannot run in namespaces on this machine; None when they can.

    The system's answer is kept, and a refusal is logged once as a warning. A temporary failure is not kept, because
    all later programs would run with less protection.

    Raises:
        SandboxError: the answer could not be determined.
    """
    with _asking:
        if not _answer:
            refusal = _try_namespaces()
            _answer.append(refusal)
            if refusal is not None:
                _log.warning("programs run without namespaces of their own (%s): see `grpo doctor --sandbox`", refusal)
        return _answer[0]


def _try_namespaces() -> str | None:
    if sys.platform != "linux":
        return "only Linux has namespaces"
    try:
        execution, _ = run_reported(
            "", stdin="", limits=Limits(), python=sys.executable, packages=False, namespaces=True
        )
    except SandboxError as error:
        if error.refused is not None:
            return error.refused
        raise
    if execution.killed_by is not None:
        raise SandboxError(f"sandbox cannot be tried: an empty program was killed by {execution.killed_by}: try again")
    return None if execution.exit_code == 0 else f"the interpreter does not start in them: {execution.stderr[-200:]}"


def run_reported(
    source: str,
    *,
    stdin: str,
    limits: Limits,
    python: str,
    packages: bool,
    namespaces: bool,
    deadline: float | None = None,
) -> tuple[Execution, Report]:
    """Return a program's execution, and the launcher's report on its jail.

    Raises:
        ConfigError, SandboxError, TimeoutError: as `run_program`.
    """
    check_system()
    # This import writes the byte code, which the launcher reads but does not write.
    from grpo.sandbox.launcher import main  # noqa: F401

    interpreter = find_interpreter(python)
    try:
        folder = Path(tempfile.gettempdir()).resolve() / f"grpo-sandbox-{secrets.token_hex(8)}"
        user = _other_user(interpreter.base, folder, namespaces=namespaces)
        fields = {
            "command": [interpreter.path, "-s", "-B"] if packages else [interpreter.base, "-S", "-s", "-B"],
            "folder": str(folder),
            "box": str(folder / BOX),
            "readable": interpreter.readable(packages=packages),
            "environment": dict(_ENVIRONMENT),
            "limits": _whole(limits),
            "start_s": START_S,
            "wall_s": float(limits.wall_s),
            "namespaces": namespaces,
            "user": user,
        }
        make_folder = partial(_folder_with_program, folder, source, owner=None if namespaces else user)
        return _launched(fields, make_folder, stdin, limits, deadline)
    except TimeoutError:
        raise
    except OSError as error:
        advice = "free some of it" if error.errno in _SHORTAGES else "see `grpo doctor --sandbox`"
        raise SandboxError(f"sandbox cannot be set up: {error}: {advice}") from error


def _launched(
    fields: dict[str, Any],
    make_folder: Callable[[], AbstractContextManager[None]],
    stdin: str,
    limits: Limits,
    deadline: float | None,
) -> tuple[Execution, Report]:
    """Start the launcher, then make the folder: a launcher whose caller is killed removes it at any moment."""
    with contextlib.ExitStack() as opened:
        report, status = _pipe(opened)
        order, control = _pipe(opened)
        ours = {"status": status.fileno(), "control": order.fileno()}
        with _input(stdin) as standard_input:
            process = subprocess.Popen(
                [
                    find_interpreter(sys.executable).base,
                    "-I",
                    "-S",
                    "-B",
                    "-c",
                    f"{_BOOTSTRAP}main(**{fields | ours!r})",
                ],
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
        opened.enter_context(process)
        opened.callback(control.close)  # ends a launcher that got no folder
        with make_folder():
            with contextlib.suppress(BrokenPipeError):  # the launcher has failed, and its report says why
                control.write(b"+")
            return watch(process, report, control, limits, deadline)


def _pipe(opened: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Return the reading and the writing end of a pipe."""
    reading, writing = os.pipe()
    return opened.enter_context(os.fdopen(reading, "rb", 0)), opened.enter_context(os.fdopen(writing, "wb", 0))


def _whole(limits: Limits) -> dict[str, int]:
    """Return the limits that the launcher enforces, as whole numbers."""
    amounts = {name: max(1, round(getattr(limits, name))) for name in ("memory_mb", "processes", "file_kb")}
    return amounts | {"cpu_s": limits.cpu_seconds}


@contextlib.contextmanager
def _folder_with_program(folder: Path, source: str, *, owner: int | None) -> Iterator[None]:
    """Make a fresh folder with a program in its own folder, and remove it at the end.

    Args:
        owner: user to whom the program's own folder belongs; None: this process's own user.
    """
    folder.mkdir(0o700)
    try:
        folder.chmod(0o711)  # a program that runs as another user must pass through
        box = folder / BOX
        box.mkdir()
        (box / "program.py").write_text(source, encoding="utf-8", errors="replace")
        if owner is not None:
            os.chown(box, owner, owner)
        yield
    finally:
        if not remove_folder(str(folder), within_s=_REMOVE_S):
            _log.warning("%s could not be removed: remove it by hand", folder)


@contextlib.contextmanager
def _input(text: str) -> Iterator[int]:
    """Yield a descriptor of a text: a file without a name that no process can write to."""
    data = text.encode("utf-8", errors="replace")
    if not data:
        yield subprocess.DEVNULL
        return
    descriptor = _sealed(data) if hasattr(os, "memfd_create") else _read_only(data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sealed(data: bytes) -> int:
    # Root and the owner of a file can reopen it for writing; a seal holds for all users.
    import fcntl

    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _read_only(data: bytes) -> int:
    descriptor, name = tempfile.mkstemp(prefix="grpo-sandbox-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).chmod(0o400)
        return os.open(name, os.O_RDONLY)
    finally:
        Path(name).unlink()


def _other_user(interpreter: str, folder: Path, *, namespaces: bool) -> int | None:
    """Return the user for a program that root runs; None: this process's own user.

    Another user is possible only where root has its usual rights and, without namespaces, where that user may enter
    the folders above the interpreter and the program.
    """
    if os.geteuid() != 0 or not _may_change_users():
        return None
    if namespaces:
        return NOBODY
    above = [*Path(interpreter).parents, *folder.parents]
    return NOBODY if all(each.stat().st_mode & 0o001 for each in above) else None


def _may_change_users() -> bool:
    """Return whether this process may change its own user and the owner of files; in a container, root may not."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        users = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux; there root may
        return True
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    known = any(int(first) <= NOBODY < int(first) + int(count) for first, _, count in map(str.split, users))
    return known and all(effective >> capability & 1 for capability in _CAPABILITIES)
