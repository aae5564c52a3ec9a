"""Attention of completions to their shared prompt and to themselves, as two attentions merged into one.

A softmax over two sets of keys is the softmaxes over each, weighted by their sums (arXiv:1805.02867). So all
completions of a prompt attend to its keys in one call without a mask, no key is copied for a completion, and every
token attends to its own sequence in causal blocks. The backward pass gives each part the merged output and the log of
the merged sum, from which the kernel computes that part's share of the gradients (arXiv:2205.14135, algorithm 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo.packing import Segment
from grpo.policy.flash import flash_attention, flash_gradients
from grpo.policy.spans import completion_spans, of_like_shape, prompt_spans

__all__ = ["MergedPlan", "merged_attention", "plan_merging"]


@dataclass(frozen=True)
class _Causal:
    """B sequences of the row, padded to L tokens, that attend to themselves.

    Attributes:
        tokens: [B * L] long, tokens of the row; padding repeats a sequence's last token.
        is_real: [B, 1, L, 1] bool, False where `tokens` is padding; None: none is.
    """

    size: int
    length: int
    tokens: Tensor
    is_real: Tensor | None


@dataclass(frozen=True)
class MergedPlan:
    """Plan of the attention in a packed row.

    Attributes:
        blocks: together they hold every prompt and every completion once.
        places: [N] long, where each token of the row lies among the outputs of all blocks laid end to end.
        is_filling: [N] bool, tokens of no prompt and no completion; None: there are none.
        prefixes: the tokens of a prompt's completions, and those of the prompt.
    """

    blocks: tuple[_Causal, ...]
    places: Tensor
    is_filling: Tensor | None
    prefixes: tuple[tuple[slice, slice], ...]

    def by_token(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [N, …] from the blocks' parts [B * L, …]; zero where nothing was computed."""
        rows = torch.cat(list(parts)).index_select(0, self.places)
        if self.is_filling is None:
            return rows
        return rows.masked_fill_(self.is_filling.view(-1, *[1] * (rows.dim() - 1)), 0.0)


def plan_merging(segments: Sequence[Segment], num_tokens: int, device: torch.device | str) -> MergedPlan:
    """Return the plan of a row of `num_tokens`."""
    prefixes = []
    for segment in segments:
        first = segment.start + segment.prompt_length
        end = first + sum(segment.completion_lengths)
        if end > first:
            prefixes.append((slice(first, end), slice(segment.start, first)))
    blocks = []
    places = torch.full((num_tokens,), -1, dtype=torch.long, device=device)
    outputs = 0
    for group in of_like_shape([span.alone() for span in (*prompt_spans(segments), *completion_spans(segments))]):
        starts = torch.tensor([span.start for span in group], device=device)[:, None]
        lengths = torch.tensor([span.length for span in group], device=device)[:, None]
        length = int(lengths.max())
        column = torch.arange(length, device=device)
        tokens, is_real = starts + torch.minimum(column, lengths - 1), column < lengths
        places[tokens[is_real]] = outputs + is_real.flatten().nonzero()[:, 0]
        outputs += tokens.numel()
        padded = None if bool(is_real.all()) else is_real[:, None, :, None]
        blocks.append(_Causal(len(group), length, tokens.flatten(), padded))
    filling = places < 0
    return MergedPlan(tuple(blocks), places.clamp_(min=0), filling if bool(filling.any()) else None, tuple(prefixes))


def merged_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: MergedPlan) -> Tensor:
    """Return attention's output [N, H, D], from contiguous tensors of one type on the CPU, with gradients.

    Args:
        query: [N, H, D].
        key: [N, H_kv, D]; H is a multiple of H_kv.
        value: [N, H_kv, D].
        scaling: factor on the scores.
    """
    result: Tensor = _Merged.apply(query, key, value, scaling, plan)  # type: ignore[no-untyped-call]
    return result


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (`apply` takes no keywords)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: MergedPlan
    ) -> Tensor:
        outputs, sums = [], []
        for block in plan.blocks:
            attended, log_sum = flash_attention(
                *(_sequences(t, block) for t in (query, key, value)), scaling=scaling, causal=True
            )
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
            sums.append(log_sum.transpose(1, 2).flatten(0, 1))
        output, log_sums = plan.by_token(outputs), plan.by_token(sums)
        for tokens, prompt in plan.prefixes:
            parts = (_one_sequence(t) for t in (query[tokens], key[prompt], value[prompt]))
            attended, log_sum = (part[0].transpose(0, 1) for part in flash_attention(*parts, scaling=scaling))
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
                given = given * block.is_real
            pieces = [_sequences(tensor, block) for tensor in saved]
            found = flash_gradients(given, pieces, sums, scaling=ctx.scaling, causal=True)
            for of_blocks, of_block in zip(parts, found, strict=True):
                of_blocks.append(of_block.transpose(1, 2).flatten(0, 1))
        of_query, of_key, of_value = (plan.by_token(of_blocks) for of_blocks in parts)
        query, key, value, output = saved
        for tokens, prompt in plan.prefixes:
            given, sums = _one_sequence(gradient[tokens]), log_sums[tokens].T[None]
            pieces = [_one_sequence(t) for t in (query[tokens], key[prompt], value[prompt], output[tokens])]
            found = flash_gradients(given, pieces, sums, scaling=ctx.scaling, causal=False)
            for total, at, part in zip((of_query, of_key, of_value), (tokens, prompt, prompt), found, strict=True):
                total[at] += part[0].transpose(0, 1)
        return of_query, of_key, of_value, None, None


def _sequences(row: Tensor, block: _Causal) -> Tensor:
    """Return [B, H, L, D] out of row [N, H, D]."""
    return row.index_select(0, block.tokens).view(block.size, block.length, *row.shape[1:]).transpose(1, 2)


def _one_sequence(tokens: Tensor) -> Tensor:
    """Return [1, H, L, D] of [L, H, D]."""
    return tokens.transpose(0, 1)[None]
