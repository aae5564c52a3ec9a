"""How good predicted probabilities are: accuracy, order (AUC), and whether they mean what they say (Brier, bins)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Evaluation", "ReliabilityBin", "draw_reliability", "evaluate_probabilities"]

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows whose predicted probability lies in [low, high): how many, what was predicted and what happened."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What held-out rows say of a scorer.

    Attributes:
        loss: mean negative log-likelihood a row, without class weights.
        accuracy: share of rows on the right side of 0.5; of pairs: in which the chosen answer scores higher.
        auc: area under the ROC curve; None for pairs.
        brier: mean squared distance of probability and label; None for pairs.
        bins: predicted and observed frequencies; empty for pairs, and bins without rows are left out.
    """

    loss: float
    accuracy: float
    auc: float | None = None
    brier: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()

    @property
    def quality(self) -> tuple[float, float]:
        """What makes one evaluation better than another: AUC, for pairs accuracy, and at a tie the loss."""
        return (self.accuracy if self.auc is None else self.auc, -self.loss)


def evaluate_probabilities(labels: Sequence[int], probabilities: Sequence[float], *, loss: float) -> Evaluation:
    """Return the evaluation of predicted probabilities of label 1; there must be both labels."""
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
    sizes = [20 + 180 * each.count / largest for each in bins]
    axes.scatter([each.predicted for each in bins], [each.observed for each in bins], s=sizes, alpha=0.8)
    axes.plot([each.predicted for each in bins], [each.observed for each in bins], linewidth=1)
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
