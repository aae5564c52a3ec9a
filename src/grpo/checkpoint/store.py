"""State of a run on disk, for resume: `checkpoint-{step}/` and `final_model/`, complete or absent.

A folder is written under a hidden name, listed in its `manifest.json` with sizes and checksums, and only then
renamed. A killed process leaves a hidden folder, which the next process removes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from grpo.checkpoint.state import STATE_FILE, TrainingState, read_state, write_state
from grpo.errors import CheckpointError, StorageError
from grpo.storage import (
    DamagedError,
    describe_manifest,
    disk_error,
    free_bytes,
    read_manifest,
    readable_size,
    storage_errors,
    sync_directory,
    verify_manifest,
    write_atomically,
    write_manifest,
)

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "checkpoint_steps",
    "clear_leftovers",
    "find_checkpoint",
    "find_model",
    "model_step",
    "reopen",
    "save_checkpoint",
    "save_final",
]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PREFIX = "checkpoint-"
_FINAL = "final_model"
_TIMES = ".final_model.times.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files agree with its manifest; the model's files lie in `path` as well."""

    path: Path
    state: TrainingState


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of one run directory, for the process that trains in it."""

    directory: Path
    keep_last: int

    def save(self, state: TrainingState, save_model: Callable[[Path], None], *, is_best: bool = False) -> Path:
        """Return the folder of the new checkpoint; see `save_checkpoint`."""
        return save_checkpoint(self.directory, state, save_model=save_model, keep_last=self.keep_last, is_best=is_best)

    def save_final(self, state: TrainingState, save_model: Callable[[Path], None]) -> Path:
        """Return the folder of the final model; see `save_final`."""
        return save_final(self.directory, state, save_model=save_model)

    def newest(self) -> Checkpoint | None:
        """Return the newest of the undamaged checkpoints and the final model, None if none was ever saved.

        Leftovers of a killed process are removed first.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        clear_leftovers(self.directory)
        return find_checkpoint(self.directory) if _candidates(self.directory) else None

    def prune(self, newest: int) -> None:
        """Remove the checkpoints up to the step `newest` that a killed process should have removed."""
        _prune(self.directory, newest, self.keep_last)

    def reopen(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return `checkpoint` at its place in a resumed run; see `reopen`."""
        return reopen(checkpoint)


def save_checkpoint(
    run_directory: Path,
    state: TrainingState,
    *,
    save_model: Callable[[Path], None],
    keep_last: int,
    is_best: bool = False,
) -> Path:
    """Write `run_directory/checkpoint-{step}`, remove older ones, and return its path.

    Args:
        save_model: writes the model's and the tokenizer's files into the folder it is given.
        keep_last: number of the newest to keep, this one included; 0 keeps all.
        is_best: whether this one is the best so far; it is kept beyond `keep_last` until a better one is saved.

    Raises:
        StorageError: the disk is full or may not be written; checkpoints saved before are as they were.
    """
    clear_leftovers(run_directory)
    target = run_directory / f"{_PREFIX}{state.progress.step}"
    _save(target, state, save_model, {"step": state.progress.step, "best": is_best})
    _prune(run_directory, state.progress.step, keep_last)
    return target


def save_final(run_directory: Path, state: TrainingState, *, save_model: Callable[[Path], None]) -> Path:
    """Write `run_directory/final_model` and return its path.

    Its bytes depend on the training alone: seconds, which differ between two equal runs, are stored beside it.

    Raises:
        StorageError: the disk is full or may not be written; an older `final_model` is as it was.
    """
    clear_leftovers(run_directory)
    progress = state.progress
    timeless = replace(state, progress=replace(progress, elapsed_s=0.0, training_s=0.0))
    target = run_directory / _FINAL
    times = {"step": progress.step, "elapsed_s": progress.elapsed_s, "training_s": progress.training_s}
    run_directory.mkdir(parents=True, exist_ok=True)
    write_atomically(run_directory / _TIMES, json.dumps(times))
    _save(target, timeless, save_model, {"step": progress.step})
    return target


def reopen(checkpoint: Checkpoint) -> Checkpoint:
    """Return a final model as the checkpoint of its step, renamed for a resumed run; any other checkpoint as it is.

    Its times, and whether it is the best, are written to its manifest first. A process killed at any moment leaves the
    folder complete, under one of the two names.
    """
    if checkpoint.path.name != _FINAL:
        return checkpoint
    run_directory, progress = checkpoint.path.parent, checkpoint.state.progress
    times = {"elapsed_s": progress.elapsed_s, "training_s": progress.training_s}
    describe_manifest(checkpoint.path, {"best": progress.is_best, "times": times})
    target = run_directory / f"{_PREFIX}{progress.step}"
    with storage_errors(target):
        _put_in_place(checkpoint.path, target)
    return Checkpoint(target, checkpoint.state)


def checkpoint_steps(run_directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, damaged or not, in rising order."""
    names = [entry.name for entry in run_directory.glob(f"{_PREFIX}*") if entry.is_dir()]
    numbers = [name.removeprefix(_PREFIX) for name in names]
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit())


