"""What a scorer's training reports, epoch by epoch and at its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from grpo.reward_models.metrics import Evaluation

__all__ = ["EpochReport", "OnEpoch", "ScorerKind", "ScorerReport"]

ScorerKind: TypeAlias = Literal["ctr", "pair"]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One pass over the training rows and the evaluation after it.

    Attributes:
        epoch: from 1.
        loss: mean over the training rows; that of the CTR scorer weights the classes.
        evaluation: on the held-out rows.
        is_best: it was the best so far and has been saved.
        learning_rate: of its last step.
        seconds: of training and evaluation.
    """

    epoch: int
    loss: float
    evaluation: Evaluation
    is_best: bool
    learning_rate: float
    seconds: float


OnEpoch: TypeAlias = Callable[[EpochReport], None]


@dataclass(frozen=True, slots=True)
class ScorerReport:
    """A finished training.

    Attributes:
        epochs: as many as were run.
        best_epoch: the one whose weights are in `best_model`, from 1.
        stopped_early: patience ran out.
        reliability: the picture; None for pairs, or without matplotlib.
        attainable_auc: of the rule that the held-out clicks follow; None where it is not known.
    """

    kind: ScorerKind
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    best_model: Path
    num_train: int
    num_eval: int
    stopped_early: bool
    seconds: float
    reliability: Path | None = None
    attainable_auc: float | None = None

    @property
    def best(self) -> Evaluation:
        """The evaluation of the weights in `best_model`."""
        return self.epochs[self.best_epoch - 1].evaluation

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        value = dataclasses.asdict(self)
        value["best_model"] = str(self.best_model)
        value["reliability"] = None if self.reliability is None else str(self.reliability)
        return value

    def to_text(self) -> str:
        """Return what `report.json` holds."""
        return json.dumps(self.to_json(), indent=1) + "\n"
