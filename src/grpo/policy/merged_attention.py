"""Attention of completions to their shared prompt and to themselves, as two attentions merged into one.

A softmax over two sets of keys is the softmaxes over each, weighted by their sums (arXiv:1805.02867). So all
completions of a prompt attend to its keys in one call without a mask, no key is copied for a completion, and every
token attends to its own sequence in causal blocks. The backward pass hands each part the merged output and the log of
the merged sum, from which the kernel makes that part's share of the gradients (arXiv:2205.14135, algorithm 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from grpo.packing import Segment

__all__ = ["MergedPlan", "merged_attention", "merging_works", "plan_merging"]

MAX_PADDING = 1.4
"""A block may hold this many times the scores its members need."""

SMALL_BLOCK = 1 << 16
"""Scores a head; below it the overhead of another block outweighs the padding it saves."""


@dataclass(frozen=True)
class _Causal:
    """B sequences of the row, padded to L tokens, that attend to themselves.

    Attributes:
        tokens: [B * L] long, tokens of the row; padding repeats a sequence's last token.
        is_real: [B, L, 1, 1] bool, False where `tokens` is padding; None: none is.
    """

    size: int
    length: int
    tokens: Tensor
    is_real: Tensor | None


@dataclass(frozen=True)
class MergedPlan:
    """What attends to what in a packed row.

    Attributes:
        blocks: together they hold every prompt and every completion once.
        places: [N] long, where each token of the row lies among the outputs of all blocks laid end to end.
        prefixes: the tokens of a prompt's completions, and those of the prompt.
    """

    blocks: tuple[_Causal, ...]
    places: Tensor
    prefixes: tuple[tuple[slice, slice], ...]


def plan_merging(segments: Sequence[Segment], num_tokens: int, device: torch.device | str) -> MergedPlan:
    """Return the plan of a row of `num_tokens`."""
    sequences: list[tuple[int, int]] = []
    prefixes = []
    for segment in segments:
        sequences.append((segment.start, segment.prompt_length))
        first = end = segment.start + segment.prompt_length
        for length in segment.completion_lengths:
            if length:
                sequences.append((end, length))
            end += length
        if end > first:
            prefixes.append((slice(first, end), slice(segment.start, first)))
    blocks = []
    places = torch.zeros(num_tokens, dtype=torch.long, device=device)
    outputs = 0
    for group in _grouped(sequences):
        starts, lengths = (torch.tensor(column, device=device)[:, None] for column in zip(*group, strict=True))
        length = int(lengths.max())
        column = torch.arange(length, device=device)
        tokens, is_real = starts + torch.minimum(column, lengths - 1), column < lengths
        places[tokens[is_real]] = outputs + is_real.flatten().nonzero()[:, 0]
        outputs += tokens.numel()
        padded = None if bool(is_real.all()) else is_real[:, :, None, None]
        blocks.append(_Causal(len(group), length, tokens.flatten(), padded))
    return MergedPlan(tuple(blocks), places, tuple(prefixes))


def merged_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: MergedPlan) -> Tensor:
    """Return attention's output [N, H, D], from contiguous tensors of one type on the CPU, with gradients.

    Args:
        query: [N, H, D].
        key: [N, H_kv, D]; H is a multiple of H_kv.
        value: [N, H_kv, D].
        scaling: what scores are multiplied by.
    """
    result: Tensor = _Merged.apply(query, key, value, scaling, plan)  # type: ignore[no-untyped-call]
    return result


@cache
@torch.inference_mode(False)
@torch.enable_grad()
def merging_works() -> bool:
    """Return whether the kernel is there and merges right, output and gradients, tried once on two heads."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 2, 4)
    shape = (sum(lengths), 2, 8)
    query, key, value = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(3))
    row = torch.arange(shape[0])
    own = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    seen = (row[:, None] >= row) & ((own[:, None] == own) | (own == 0))
    by_head = (tensor[:, head] for head in range(shape[1]) for tensor in (query, key, value))
    expected = torch.stack(
        [
            torch.softmax((q @ k.T * 0.5).masked_fill(~seen, -torch.inf), dim=-1) @ v
            for q, k, v in zip(by_head, by_head, by_head, strict=True)
        ],
        dim=1,
    )
    weights = torch.randn(shape, generator=generator)
    try:
        plan = plan_merging((Segment(0, lengths[0], lengths[1:]),), shape[0], "cpu")
        found = merged_attention(query, key, value, 0.5, plan)
        pairs = zip(
            *(torch.autograd.grad((t * weights).sum(), (query, key, value)) for t in (found, expected)), strict=True
        )
    # The operators are PyTorch's own but not public: another version may lack them or change what they take.
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(a, b, atol=1e-4) for a, b in ((found, expected), *pairs))


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (`apply` takes no keywords)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: MergedPlan
    ) -> Tensor:
        outputs, sums = [], []
        for block in plan.blocks:
            attended, log_sum = _attend([_sequences(t, block) for t in (query, key, value)], scaling, causal=True)
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
            sums.append(log_sum.transpose(1, 2).flatten(0, 1))
        output, log_sums = (torch.cat(parts).index_select(0, plan.places) for parts in (outputs, sums))
        for tokens, prompt in plan.prefixes:
            parts = [_one_sequence(t) for t in (query[tokens], key[prompt], value[prompt])]
            attended, log_sum = (part[0].transpose(0, 1) for part in _attend(parts, scaling, causal=False))
            own, own_sum = output[tokens], log_sums[tokens]
            share = torch.sigmoid(log_sum - own_sum)[..., None].to(own.dtype)
            own.mul_(1 - share).addcmul_(attended, share)
            torch.logaddexp(log_sum, own_sum, out=own_sum)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.scaling, ctx.plan = scaling, plan
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *saved, log_sums = ctx.saved_tensors
        plan: MergedPlan = ctx.plan
        gradient = gradient.contiguous()
        parts: tuple[list[Tensor], ...] = ([], [], [])
        for block in plan.blocks:
            given, sums = _sequences(gradient, block), _sequences(log_sums[..., None], block)[..., 0]
            if block.is_real is not None:
                given = given * block.is_real.transpose(1, 2)
            found = _gradients(given, [_sequences(t, block) for t in saved], sums, ctx.scaling, causal=True)
            for of_blocks, of_block in zip(parts, found, strict=True):
                of_blocks.append(of_block.transpose(1, 2).flatten(0, 1))
        of_query, of_key, of_value = (torch.cat(of_blocks).index_select(0, plan.places) for of_blocks in parts)
        query, key, value, output = saved
        for tokens, prompt in plan.prefixes:
            given, sums = _one_sequence(gradient[tokens]), log_sums[tokens].T[None]
            pieces = [_one_sequence(t) for t in (query[tokens], key[prompt], value[prompt], output[tokens])]
            found = _gradients(given, pieces, sums, ctx.scaling, causal=False)
            for total, at, part in zip((of_query, of_key, of_value), (tokens, prompt, prompt), found, strict=True):
                total[at] += part[0].transpose(0, 1)
        return of_query, of_key, of_value, None, None


