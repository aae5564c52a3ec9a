"""Products with weight matrices the way the engine wants them: fused, packed once a step, adapters beside or inside."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from grpo.policy.products import has_packed_product, pack_weight, packed_product

__all__ = ["Matrix", "pack"]

_ROWS_HINT = 64
"""Number of rows that oneDNN lays a packed matrix out for; measured equal or best for 1 to 600."""

_FEWEST_NUMBERS = 2**15
"""Smaller matrices are multiplied with before oneDNN has found its kernel."""


def pack(weight: Tensor) -> Tensor:
    """Return `weight` [N, K] in the layout that `Matrix` multiplies with fastest: packed, or unchanged."""
    return pack_weight(weight, _ROWS_HINT) if _suits_onednn(weight) else weight


def _suits_onednn(weight: Tensor) -> bool:
    return weight.numel() >= _FEWEST_NUMBERS and has_packed_product(weight.device, weight.dtype)


class Matrix:
    """A linear map from tensors: x W^T + b, plus a LoRA's (x A^T) B^T where it is not merged into W."""

    __slots__ = ("_by_onednn", "bias", "low_rank", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, low_rank: tuple[Tensor, Tensor] | None = None) -> None:
        """Keep the tensors, without a copy.

        Args:
            weight: [N, K], plain or from `pack`.
            bias: [N].
            low_rank: A [r, K] and B [N, r], B scaled.
        """
        self.weight, self.bias, self.low_rank = weight, bias, low_rank
        self._by_onednn = weight.is_mkldnn or _suits_onednn(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """Return [M, N] from contiguous `x` [M, K]."""
        y = (packed_product if self._by_onednn else F.linear)(x, self.weight, self.bias)
        if self.low_rank is not None:
            down, up = self.low_rank
            y = y + F.linear(F.linear(x, down), up)
        return y
