"""Threads, memory and unlinked files that the descendants of a process use together, from /proc."""

from __future__ import annotations

import math
import os
import stat

from grpo.processes import descendants

__all__ = ["census", "tasks_of_user", "unlinked_kb"]


def census(pid: int) -> tuple[int, int]:
    """Return how many threads the descendants of this process have, and how many kilobytes they use.

    A process has at least one. Pages that a fork shares with its parent count twice.
    """
    tasks = memory_kb = 0
    for one in descendants(pid):
        fields = _fields(f"/proc/{one}/status")
        tasks += int(fields.get("Threads", "1"))
        memory_kb += sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))
    return tasks, memory_kb


def unlinked_kb(pid: int) -> float:
    """Return the kilobytes of files that descendants of this process hold open and that no folder lists any more.

    The result is infinite if a process does not let its files be seen.
    """
    sizes: dict[tuple[int, int], int] = {}
    mapped: dict[tuple[int, int], int] = {}
    for one in descendants(pid):
        try:
            for name in os.listdir(f"/proc/{one}/fd"):
                _note_unlinked(f"/proc/{one}/fd/{name}", sizes)
            with open(f"/proc/{one}/maps", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.endswith(" (deleted)\n") and "/dev/zero" not in line:
                        places, _, _, device, inode = line.split()[:5]
                        start, end = (int(place, 16) for place in places.split("-"))
                        major, minor = (int(number, 16) for number in device.split(":"))
                        file_id = os.makedev(major, minor), int(inode)
                        mapped[file_id] = mapped.get(file_id, 0) + (end - start) // 1024
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except OSError:
            if "VmSize" in _fields(f"/proc/{one}/status"):  # otherwise it has ended, and its files cannot be read
                return math.inf
    return sum((mapped | sizes).values())


def _note_unlinked(path: str, sizes: dict[tuple[int, int], int]) -> None:
    try:
        found = os.stat(path)
    except OSError:  # closed meanwhile, or without a name
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
        sizes[found.st_dev, found.st_ino] = found.st_blocks // 2


def tasks_of_user(user: int) -> int:
    """Return the number of processes and threads of one user on this machine, as far as /proc shows them."""
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


def _fields(path: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in _read(path).splitlines() if ":\t" in line)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
