# ruff: noqa: PTH123, PTH208
"""Who descends from a process, and what they use together, as /proc tells it."""

from __future__ import annotations

import os

__all__ = ["census", "descendants", "tasks_of_user"]


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from this one; none where /proc does not tell."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            children = [int(child) for child in _read(f"/proc/{parent}/task/{thread}/children").split()]
            found += children
            waiting += children
    return found


def census(pid: int) -> tuple[int, int]:
    """Return how many processes descend from this one and how many kilobytes they use.

    Pages that a fork shares with its parent count twice.
    """
    processes = descendants(pid)
    return len(processes), sum(map(_memory_kb, processes))


def tasks_of_user(user: int) -> int:
    """Return how many processes and threads of one user the machine runs, as far as /proc tells."""
    total = 0
    try:
        entries = os.listdir("/proc")
    except OSError:
        return 0
    for entry in entries:
        if entry.isdigit():
            fields = _fields(f"/proc/{entry}/status")
            if fields.get("Uid", "-1").split()[0] == str(user):
                total += int(fields.get("Threads", "1"))
    return total


def _memory_kb(pid: int) -> int:
    fields = _fields(f"/proc/{pid}/status")
    return sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))


def _fields(path: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in _read(path).splitlines() if ":\t" in line)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
