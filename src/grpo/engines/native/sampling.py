"""One token a row from logits, each row with its own stateless random stream.

A token costs one uniform number, turned into a token by inverting the cumulative distribution. Drawing noise for the
whole vocabulary instead (the Gumbel trick) takes longer than the softmax itself on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo.errors import RunError

__all__ = ["SamplingRows", "draw", "sample", "stream_of", "token_logprobs", "uniforms"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ZERO = torch.zeros((), dtype=torch.float64)
_SHORT = 512
"""Vocabulary size up to which one sum over all tokens is quicker than finding a block first."""


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """Sampling parameters of each row, the fields of `SamplingParams` as arrays [B]: float64, top_k int64."""

    temperature: NDArray[np.float64]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]


def stream_of(seed: int) -> int:
    """Return the stream, in [0, 2**64), of a completion whose seed is any integer.

    Example:
        >>> stream_of(0) != stream_of(1)
        True
    """
    # Scrambled first: seeds that differ by a multiple of the golden ratio would else share one sequence, shifted.
    mixed = (seed + _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def uniforms(streams: NDArray[np.uint64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return number `indices[b]` of stream `streams[b]`: [B] float64 in [0, 1), 53 random bits each.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) used as a counter-based generator.
    """
    mixed = streams + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    fraction: NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fraction


def sample(logits: Tensor, uniform: NDArray[np.float64], how: SamplingRows) -> tuple[Tensor, Tensor]:
    """Return one token a row and its log-probability: [B] int64 and [B] float32.

    Cuts come in the order of transformers (top-k, then top-p of what is left, then min-p), but tokens as likely as the
    last one kept are kept too, so that a tie is not settled by the order of the vocabulary. Rows at temperature 0
    take the likeliest token, the first of several.

    Args:
        logits: [B, V], any float dtype; overwritten, for a second array of that size costs as much as the softmax.
        uniform: [B] float64 in [0, 1).

    Raises:
        RunError: a row holds NaN or +inf, or nothing but -inf.
    """
    greedy = how.temperature == 0
    tokens = torch.argmax(logits, dim=-1) if greedy.any() else None
    probabilities = _softmax(logits.float(), np.where(greedy, 1.0, how.temperature))
    if not greedy.all():
        drawn = draw(_cut(probabilities, how), torch.from_numpy(uniform).to(logits.device))
        tokens = drawn if tokens is None else torch.where(torch.from_numpy(greedy).to(logits.device), tokens, drawn)
    assert tokens is not None
    logprobs = probabilities.gather(1, tokens[:, None])[:, 0].log_()
    # One sum instead of a look at each: any NaN or infinity shows in it.
    if not math.isfinite(logprobs.sum().item()):
        raise RunError(_diverged(int((~torch.isfinite(logprobs)).sum()), len(logprobs)))
    return tokens, logprobs


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Return the log-probabilities [B] that `sample` would report had it drawn `tokens` [B] from `logits` [B, V].

    Raises:
        RunError: a row holds NaN or +inf, or nothing but -inf.
    """
    logits = logits.float()
    highest = logits.amax(dim=-1, keepdim=True)
    if not torch.isfinite(highest).all():
        raise RunError(_diverged(int((~torch.isfinite(highest)).sum()), len(logits)))
    # Subtracted before dividing: a temperature near 0 cannot overflow then.
    scaled = (logits - highest).div_(temperature if temperature > 0 else 1.0)
    return scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(dim=-1)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return one index a row, [B] int64, drawn in proportion to its weight; never one of weight zero.

    First a block of the vocabulary is chosen by the blocks' sums, then a token in that block: the vocabulary is read
    once, and only short sums are cumulative, in float64, where rounding does not add up.

    Args:
        weights: [B, V] float32, none negative, not all zero.
        uniform: [B] float64 in [0, 1).
    """
    rows, vocabulary = weights.shape
    if vocabulary <= _SHORT:
        return _invert(weights.double(), uniform, relative=True)[0]
    width = 1 << (((vocabulary - 1).bit_length() + 1) // 2)
    if vocabulary % width:
        weights = torch.nn.functional.pad(weights, (0, width - vocabulary % width))
    blocks = weights.view(rows, -1, width)
    block, rest = _invert(blocks.sum(dim=-1).double(), uniform, relative=True)
    inside = blocks[torch.arange(rows, device=weights.device), block].double()
    return block * width + _invert(inside, rest)[0]


def _invert(weights: Tensor, target: Tensor, *, relative: bool = False) -> tuple[Tensor, Tensor]:
    """Return the first index whose cumulative weight exceeds `target`, and how far `target` reaches into it.

    Args:
        weights: [B, N] float64.
        target: [B] float64.
        relative: `target` is a share of the sum of weights.
    """
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    wanted = target[:, None] * total if relative else target[:, None]
    # Rounding may put the target at or beyond the sum, where the next index would be one of weight zero.
    wanted = torch.minimum(wanted, torch.nextafter(total, _ZERO.to(total.device)))
    index = torch.searchsorted(cumulative, wanted, right=True)
    # NaN among the weights: any index, for its log-probability will be NaN as well.
    index = index.clamp_(max=weights.shape[1] - 1)
    before = cumulative.gather(1, index) - weights.gather(1, index)
    return index[:, 0], (wanted - before)[:, 0].clamp_(min=0.0)


def _softmax(logits: Tensor, temperature: NDArray[np.float64]) -> Tensor:
    """Return softmax(logits / temperature) [B, V], written over `logits`, which are float32."""
    if (temperature != 1).any():
        # Subtracted before dividing: a temperature near 0 cannot overflow then.
        logits.sub_(logits.amax(dim=-1, keepdim=True)).div_(_column(temperature, logits))
    return torch.softmax(logits, dim=-1, out=logits)


def _diverged(bad: int, rows: int) -> str:
    return (
        f"the model gave NaN or infinite logits for {bad} of {rows} completions: its weights have diverged; "
        f"go back to a checkpoint and lower the learning rate, or compute in float32"
    )


def _column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(device=like.device, dtype=like.dtype)[:, None]


def _cut(weights: Tensor, how: SamplingRows) -> Tensor:
    """Return `weights` [B, V] with what top-k, top-p and min-p exclude set to zero."""
    vocabulary = weights.shape[-1]
    kept = weights
    top_k = np.where((how.top_k > 0) & (how.top_k < vocabulary), how.top_k, 0)
    if top_k.any():
        highest = kept.topk(int(top_k.max()), dim=-1).values
        last = torch.from_numpy(np.maximum(top_k, 1) - 1).to(weights.device)[:, None]
        threshold = highest.gather(1, last) * _column((top_k > 0).astype(np.float64), weights)
        kept = kept.masked_fill(kept < threshold, 0.0)
    if (how.top_p < 1).any():
        ranked = kept.sort(dim=-1, descending=True).values
        cumulative = ranked.double().cumsum(dim=-1)
        share = torch.from_numpy(how.top_p).to(weights.device)[:, None] * cumulative[:, -1:]
        last = (cumulative - ranked < share).sum(dim=-1, keepdim=True) - 1
        threshold = ranked.gather(1, last) * _column((how.top_p < 1).astype(np.float64), weights)
        kept = kept.masked_fill(kept < threshold, 0.0)
    if (how.min_p > 0).any():
        kept = kept.masked_fill(kept < _column(how.min_p, weights) * kept.amax(dim=-1, keepdim=True), 0.0)
    return kept
