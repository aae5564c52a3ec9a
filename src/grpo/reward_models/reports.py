"""Evaluations of a scorer on held-out rows, and the reports of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from grpo.reward_models.data import ScorerKind

__all__ = [
    "EpochReport",
    "Evaluation",
    "OnEpoch",
    "OnProgress",
    "ReliabilityBin",
    "ScorerReport",
    "draw_reliability",
    "evaluate_probabilities",
]

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows with a predicted probability in [low, high): their number, mean prediction and share of label 1."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measures of a scorer on held-out rows.

    Attributes:
        loss: mean negative log-likelihood for each row, without class weights.
        accuracy: share of rows on the right side of 0.5; for pairs: share in which the chosen answer scores higher.
        auc: area under the ROC curve; None for pairs.
        brier: mean squared difference of probability and label; None for pairs.
        bins: predicted and observed frequencies; bins without rows are left out; empty for pairs.
    """

    loss: float
    accuracy: float
    auc: float | None = None
    brier: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()

    @property
    def quality(self) -> tuple[float, float]:
        """Sort key, the better the greater: AUC (for pairs accuracy), then the lower loss."""
        return (self.accuracy if self.auc is None else self.auc, -self.loss)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One pass over the training rows and the evaluation after it.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean over the training rows, with class weights for a CTR scorer.
        evaluation: on the held-out rows.
        is_best: True if it was the best so far and its weights were saved.
        learning_rate: of the last step.
        seconds: duration of training and evaluation.
    """

    epoch: int
    loss: float
    evaluation: Evaluation
    is_best: bool
    learning_rate: float
    seconds: float


OnEpoch: TypeAlias = Callable[[EpochReport], None]
OnProgress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ScorerReport:
    """A finished training.

    Attributes:
        epochs: the epochs that were run.
        best_epoch: the epoch whose weights are in `best_model`, from 1.
        stopped_early: True if patience ran out.
        reliability: path of the picture; None for pairs, or without matplotlib.
        attainable_auc: AUC of the rule behind the held-out clicks; None where the rule is unknown.
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
        """Return the report as JSON-able values: the content of `report.json`."""
        fields = dataclasses.asdict(self).items()
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields}


def evaluate_probabilities(labels: Sequence[int], probabilities: Sequence[float], *, loss: float) -> Evaluation:
    """Return the evaluation of predicted probabilities of label 1; both labels must occur."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    right = sum((probability >= 0.5) == bool(label) for label, probability in zip(labels, probabilities, strict=True))
    return Evaluation(
        loss=loss,
        accuracy=right / len(labels),
        auc=float(roc_auc_score(labels, probabilities)),
        brier=float(brier_score_loss(labels, probabilities)),
        bins=_bins(labels, probabilities),
    )


def draw_reliability(bins: Sequence[ReliabilityBin], path: Path) -> Path | None:
    """Draw predicted against observed frequencies into `path` (.svg or .png) and return it; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    largest = max(each.count for each in bins)
    predicted, observed = [each.predicted for each in bins], [each.observed for each in bins]
    axes.scatter(predicted, observed, s=[20 + 180 * each.count / largest for each in bins], alpha=0.8)
    axes.plot(predicted, observed, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="observed share", title="Reliability")
    figure.savefig(path)
    return path


def _bins(labels: Sequence[int], probabilities: Sequence[float]) -> tuple[ReliabilityBin, ...]:
    members: list[list[int]] = [[] for _ in range(NUM_BINS)]
    for index, probability in enumerate(probabilities):
        members[min(int(probability * NUM_BINS), NUM_BINS - 1)].append(index)
    return tuple(
        ReliabilityBin(
            low=place / NUM_BINS,
            high=(place + 1) / NUM_BINS,
            count=len(rows),
            predicted=sum(probabilities[row] for row in rows) / len(rows),
            observed=sum(labels[row] for row in rows) / len(rows),
        )
        for place, rows in enumerate(members)
        if rows
    )
