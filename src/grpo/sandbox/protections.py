"""Which protections hold on this machine. What a harmless program can try is tried, and not only looked up."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from grpo.errors import RunError
from grpo.sandbox.limits import Limits
from grpo.sandbox.run import namespaces_refused, run_reported
from grpo.sandbox.watch import Report

__all__ = ["Protection", "protections"]


class Protection(NamedTuple):
    """One thing that programs are kept from.

    Attributes:
        name: what they cannot do.
        in_force: whether that is so.
        how: by what means; or why not.
    """

    name: str
    in_force: bool
    how: str


_LIMITS = Limits(wall_s=3, memory_mb=160, processes=6, output_kb=16, file_kb=256)
_TRY_TO_LEAVE = """
import json, os, socket, sys
place, port, caller = sys.stdin.read().split("\\n")
def stopped(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False
print(json.dumps({
    "network": stopped(lambda: socket.create_connection(("127.0.0.1", int(port)), timeout=1)),
    "reading": stopped(lambda: open(place).read()),
    "writing": stopped(lambda: open(place + ".new", "w")),
    "signals": stopped(lambda: os.kill(int(caller), 0)),
    "environment": stopped(lambda: open(f"/proc/{caller}/environ", "rb").read()),
    "files": stopped(lambda: open("file", "wb").write(bytes(1 << 20))),
}))
"""
_TRY_MEMORY = """
try:
    bytearray(1 << 28)
except MemoryError:
    print("stopped")
"""
_TRY_PROCESSES = """
import os, time
for _ in range(40):
    try:
        if os.fork() == 0:
            time.sleep(9)
    except OSError:
        print("stopped", flush=True)
        break
    time.sleep(0.01)
"""


def protections(namespaces: bool | None = None) -> list[Protection]:
    """Return what programs cannot do on this machine, and how that is seen to.

    Args:
        namespaces: as for `run_program`.

    Raises:
        RunError: no program can be run at all.
    """
    refused = namespaces_refused()
    isolated = refused is None if namespaces is None else namespaces
    tried, facts = _try_to_leave(isolated)
    rows = _apart(tried, facts, isolated) + _limited(tried, facts, isolated)
    if not isolated:
        why = "switched off" if refused is None else refused
        rows.insert(0, Protection("namespaces of its own", False, why))
    else:
        rows.insert(0, Protection("namespaces of its own", True, "processes, files, network, IPC, names, users"))
    return rows


def _run(source: str, isolated: bool, stdin: str = "") -> tuple[Any, Report]:
    return run_reported(source, stdin=stdin, limits=_LIMITS, python=sys.executable, packages=False, namespaces=isolated)


def _try_to_leave(isolated: bool) -> tuple[dict[str, bool], Report]:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        file = Path(folder) / "file"
        file.write_text("private")
        stdin = f"{file}\n{server.getsockname()[1]}\n{os.getpid()}"
        execution, facts = _run(_TRY_TO_LEAVE, isolated, stdin)
    try:
        return json.loads(execution.stdout), facts
    except ValueError as error:
        raise RunError(f"sandbox does not run programs as it should: {execution}: report it") from error


def _apart(tried: dict[str, bool], facts: Report, isolated: bool) -> list[Protection]:
    """Return what keeps a program from the rest of the machine."""
    linux, filtered, landlock = sys.platform == "linux", "filter" in facts, facts.get("landlock")
    user = facts.get("user")
    by_filter = "seccomp filter" if filtered else f"no seccomp filter: {facts.get('filter_refused', 'not Linux')}"
    by_rights = f"runs as user {user}, so only what everybody may" if user is not None else "whatever the caller may"
    files = f"Landlock {landlock}" if landlock else f"{by_rights} (no Landlock: {facts.get('landlock_refused', '-')})"
    network, places, group = by_filter, files, f"process group, {by_filter}"
    if isolated:
        network, places, group = "network namespace", "file system of its own", "process namespace"
    return [
        Protection("reads no files outside its folder", tried["reading"], places),
        Protection("writes no files outside its folder", tried["writing"], places),
        Protection("reaches no network", tried["network"], network),
        Protection("signals no other process", tried["signals"], group),
        Protection("does not see the caller's environment", tried["environment"], group if isolated else places),
        Protection("leaves no process behind", isolated or filtered or (linux and user is not None), group),
        Protection("gains no privileges", linux, "no new privileges, no capabilities"),
        Protection("makes no unusual system calls", filtered, by_filter),
    ]


def _limited(tried: dict[str, bool], facts: Report, isolated: bool) -> list[Protection]:
    """Return what keeps a program from using up the machine."""
    memory, _ = _run(_TRY_MEMORY, isolated)
    processes, _ = _run(_TRY_PROCESSES, isolated)
    counted = Path("/proc/self/task", str(os.getpid()), "children").exists()
    total = "launcher, 50 times a second" if counted else "/proc does not tell who a process's children are"
    held = "stopped" in processes.stdout or processes.killed_by == "processes"
    disk = "size of its file system" if isolated else total
    return [
        Protection("wall time", True, "caller's clock"),
        Protection("CPU time of each process", "CPU" in facts["limited"], "RLIMIT_CPU"),
        Protection("memory of each process", "stopped" in memory.stdout, "RLIMIT_AS"),
        Protection("memory of all its processes", counted, total),
        Protection("number of processes", held, "RLIMIT_NPROC" if "stopped" in processes.stdout else total),
        Protection("size of a file", tried["files"], "RLIMIT_FSIZE"),
        Protection("size of all its files", isolated or counted, disk),
        Protection("output", True, "caller reads no more"),
    ]
