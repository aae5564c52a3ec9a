"""Resources of this machine: idle cores, free memory and peaks of memory use."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo.errors import GrpoError, RunError, add_remedy, remedies_of

__all__ = [
    "OUT_OF_MEMORY",
    "PeakMemory",
    "free_memory_bytes",
    "idle_cores",
    "is_out_of_memory",
    "keep_freed_memory",
    "memory_errors",
    "peak_memory_mb",
]

OUT_OF_MEMORY = (
    "out of memory: take a smaller model, or train less of it (lora_rank=16 with dtype=bfloat16), or free some memory"
)

_CPU_TIMES = Path("/proc/stat")
_IDLE_FIELDS = (3, 4)
"""Places of `idle` and `iowait` among the times of a line of /proc/stat."""

_MEMORY = Path("/proc/meminfo")
_ALLOCATOR_SETTINGS = ((-3, 32 * 2**20), (-1, 2**30), (-8, 1))
"""Options and values of mallopt(3): M_MMAP_THRESHOLD at its maximum, M_TRIM_THRESHOLD, M_ARENA_MAX."""

_ALLOCATION_FAILED = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "unable to mmap",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # oneDNN, which has no other words for it.
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
)
"""Parts of the messages with which torch and the libraries below it report that they got no memory."""

_KEPT_KERNELS = 256

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is a failed allocation of memory, on the GPU or on the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(text in str(error) for text in _ALLOCATION_FAILED)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a failed allocation into an error of one line that says what to do.

    Raises:
        RunError: there is not enough memory.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GrpoError) or not is_out_of_memory(error):
            raise
        failed = RunError(OUT_OF_MEMORY)
        for remedy in remedies_of(error):
            add_remedy(failed, remedy)
        raise failed from error


def idle_cores(sample_s: float = 0.2) -> int:
    """Return the number of cores that this process may use and that others leave idle, at least 1.

    The load is measured over `sample_s` seconds. A thread that shares its core with another process delays all
    other threads at the end of every operation, so one thread too many costs more than one too few. Where the
    system does not report the load (other than Linux), all cores count as idle.
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
    """Return the seconds that all cores together have worked since the machine started; None where not reported."""
    try:
        fields = _CPU_TIMES.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    ticks = [int(field) for place, field in enumerate(fields[:8]) if place not in _IDLE_FIELDS]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(device: str) -> float:
    """Return the peak in MiB: allocated on the GPU when `device` is one, else resident in this process.

    The peak covers the time since the process began; on a GPU, the time since `PeakMemory.restart`.
    """
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def keep_freed_memory() -> bool:
    """Keep memory that a step frees for the next step; return whether the system's allocator took the settings.

    By default, glibc returns large blocks to the system when they are freed, and the system clears them page by page
    before the next use. It also has a heap for each thread, whose free memory other threads cannot use. Settings of
    the user (MALLOC_…, another allocator) stay. ONEDNN_PRIMITIVE_CACHE_CAPACITY, unless it is set, is bounded too:
    it limits the compiled kernels that oneDNN keeps.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_KERNELS))
    if any(name.startswith("MALLOC_") or name in {"LD_PRELOAD", "GLIBC_TUNABLES"} for name in os.environ):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    return all(mallopt(option, value) == 1 for option, value in _ALLOCATOR_SETTINGS)


def free_memory_bytes(device: str) -> float | None:
    """Return the free memory in bytes: of the GPU if `device` is one, else of this machine for this process.

    For a process it is the smaller of the memory that the system calls available and the rest of a container's limit
    (control groups, version 1 or 2). None where the system does not report it (other than Linux).
    """
    if device.startswith("cuda"):
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    found = _field(_MEMORY, "MemAvailable")
    left = [] if found is None else [1024.0 * found]
    return min([*left, *_left_in_groups()], default=None)


def _left_in_groups() -> list[float]:
    """Return the bytes that each limited control group of this process leaves free."""
    left = []
    for directory, limit, usage in _group_directories():
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file: no limit
            most = int((directory / limit).read_text())
            # Pages of files that were read count as used, but are given back when they are needed.
            cached = _field(directory / "memory.stat", "inactive_file", "total_inactive_file") or 0
            left.append(float(most - int((directory / usage).read_text()) + cached))
    return left


def _group_directories() -> list[tuple[Path, str, str]]:
    """Return the directory of this process's memory group and of each above it, with its files of limit and usage."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    directories = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, limit, usage = _GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = _GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's: then the root is the group itself.
        own = root / path.lstrip("/")
        directories += [
            (directory, limit, usage) for directory in (own, *own.parents) if directory.is_relative_to(root)
        ]
    return directories


def _field(path: Path, *names: str) -> int | None:
    """Return the number after the last of `names` that begins a line of the file; None if none does."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    for name in reversed(names):
        if found := re.search(rf"^{name}:?\s+(\d+)", text, re.MULTILINE):
            return int(found[1])
    return None


class PeakMemory:
    """Peaks of memory use in MiB, since the last `restart` and of all time; the memory is that of `peak_memory_mb`.

    Only the peak of a GPU restarts. Linux could restart the peak of a process, but tools that measure the process from
    outside (`time`, a job queue) would then report less than it has used.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._before = 0.0

    def restart(self) -> None:
        """Restart the peak where the device allows it."""
        self._before = self.of_all_time_mb()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)

    def since_restart_mb(self) -> float:
        """Return the peak since the last restart; on the CPU, of all time."""
        return peak_memory_mb(self.device)

    def of_all_time_mb(self) -> float:
        """Return the peak since the process began, unless other code has restarted it."""
        return max(self._before, self.since_restart_mb())
