"""The directory of a run: the interface between training and its observers.

config.yaml         as resolved
metrics.jsonl       one object a step
completions.jsonl   one object a completion
eval.jsonl          one object an evaluation
summary.json        the outcome of a finished run; summary-{steps}.json once that run was resumed
failure.json        the error that ended the run, until it is resumed
checkpoint-{step}/, final_model/    written by `grpo.checkpoint`
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo.errors import CheckpointError
from grpo.storage import (
    expanded,
    partial_path,
    read_text,
    require_plain_entries,
    storage_errors,
    write_atomically,
)
from grpo.tracking.jsonl import append_lines, encode, rewind_lines

__all__ = ["Failure", "RunDirectory", "find_run", "is_in_use", "newest_run", "read_failure", "require_empty"]

_RUNS = "runs"
_LATEST = "latest"
_LOCK = ".lock"
_CONFIG = "config.yaml"
_METRICS, _COMPLETIONS, _EVALUATIONS = "metrics.jsonl", "completions.jsonl", "eval.jsonl"
_SUMMARY = "summary.json"
_FAILURE = "failure.json"
_SUMMARY_KEYS = ("eval_before", "eval_after", "steps", "seconds", "completion_tokens_per_s", "peak_memory_mb")


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that ended a run.

    Attributes:
        step: steps completed before it.
        error: the reason, in one line.
        remedy: the command that continues the run, or that nothing is saved.
    """

    step: int
    error: str
    remedy: str


