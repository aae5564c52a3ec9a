"""The click-through-rate (CTR) scorer in training: the probability that a headline is clicked, from labelled texts.

A backbone (with adapters, or all of it), the masked mean of its last hidden layer, an MLP, a logit. The loss is
BCE-with-logits; rare clicks are weighted up by `pos_weight`, so that both classes contribute equally. That shifts each
logit by the logarithm of the weight. Predictions subtract the shift, so that probabilities match the data. The best
epoch is the one with the highest AUC on held-out texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo.reward_models.backbone import Backbone
from grpo.reward_models.checkpoint import AdapterShape, Description, save_scorer
from grpo.reward_models.data import ScorerRow
from grpo.reward_models.reports import Evaluation, evaluate_probabilities
from grpo.reward_models.settings import ScorerSettings
from grpo.tasks import enough_of

__all__ = ["HEAD_SIZES", "ClickHead", "ClickTraining", "click_token_ids", "masked_mean", "scorer_parameters"]

HEAD_SIZES = (1024, 512)


class ClickTraining:
    """The `Training` of a CTR scorer."""

    def __init__(
        self, backbone: Backbone, train: Sequence[ScorerRow], held_out: Sequence[ScorerRow], settings: ScorerSettings
    ) -> None:
        self.backbone = backbone
        self.head = ClickHead(backbone.hidden_size, HEAD_SIZES, settings.head_dropout).to(backbone.device)
        self._lora = settings.lora
        self._max_length = backbone.max_tokens(settings.max_length)
        self.train_examples, self.eval_examples = (
            [(ids,) for ids in click_token_ids(backbone.tokenizer, [row["text"] for row in rows], self._max_length)]
            for rows in (train, held_out)
        )
        self._labels = torch.tensor([float(row["label"]) for row in train], device=backbone.device)
        self._eval_labels = [int(row["label"]) for row in held_out]
        clicked = float(self._labels.sum())
        self._click_weight = torch.tensor((len(train) - clicked) / clicked, device=backbone.device)
        self._logit_shift = -math.log(float(self._click_weight))

    def loss(self, scores: Tensor, batch: list[int]) -> Tensor:
        """Return the class-weighted loss of training examples."""
        return F.binary_cross_entropy_with_logits(scores[0], self._labels[batch], pos_weight=self._click_weight)

    def evaluation(self, scores: Tensor) -> Evaluation:
        """Return the evaluation of the held-out examples' probabilities."""
        logits = scores[0] + self._logit_shift
        labels = torch.tensor(self._eval_labels, dtype=torch.float64)
        loss = float(F.binary_cross_entropy_with_logits(logits, labels))
        return evaluate_probabilities(self._eval_labels, logits.sigmoid().tolist(), loss=loss)

    def save(self, directory: Path, evaluation: Evaluation, epoch: int) -> None:
        """Write the scorer as it is now, in place of the content of `directory`.

        Raises:
            StorageError: it could not be written; the former content is still there.
        """
        lora = self._lora
        description = Description(
            kind="ctr",
            backbone=self.backbone.name,
            sizes=self.backbone.sizes,
            lora=None if lora is None else AdapterShape(lora.rank, lora.alpha, lora.target_modules),
            head_sizes=HEAD_SIZES,
            max_length=self._max_length,
            logit_shift=self._logit_shift,
            metrics={"epoch": epoch, **asdict(evaluation)},
            revision=self.backbone.revision,
        )
        save_scorer(directory, description, scorer_parameters(self.backbone, self.head), self.backbone.tokenizer)


class ClickHead(nn.Module):
    """Masked mean → Linear → ReLU → Dropout for each of `sizes` → Linear to one logit."""

    def __init__(self, hidden_size: int, sizes: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, next_width in zip((hidden_size, *sizes), sizes, strict=False):
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear((hidden_size, *sizes)[-1], 1))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B] for hidden states [B, T, H] of rows with `lengths` [B] tokens."""
        logits: Tensor = self.layers(masked_mean(hidden, lengths))
        return logits.squeeze(-1)


def masked_mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean [B, H] over each row's own tokens; zeros for a row without tokens.

    Args:
        hidden: [B, T, H].
        lengths: [B], number of tokens of each row; the positions after them are padding.
    """
    own = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    # Not a product with the mask: a NaN in the padding would survive it.
    total = hidden.masked_fill(~own[:, :, None], 0.0).sum(dim=1)
    return total / lengths.clamp(min=1)[:, None]


def click_token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the first `max_length` tokens of each text, without blanks at its ends, with the tokenizer's own special
    tokens."""
    if not texts:
        return []
    begins = [enough_of(text.strip(), tokenizer, max_length) for text in texts]
    rows = tokenizer(begins, truncation=True, max_length=max_length)["input_ids"]
    return [list(row) for row in rows]


def scorer_parameters(backbone: Backbone, head: ClickHead) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that a scorer's checkpoint holds: the trained part of the backbone, and the head."""
    return {
        **{f"backbone.{name}": value for name, value in backbone.trained().items()},
        **{f"head.{name}": value for name, value in head.named_parameters()},
    }
