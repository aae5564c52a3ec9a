"""What the machine has: cores that are free, memory that was used."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

__all__ = ["idle_cores", "peak_memory_mb"]

_CPU_TIMES = Path("/proc/stat")
_IDLE_FIELDS = (3, 4)
"""Places of `idle` and `iowait` among the times of a line of /proc/stat."""


def idle_cores(sample_s: float = 0.2) -> int:
    """Return how many of the cores this process may use are left idle by others, at least 1.

    It sleeps for `sample_s` seconds and looks who worked. A thread that has to share its core keeps all others
    waiting at the end of every operation, so one thread too many costs more than one too few. Where the
    system does not tell (other than Linux), all cores count as idle.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = _busy_seconds()
    if before is None:
        return usable
    time.sleep(sample_s)
    after = _busy_seconds()
    assert after is not None
    return max(1, min(usable, round((os.cpu_count() or 1) - (after - before) / sample_s)))


def _busy_seconds() -> float | None:
    """Return the seconds that all cores together have worked since the machine started; None if it is not told."""
    try:
        fields = _CPU_TIMES.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    ticks = [int(field) for place, field in enumerate(fields[:8]) if place not in _IDLE_FIELDS]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(device: str) -> float:
    """Return the peak in MiB: allocated on the GPU when `device` is one, else resident in this process."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
