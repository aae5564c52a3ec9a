"""Supervision of a running program by its launcher."""

from __future__ import annotations

import math
import os
import select
import time

from grpo.processes import kill, kill_group, kill_tree
from grpo.sandbox.folder import ENTRIES_KB, size_kb
from grpo.sandbox.launcher.census import census, unlinked_kb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from grpo.sandbox.launcher.order import Order

__all__ = ["Supervisor"]

_INTERVAL_S = 0.02
_SHORT_INTERVAL_S = 0.002
_GRACE_S = 1.0
"""Seconds beyond its time that the program may run; the caller is stricter."""


class Supervisor:
    """Waits for the program, enforces the limits that the kernel does not enforce, and ends all processes."""

    def __init__(self, order: Order, first: int, *, own_kb: int) -> None:
        """Supervise the process `first` and its descendants; `own_kb` of the folder is not counted as the program's."""
        self._order = order
        self._first = first
        self._first_ended = self._ending = self._stop_requested = self._hides = False
        self._end_at = time.monotonic() + order.start_s + order.wall_s + _GRACE_S
        self._own_kb = ENTRIES_KB + own_kb
        self._sources = [order.control, order.starting]
        self._interval_s = _INTERVAL_S
        try:
            self._sources.append(os.pidfd_open(first))
        except (AttributeError, OSError):  # not Linux, or not allowed: check more often instead
            self._interval_s = _SHORT_INTERVAL_S

    def watch(self) -> None:
        """Return when all these processes have ended."""
        while self._some_are_left():
            if self._stop_requested or self._first_ended or self._over_limits():
                self._end()
            self._wait()

    def _wait(self) -> None:
        sources, seconds = ([], _SHORT_INTERVAL_S) if self._ending else (self._sources, self._interval_s)
        heard, _, _ = select.select(sources, [], [], seconds)
        if self._order.starting in heard:
            self._sources.remove(self._order.starting)
            self._end_at = time.monotonic() + self._order.wall_s + _GRACE_S
        self._stop_requested = self._stop_requested or self._order.control in heard

    def _some_are_left(self) -> bool:
        """Collect processes that have ended, and return whether any has not."""
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
                    self._order.report(ended=status, cpu_s=usage.ru_utime + usage.ru_stime)
                    kill_group(pid)

    def _over_limits(self) -> bool:
        if self._ending:
            return True
        reason = self._limit_exceeded()
        if reason is not None:
            self._order.report(killed_by=reason)
        return reason is not None

    def _limit_exceeded(self) -> str | None:
        if time.monotonic() > self._end_at:  # the caller is stopped, or too busy to check its clock
            return "wall time"
        limits = self._order.limits
        tasks, memory_kb = census(os.getpid())
        if self._order.namespaces:
            tasks -= 1  # the namespace's first process is not the program's
        if tasks > limits["processes"]:
            return "processes"
        if memory_kb > limits["memory_mb"] * 1024:
            return "memory"
        if self._order.namespaces or self._order.starting in self._sources:
            return None  # its file system has a size, or the program has not started
        return "files" if self._files_are_too_large(limits["file_kb"] + self._own_kb) else None

    def _files_are_too_large(self, most_kb: float) -> bool:
        used_kb = size_kb(self._order.box, enough_kb=most_kb)
        if used_kb <= most_kb:
            unlinked = unlinked_kb(os.getpid())
            if unlinked == math.inf and not self._hides:  # every process does so for a moment in exec
                self._hides = True
                return False
            self._hides = unlinked == math.inf
            used_kb += unlinked
        return used_kb > most_kb

    def _end(self) -> None:
        """Kill the processes of this moment; the next round kills those that were forked meanwhile."""
        self._ending = True
        if not self._first_ended:
            kill(self._first)
        if not self._order.namespaces:
            kill_tree(os.getpid(), group=self._first)
