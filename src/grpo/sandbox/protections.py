"""Protections that hold on this machine. A harmless program tests each of them."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from grpo.errors import SandboxError
from grpo.sandbox import attempts
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.run import namespaces_refused, run_reported
from grpo.sandbox.watch import Report

__all__ = ["Protection", "protections"]


class Protection(NamedTuple):
    """One restriction of programs.

    Attributes:
        name: the restriction, in words.
        in_force: whether it holds.
        how: the means, or the reason why it does not hold.
    """

    name: str
    in_force: bool
    how: str


_WALL_S = 0.3
_LOWEST_PID = 16
_NO_PID = (1 << 22) - 1
_PRIVATE, _CREATE, _REMOVE = 0, 0o1000, 0  # IPC_PRIVATE, IPC_CREAT, IPC_RMID


def protections(namespaces: bool | None = None) -> list[Protection]:
    """Return the restrictions of programs on this machine, with the means of each.

    Args:
        namespaces: as for `run_program`.

    Raises:
        SandboxError: no program can be run at all.
    """
    refused = namespaces_refused()
    isolated = refused is None if namespaces is None else namespaces
    tried, facts = _try_to_leave(isolated)
    if isolated:
        first = Protection("namespaces of its own", True, "processes, files, network, IPC, names, users")
    else:
        first = Protection("namespaces of its own", False, "switched off" if refused is None else refused)
    return [first, *_apart(tried, facts, isolated), *_limited(tried, facts, isolated)]


def _run(source: str, isolated: bool, stdin: str = "", wall_s: float = 3.0) -> tuple[Execution, Report]:
    limits = Limits(wall_s=wall_s, memory_mb=160, processes=6, output_kb=16, file_kb=256)
    return run_reported(source, stdin=stdin, limits=limits, python=sys.executable, packages=False, namespaces=isolated)


def _try_to_leave(isolated: bool) -> tuple[dict[str, Any], Report]:
    with _bait() as bait:
        execution, facts = _run(attempts.LEAVING, isolated, json.dumps(bait))
        left, written = _is_running(bait["token"]), Path(bait["new"]).exists()
    try:
        tried: dict[str, Any] = json.loads(execution.stdout)
    except ValueError as error:
        raise SandboxError(f"sandbox does not run programs as it should: {execution}: report it") from error
    return tried | {"staying": not left, "writing": tried["writing"] and not written}, facts


@contextmanager
def _bait() -> Iterator[dict[str, Any]]:
    """Yield targets that are open to every program: files, sockets, shared memory, and this process.

    A process id that no process has replaces this process's own where that is one of the first numbers of a new
    process namespace.
    """
    token = f"grpo-sandbox-{uuid.uuid4().hex}"
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as local,
        _segment() as segment,
    ):
        Path(folder).chmod(0o755)
        file = Path(folder) / "file"
        file.write_text("for all to read")
        file.chmod(0o644)
        udp.bind(("127.0.0.1", 0))
        local.bind(f"{folder}/socket")
        local.listen()
        Path(folder, "socket").chmod(0o777)
        new = Path(tempfile.gettempdir()) / token
        pid = os.getpid()
        try:
            yield {
                "file": str(file),
                "new": str(new),
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "local": f"{folder}/socket",
                "segment": segment,
                "caller": pid if pid > _LOWEST_PID else _NO_PID,
                "token": token,
            }
        finally:
            new.unlink(missing_ok=True)


@contextmanager
def _segment() -> Iterator[int]:
    """Yield the number of System V shared memory that every user may access; -1 where the system has none."""
    import ctypes

    libc = ctypes.CDLL(None)
    number = libc.shmget(ctypes.c_int(_PRIVATE), ctypes.c_size_t(1), ctypes.c_int(_CREATE | 0o666))
    try:
        yield number
    finally:
        libc.shmctl(ctypes.c_int(number), ctypes.c_int(_REMOVE), None)


def _is_running(token: str) -> bool:
    """Return whether a process with this word in its command is running; True without /proc."""
    if not Path("/proc/self/cmdline").exists():
        return True
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in place.read_bytes():
                return True
        except OSError:  # it has ended
            continue
    return False


def _apart(tried: dict[str, Any], facts: Report, isolated: bool) -> list[Protection]:
    """Return the restrictions that separate a program from the rest of the machine."""
    filtered, landlock = "filter" in facts, facts.get("landlock")
    user = facts.get("user")
    by_filter = "seccomp filter" if filtered else f"no seccomp filter: {facts.get('filter_refused', 'not Linux')}"
    by_rights = (
        f"runs as user {user}, with the rights that every user has" if user is not None else "with the caller's rights"
    )
    files = f"Landlock {landlock}" if landlock else f"{by_rights} (no Landlock: {facts.get('landlock_refused', '-')})"
    changes = memory = by_filter if filtered else by_rights
    network, processes = by_filter, f"process group, {by_filter}" if filtered else f"{by_rights}; {by_filter}"
    if isolated:
        files = changes = "file system of its own"
        memory = "IPC namespace"
        network, processes = "network namespace", "process namespace"
    return [
        Protection("reads no files outside its folder", tried["reading"], files),
        Protection("writes no files outside its folder", tried["writing"], files),
        Protection("changes no file's mode, times or length", tried["changing"], changes),
        Protection("reaches no network", tried["network"], network),
        Protection("signals no other process", tried["signals"], processes),
        Protection("reaches no shared memory", tried["shared memory"], memory),
        Protection("does not see the caller's environment", tried["environment"], processes if isolated else files),
        Protection("leaves no process behind", tried["staying"], processes),
        Protection(
            "does not run as root", tried["user"] != 0, _ROOT if tried["user"] == 0 else f"user {tried['user']}"
        ),
        Protection("gains no privileges", tried["privileges"], _RIGHTS),
        Protection("makes no unusual system calls", tried["calls"], by_filter),
    ]


_RIGHTS = "no new privileges, no capabilities"
_ROOT = (
    "runs as root, without capabilities: this root has no right to change users, or no other user may enter the "
    "folders of interpreter and temporary files"
)


def _limited(tried: dict[str, Any], facts: Report, isolated: bool) -> list[Protection]:
    """Return the restrictions on a program's use of resources."""
    endless, _ = _run(attempts.ENDLESS, isolated, wall_s=_WALL_S)
    printing, _ = _run(attempts.PRINTING, isolated)
    memory, _ = _run(attempts.MEMORY, isolated)
    together, _ = _run(attempts.MEMORY_TOGETHER, isolated)
    held = [_run(source, isolated)[0] for source in (attempts.PROCESSES, attempts.THREADS)]
    files, _ = _run(attempts.FILES, isolated)
    counts = Path("/proc/self/task", str(os.getpid()), "children").exists()
    total = "launcher, 50 times a second" if counts else "/proc does not list a process's children"
    by_kernel = all("stopped" in one.stdout for one in held)
    return [
        Protection("wall time", endless.timed_out, "caller's clock, and launcher's"),
        Protection("CPU time of each process", "CPU" in facts["limited"], "RLIMIT_CPU"),
        Protection("memory of each process", "stopped" in memory.stdout, "RLIMIT_AS"),
        Protection("memory of all its processes", together.killed_by == "memory", total),
        Protection(
            "number of processes and threads",
            all("stopped" in one.stdout or one.killed_by == "processes" for one in held),
            "RLIMIT_NPROC" if by_kernel else total,
        ),
        Protection("size of a file", tried["file size"], "RLIMIT_FSIZE"),
        Protection(
            "size of all its files",
            "stopped" in files.stdout or files.killed_by == "files",
            "size of its file system" if isolated else total,
        ),
        Protection("output", printing.truncated, "caller reads no more"),
    ]
