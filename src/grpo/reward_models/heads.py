"""What reads a score out of a backbone's last hidden layer. Both are called as head(hidden, lengths)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["CLICK_HEAD_SIZES", "ClickHead", "PreferenceHead", "masked_mean"]

CLICK_HEAD_SIZES = (1024, 512)


def masked_mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean [B, H] over each row's own tokens; zeros for a row without any.

    Args:
        hidden: [B, T, H].
        lengths: [B], the first so many tokens of a row are its own, the rest is padding.
    """
    own = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    # Not a product with the mask: a NaN in the padding would survive it.
    total = hidden.masked_fill(~own[:, :, None], 0.0).sum(dim=1)
    return total / lengths.clamp(min=1)[:, None]


class ClickHead(nn.Module):
    """Masked mean → Linear → ReLU → Dropout for each of `sizes` → Linear to one logit."""

    def __init__(self, hidden_size: int, sizes: Sequence[int] = CLICK_HEAD_SIZES, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, next_width in zip((hidden_size, *sizes), sizes, strict=False):
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear((hidden_size, *sizes)[-1], 1))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B] for hidden states [B, T, H] of rows with `lengths` [B] tokens."""
        logits: Tensor = self.layers(masked_mean(hidden, lengths))
        return logits.squeeze(-1)


class PreferenceHead(nn.Module):
    """Last token → Linear without bias: the head of Hugging Face's decoder classifiers with one label."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)
        # A small start lets the backbone's features, not the draw of the head, decide where training goes.
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return rewards [B] for hidden states [B, T, H] of rows with `lengths` [B] tokens."""
        rows = torch.arange(len(hidden), device=hidden.device)
        rewards: Tensor = self.score(hidden[rows, (lengths - 1).clamp(min=0)])
        return rewards.squeeze(-1)
