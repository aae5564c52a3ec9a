"""Limits of a program, and the result of its execution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from grpo.errors import ConfigError

__all__ = ["Execution", "Limits"]

_RANGES = MappingProxyType(
    {
        "wall_s": (0.01, 86_400),
        "cpu_s": (0.01, 86_400),
        "memory_mb": (48, 1 << 20),  # an interpreter alone needs almost 48
        "processes": (1, 4096),
        "output_kb": (0.001, 1 << 20),
        "file_kb": (0.001, 1 << 24),
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one program.

    Attributes:
        wall_s: seconds from its start to its end.
        cpu_s: processor seconds of each of its processes; None: `wall_s`. Rounded up to whole seconds.
        memory_mb: address space of each of its processes, and memory of all of them together.
        processes: processes and threads at one time, including the program itself.
        output_kb: kilobytes of stdout, and the same of stderr; a program that writes more is killed.
        file_kb: kilobytes of all its files together.
    """

    wall_s: float = 5.0
    cpu_s: float | None = None
    memory_mb: int = 256
    processes: int = 16
    output_kb: int = 64
    file_kb: int = 1024

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if name == "cpu_s" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise ConfigError(f"sandbox limit {name} is {value!r}: use a number from {least:g} to {most:,}")

    @property
    def cpu_seconds(self) -> int:
        """`cpu_s` in whole seconds, as the kernel requires."""
        return math.ceil(self.wall_s if self.cpu_s is None else self.cpu_s)


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of running a program.

    Attributes:
        exit_code: its exit code; minus the number of the signal that ended it.
        stdout: its output, at most `output_kb`; undecodable bytes are replaced.
        stderr: its errors, likewise.
        killed_by: the limit that ended it ("wall time", "cpu time", "memory", "processes", "output", "files"),
            the signal ("SIGSEGV"), or "an end of its launcher" when the launcher died first; None when it ended by
            itself.
        seconds: wall time from its start to its end.
    """

    exit_code: int
    stdout: str
    stderr: str
    killed_by: str | None
    seconds: float

    @property
    def timed_out(self) -> bool:
        """True if the program was still running after `wall_s`."""
        return self.killed_by == "wall time"

    @property
    def truncated(self) -> bool:
        """True if the program wrote more than `stdout` or `stderr` holds."""
        return self.killed_by == "output"
