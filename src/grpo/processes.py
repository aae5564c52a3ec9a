"""Whole trees of processes: who descends from one, keeping them together, and their end.

The sandbox's launcher imports this module alone, without its package: nothing that takes time to import.
"""

from __future__ import annotations

import os
import sys

__all__ = ["adopt_orphans", "descendants", "kill", "kill_group", "kill_tree"]

_KILL = 9
_SET_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from this one, parents before children; none where /proc does not tell."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    children = [int(child) for child in file.read().split()]
            except OSError:  # it has ended
                continue
            found += children
            waiting += children
    return found


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, where the system is Linux.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(_SET_SUBREAPER), *values) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "subreaper")


def kill_tree(pid: int, *, group: int | None = None) -> None:
    """Kill all that descends from a process, those that left its group too, and then a process group.

    Args:
        group: None: the process's own, which it must be the leader of. It ends with it then, this process as well.
    """
    for one in descendants(pid):
        kill(one)
    kill_group(pid if group is None else group)


def kill(pid: int) -> None:
    """Kill a process, if it is there and this one may."""
    try:
        os.kill(pid, _KILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(group: int) -> None:
    """Kill a group of processes, if there is one and this process may."""
    try:
        os.killpg(group, _KILL)
    except (ProcessLookupError, PermissionError):
        pass
