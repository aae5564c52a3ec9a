"""Log-probabilities through the output head in tiles of rows × vocabulary: the logits never exist as a whole.

Forward keeps a running maximum and sum over the tiles of a row, as online softmax does (arXiv:1805.02867); backward
makes each tile again and turns it into gradients in place. A tile of the vocabulary is finished before the next
begins, so the gradient of the head's weight is written once (the loop order of arXiv:2411.09009).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.policy.products import LENGTH_MULTIPLE, outer_product, product

__all__ = ["DEFAULT_TILE_BYTES", "HeadMath", "tiled_logprobs"]

DEFAULT_TILE_BYTES = 8 * 2**20
"""Bytes of a tile in float32. The allocator reuses blocks of up to 32 MiB without the system clearing them."""

_MAX_ROWS = 32 * LENGTH_MULTIPLE


class HeadMath(NamedTuple):
    """The logits of a product x with the head's weight: softcap · tanh(scale · x / softcap) / temperature.

    Attributes:
        scale: 1: none.
        softcap: None: none.
        temperature: 1: none.
        dtype: of the matrix product; the rest is float32.
        tile_bytes: see `DEFAULT_TILE_BYTES`.
    """

    scale: float
    softcap: float | None
    temperature: float
    dtype: torch.dtype
    tile_bytes: int = DEFAULT_TILE_BYTES

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return [M, V] float32 of hidden states [M, D] and a slice of the weight [V, D]."""
        dtype = self.dtype
        logits = product(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).float()
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)

    def chain(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Return the gradient of the products from that of the `logits`; both arguments are overwritten."""
        if self.softcap is not None:
            capped = logits.mul_(self.temperature / self.softcap)
            gradient.mul_(1 - capped.square_())
        factor = self.scale / self.temperature
        return gradient if factor == 1.0 else gradient.mul_(factor)


def tiled_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, math: HeadMath
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the entropy (without gradient), [M] float32 each.

    Args:
        hidden: [M, D]; gradients flow into it, `weight` and `bias` where they ask for them.
        weight: [V, D].
        bias: [V]; None: none.
        targets: [M] long.
    """
    count = len(hidden)
    filling = -count % LENGTH_MULTIPLE if count > LENGTH_MULTIPLE else 0
    if filling:
        hidden, targets = F.pad(hidden, (0, 0, 0, filling)), F.pad(targets, (0, filling))
    logprobs, entropy = _TiledLogprobs.apply(hidden, weight, bias, targets, math)  # type: ignore[no-untyped-call]
    return logprobs[:count], entropy[:count]


class _TiledLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (`apply` takes no keywords)
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, math: HeadMath
    ) -> tuple[Tensor, Tensor]:
        normalizer = torch.empty(len(hidden), device=hidden.device)
        logprobs, entropy = torch.empty_like(normalizer), torch.empty_like(normalizer)
        for rows in _spans(len(hidden), _MAX_ROWS):
            state = _Normalizer.empty(hidden[rows], targets[rows])
            for columns in _columns(weight, hidden[rows], math):
                state.add(math.logits(hidden[rows], weight[columns], _part(bias, columns)), columns)
            normalizer[rows], logprobs[rows], entropy[rows] = state.result()
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.math = math
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        math: HeadMath = ctx.math
        wanted = ctx.needs_input_grad
        for_hidden = torch.zeros(hidden.shape, device=hidden.device) if wanted[0] else None
        # Tiles cover everything that is not empty; without rows nothing is written.
        make = torch.empty_like if len(hidden) else torch.zeros_like
        for_weight = make(weight) if wanted[1] else None
        for_bias = make(bias) if wanted[2] else None
        for columns in _columns(weight, hidden[:_MAX_ROWS], math):
            part = weight[columns].to(math.dtype)
            of_weight = of_bias = None
            for rows in _spans(len(hidden), _MAX_ROWS):
                logits = math.logits(hidden[rows], part, _part(bias, columns))
                into = _into_logits(logits, targets[rows], normalizer[rows], gradient[rows], columns)
                into = math.chain(into, logits).to(math.dtype)
                if for_hidden is not None:
                    for_hidden[rows] += product(into, part.t())
                if for_weight is not None:
                    of_weight = _sum(of_weight, outer_product(into, hidden[rows].to(math.dtype)).float())
                if for_bias is not None:
                    of_bias = _sum(of_bias, into.float().sum(dim=0))
            if for_weight is not None and of_weight is not None:
                for_weight[columns] = of_weight
            if for_bias is not None and of_bias is not None:
                for_bias[columns] = of_bias
        return (None if for_hidden is None else for_hidden.to(hidden.dtype)), for_weight, for_bias, None, None


class _Normalizer:
    """Softmax's sums over the tiles of some rows, relative to the highest logit so far.

    Attributes:
        highest: [M]; of the tiles seen.
        total: [M]; Σ exp(logit - highest).
        weighted: [M]; Σ exp(logit - highest) · logit.
        chosen: [M]; the target's logit.
    """

    def __init__(self, targets: Tensor, highest: Tensor, zero: Tensor) -> None:
        self.targets = targets
        self.highest = highest
        self.total, self.weighted, self.chosen = zero, zero.clone(), zero.clone()

    @classmethod
    def empty(cls, hidden: Tensor, targets: Tensor) -> _Normalizer:
        zero = torch.zeros(len(hidden), device=hidden.device)
        return cls(targets, torch.full_like(zero, -torch.inf), zero)

    def add(self, logits: Tensor, columns: slice) -> None:
        """Take in a tile [M, C], which begins at column `columns.start` of the vocabulary."""
        inside, places = _places(self.targets, columns)
        self.chosen = torch.where(inside, logits.gather(1, places).squeeze(1), self.chosen)
        highest = torch.maximum(self.highest, logits.amax(dim=1))
        # exp(-inf - -inf) is NaN: before the first tile there is nothing to scale.
        rescale = torch.exp(self.highest - highest).nan_to_num_(nan=0.0)
        shares = torch.exp(logits - highest[:, None])
        self.total = self.total * rescale + shares.sum(dim=1)
        self.weighted = self.weighted * rescale + shares.mul_(logits).sum(dim=1)
        self.highest = highest

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return log Σ exp(logits), the targets' log-probabilities and the entropies, [M] each."""
        normalizer = self.highest + self.total.log()
        return normalizer, self.chosen - normalizer, normalizer - self.weighted / self.total


def _into_logits(logits: Tensor, targets: Tensor, normalizer: Tensor, gradient: Tensor, columns: slice) -> Tensor:
    """Return [M, C], the gradient of a tile: gradient · (1 at the target - probability); `logits` stay."""
    into = torch.exp(logits - normalizer[:, None]).mul_(-gradient[:, None])
    inside, places = _places(targets, columns)
    return into.scatter_add_(1, places, torch.where(inside, gradient, 0.0)[:, None])


def _places(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Return whether each target lies in that part of the vocabulary, [M] bool, and where in it, [M, 1]."""
    width = columns.stop - columns.start
    own = targets - columns.start
    return (own >= 0) & (own < width), own.clamp(0, width - 1)[:, None]


def _columns(weight: Tensor, rows: Tensor, math: HeadMath) -> Iterator[slice]:
    """Return the slices of the vocabulary in tiles of at most `tile_bytes` for that many rows."""
    return _spans(len(weight), max(1, math.tile_bytes // (4 * max(1, len(rows)))))


def _spans(length: int, size: int) -> Iterator[slice]:
    """Return slices of length `size` that cover `length`; the last may be shorter."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _part(bias: Tensor | None, columns: slice) -> Tensor | None:
    return None if bias is None else bias[columns]


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
