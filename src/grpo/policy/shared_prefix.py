"""Attention over packed rows: completions share one copy of their prompt.

In a row `[prompt | completion 1 | … | completion n | next prompt | …]` a prompt sees itself, a completion sees
its prompt and itself, both causally. `SharedPrefixLayout` holds the positions of all of them; it is made once for a
batch and passed to every layer as `attend` (see `attention.py`).

On a CPU, where prompts are more than a few tokens, `merged_attention` reads each prompt's keys in place. Otherwise the
row is cut into blocks: some prompts, or some completions each with its prompt's keys before its own, padded to the
longest of the block and run through one call of `masked_attention`. Blocks are formed so that little of that is
padding; nothing of size [N, N] ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from grpo.packing import Segment
from grpo.policy.attention import Scoring, masked_attention
from grpo.policy.flash import flash_works
from grpo.policy.merged_attention import MergedPlan, merged_attention, plan_merging
from grpo.policy.spans import Span, completion_spans, of_like_shape, prompt_spans

__all__ = ["SharedPrefixLayout"]

LONG_PROMPT = 32
"""Average prompt length in tokens from which a copy for every completion costs more than a second kernel."""


@dataclass(frozen=True)
class _Block:
    """B spans padded to P prefix keys and L own tokens.

    Attributes:
        queries: [B * L] long, tokens of the row; padding repeats each span's last token.
        is_real: [B * L] bool, False where `queries` is padding.
        keys: [B * (P + L)] long.
        prefix_lengths: [B] long, P or less.
        same_prefix: True if they are all P.
        masks: cache of `mask`, by window.
    """

    size: int
    prefix: int
    length: int
    queries: Tensor
    is_real: Tensor
    keys: Tensor
    prefix_lengths: Tensor
    same_prefix: bool
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return [B or 1, 1, L, P + L] to add to the scores: 0 where the query sees the key, -inf elsewhere."""
        if window not in self.masks:
            device = self.queries.device
            # With one prefix length in the block its members need only one mask.
            prefix_lengths = (self.prefix_lengths[:1] if self.same_prefix else self.prefix_lengths).view(-1, 1, 1)
            own = torch.arange(self.length, device=device)
            prefix = torch.arange(self.prefix, device=device)
            to_own = (own[:, None] - own[None, :]).expand(len(prefix_lengths), -1, -1)
            to_prefix = prefix_lengths + own[None, :, None] - prefix[None, None, :]
            distance = torch.cat((to_prefix, to_own), dim=2)
            seen = distance >= 0
            seen[:, :, : self.prefix] &= prefix < prefix_lengths
            if window is not None:
                seen &= distance < window
            self.masks[window] = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)[:, None]
        if self.masks[window].dtype != dtype:
            self.masks[window] = self.masks[window].to(dtype)
        return self.masks[window]


class SharedPrefixLayout:
    """Attention in one packed row; an `Attend`.

    Args:
        segments: the row's segments; the completions of each follow its prompt without a gap.
        num_tokens: N, the row's length.
        device: where the row is.
    """

    def __init__(self, segments: Sequence[Segment], num_tokens: int, device: torch.device | str) -> None:
        self._segments, self._num_tokens, self._device = segments, num_tokens, device
        self._longest = max((s.prompt_length + max(s.completion_lengths, default=0) for s in segments), default=0)
        shared = sum(segment.prompt_length for segment in segments)
        long = shared >= LONG_PROMPT * len(segments)
        # Decided here and not in a layer: the trial must not run under its autocast, or in its recomputation.
        self._merges = long and torch.device(device).type == "cpu" and flash_works(grouped=False)
        self._merges_grouped = self._merges and flash_works(grouped=True)

    def __call__(
        self,
        module: nn.Module,  # noqa: ARG002
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
    ) -> Tensor:
        """Return [1, N, H, D_v]; see `Attend`. The window counts in a completion's own sequence, prompt included."""
        rows = [states.squeeze(0).transpose(0, 1).contiguous() for states in (query, key, value)]
        if scoring.sliding_window is not None and scoring.sliding_window >= self._longest:
            scoring = replace(scoring, sliding_window=None)
        merges = self._merges if query.shape[1] == key.shape[1] else self._merges_grouped
        if merges and _can_be_merged(query, key, value, scoring):
            return merged_attention(rows[0], rows[1], rows[2], scoring.scaling, self._merging).unsqueeze(0)
        blocks, places = self._blocks
        window = scoring.sliding_window
        outputs = []
        for block in blocks:
            output = masked_attention(
                _take(rows[0], block.queries, block.size),
                _take(rows[1], block.keys, block.size),
                _take(rows[2], block.keys, block.size),
                scoring,
                mask=None if window is None and block.prefix == 0 else block.mask(window, query.dtype),
                is_causal=window is None and block.prefix == 0,
            )
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs).index_select(0, places).unsqueeze(0)

    @cached_property
    def _merging(self) -> MergedPlan:
        return plan_merging(self._segments, self._num_tokens, self._device)

    @cached_property
    def _blocks(self) -> tuple[list[_Block], Tensor]:
        """The blocks, and where each token of the row lies among the outputs of all of them laid end to end."""
        kinds = (prompt_spans(self._segments), completion_spans(self._segments))
        blocks = [_block(group, self._device) for kind in kinds for group in of_like_shape(kind)]
        places = torch.zeros(self._num_tokens, dtype=torch.long, device=self._device)
        outputs = 0
        for block in blocks:
            real = block.is_real.nonzero().squeeze(1)
            places[block.queries[real]] = outputs + real
            outputs += len(block.queries)
        return blocks, places


def _can_be_merged(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> bool:
    """Return whether `merged_attention` can serve such a layer."""
    return (
        scoring.sliding_window is None
        and scoring.softcap is None
        and scoring.sinks is None
        and query.shape[-1] == value.shape[-1]
        and query.dtype == key.dtype == value.dtype
    )


def _take(row: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Return [size, H, len(tokens) / size, D] out of row [N, H, D]."""
    return row.index_select(0, tokens).view(size, -1, *row.shape[1:]).transpose(1, 2)


def _block(spans: Sequence[Span], device: torch.device | str) -> _Block:
    """Return the block of `spans`, padded to their longest."""
    prefix_start, prefix_lengths, starts, lengths = (
        torch.tensor(column, device=device)[:, None] for column in zip(*spans, strict=True)
    )
    prefix, length = int(prefix_lengths.max()), int(lengths.max())
    own = starts + torch.minimum(torch.arange(length, device=device), lengths - 1)
    shared = prefix_start + torch.minimum(torch.arange(prefix, device=device), (prefix_lengths - 1).clamp(min=0))
    return _Block(
        size=len(spans),
        prefix=prefix,
        length=length,
        queries=own.flatten(),
        is_real=(torch.arange(length, device=device) < lengths).flatten(),
        keys=torch.cat((shared, own), dim=1).flatten(),
        prefix_lengths=prefix_lengths.flatten(),
        same_prefix=int(prefix_lengths.min()) == prefix,
    )
