"""A scorer's training from its first step to its report; what differs between the kinds is a `Training`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from grpo.scorer.backbone import Backbone
from grpo.scorer.loop import fit
from grpo.scorer.metrics import Evaluation, draw_reliability
from grpo.scorer.report import OnEpoch, ScorerKind, ScorerReport, write_report
from grpo.scorer.settings import ScorerSettings
from grpo.seeding import derive_seed
from grpo.storage import storage_errors

__all__ = ["Training", "best_model_in", "run_training"]


class Training(Protocol):
    """One training's rows in tokens, and what the loop asks of them; see `fit`."""

    backbone: Backbone

    @property
    def head(self) -> nn.Module:
        """What turns hidden states into a logit or a reward."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each training row."""
        ...

    @property
    def num_eval(self) -> int:
        """Rows that are held out."""
        ...

    def loss_of(self, batch: list[int]) -> Tensor:
        """Return the mean loss of training rows."""
        ...

    def evaluate(self) -> Evaluation:
        """Return what the held-out rows say."""
        ...

    def save(self, evaluation: Evaluation, epoch: int) -> None:
        """Write the scorer as it is now."""
        ...


def best_model_in(output_dir: str | Path) -> Path:
    """Return where the best weights go, and make the directory around it.

    Raises:
        StorageError: it cannot be made.
    """
    directory = Path(output_dir)
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory / "best_model"


def run_training(
    kind: ScorerKind,
    make: Callable[[], Training],
    *,
    best_model: Path,
    settings: ScorerSettings,
    on_epoch: OnEpoch | None,
    began: float,
) -> ScorerReport:
    """Train, and return and write what came of it.

    Args:
        make: called once the random generators are seeded, for it makes fresh weights.
        began: by `time.perf_counter`, for the report.

    Raises:
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(settings.seed, "scorer"))
        training = make()
        epochs = fit(
            training.backbone,
            training.head,
            lengths=training.lengths,
            loss_of=training.loss_of,
            evaluate=training.evaluate,
            save=training.save,
            settings=settings,
            on_epoch=on_epoch,
        )
    best_epoch = max(epoch.epoch for epoch in epochs if epoch.is_best)
    bins = epochs[best_epoch - 1].evaluation.bins
    directory = best_model.parent
    report = ScorerReport(
        kind=kind,
        epochs=epochs,
        best_epoch=best_epoch,
        best_model=best_model,
        num_train=len(training.lengths),
        num_eval=training.num_eval,
        stopped_early=len(epochs) < settings.epochs,
        seconds=time.perf_counter() - began,
        reliability=draw_reliability(bins, directory / "reliability.svg") if bins else None,
    )
    write_report(report, directory)
    return report
