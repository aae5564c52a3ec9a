"""A scorer's training from its first step to its report; what differs between the kinds is a `Training`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from grpo.policy.sources import ModelSource
from grpo.scorer.backbone import Backbone, load_backbone
from grpo.scorer.loop import Training, fit
from grpo.scorer.metrics import draw_reliability
from grpo.scorer.output import PICTURE, ScorerOutput, scorer_storage
from grpo.scorer.report import EpochReport, OnEpoch, ScorerKind, ScorerReport
from grpo.scorer.settings import ScorerSettings
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
) -> ScorerReport:
    """Train, and return and write what came of it; an earlier scorer stays where it is until then.

    Args:
        make: called once the random generators are seeded, for it makes fresh weights.
        began: by `time.perf_counter`, for the report.

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
        report = _report(kind, training, epochs, output=output, settings=settings, seconds=time.perf_counter() - began)
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


def _report(
    kind: ScorerKind,
    training: Training,
    epochs: tuple[EpochReport, ...],
    *,
    output: ScorerOutput,
    settings: ScorerSettings,
    seconds: float,
) -> ScorerReport:
    best_epoch = max(epoch.epoch for epoch in epochs if epoch.is_best)
    bins = epochs[best_epoch - 1].evaluation.bins
    with scorer_storage(output.unfinished):
        is_drawn = bool(bins) and draw_reliability(bins, output.unfinished / PICTURE)
    return ScorerReport(
        kind=kind,
        epochs=epochs,
        best_epoch=best_epoch,
        best_model=output.best_model,
        num_train=len(training.lengths),
        num_eval=training.num_eval,
        stopped_early=len(epochs) < settings.epochs,
        seconds=seconds,
        reliability=output.directory / PICTURE if is_drawn else None,
    )
