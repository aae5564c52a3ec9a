# ruff: noqa: SIM105
"""What the launcher does while the program runs."""

from __future__ import annotations

import os
import select

from grpo.sandbox.census import census, descendants
from grpo.sandbox.order import Order

__all__ = ["Supervisor"]

_KILL = 9
_LOOK_EVERY_S = 0.02
_LOOK_AGAIN_S = 0.002
_FOLDER_KB = 16
"""What the program's own file and the entries of its folder take, which is not counted."""


class Supervisor:
    """Waits for the program, holds it to the limits that the kernel does not keep, and ends everything."""

    def __init__(self, order: Order, first: int) -> None:
        """Look after the process `first` and all that descends from it."""
        self._order = order
        self._first = first
        self._first_ended = self._ending = False
        self._sources = [order.control]
        self._interval_s = _LOOK_EVERY_S
        try:
            self._sources.append(os.pidfd_open(first))
        except (AttributeError, OSError):  # not Linux, or not allowed: look more often instead
            self._interval_s = _LOOK_AGAIN_S

    def watch(self) -> None:
        """Return when they are all gone."""
        told_to_stop = False
        while self._some_are_left():
            if told_to_stop or self._first_ended or self._over_limits():
                self._end()
            told_to_stop = self._order.control in self._wait() or told_to_stop

    def _wait(self) -> list[int]:
        sources, seconds = ([], _LOOK_AGAIN_S) if self._ending else (self._sources, self._interval_s)
        return select.select(sources, [], [], seconds)[0]

    def _some_are_left(self) -> bool:
        """Take note of what has ended, and return whether something has not."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._first:
                self._first_ended = True
                if not self._order.namespaces:
                    self._order.tell(ended=status, cpu_s=usage.ru_utime + usage.ru_stime)
                    _kill_group(pid)

    def _over_limits(self) -> bool:
        if self._ending:
            return True
        limits = self._order.limits
        processes, memory_kb = census(os.getpid())
        if self._order.namespaces:
            processes -= 1  # the namespace's first process is not the program's
        reason = None
        if processes > limits["processes"]:
            reason = "processes"
        elif memory_kb > limits["memory_mb"] * 1024:
            reason = "memory"
        elif not self._order.namespaces and _size_kb(self._order.box, limits["file_kb"]) > limits["file_kb"]:
            reason = "files"
        if reason is not None:
            self._order.tell(killed_by=reason)
        return reason is not None

    def _end(self) -> None:
        """Kill what is there now; what escapes by forking meanwhile is met the next time round."""
        self._ending = True
        if not self._first_ended:
            _kill(self._first)
        if not self._order.namespaces:
            _kill_group(self._first)
            for pid in descendants(os.getpid()):
                _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, _KILL)
    except (ProcessLookupError, PermissionError):
        pass


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, _KILL)
    except (ProcessLookupError, PermissionError):
        pass


def _size_kb(folder: str, enough_kb: int) -> int:
    """Return what the files in a folder take; their number counts as well, a kilobyte each."""
    total, waiting = -_FOLDER_KB, [folder]
    while waiting and total <= enough_kb:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    total += 1 + entry.stat(follow_symlinks=False).st_blocks // 2
        except OSError:  # gone meanwhile, or shut, and then its own fault
            continue
    return total
