"""A scorer's training from its first step to its report; what differs between the kinds is a `Training`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from grpo.policy.sources import ModelSource
from grpo.reward_models.backbone import Backbone, load_backbone
from grpo.reward_models.loop import Training, fit
from grpo.reward_models.metrics import draw_reliability
from grpo.reward_models.output import PICTURE, ScorerOutput, scorer_storage
from grpo.reward_models.report import EpochReport, OnEpoch, ScorerKind, ScorerReport
from grpo.reward_models.settings import ScorerSettings
from grpo.seeding import derive_seed

__all__ = ["load_for_training", "run_training"]


def run_training(
    kind: ScorerKind,
    make: Callable[[], Training],
    *,
    output: ScorerOutput,
    settings: ScorerSettings,
    on_epoch: OnEpoch | None,
    began: float,
    attainable_auc: float | None = None,
) -> ScorerReport:
    """Train, and return and write what came of it; an earlier scorer stays where it is until then.

    Args:
        make: called once the random generators are seeded, for it makes fresh weights.
        began: by `time.perf_counter`, for the report.
        attainable_auc: for the report.

    Raises:
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    output.begin()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(settings.seed, "scorer"))
            training = make()
            epochs = fit(training, settings=settings, on_epoch=on_epoch)
        report = ScorerReport(
            kind=kind,
            epochs=epochs,
            best_epoch=_best_epoch(epochs),
            best_model=output.best_model,
            num_train=len(training.lengths),
            num_eval=training.num_eval,
            stopped_early=len(epochs) < settings.epochs,
            seconds=time.perf_counter() - began,
            reliability=_draw(epochs, output),
            attainable_auc=attainable_auc,
        )
        output.publish(report.to_text())
    except BaseException:
        output.abandon()
        raise
    return report


def load_for_training(source: ModelSource, settings: ScorerSettings) -> Backbone:
    """Return the backbone as the settings say.

    Raises:
        ModelError, ConfigError: as `load_backbone`.
    """
    return load_backbone(
        source,
        lora=settings.lora,
        dtype=settings.dtype,
        device=settings.device,
        tokenizer=settings.tokenizer,
        revision=settings.revision,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
    )


def _best_epoch(epochs: tuple[EpochReport, ...]) -> int:
    return max(epoch.epoch for epoch in epochs if epoch.is_best)


def _draw(epochs: tuple[EpochReport, ...], output: ScorerOutput) -> Path | None:
    """Draw the best epoch's probabilities beside its weights, and return where the picture is in the end."""
    bins = epochs[_best_epoch(epochs) - 1].evaluation.bins
    with scorer_storage(output.unfinished):
        is_drawn = bool(bins) and draw_reliability(bins, output.candidate / PICTURE)
    return output.best_model / PICTURE if is_drawn else None
