"""The training that both kinds of scorer share: AdamW, warm-up, clipping, an evaluation an epoch, early stopping."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from grpo.errors import RunError
from grpo.reward_models.backbone import Backbone
from grpo.reward_models.metrics import Evaluation
from grpo.reward_models.report import EpochReport, OnEpoch
from grpo.reward_models.settings import ScorerSettings, in_configuration
from grpo.reward_models.texts import length_batches, micro_batches, pad_right, shuffled_batches
from grpo.schedules import learning_rate_factor
from grpo.seeding import derive_seed

__all__ = ["Training", "fit", "score_rows"]

_FASTER_EVALUATION = 2
"""Without a backward pass more rows fit into a batch."""

_RATE = in_configuration("learning_rate")
_EXACT = f"{in_configuration('dtype')} float32"


class Training(Protocol):
    """One training's rows in tokens, and what the loop asks of them."""

    backbone: Backbone

    @property
    def head(self) -> nn.Module:
        """What turns hidden states into a logit or a reward."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens that each training row takes up."""
        ...

    @property
    def num_eval(self) -> int:
        """Rows that are held out."""
        ...

    def loss_of(self, batch: list[int]) -> Tensor:
        """Return the mean loss of training rows."""
        ...

    def evaluate(self) -> Evaluation:
        """Return what the held-out rows say.

        Raises:
            RunError: a score is not a number.
        """
        ...

    def save(self, evaluation: Evaluation, epoch: int) -> None:
        """Write the scorer as it is now.

        Raises:
            StorageError: it could not be written.
        """
        ...


def fit(training: Training, *, settings: ScorerSettings, on_epoch: OnEpoch | None) -> tuple[EpochReport, ...]:
    """Train backbone and head in place and return the epochs that were run; the best one has been saved.

    Args:
        on_epoch: called after each epoch, when the best one has been saved.

    Raises:
        RunError: the loss, the gradient or a held-out score is not a number.
        StorageError: the best weights could not be written.
    """
    lengths = training.lengths
    optimizer = _optimizer((*training.backbone.trained().values(), *training.head.parameters()), settings)
    total = -(-len(lengths) // settings.batch_size) * settings.epochs
    epochs: list[EpochReport] = []
    best: EpochReport | None = None
    step = 0
    for epoch in range(1, settings.epochs + 1):
        began = time.perf_counter()
        _train_mode(training, settings.gradient_checkpointing)
        sums = 0.0
        order = random.Random(derive_seed(settings.seed, "scorer", "order", epoch))
        for batch in shuffled_batches(lengths, settings.batch_size, order):
            step += 1
            rate = settings.learning_rate * learning_rate_factor(
                step, schedule="linear", warmup_steps=round(settings.warmup_ratio * total), steps=total
            )
            parts = micro_batches(batch, lengths, settings.tokens_per_micro_batch)
            sums += len(batch) * _step(
                optimizer, training, parts, rate=rate, max_grad_norm=settings.max_grad_norm, step=step
            )
        _evaluation_mode(training)
        with torch.inference_mode():
            evaluation = training.evaluate()
        is_best = best is None or evaluation.quality > best.evaluation.quality
        if is_best:
            training.save(evaluation, epoch)
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
    batch_size: int,
    *,
    most_tokens: int | None = None,
) -> list[float]:
    """Return the head's score of each token row, batched by length, without gradient; dropout must be off.

    Args:
        most_tokens: in one forward pass, padding included; None: as many as the rows of a batch have.

    Raises:
        RunError: a score is not a number.
    """
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in _forward_batches([len(row) for row in rows], batch_size * _FASTER_EVALUATION, most_tokens):
            token_ids, lengths = pad_right([rows[index] for index in batch], backbone.pad_token_id, backbone.device)
            found = head(backbone.last_hidden(token_ids), lengths)
            if not torch.isfinite(found).all():
                raise RunError(f"the scorer's output is not a number: lower {_RATE}, or use {_EXACT}")
            for index, score in zip(batch, found.tolist(), strict=True):
                scores[index] = score
    return scores


def _forward_batches(lengths: Sequence[int], batch_size: int, most_tokens: int | None) -> Iterator[list[int]]:
    for batch in length_batches(lengths, batch_size):
        yield from [batch] if most_tokens is None else micro_batches(batch, lengths, most_tokens)


def _optimizer(parameters: Iterable[nn.Parameter], settings: ScorerSettings) -> torch.optim.AdamW:
    trained = list(parameters)
    groups = [
        {"params": [each for each in trained if each.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def _step(
    optimizer: torch.optim.AdamW,
    training: Training,
    parts: Sequence[list[int]],
    *,
    rate: float,
    max_grad_norm: float,
    step: int,
) -> float:
    """Update once, by the mean loss over all rows of `parts`, and return that loss."""
    advice = f"lower {_RATE}, or use {_EXACT}"
    rows = sum(map(len, parts))
    value = 0.0
    for part in parts:
        loss = training.loss_of(part) * (len(part) / rows)
        value += float(loss.detach())
        if not math.isfinite(value):
            raise RunError(f"the scorer's loss is {value} at step {step}: {advice}")
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm or float("inf")))
    if not norm < float("inf"):
        raise RunError(f"the norm of the scorer's gradient is {norm} at step {step}: {advice}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def _train_mode(training: Training, gradient_checkpointing: bool) -> None:
    training.head.train()
    # It has no dropout: what the mode decides is whether activations are computed again.
    training.backbone.model.train(gradient_checkpointing)


def _evaluation_mode(training: Training) -> None:
    training.head.eval()
    training.backbone.model.eval()
