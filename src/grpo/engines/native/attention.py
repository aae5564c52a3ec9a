"""Attention of the engine: prompts within themselves, then each new token to its prompt and its own earlier tokens.

Both classes are `policy.attention.Attend`, the same object being handed to every layer of one forward pass, and take
the flat tensors of `fused_decoder` as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grpo.engines.native.cache import KeyValueTable
from grpo.engines.native.membership import UNSEEN, Membership
from grpo.policy.attention import Scoring, masked_attention
from grpo.policy.flash import flash_attention, flash_works

__all__ = ["DecodeAttention", "LayerAttention", "PrefillAttention"]


class LayerAttention(Protocol):
    """Attention of one forward pass, layer by layer."""

    @property
    def highest_position(self) -> int:
        """The largest position among its tokens."""
        ...

    def layer(self, index: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [N, H, D_v] from [N, H, D], [N, H_kv, D] and [N, H_kv, D_v] of layer number `index`."""
        ...

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """See `Attend`."""
        ...


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Prompts laid end to end in one row, shortest first; writes their keys and values to `prompts`.

    Attributes:
        prompts: the table; prompt i goes to row `slots[i]`.
        slots: [P] int64.
        lengths: [P] tokens of each prompt, ascending.
    """

    prompts: KeyValueTable
    slots: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def highest_position(self) -> int:
        return int(self.lengths[-1]) - 1

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [1, N, H, D_v]; see `Attend`."""
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return self.layer(_layer_index(module), query, key, value, scoring)[None]

    def layer(self, index: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [N, H, D_v]. Prompts of one length are computed together."""
        keys, values = self.prompts.layer(index, key, value)
        outputs = []
        lengths, starts, counts = np.unique(self.lengths, return_index=True, return_counts=True)
        offset = 0
        for length, start, count in zip(lengths.tolist(), starts.tolist(), counts.tolist(), strict=True):
            end = offset + length * count
            q, k, v = (_by_prompt(tensor[offset:end], count) for tensor in (query, key, value))
            slots = torch.from_numpy(self.slots[start : start + count]).to(key.device)
            keys[slots, :, :length] = k
            values[slots, :, :length] = v
            window = scoring.sliding_window
            mask = None if window is None or length <= window else _causal_band(length, window, key.device)
            attended = masked_attention(q, k, v, scoring, mask=mask, is_causal=mask is None)
            outputs.append(attended.transpose(1, 2).reshape(length * count, query.shape[1], value.shape[2]))
            offset = end
        return torch.cat(outputs)


def _by_prompt(packed: Tensor, count: int) -> Tensor:
    """Return [count, H, L, D] from [count * L, H, D]."""
    tokens, heads, width = packed.shape
    return packed.reshape(count, tokens // count, heads, width).transpose(1, 2)


def _causal_band(length: int, window: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance < window)


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """One new token a row: it sees its group's prompt, the row's earlier tokens and itself.

    Attention to prompts is computed a group at a time ([P, …, Gmax, …], groups padded to the largest), so each
    prompt's keys are read once for all its completions. What it gives, and the log of its sum of weights, then enters
    the attention to the row's own tokens as if the prompt were one more of them. A few rows of short prompts are
    better off with a copy of their prompt each: then `members` is None and the prompt is part of the row.

    Attributes:
        prompts, completions: the tables.
        members: which rows belong to which prompt; None: each row's table begins with its prompt.
        row_numbers: [B] int64, 0 … B - 1.
        own_lengths: [B] int64; tokens of the row that the table holds already. The new one is written there.
        longest_own, shortest_own: the largest and the smallest of them, the new token included.
    """

    prompts: KeyValueTable
    completions: KeyValueTable
    members: Membership | None
    row_numbers: Tensor
    own_lengths: Tensor
    longest_own: int
    shortest_own: int
    _masks: dict[object, Tensor | None] = field(default_factory=dict)

    @property
    def highest_position(self) -> int:
        longest_prompt = 0 if self.members is None else self.members.longest_prompt
        return longest_prompt + self.longest_own - 1

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [B, 1, H, D_v]; see `Attend`."""
        return self.layer(_layer_index(module), query[:, :, 0], key[:, :, 0], value[:, :, 0], scoring)[:, None]

    def layer(self, index: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [B, H, D_v]."""
        rows, heads, width = query.shape
        kv_heads = key.shape[1]
        keys, values = self._append(index, key, value)
        if scoring.scaling != 1:
            query = query * scoring.scaling
        # The query heads that share a key head become the rows of one matrix product.
        query = query.reshape(rows * kv_heads, heads // kv_heads, width)
        scores = torch.bmm(query, keys.transpose(1, 2))
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        mask = self._own_mask(scoring.sliding_window, kv_heads)
        if mask is not None:
            scores = scores.add_(mask)
        columns = [scores]
        of_prompt = None
        if self.members is not None:
            of_prompt, prompt_score = self._attend_to_prompts(self.members, index, query, key, value, scoring)
            # In 16 bits the sum of a long prompt would be off by a few hundredths, for all of its tokens alike.
            columns = [scores.float(), prompt_score.float()]
        if scoring.sinks is not None:
            sinks = scoring.sinks.to(columns[0].dtype).view(1, kv_heads, -1, 1)
            columns.append(sinks.expand(rows, -1, -1, -1).reshape(rows * kv_heads, -1, 1))
        weights = torch.softmax(_side_by_side(columns), dim=-1, dtype=torch.float32).to(value.dtype)
        own = self.longest_own
        output = torch.bmm(weights[..., :own], values)
        if of_prompt is not None:
            output = torch.addcmul(output, weights[..., own : own + 1], of_prompt)
        return output.view(rows, heads, value.shape[2])

    def _append(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens; return the rows' keys and values [B * H_kv, longest_own, …]."""
        keys, values = self.completions.layer(index, key, value)
        rows = len(key)
        if self.shortest_own == self.longest_own:
            keys[:rows, :, self.longest_own - 1].copy_(key)
            values[:rows, :, self.longest_own - 1].copy_(value)
        else:
            keys[self.row_numbers, :, self.own_lengths] = key
            values[self.row_numbers, :, self.own_lengths] = value
        # Rows and heads side by side, for a product with more dimensions would be brought into this form every time.
        flat = slice(0, rows * key.shape[1])
        return keys.flatten(0, 1)[flat, : self.longest_own], values.flatten(0, 1)[flat, : self.longest_own]

    def _attend_to_prompts(  # noqa: PLR0917 (the layer's tensors, and whose they are)
        self, members: Membership, index: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Return the attention output of each query over its prompt, and the log of its sum of weights.

        Shapes [B * H_kv, R, D_v] and [B * H_kv, R, 1], from queries [B * H_kv, R, D] that are scaled already.
        """
        keys, values = self.prompts.layer(index, key, value)
        groups, size = members.group_rows.shape
        keys, values = keys[:groups, :, : members.longest_prompt], values[:groups, :, : members.longest_prompt]
        kv_heads = key.shape[1]
        _, repeats, width = query.shape
        places = members.places(kv_heads)
        grouped = query.view(-1, repeats * width).index_select(0, places.rows_of_groups)
        grouped = grouped.view(groups, kv_heads, size * repeats, width)
        mask = self._prompt_mask(members, scoring.sliding_window, repeats, query.dtype)
        output, score = _attend(grouped, keys, values, mask, scoring.softcap)
        output = output.reshape(groups * kv_heads * size, repeats * value.shape[2])
        output = output.index_select(0, places.groups_of_rows).view(-1, repeats, value.shape[2])
        score = score.reshape(groups * kv_heads * size, repeats).index_select(0, places.groups_of_rows)
        return output, score[..., None]

    def _own_mask(self, window: int | None, kv_heads: int) -> Tensor | None:
        """Return the summand of scores of own tokens, [B * H_kv, 1, L]; None: every row sees all of its table."""
        if window is not None and window >= self.longest_own:
            window = None
        if window is None and self.shortest_own == self.longest_own:
            return None
        name = ("own", window, kv_heads)
        if name not in self._masks:
            own = torch.arange(self.longest_own, device=self.own_lengths.device)
            last = self.own_lengths[:, None]
            seen = own <= last
            if window is not None:
                seen &= last - own < window
            self._masks[name] = _additive(seen).repeat_interleave(kv_heads, dim=0)[:, None]
        return self._masks[name]

    def _prompt_mask(self, members: Membership, window: int | None, repeats: int, dtype: torch.dtype) -> Tensor | None:
        """Return the summand of scores of prompt tokens, [P, 1, 1 or Gmax * R, L]; None: all are seen."""
        if window is None or window >= members.longest_prompt + self.longest_own:
            return members.prompt_mask(dtype)
        name = ("prompt", window, repeats, dtype)
        if name not in self._masks:
            position = torch.arange(members.longest_prompt, device=self.own_lengths.device)
            lengths = members.prompt_lengths_by_group[:, None, None]
            last = lengths + self.own_lengths[members.group_rows][:, :, None]
            seen = (position < lengths) & (last - position < window)
            self._masks[name] = _additive(seen.repeat_interleave(repeats, dim=1)).to(dtype)[:, None]
        return self._masks[name]


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return attention's output [P, H, N, D_v] and the log of the sum of its weights [P, H, N]; scaling is 1.

    Args:
        mask: added to the scores [P, H, N, L].
    """
    alike = query.dtype == values.dtype and keys.shape == values.shape
    if query.device.type == "cpu" and softcap is None and alike and flash_works(grouped=False):
        return flash_attention(query, keys, values, scaling=1.0, mask=mask)
    scores = (query @ keys.transpose(2, 3)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    score = torch.logsumexp(scores, dim=-1, keepdim=True)
    return (scores - score).exp_().to(values.dtype) @ values, score[..., 0]


def _side_by_side(columns: list[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, UNSEEN)


def _layer_index(module: nn.Module) -> int:
    index = module.layer_idx
    assert isinstance(index, int)
    return index
