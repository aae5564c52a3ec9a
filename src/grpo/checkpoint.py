"""What a run needs to go on, on disk: `checkpoint-{step}/` and `final_model/`, whole or not there.

A folder is written under a hidden name, listed in its `manifest.json` with sizes and checksums, and only then
renamed; what a killed process leaves behind is a hidden folder that the next one removes.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo.errors import CheckpointError, StorageError
from grpo.storage import (
    DamagedError,
    disk_error,
    free_bytes,
    read_manifest,
    readable_size,
    sync_directory,
    verify_manifest,
    write_manifest,
)

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "TrainingState",
    "checkpoint_steps",
    "clear_leftovers",
    "find_checkpoint",
    "find_model",
    "save_checkpoint",
    "save_final",
]

_log = logging.getLogger(__name__)

_PREFIX = "checkpoint-"
_FINAL = "final_model"
_STATE = "training_state.pt"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a run knows besides its weights, after a whole number of steps.

    Attributes:
        step: steps completed, and the version of the weights beside it.
        prompts_consumed: prompts taken from the data so far, those of resampled groups included.
        optimizer: the optimizer's `state_dict()`; tensors and plain values only.
        completion_tokens: tokens generated for training so far.
        elapsed_s: seconds of the run so far, over all processes that took part in turn.
        training_s: seconds of training steps alone.
        evaluations: those that the summary needs, each with the step it came after.
        best: the best evaluation's value and step; None before the first.
        extra: anything else that is plain (None, bool, int, float, str, tensors, lists and mappings of these).
    """

    step: int
    prompts_consumed: int
    optimizer: Mapping[str, Any]
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    training_s: float = 0.0
    evaluations: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    best: tuple[float, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are what its manifest says; the model's files lie in `path` as well."""

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
        """Return the newest good checkpoint, None when none was ever saved; removes what a killed process left.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        clear_leftovers(self.directory)
        return find_checkpoint(self.directory) if checkpoint_steps(self.directory) else None


def save_checkpoint(
    run_directory: Path,
    state: TrainingState,
    *,
    save_model: Callable[[Path], None],
    keep_last: int,
    is_best: bool = False,
) -> Path:
    """Return `run_directory/checkpoint-{step}` once it is on the disk and older ones are pruned.

    Args:
        save_model: writes the model's and the tokenizer's files into the folder it is given.
        keep_last: how many of the newest to keep, this one included; 0 keeps all.
        is_best: this one is the best so far, and is kept beyond `keep_last` until a better one is saved.

    Raises:
        StorageError: the disk is full or may not be written; checkpoints saved before are as they were.
    """
    clear_leftovers(run_directory)
    target = run_directory / f"{_PREFIX}{state.step}"
    _save(target, state, save_model, {"step": state.step, "best": is_best})
    if keep_last > 0:
        _prune(run_directory, state.step, keep_last)
    return target


def save_final(run_directory: Path, state: TrainingState, *, save_model: Callable[[Path], None]) -> Path:
    """Return `run_directory/final_model` once it is on the disk.

    Its bytes depend on the training alone: seconds, which differ between two equal runs, are stored as 0.

    Raises:
        StorageError: the disk is full or may not be written; an older `final_model` is as it was.
    """
    clear_leftovers(run_directory)
    target = run_directory / _FINAL
    _save(target, replace(state, elapsed_s=0.0, training_s=0.0), save_model, {"step": state.step})
    return target


def checkpoint_steps(run_directory: Path) -> list[int]:
    """Return the steps of which there is a checkpoint, damaged or not, in rising order."""
    names = [entry.name for entry in run_directory.glob(f"{_PREFIX}*") if entry.is_dir()]
    numbers = [name.removeprefix(_PREFIX) for name in names]
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit())


def find_checkpoint(run_directory: Path) -> Checkpoint:
    """Return the newest checkpoint whose files are what its manifest says; reads only.

    Damaged ones are passed over, with a warning in the log that says what is wrong and which is used instead.

    Raises:
        CheckpointError: there is none, or all are damaged.
    """
    damages: list[str] = []
    for step in reversed(checkpoint_steps(run_directory)):
        path = run_directory / f"{_PREFIX}{step}"
        try:
            verify_manifest(path)
            state = _load_state(path / _STATE)
        except DamagedError as damage:
            damages.append(f"{path} is damaged: {damage}")
            continue
        for message in damages:
            _log.warning("%s; falling back to step %d", message, step)
        return Checkpoint(path, state)
    if damages:
        raise CheckpointError(f"no usable checkpoint in {run_directory}: {'; '.join(damages)}; start a new run")
    raise CheckpointError(f"no checkpoint in {run_directory}: nothing to resume from; start a new run")


def find_model(run_directory: Path) -> Path:
    """Return the folder of the run's model: `final_model`, else the newest good checkpoint; reads only.

    Raises:
        CheckpointError: there is neither, or all are damaged.
    """
    final = run_directory / _FINAL
    if not final.is_dir():
        return find_checkpoint(run_directory).path
    try:
        verify_manifest(final)
    except DamagedError as damage:
        checkpoint = find_checkpoint(run_directory)
        _log.warning("%s is damaged: %s; falling back to step %d", final, damage, checkpoint.state.step)
        return checkpoint.path
    return final


def clear_leftovers(run_directory: Path) -> None:
    """Finish or undo what a killed process was writing. Only for the process that owns the run directory."""
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
        _write_state(partial / _STATE, state)
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


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; an older `target` is set aside first, and comes back should we die in between."""
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
    return (
        f"cannot save {target}: {cause.strerror or cause} ({needed} needed, "
        f"{readable_size(free_bytes(target))} free); "
        + (f"{_PREFIX}{steps[-1]} is intact: free some space, then " if steps else "free some space, then ")
        + f"grpo train --resume {target.parent}"
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _prune(run_directory: Path, newest: int, keep_last: int) -> None:
    """Remove checkpoints up to `newest` except the last `keep_last` and the best."""
    steps = [step for step in checkpoint_steps(run_directory) if step <= newest]
    best = max((step for step in steps if _is_best(run_directory / f"{_PREFIX}{step}")), default=None)
    for step in steps[:-keep_last]:
        if step != best:
            shutil.rmtree(run_directory / f"{_PREFIX}{step}", ignore_errors=True)


def _is_best(path: Path) -> bool:
    try:
        return read_manifest(path)["best"] is True
    except (DamagedError, KeyError):
        return False


def _write_state(path: Path, state: TrainingState) -> None:
    content = {attribute.name: _plain(getattr(state, attribute.name)) for attribute in fields(state)}
    # Through a file object, torch keeps the operating system's reason for a failed write.
    with path.open("wb") as file:
        torch.save(content, file)


def _plain(value: Any) -> Any:
    """Return a copy in which nothing is shared, so that equal states give equal bytes after a resume, too.

    Pickle writes an object it has met before as a reference; whether two equal strings are one object
    depends on where they came from.

    Raises:
        TypeError: a value that `torch.load(weights_only=True)` would not read.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().to("cpu").contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if type(value) is list:
        return [_plain(entry) for entry in value]
    if type(value) is tuple:
        return tuple(_plain(entry) for entry in value)
    if type(value) is str:
        return sys.intern(value)
    if value is None or type(value) in (bool, int, float):
        return value
    raise TypeError(f"a training state holds plain values and tensors only, not {type(value).__name__}")


def _load_state(path: Path) -> TrainingState:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path.name} cannot be read safely ({type(error).__name__})") from error
    try:
        return TrainingState(**content)
    except TypeError as error:
        raise DamagedError(f"{path.name} is not a training state of this version") from error
