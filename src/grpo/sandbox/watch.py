"""Watches a program's launcher from start to end: reads the program's output, and keeps time."""

from __future__ import annotations

import ast
import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO, Any, TypeAlias

from grpo.errors import SandboxError
from grpo.sandbox.limits import Execution, Limits

__all__ = ["START_S", "Report", "watch"]

Report: TypeAlias = dict[str, Any]
"""A launcher's report: `started`, `ended`, `killed_by`, and the parts of its jail that are in force."""

START_S = 20.0
"""Seconds that a launcher may take to make the jail, on a busy machine."""
_END_S = 0.75
_CHUNK = 1 << 16


def watch(
    process: subprocess.Popen[bytes],
    report: IO[bytes],
    control: IO[bytes],
    limits: Limits,
    deadline: float | None = None,
) -> tuple[Execution, Report]:
    """Return a program's execution and its launcher's report, when both processes have ended.

    Args:
        process: the launcher.
        report: reading end of the pipe with the launcher's reports.
        control: writing end of the pipe that the launcher listens to, which has been released. A further byte requests
            the end of all processes, and so does the end of the pipe, as when this process is killed.
        limits: the program's limits.
        deadline: time of the program's end in any case, on the clock of `time.monotonic`.

    Raises:
        SandboxError: the launcher could not start the program.
        TimeoutError: the deadline came first.
    """
    streams = _Streams(limits)
    began = time.monotonic()
    last = math.inf if deadline is None else deadline
    try:
        streams.open(process, report)
        streams.read(until=min(last, began + START_S), enough=lambda: b"\n" in streams.reports)
        began = time.monotonic()
        streams.read(until=min(last, began + limits.wall_s), enough=lambda: streams.overflowed)
        # Decided now, because a program that is killed for its time is reported as ended, too.
        late = streams.launcher_is_running and not streams.overflowed and "ended" not in streams.report()
        given_up = late and time.monotonic() >= last
    finally:
        with contextlib.suppress(BrokenPipeError):  # the launcher has ended
            control.write(b".")
        control.close()
        _end(process, streams)
        seconds = time.monotonic() - began
        streams.close(process)
    if given_up:
        raise TimeoutError("the deadline came before the end of the program")
    return _execution(streams, seconds, limits, timed_out=late), streams.report()


class _Streams:
    """The pipes from a launcher and its program, and the bytes read from them."""

    def __init__(self, limits: Limits) -> None:
        self.reports = bytearray()
        self.stdout, self.stderr = bytearray(), bytearray()
        self.overflowed = False
        self._room = math.ceil(limits.output_kb * 1024)
        self._selector = selectors.DefaultSelector()
        self._report: IO[bytes] | None = None

    def open(self, process: subprocess.Popen[bytes], report: IO[bytes]) -> None:
        """Start listening to the pipes."""
        assert process.stdout is not None and process.stderr is not None
        self._report = report
        for file, buffer in ((process.stdout, self.stdout), (process.stderr, self.stderr), (report, self.reports)):
            os.set_blocking(file.fileno(), False)
            self._selector.register(file, selectors.EVENT_READ, buffer)

    def close(self, process: subprocess.Popen[bytes]) -> None:
        """Close the program's pipes."""
        self._selector.close()
        for file in (process.stdout, process.stderr):
            if file is not None:
                file.close()

    @property
    def launcher_is_running(self) -> bool:
        """True while the launcher or the first process of its namespace holds the pipe of reports."""
        return self._report is not None and self._report in self._selector.get_map()

    def read(self, *, until: float, enough: Callable[[], bool]) -> None:
        """Read until the launcher has ended, `enough` returns True or the time is up."""
        while self.launcher_is_running and not enough() and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._take(key)

    def read_rest(self) -> None:
        """Read the rest of the pipes. Their writers have ended; the limit of output stops any other."""
        for key in list(self._selector.get_map().values()):
            while not self.overflowed and self._take(key):
                pass

    def _take(self, key: selectors.SelectorKey) -> bool:
        """Read a chunk; return whether there may be more."""
        try:
            data = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(key.fileobj)
            return False
        buffer: bytearray = key.data
        buffer += data
        if buffer is not self.reports and len(buffer) > self._room:
            del buffer[self._room :]
            self.overflowed = True
        return True

    def first_report(self) -> Report:
        """Return the first report, which only the launcher can have written: the program had not started."""
        first, _, _ = bytes(self.reports).partition(b"\n")
        with contextlib.suppress(ValueError, SyntaxError):
            return dict(ast.literal_eval(first.decode()))
        return {}

    def report(self) -> Report:
        """Return the launcher's reports so far, merged."""
        report: Report = {}
        for line in bytes(self.reports).splitlines():
            with contextlib.suppress(ValueError, SyntaxError):  # a line cut off by its writer's death
                report |= ast.literal_eval(line.decode())
        return report


def _end(process: subprocess.Popen[bytes], streams: _Streams) -> None:
    """Return when launcher and program have ended; kill their groups if the launcher fails to kill the program."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    if process.returncode != 0:
        own_group = streams.first_report().get("group")
        for group in (process.pid, own_group):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if group:
                    os.killpg(group, signal.SIGKILL)
    process.wait()
    streams.read_rest()


def _execution(streams: _Streams, seconds: float, limits: Limits, *, timed_out: bool) -> Execution:
    report = streams.report()
    if not report.get("started"):
        text = report.get("error") or streams.stderr.decode(errors="replace").strip()[-300:] or "its launcher died"
        reason = " ".join(text.split())
        raise SandboxError(
            f"sandbox cannot start: {reason}: see `grpo doctor --sandbox`",
            refused=reason if report.get("refused") else None,
        )
    code = -int(signal.SIGKILL)
    killed_by: str | None = "an end of its launcher"
    if streams.overflowed:
        killed_by = "output"
    elif timed_out:
        killed_by = "wall time"
    elif "killed_by" in report:
        killed_by = report["killed_by"]
    elif "ended" in report:
        code = os.waitstatus_to_exitcode(report["ended"])
        killed_by = _killer(code, report["cpu_s"], limits)
    return Execution(
        exit_code=code,
        stdout=streams.stdout.decode("utf-8", errors="replace"),
        stderr=streams.stderr.decode("utf-8", errors="replace"),
        killed_by=killed_by,
        seconds=seconds,
    )


def _killer(code: int, cpu_s: float, limits: Limits) -> str | None:
    """Return the limit or signal that ended a program with this exit code; None: the program ended by itself."""
    if code >= 0:
        return None
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_s >= limits.cpu_seconds):
        return "cpu time"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
