"""What a program may use, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grpo.errors import ConfigError

__all__ = ["Execution", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        wall_s: seconds from its start to its end, whatever it does.
        cpu_s: processor seconds of each of its processes; None: `wall_s`. Rounded up to whole seconds.
        memory_mb: address space of each of its processes, and memory of all of them together.
        processes: processes and threads at one time, itself included.
        output_kb: what it may write to stdout, and the same again to stderr; one that writes more is killed.
        file_kb: size of all its files together.
    """

    wall_s: float = 5.0
    cpu_s: float | None = None
    memory_mb: int = 256
    processes: int = 16
    output_kb: int = 64
    file_kb: int = 1024

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "cpu_s" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(f"sandbox limit {name} is {value!r}: use a number above 0")

    @property
    def cpu_seconds(self) -> int:
        """`cpu_s` as the kernel takes it."""
        return math.ceil(self.wall_s if self.cpu_s is None else self.cpu_s)


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of a program.

    Attributes:
        exit_code: what it exited with; minus a signal's number when one ended it.
        stdout: what it printed, at most `output_kb`; undecodable bytes are replaced.
        stderr: the same of its errors.
        timed_out: it was still running after `wall_s`.
        killed_by: the limit that ended it ("wall time", "cpu time", "memory", "processes", "output", "files"),
            or the signal ("SIGSEGV"); None when it ended by itself.
        seconds: from its start to its end, on the clock.
        truncated: it wrote more than is in `stdout` or `stderr`.
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    killed_by: str | None
    seconds: float
    truncated: bool