def find_checkpoint(run_directory: Path) -> Checkpoint:
    """Return the newest of the checkpoints and the final model whose files agree with its manifest; reads only.

    A damaged one is skipped, with a warning in the log that names the damage and the step used instead.

    Raises:
        CheckpointError: there is none, or all are damaged.
    """
    return _newest_good(run_directory, lambda path: Checkpoint(path, _with_times(read_state(path / STATE_FILE), path)))


def find_model(run_directory: Path) -> Path:
    """Return the folder of the run's newest undamaged weights, `final_model` or a later checkpoint; reads only.

    Raises:
        CheckpointError: there is neither, or all are damaged.
    """
    return _newest_good(run_directory, lambda path: path)


def model_step(folder: Path) -> int | None:
    """Return the step of the weights in a run's `folder`; None where its manifest has no step."""
    try:
        return int(read_manifest(folder)["step"])
    except (DamagedError, KeyError, TypeError, ValueError):
        return None


def clear_leftovers(run_directory: Path) -> None:
    """Complete or undo the writes of a killed process. Only for the process that owns the run directory."""
    for leftover in [*run_directory.glob(".*.previous"), *run_directory.glob(".*.partial")]:
        name = leftover.stem.removeprefix(".")
        if not leftover.is_dir() or not (name == _FINAL or name.startswith(_PREFIX)):
            continue
        target = run_directory / name
        if leftover.suffix == ".previous" and not target.exists():
            leftover.rename(target)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _save(
    target: Path, state: TrainingState, save_model: Callable[[Path], None], description: Mapping[str, Any]
) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.mkdir(parents=True)
        save_model(partial)
        write_state(partial / STATE_FILE, state)
        write_manifest(partial, description)
        _put_in_place(partial, target)
    except Exception as error:
        written = _size(partial)
        clear_leftovers(target.parent)
        cause = disk_error(error)
        if cause is None:
            raise
        raise StorageError(_refusal(target, cause, written)) from error
    except BaseException:
        clear_leftovers(target.parent)
        raise


def _newest_good(run_directory: Path, read: Callable[[Path], T]) -> T:
    """Return `read` of the newest folder that neither its manifest nor `read` finds damaged."""
    damages: list[str] = []
    for path in _candidates(run_directory):
        try:
            verify_manifest(path)
            good = read(path)
        except DamagedError as damage:
            damages.append(f"{path} is damaged: {damage}")
            continue
        for message in damages:
            _log.warning("%s; falling back to step %s", message, model_step(path))
        return good
    if damages:
        raise CheckpointError(f"no usable checkpoint in {run_directory}: {'; '.join(damages)}; start a new run")
    raise CheckpointError(f"no checkpoint in {run_directory}: nothing to resume from; start a new run")


def _candidates(run_directory: Path) -> list[Path]:
    """Return the checkpoints and the final model, damaged or not, newest first."""
    found = [(step, run_directory / f"{_PREFIX}{step}") for step in checkpoint_steps(run_directory)]
    final = run_directory / _FINAL
    if final.is_dir():
        step = model_step(final)
        # Without a step it comes first, so that its damage is reported.
        found.append((sys.maxsize if step is None else step, final))
    return [path for _, path in sorted(found, reverse=True)]


def _with_times(state: TrainingState, path: Path) -> TrainingState:
    """Return the state of a final model, or of a checkpoint that was one, with the seconds stored beside it."""
    try:
        if path.name == _FINAL:
            times = json.loads((path.parent / _TIMES).read_text(encoding="utf-8"))
            if times.pop("step") != state.progress.step:
                return state
        else:
            times = read_manifest(path)["times"]
        return replace(state, progress=replace(state.progress, **times))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return state


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; `clear_leftovers` restores an older `target` after a kill."""
    previous = target.with_name(f".{target.name}.previous")
    if target.exists():
        target.rename(previous)
    partial.rename(target)
    sync_directory(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _refusal(target: Path, cause: OSError, written: int) -> str:
    steps = checkpoint_steps(target.parent)
    usual = _size(target.parent / f"{_PREFIX}{steps[-1]}") if steps else 0
    needed = f"about {readable_size(usual)}" if usual > written else f"more than {readable_size(written)}"
    intact = f"; {_PREFIX}{steps[-1]} is intact" if steps else ""
    return (
        f"cannot save {target}: {cause.strerror or cause} ({needed} needed, {readable_size(free_bytes(target))} free)"
        f"{intact}: free some space"
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _prune(run_directory: Path, newest: int, keep_last: int) -> None:
    """Remove checkpoints up to `newest` except the last `keep_last` and the best; 0 keeps all."""
    if keep_last == 0:
        return
    steps = [step for step in checkpoint_steps(run_directory) if step <= newest]
    best = max((step for step in steps if _is_best(run_directory / f"{_PREFIX}{step}")), default=None)
    for step in steps[:-keep_last]:
        if step != best:
            _remove(run_directory / f"{_PREFIX}{step}")


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint under a hidden name, so that a killed process leaves no damaged one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.partial")
    with contextlib.suppress(OSError):
        checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _is_best(path: Path) -> bool:
    try:
        return read_manifest(path)["best"] is True
    except (DamagedError, KeyError):
        return False
