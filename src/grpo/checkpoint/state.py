"""The state of a run besides its weights, and the file that holds it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo.storage import DamagedError

__all__ = ["STATE_FILE", "Progress", "TrainingState", "read_state", "write_state"]

STATE_FILE = "training_state.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run.

    Attributes:
        step: steps completed, and the version of the weights.
        prompts_consumed: prompts taken from the data so far, those of resampled groups included.
        completion_tokens: tokens generated for training so far.
        elapsed_s: seconds of the run so far, evaluation included, summed over the processes that continued it.
        training_s: seconds of training steps alone.
        lowered_budget: token budget of a micro-batch after memory ran out; None: it never ran out.
        evaluations: the first and the latest evaluation, each with its step.
        best: the best evaluation's value and step; None before the first that had a value.
    """

    step: int = 0
    prompts_consumed: int = 0
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    training_s: float = 0.0
    lowered_budget: int | None = None
    evaluations: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    best: tuple[float, int] | None = None

    def after_step(
        self, *, prompts: int, completion_tokens: int, seconds: float, lowered_budget: int | None = None
    ) -> Progress:
        """Return the progress after one more step, which took `prompts` from the data."""
        return replace(
            self,
            step=self.step + 1,
            prompts_consumed=self.prompts_consumed + prompts,
            completion_tokens=self.completion_tokens + completion_tokens,
            elapsed_s=self.elapsed_s + seconds,
            training_s=self.training_s + seconds,
            lowered_budget=lowered_budget,
        )

    def after_evaluation(self, metrics: Mapping[str, Any], *, value: float | None, seconds: float) -> Progress:
        """Return the progress with an evaluation of the current weights; a higher `value` is better."""
        best = self.best
        if value is not None and (best is None or value > best[0]):
            best = (value, self.step)
        return replace(
            self,
            evaluations=(*self.evaluations[:1], (self.step, metrics)),
            best=best,
            elapsed_s=self.elapsed_s + seconds,
        )

    def evaluation_at(self, step: int) -> Mapping[str, Any] | None:
        """Return the metrics of the evaluation after `step` steps; None when there was none or it is not stored."""
        return dict(self.evaluations).get(step)

    def evaluated_at(self, step: int) -> bool:
        """Return whether an evaluation of the weights after `step` steps is stored."""
        return self.evaluation_at(step) is not None


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state that a run needs, besides its weights, to continue.

    Attributes:
        optimizer: the optimizer's `state_dict()`: tensors, None, bool, int, float, str, lists and mappings of these.
        rewards: state of the rewards by name, as JSON values; empty where no reward has a state.
    """

    progress: Progress
    optimizer: Mapping[str, Any]
    rewards: Mapping[str, Any] = field(default_factory=dict)


def write_state(path: Path, state: TrainingState) -> None:
    """Write `state` so that equal states give equal bytes.

    Raises:
        TypeError: it holds an object that is neither plain nor a tensor.
    """
    content = {
        "progress": _plain(asdict(state.progress)),
        "optimizer": _plain(state.optimizer),
        "rewards": _plain(state.rewards),
    }
    # Through a file object, torch keeps the operating system's reason for a failed write.
    with path.open("wb") as file:
        torch.save(content, file)


def read_state(path: Path) -> TrainingState:
    """Return what `write_state` wrote; tensors on the CPU.

    Raises:
        DamagedError: it cannot be read without running code in it, or has other contents.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path.name} cannot be read safely ({type(error).__name__})") from error
    try:
        return TrainingState(**{**content, "progress": Progress(**content["progress"])})
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path.name} is not a training state of this version") from error


def _plain(value: Any) -> Any:
    """Return a copy without shared objects, so that equal states give equal bytes after a resume as well.

    Pickle writes an object that it has already written as a reference, and two equal strings may or may not
    be one object.

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
