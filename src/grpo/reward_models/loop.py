"""The training loop of both kinds of scorer: AdamW, warm-up, gradient clipping, an evaluation an epoch, early stop.

Batches hold examples of similar length, so that they hold little padding.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from grpo.errors import RunError
from grpo.reward_models.backbone import Backbone
from grpo.reward_models.reports import EpochReport, Evaluation, OnEpoch, OnProgress
from grpo.reward_models.settings import ScorerSettings
from grpo.schedules import learning_rate_factor
from grpo.seeding import derive_seed

__all__ = [
    "Example",
    "Training",
    "fit",
    "length_batches",
    "micro_batches",
    "pad_right",
    "score_rows",
    "shuffled_batches",
]

Example: TypeAlias = tuple[list[int], ...]
"""Token ids of one row: of its only text, or of the chosen and the rejected side of a pair."""

_BATCHES_IN_A_POOL = 16
"""Rows are sorted by length within pools of this many batches: enough for little padding, few enough to mix well."""

_EVALUATION_FACTOR = 2
"""Batches are larger by this factor in an evaluation, which keeps no activations for a backward pass."""

_ADVICE = "lower scorer_learning_rate, or use scorer_dtype float32"


class Training(Protocol):
    """The examples of one training, and the parts that differ by kind of scorer: loss, evaluation, files.

    Scores are [S, B]: the head's output for each side (one, or chosen and rejected) of B examples.
    """

    backbone: Backbone

    @property
    def head(self) -> nn.Module:
        """The module that maps hidden states to a logit or a reward; called as head(hidden, lengths)."""
        ...

    @property
    def train_examples(self) -> Sequence[Example]:
        """The rows that are trained on."""
        ...

    @property
    def eval_examples(self) -> Sequence[Example]:
        """The rows that are held out."""
        ...

    def loss(self, scores: Tensor, batch: list[int]) -> Tensor:
        """Return the mean loss of the training examples with the indices in `batch`."""
        ...

    def evaluation(self, scores: Tensor) -> Evaluation:
        """Return the evaluation of float64 scores of all held-out examples."""
        ...

    def save(self, directory: Path, evaluation: Evaluation, epoch: int) -> None:
        """Write the scorer as it is now, in place of the content of `directory`.

        Raises:
            StorageError: it could not be written; the former content is still there.
        """
        ...


def fit(
    training: Training,
    directory: Path,
    *,
    settings: ScorerSettings,
    on_epoch: OnEpoch | None,
    on_progress: OnProgress | None = None,
) -> tuple[EpochReport, ...]:
    """Train backbone and head in place and return the epochs that were run; the best one is saved in `directory`.

    Args:
        on_epoch: called after each epoch, when the best one has been saved.
        on_progress: called with the present work, after every optimizer step.

    Raises:
        RunError: the loss, the gradient or a held-out score is not a number.
        StorageError: the best weights could not be written.
    """
    # The shorter side of a pair is padded to the longer one.
    lengths = [len(example) * max(map(len, example)) for example in training.train_examples]
    optimizer = _optimizer([*training.backbone.trained().values(), *training.head.parameters()], settings)
    total = math.ceil(len(lengths) / settings.batch_size) * settings.epochs
    epochs: list[EpochReport] = []
    best: EpochReport | None = None
    step = 0
    for epoch in range(1, settings.epochs + 1):
        began = time.perf_counter()
        training.head.train()
        # The backbone has no dropout: its mode only decides whether activations are recomputed.
        training.backbone.model.train(settings.gradient_checkpointing)
        sums, done = 0.0, 0
        order = random.Random(derive_seed(settings.seed, "scorer", "order", epoch))
        for batch in shuffled_batches(lengths, settings.batch_size, order):
            step += 1
            rate = settings.learning_rate * learning_rate_factor(
                step, schedule="linear", warmup_steps=round(settings.warmup_ratio * total), steps=total
            )
            parts = micro_batches(batch, lengths, settings.tokens_per_micro_batch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums += len(batch) * _update(optimizer, training, parts, settings.max_grad_norm, step)
            done += len(batch)
            if on_progress is not None:
                on_progress(f"epoch {epoch}/{settings.epochs}: {done:,} of {len(lengths):,} rows")
        training.head.eval()
        training.backbone.model.eval()
        evaluation = _evaluate(training, settings)
        is_best = best is None or evaluation.quality > best.evaluation.quality
        if is_best:
            training.save(directory, evaluation, epoch)
        report = EpochReport(epoch, sums / len(lengths), evaluation, is_best, rate, time.perf_counter() - began)
        epochs.append(report)
        best = report if is_best or best is None else best
        if on_epoch is not None:
            on_epoch(report)
        if settings.patience and epoch - best.epoch >= settings.patience:
            break
    return tuple(epochs)


def score_rows(
    backbone: Backbone,
    head: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_tokens: int | None = None,
) -> list[float]:
    """Return the head's score of each token row, batched by length, without gradient; dropout must be off.

    Args:
        max_tokens: limit of one forward pass, padding included; None: no limit besides the batch size.

    Raises:
        RunError: a score is not a number.
    """
    lengths = [len(row) for row in rows]
    batches = length_batches(lengths, batch_size * _EVALUATION_FACTOR)
    if max_tokens is not None:
        batches = [part for batch in batches for part in micro_batches(batch, lengths, max_tokens)]
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in batches:
            token_ids, sizes = pad_right([rows[index] for index in batch], backbone.pad_token_id, backbone.device)
            found = head(backbone.last_hidden(token_ids), sizes)
            if not torch.isfinite(found).all():
                raise RunError(f"the scorer's output is not a number: {_ADVICE}")
            for index, score in zip(batch, found.tolist(), strict=True):
                scores[index] = score
    return scores


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return all indices in batches, the shortest rows first."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _cut(order, batch_size)


def shuffled_batches(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Return all indices in random batches of rows of similar length, in random order."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for pool in _cut(order, batch_size * _BATCHES_IN_A_POOL):
        batches += _cut(sorted(pool, key=lambda index: lengths[index]), batch_size)
    rng.shuffle(batches)
    return batches


def micro_batches(batch: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return a batch in few parts of at most `max_tokens`, padding included; a longer row is a part by itself."""
    parts: list[list[int]] = []
    longest = 0
    for index in batch:
        longest = max(longest, lengths[index])
        if parts and longest * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
            longest = lengths[index]
    return parts


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids [B, T], padded at the end, and the number of tokens [B] of each row; T is at least 1."""
    lengths = [len(row) for row in rows]
    longest = max(1, *lengths)
    padded = [[*row, *[pad_token_id] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def _evaluate(training: Training, settings: ScorerSettings) -> Evaluation:
    scores = score_rows(
        training.backbone,
        training.head,
        _sides(training.eval_examples),
        batch_size=settings.batch_size,
        max_tokens=settings.tokens_per_micro_batch,
    )
    return training.evaluation(torch.tensor(scores, dtype=torch.float64).view(-1, len(training.eval_examples)))


def _sides(examples: Sequence[Example]) -> list[list[int]]:
    """Return the token rows of all examples: first all first sides, then all second sides."""
    return [row for side in zip(*examples, strict=True) for row in side]


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _optimizer(parameters: Sequence[nn.Parameter], settings: ScorerSettings) -> torch.optim.AdamW:
    groups = [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def _update(
    optimizer: torch.optim.AdamW,
    training: Training,
    parts: Sequence[list[int]],
    max_grad_norm: float,
    step: int,
) -> float:
    """Make one optimizer step by the mean loss over all rows of `parts`, and return that loss."""
    rows = sum(map(len, parts))
    value = 0.0
    for part in parts:
        token_rows = _sides([training.train_examples[index] for index in part])
        token_ids, lengths = pad_right(token_rows, training.backbone.pad_token_id, training.backbone.device)
        scores = training.head(training.backbone.last_hidden(token_ids), lengths)
        loss = training.loss(scores.view(-1, len(part)), part) * (len(part) / rows)
        value += float(loss.detach())
        if not math.isfinite(value):
            raise RunError(f"the scorer's loss is {value} at step {step}: {_ADVICE}")
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm or float("inf")))
    if not math.isfinite(norm):
        raise RunError(f"the norm of the scorer's gradient is {norm} at step {step}: {_ADVICE}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value
