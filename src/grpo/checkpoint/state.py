"""The state of a run besides its weights, and the file that holds it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from grpo.errors import ConfigError
from grpo.storage import DamagedError

__all__ = ["STATE_FILE", "Progress", "Stateful", "TrainingState", "read_state", "write_state"]

STATE_FILE = "training_state.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """The position of a run in its steps and its data, and its totals so far.

    Attributes:
        step: completed steps, which is also the version of the weights.
        prompts_consumed: prompts taken from the data so far, those of resampled groups included.
        completion_tokens: tokens generated for training so far.
        elapsed_s: seconds of the run so far, evaluation included, over all its resumes.
        training_s: seconds of training steps alone.
        evaluations: the first and the latest one, each with the step it came after.
        best: the best evaluation's value and step; None before the first that had a value.
    """

    step: int = 0
    prompts_consumed: int = 0
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    training_s: float = 0.0
    evaluations: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    best: tuple[float, int] | None = None

    @property
    def is_best(self) -> bool:
        """True if the evaluation of the current weights is the best one."""
        return self.best is not None and self.best[1] == self.step

    def after_step(self, *, prompts: int, completion_tokens: int, seconds: float) -> Progress:
        """Return the progress one step later; the step took `prompts` from the data."""
        return replace(
            self,
            step=self.step + 1,
            prompts_consumed=self.prompts_consumed + prompts,
            completion_tokens=self.completion_tokens + completion_tokens,
            elapsed_s=self.elapsed_s + seconds,
            training_s=self.training_s + seconds,
        )

    def after_evaluation(self, metrics: Mapping[str, Any], *, value: float | None, seconds: float) -> Progress:
        """Return the progress with an evaluation of the current weights; a higher `value` is a better one."""
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
        """Return the metrics of the evaluation after `step` steps; None if there was none or it is no longer kept."""
        return dict(self.evaluations).get(step)

    def evaluated_at(self, step: int) -> bool:
        """Return whether `evaluation_at` has the evaluation after `step` steps."""
        return self.evaluation_at(step) is not None


@runtime_checkable
class Stateful(Protocol):
    """A part of a run whose state a checkpoint holds."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state: tensors, None, bool, int, float, str, lists and mappings of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of a run besides its weights.

    Attributes:
        parts: by the name of a part its `state_dict()`; see `Stateful`.
    """

    progress: Progress
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, progress: Progress, parts: Mapping[str, Stateful]) -> TrainingState:
        """Return the present state of the parts."""
        return cls(progress, {name: part.state_dict() for name, part in parts.items()})

    def restore(self, parts: Mapping[str, Stateful]) -> None:
        """Give each part its state; a part without a saved state stays as it is."""
        for name, part in parts.items():
            if name in self.parts:
                part.load_state_dict(self.parts[name])


def require_saveable(parts: Mapping[str, Stateful]) -> None:
    """Check before a run that the states of its parts can be saved.

    Raises:
        ConfigError: a state holds something that a checkpoint cannot.
    """
    for name, part in parts.items():
        try:
            _plain(part.state_dict())
        except TypeError as error:
            raise ConfigError(
                f"state_dict() of the {name} cannot be saved: {error}; float() and int() make NumPy's numbers plain"
            ) from error


def write_state(path: Path, state: TrainingState) -> None:
    """Write `state` so that equal states give equal bytes.

    Raises:
        TypeError: a value is neither plain nor a tensor.
    """
    content = {"progress": _plain(asdict(state.progress)), "parts": _plain(state.parts)}
    # Through a file object, torch keeps the operating system's reason for a failed write.
    with path.open("wb") as file:
        torch.save(content, file)


def read_state(path: Path) -> TrainingState:
    """Return the state that `write_state` wrote, by this version or an earlier one; tensors on the CPU.

    Raises:
        DamagedError: the file cannot be read without running code in it, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path.name} cannot be read safely ({type(error).__name__})") from error
    try:
        if "parts" not in content:
            content = _from_first_format(content)
        return TrainingState(Progress(**content["progress"]), content["parts"])
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path.name} is not a training state of this version") from error


def _from_first_format(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return in today's form a state in which optimizer and rewards lay side by side and the budget in `progress`."""
    progress = dict(content["progress"])
    learner = {"optimizer": content["optimizer"], "lowered_budget": progress.pop("lowered_budget", None)}
    return {"progress": progress, "parts": {"learner": learner, "rewards": content.get("rewards", {})}}


def _plain(value: Any) -> Any:
    """Return a copy without shared objects, so that equal states give equal bytes after a resume as well.

    Pickle writes the second occurrence of an object as a reference; two equal strings may or may not be one object.

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