class RunDirectory:
    """The directory of a run that this process writes, locked until `close`; also a context manager.

    `runs/latest` names the run from its first recorded step on, so that a run which fails earlier leaves the link to
    the one before.
    """

    def __init__(self, path: Path, lock: int | None, *, made: Sequence[Path] = ()) -> None:
        self.path = path
        self._lock = lock
        self._made = made
        self._is_latest = False

    @classmethod
    def create(cls, path: Path | str | None = None, *, name: str = "run") -> RunDirectory:
        """Return a new, empty run directory.

        Args:
            path: its place; None for `runs/{name}-{date}-{time}`.

        Raises:
            CheckpointError: `path` holds another run or other files; nothing is written.
            StorageError: it cannot be made.
        """
        wanted = Path(_RUNS, name) if path is None else expanded(path)
        made = [place for place in wanted.parents if not place.exists()]
        if path is None:
            directory = _make_unique(Path(_RUNS), name)
            made = [directory, *made]
        else:
            directory = wanted
            require_empty(directory)
            made = made if directory.exists() else [directory, *made]
            with storage_errors(directory):
                directory.mkdir(parents=True, exist_ok=True)
        return cls(directory, _acquire(directory), made=made)

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Return the run directory at `path` (or the one that `runs/latest` names), to resume its run.

        Raises:
            CheckpointError: no run is there, or another process has locked it.
        """
        directory = find_run(path)
        require_plain_entries(directory, CheckpointError)
        return cls(directory, _acquire(directory))

    def write_config(self, text: str) -> None:
        """Write `config.yaml`.

        Raises:
            StorageError: as in every method that writes, the disk is full or may not be written.
        """
        write_atomically(self.path / _CONFIG, text)

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of a step; they include its `step`."""
        append_lines(self.path / _METRICS, [metrics])
        self._become_latest()

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of all recorded steps."""
        file = self.path / _METRICS
        lines = read_text(file, error=CheckpointError).split("\n") if file.is_file() else []
        return [_metrics_in(line, f"{file}:{number}") for number, line in enumerate(lines, start=1) if line]

    def append_completions(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append a step's completions, made by `completion_lines`."""
        append_lines(self.path / _COMPLETIONS, lines)

    def append_eval(self, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of an evaluation; they include its `step`."""
        append_lines(self.path / _EVALUATIONS, [metrics])

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`: `eval_before` and `eval_after` (metrics of an evaluation, or None), `steps`,
        `seconds`, `completion_tokens_per_s`, `peak_memory_mb` and all other entries of `summary`.

        Raises:
            ValueError: one of these is not in `summary`.
        """
        if missing := [key for key in _SUMMARY_KEYS if key not in summary]:
            raise ValueError(f"a summary needs {missing}")
        write_atomically(self.path / _SUMMARY, encode(summary, indent=2).decode() + "\n")
        self._become_latest()

    def write_failure(self, failure: Failure) -> None:
        """Write `failure.json`."""
        write_atomically(self.path / _FAILURE, encode(asdict(failure), indent=2).decode() + "\n")

    def clear_failure(self) -> None:
        """Remove `failure.json` if it exists: the run continues."""
        with storage_errors(self.path / _FAILURE):
            (self.path / _FAILURE).unlink(missing_ok=True)

    def set_summary_aside(self) -> None:
        """Rename `summary.json` to `summary-{steps}.json` if it exists: a resumed run writes another."""
        summary = self.path / _SUMMARY
        with storage_errors(summary), contextlib.suppress(FileNotFoundError):
            try:
                steps = json.loads(summary.read_text(encoding="utf-8"))["steps"]
            except (ValueError, KeyError, TypeError, RecursionError):
                steps = "before"
            summary.replace(self.path / f"summary-{steps}.json")

    def last_step(self) -> int:
        """Return the last step in `metrics.jsonl`; 0 if there is none."""
        return max((int(line["step"]) for line in self.metrics()), default=0)

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Remove the lines of steps after `step` from the logs; -1 removes all, evaluation before training included.

        Args:
            evaluated: the evaluation after `step` is known to the run that continues; otherwise its line is removed,
                because the evaluation will be repeated.
        """
        rewind_lines(self.path / _METRICS, step)
        rewind_lines(self.path / _COMPLETIONS, step)
        rewind_lines(self.path / _EVALUATIONS, step if evaluated else step - 1)

    def discard(self) -> None:
        """Remove a run that could not begin: the directory and its content."""
        self.close()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        with contextlib.suppress(OSError):
            for directory in self._made:
                directory.rmdir()  # fails, as it should, if others have put something there

    def _become_latest(self) -> None:
        if not self._is_latest:
            _point_latest_to(self.path)
            self._is_latest = True

    def close(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            _release(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _metrics_in(line: str, where: str) -> dict[str, Any]:
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
        raise CheckpointError(f"{where} is damaged: it should be an object with the metrics of a step; remove the line")
    return metrics


def find_run(path: Path | str) -> Path:
    """Return the run directory that `path` names, by way of links and the text form of `runs/latest`; reads only.

    Raises:
        CheckpointError: there is no run.
    """
    directory = expanded(path)
    if directory.is_file() and directory.name == _LATEST:
        directory = directory.parent / directory.read_text(encoding="utf-8").strip()
    elif directory.is_symlink():
        directory = directory.parent / directory.readlink()
    if not directory.exists():
        raise CheckpointError(f"no run at {path}: give the directory of a run, as runs/NAME")
    if not (directory / _CONFIG).is_file():
        raise CheckpointError(f"{path} is not a run: it has no {_CONFIG}; give the directory of a run, as runs/NAME")
    return directory


def newest_run() -> Path | None:
    """Return the run below `runs/` that was started or resumed last, whether it trained or not; None without runs."""
    configs = [file for file in Path(_RUNS).glob(f"*/{_CONFIG}") if file.parent.name != _LATEST]
    return max(configs, key=lambda file: file.stat().st_mtime_ns).parent if configs else None


def read_failure(run: Path) -> Failure | None:
    """Return the error that ended the run at `run`; None where none is recorded.

    Raises:
        CheckpointError: the record is damaged.
    """
    file = run / _FAILURE
    if not file.is_file():
        return None
    try:
        return Failure(**json.loads(read_text(file, error=CheckpointError)))
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it should be the record of a failed run; remove it") from None


def is_in_use(run: Path) -> bool:
    """Return whether a process has locked the run at `run`; False where no such locks exist."""
    try:
        lock = _acquire(run) if (run / _LOCK).is_file() else None
    except CheckpointError:
        return True
    if lock is not None:
        _release(lock)
    return False


def _make_unique(parent: Path, name: str) -> Path:
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        directory = parent / (stem if number == 1 else f"{stem}-{number}")
        with storage_errors(directory):
            try:
                directory.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return directory


def require_empty(directory: Path) -> None:
    """Check that a run may begin in `directory`; reads only.

    Files of a run that was killed before its `config.yaml` was complete do not count.

    Raises:
        CheckpointError: it holds another run or other files.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CheckpointError(f"output_dir {directory} is a file: choose another output_dir")
    with storage_errors(directory):
        unfinished = (_LOCK, partial_path(directory / _CONFIG).name)
        names = sorted(entry.name for entry in directory.iterdir() if entry.name not in unfinished)
    if _CONFIG in names:
        raise CheckpointError(
            f"output_dir {directory} holds another run: resume it by `grpo train --resume {directory}`, "
            f"or choose another output_dir"
        )
    if names:
        raise CheckpointError(
            f"output_dir {directory} is not empty (it has {names[0]}): choose another output_dir, or a new one"
        )


def _acquire(directory: Path) -> int | None:
    """Return the descriptor of a locked file; the lock ends with the process. None where no such locks exist.

    Raises:
        CheckpointError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    with storage_errors(directory):
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return None  # a network file system without locks
        raise CheckpointError(
            f"{directory} is in use by {holder or 'another process'}: "
            f"wait for it, stop it, or choose another output_dir"
        ) from None
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _release(descriptor: int) -> None:
    import fcntl

    # A forked child that is still alive has the file open, too: closing alone would not unlock it.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _point_latest_to(directory: Path) -> None:
    """Make `runs/latest` name `directory` if that lies in a folder `runs`; a real folder `latest` stays."""
    runs = directory.absolute().parent
    latest = runs / _LATEST
    if runs.name != _RUNS or (latest.is_dir() and not latest.is_symlink()):
        return
    fresh = runs / f".{_LATEST}.{os.getpid()}"
    with storage_errors(latest):
        fresh.unlink(missing_ok=True)
        try:
            fresh.symlink_to(directory.name, target_is_directory=True)
        except (OSError, NotImplementedError):
            fresh.write_text(f"{directory.name}\n", encoding="utf-8")
        fresh.replace(latest)