def _attend(given: Sequence[Tensor], scaling: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Return the output [B, H, L, D] of query, key and value, and the log of the softmax's sums [B, H, L] float32."""
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, causal, scale=scaling)
    return output, log_sum


def _gradients(
    gradient: Tensor, saved: Sequence[Tensor], log_sum: Tensor, scaling: float, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what this part of the keys adds to the gradients of query, key and value; `saved` ends with the output."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, *saved, log_sum, 0.0, causal, scale=scaling
    )
    return found


def _sequences(row: Tensor, block: _Causal) -> Tensor:
    """Return [B, H, L, D] out of row [N, H, D]."""
    return row.index_select(0, block.tokens).view(block.size, block.length, *row.shape[1:]).transpose(1, 2)


def _one_sequence(tokens: Tensor) -> Tensor:
    """Return [1, H, L, D] of [L, H, D]."""
    return tokens.transpose(0, 1)[None]


def _grouped(sequences: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Return (start, length) in groups of like length, cut wherever one more would pad too much."""
    groups: list[list[tuple[int, int]]] = []
    needed = 0
    for start, length in sorted(sequences, key=lambda sequence: (sequence[1], sequence[0])):
        # In this order the newest is the longest.
        padded = (len(groups[-1]) + 1) * length**2 if groups else 0
        if groups and padded <= max(MAX_PADDING * (needed + length**2), SMALL_BLOCK):
            groups[-1].append((start, length))
            needed += length**2
        else:
            groups.append([(start, length)])
            needed = length**2
    return groups
