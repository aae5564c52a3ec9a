"""The training that both kinds of scorer share: AdamW, warm-up, clipping, an evaluation an epoch, early stopping."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from grpo.errors import RunError
from grpo.schedules import learning_rate_factor
from grpo.scorer.backbone import Backbone
from grpo.scorer.metrics import Evaluation
from grpo.scorer.report import EpochReport, OnEpoch
from grpo.scorer.settings import ScorerSettings
from grpo.scorer.texts import length_batches, pad_right, shuffled_batches
from grpo.seeding import derive_seed

__all__ = ["fit", "score_rows"]

_FASTER_EVALUATION = 2
"""Without a backward pass more rows fit into a batch."""


def fit(
    backbone: Backbone,
    head: nn.Module,
    *,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    evaluate: Callable[[], Evaluation],
    save: Callable[[Evaluation, int], None],
    settings: ScorerSettings,
    on_epoch: OnEpoch | None,
) -> tuple[EpochReport, ...]:
    """Train backbone and head in place and return the epochs that were run; the best one has been saved.

    Args:
        lengths: tokens of each training row.
        loss_of: mean loss of the training rows with these indices, with gradient.
        evaluate: called after each epoch, without gradient and dropout.
        save: called with the evaluation and the epoch's number whenever it is the best so far.
        on_epoch: called after each epoch, when the best one has been saved.

    Raises:
        RunError: the loss or the gradient is not a number.
    """
    steps_per_epoch = -(-len(lengths) // settings.batch_size)
    optimizer = _optimizer((*backbone.trained().values(), *head.parameters()), settings)
    total = steps_per_epoch * settings.epochs
    epochs: list[EpochReport] = []
    best: EpochReport | None = None
    step = 0
    for epoch in range(1, settings.epochs + 1):
        began = time.perf_counter()
        head.train()
        sums = 0.0
        order = random.Random(derive_seed(settings.seed, "scorer", "order", epoch))
        for batch in shuffled_batches(lengths, settings.batch_size, order):
            step += 1
            rate = settings.learning_rate * learning_rate_factor(
                step, schedule="linear", warmup_steps=round(settings.warmup_ratio * total), steps=total
            )
            sums += len(batch) * _step(optimizer, loss_of(batch), rate, settings.max_grad_norm, step)
        head.eval()
        with torch.inference_mode():
            evaluation = evaluate()
        is_best = best is None or evaluation.quality > best.evaluation.quality
        if is_best:
            save(evaluation, epoch)
        report = EpochReport(epoch, sums / len(lengths), evaluation, is_best, rate, time.perf_counter() - began)
        epochs.append(report)
        best = report if is_best or best is None else best
        if on_epoch is not None:
            on_epoch(report)
        if settings.patience and epoch - best.epoch >= settings.patience:
            break
    return tuple(epochs)


def score_rows(backbone: Backbone, head: nn.Module, rows: Sequence[Sequence[int]], batch_size: int) -> list[float]:
    """Return the head's score of each token row, batched by length, without gradient; dropout must be off.

    Raises:
        RunError: a score is not a number.
    """
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in length_batches([len(row) for row in rows], batch_size * _FASTER_EVALUATION):
            token_ids, lengths = pad_right([rows[index] for index in batch], backbone.pad_token_id, backbone.device)
            found = head(backbone.last_hidden(token_ids), lengths)
            if not torch.isfinite(found).all():
                raise RunError("the scorer's output is not a number: lower its learning_rate, or use dtype=float32")
            for index, score in zip(batch, found.tolist(), strict=True):
                scores[index] = score
    return scores


def _optimizer(parameters: Iterable[nn.Parameter], settings: ScorerSettings) -> torch.optim.AdamW:
    trained = list(parameters)
    groups = [
        {"params": [each for each in trained if each.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)


def _step(optimizer: torch.optim.AdamW, loss: Tensor, rate: float, max_grad_norm: float, step: int) -> float:
    """Update once and return the loss."""
    value = float(loss.detach())
    advice = "lower learning_rate or max_grad_norm, or use dtype=float32"
    if not torch.isfinite(loss.detach()):
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
