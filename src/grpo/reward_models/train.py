"""Training of a scorer, from its rows to the best weights and the report on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from grpo.reward_models.backbone import Backbone, find_backbone, load_backbone
from grpo.reward_models.clicks import ClickTraining
from grpo.reward_models.data import ScorerKind, read_scorer_rows, split_rows
from grpo.reward_models.loop import Training, fit
from grpo.reward_models.output import PICTURE, ScorerOutput, scorer_storage
from grpo.reward_models.pairs import PairTraining, require_loadable_adapters
from grpo.reward_models.reports import EpochReport, OnEpoch, OnProgress, ScorerReport, draw_reliability
from grpo.reward_models.settings import ScorerSettings
from grpo.seeding import derive_seed

__all__ = ["train_scorer"]

_TRAININGS: Mapping[ScorerKind, Callable[..., Training]] = MappingProxyType(
    {"ctr": ClickTraining, "pair": PairTraining}
)


def train_scorer(
    kind: ScorerKind,
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str | Path = "tiny",
    output_dir: str | Path,
    settings: ScorerSettings,
    on_epoch: OnEpoch | None = None,
    on_progress: OnProgress | None = None,
    eval_rows: Sequence[Mapping[str, Any]] | None = None,
    beside: Mapping[str, str] | None = None,
    attainable: Callable[[Sequence[str], Sequence[int]], float] | None = None,
) -> ScorerReport:
    """Train a scorer and return the report; the best weights are in `output_dir/best_model`.

    A scorer of kind "ctr" is loaded by `CTRScorer`, one of kind "pair" is a Hugging Face sequence classifier with one
    label. Beside the weights are `report.json` and, for kind "ctr" with matplotlib, `reliability.svg`. All of it
    replaces an earlier `best_model/` at the end, in one swap; until then it is in `unfinished/`, where a training that
    fails leaves its best weights.

    Args:
        rows: as `read_scorer_rows` takes them.
        model: the backbone: "tiny", a Hub id, or the directory of a model or run.
        on_epoch: called after each epoch.
        on_progress: called with the present work, in words, as soon as it begins and after every optimizer step.
        eval_rows: rows to evaluate on, which are removed from `rows`; None: a part of `rows` is held out.
        beside: texts to write beside the weights, by file name: the sources of the scorer.
        attainable: for kind "ctr": returns the best attainable AUC for held-out texts and labels, for the report.

    Raises:
        ConfigError: adapters are to be saved by themselves and could not be loaded again.
        DataError: the rows cannot be used.
        ModelError: the backbone does not load, or its architecture has no sequence classifier.
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    began = time.perf_counter()
    show = on_progress or (lambda _: None)
    show(f"checking {len(rows):,} rows")
    if kind == "pair" and not settings.merge:
        require_loadable_adapters(settings)
    train = read_scorer_rows(kind, rows)
    held_out = None if eval_rows is None else read_scorer_rows(kind, eval_rows)
    train, held_out = split_rows(kind, train, held_out, settings.holdout, settings.seed)
    attainable_auc = None
    if attainable is not None:
        attainable_auc = attainable([row["text"] for row in held_out], [row["label"] for row in held_out])
    show(f"loading {model}")
    backbone = _load_backbone(model, settings)
    show(f"tokenising {len(train) + len(held_out):,} texts")
    output = ScorerOutput(output_dir, beside)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(settings.seed, "scorer"))
        training = _TRAININGS[kind](backbone, train, held_out, settings)
        output.begin()
        try:
            epochs = fit(training, output.candidate, settings=settings, on_epoch=on_epoch, on_progress=on_progress)
            best = max(epoch.epoch for epoch in epochs if epoch.is_best)
            report = ScorerReport(
                kind=kind,
                epochs=epochs,
                best_epoch=best,
                best_model=output.best_model,
                num_train=len(train),
                num_eval=len(held_out),
                stopped_early=len(epochs) < settings.epochs,
                seconds=time.perf_counter() - began,
                reliability=_draw(epochs[best - 1], output),
                attainable_auc=attainable_auc,
            )
            output.publish(json.dumps(report.to_json(), indent=1) + "\n")
        except BaseException:
            output.abandon()
            raise
    return report


def _load_backbone(model: str | Path, settings: ScorerSettings) -> Backbone:
    return load_backbone(
        find_backbone(model, settings.revision),
        lora=settings.lora,
        dtype=settings.dtype,
        device=settings.device,
        tokenizer=settings.tokenizer,
        revision=settings.revision,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
    )


def _draw(epoch: EpochReport, output: ScorerOutput) -> Path | None:
    """Draw an epoch's probabilities beside its weights, and return the final path of the picture; None without one."""
    bins = epoch.evaluation.bins
    with scorer_storage(output.unfinished):
        is_drawn = bool(bins) and draw_reliability(bins, output.candidate / PICTURE)
    return output.best_model / PICTURE if is_drawn else None
