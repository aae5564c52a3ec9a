"""How the engine's tokens attend: prompts among themselves, then each new token to its prompt and its own past.

Both classes are `policy.attention.Attend`: the same object is handed to every layer of one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grpo.engines.native.cache import KeyValueTable
from grpo.policy.attention import Scoring, masked_attention

__all__ = ["DecodeAttention", "PrefillAttention"]


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

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [1, N, H, D_v]; see `Attend`. Prompts of one length are computed together."""
        keys, values = self.prompts.layer(_layer_index(module), key, value)
        outputs = []
        lengths, starts, counts = np.unique(self.lengths, return_index=True, return_counts=True)
        offset = 0
        for length, start, count in zip(lengths.tolist(), starts.tolist(), counts.tolist(), strict=True):
            end = offset + length * count
            q, k, v = (_by_prompt(tensor[0, :, offset:end], count) for tensor in (query, key, value))
            slots = torch.from_numpy(self.slots[start : start + count]).to(key.device)
            keys[slots, :, :length] = k
            values[slots, :, :length] = v
            window = scoring.sliding_window
            mask = None if window is None or length <= window else _causal_band(length, window, key.device)
            attended = masked_attention(q, k, v, scoring, mask=mask, is_causal=mask is None)
            outputs.append(attended.transpose(1, 2).reshape(length * count, query.shape[1], value.shape[3]))
            offset = end
        return torch.cat(outputs)[None]


def _by_prompt(packed: Tensor, count: int) -> Tensor:
    """Return [count, H, L, D] from [H, count * L, D]."""
    heads, tokens, width = packed.shape
    return packed.reshape(heads, count, tokens // count, width).transpose(0, 1)


def _causal_band(length: int, window: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance < window)


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """One new token a row: it sees its group's prompt, the row's earlier tokens and itself.

    Scores against prompts are computed a group at a time ([P, …, Gmax, …], groups padded to the largest), so each
    prompt's keys are read once for all its completions.

    Attributes:
        prompts, completions: the tables.
        prompt_lengths: [B] int64; of the row's prompt.
        own_lengths: [B] int64; tokens of the row that the table holds already. The new one is written there.
        row_numbers: [B] int64, 0 … B - 1.
        group_rows: [P, Gmax] int64; the rows of each prompt, 0 where it has fewer.
        places: [B] int64; where in `group_rows`, flattened, each row is.
        longest_prompt, longest_own: the largest of each, the new token included.
        shortest_prompt, shortest_own: the smallest of each.
    """

    prompts: KeyValueTable
    completions: KeyValueTable
    prompt_lengths: Tensor
    own_lengths: Tensor
    row_numbers: Tensor
    group_rows: Tensor
    places: Tensor
    longest_prompt: int
    longest_own: int
    shortest_prompt: int
    shortest_own: int
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [B, 1, H, D_v]; see `Attend`."""
        rows, heads, _, width = query.shape
        kv_heads, index = key.shape[1], _layer_index(module)
        keys, values = self.completions.layer(index, key, value)
        keys[self.row_numbers, :, self.own_lengths] = key[:, :, 0]
        values[self.row_numbers, :, self.own_lengths] = value[:, :, 0]
        own_keys, own_values = keys[:rows, :, : self.longest_own], values[:rows, :, : self.longest_own]
        prompt_keys, prompt_values = self._prompt_tables(index, key, value)

        # The query heads that share a key head become the rows of one matrix product.
        query = (query * scoring.scaling).reshape(rows, kv_heads, heads // kv_heads, width)
        to_prompt = self._by_row(self._by_group(query) @ prompt_keys.transpose(2, 3), heads // kv_heads)
        to_own = query @ own_keys.transpose(2, 3)
        weights = self._weights(torch.cat((to_prompt, to_own), dim=-1), scoring)
        of_prompt = self._by_group(weights[..., : self.longest_prompt]) @ prompt_values
        output = weights[..., self.longest_prompt :] @ own_values
        output = output + self._by_row(of_prompt, heads // kv_heads)
        return output.reshape(rows, 1, heads, value.shape[3])

    def _prompt_tables(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.prompts.layer(index, key, value)
        groups = len(self.group_rows)
        return keys[:groups, :, : self.longest_prompt], values[:groups, :, : self.longest_prompt]

    def _by_group(self, rows: Tensor) -> Tensor:
        """Return [P, H_kv, Gmax * R, D] from [B, H_kv, R, D]."""
        groups, size = self.group_rows.shape
        _, kv_heads, repeats, width = rows.shape
        gathered = rows.index_select(0, self.group_rows.view(-1)).view(groups, size, kv_heads, repeats, width)
        return gathered.transpose(1, 2).reshape(groups, kv_heads, size * repeats, width)

    def _by_row(self, grouped: Tensor, repeats: int) -> Tensor:
        """Return [B, H_kv, R, D] from [P, H_kv, Gmax * R, D]."""
        groups, size = self.group_rows.shape
        _, kv_heads, _, width = grouped.shape
        flat = grouped.view(groups, kv_heads, size, repeats, width).transpose(1, 2)
        return flat.reshape(groups * size, kv_heads, repeats, width).index_select(0, self.places)

    def _weights(self, scores: Tensor, scoring: Scoring) -> Tensor:
        """Return attention weights [B, H_kv, R, S] in the type of `scores`, computed in float32."""
        dtype, softcap, sinks = scores.dtype, scoring.softcap, scoring.sinks
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        mask = self._mask(scoring.sliding_window)
        if mask is not None:
            scores = scores + mask
        if sinks is None:
            return torch.softmax(scores, dim=-1, dtype=torch.float32).to(dtype)
        rows, kv_heads, repeats, _ = scores.shape
        column = sinks.to(scores.dtype).view(1, kv_heads, repeats, 1).expand(rows, -1, -1, -1)
        weights = torch.softmax(torch.cat((scores, column), dim=-1), dim=-1, dtype=torch.float32)
        return weights[..., :-1].to(dtype)

    def _mask(self, window: int | None) -> Tensor | None:
        """Return what is added to the scores, [B, 1, 1, S] of 0 and -inf; None: every row sees everything."""
        if window is not None and window >= self.longest_prompt + self.longest_own:
            window = None
        if window not in self._masks:
            self._masks[window] = self._build_mask(window)
        return self._masks[window]

    def _build_mask(self, window: int | None) -> Tensor | None:
        same = self.shortest_prompt == self.longest_prompt and self.shortest_own == self.longest_own
        if window is None and same:
            return None
        device = self.own_lengths.device
        prompt = torch.arange(self.longest_prompt, device=device)
        own = torch.arange(self.longest_own, device=device)
        sees_prompt = prompt < self.prompt_lengths[:, None]
        sees_own = own <= self.own_lengths[:, None]
        if window is not None:
            sees_prompt &= (self.prompt_lengths + self.own_lengths)[:, None] - prompt < window
            sees_own &= self.own_lengths[:, None] - own < window
        seen = torch.cat((sees_prompt, sees_own), dim=1)
        return torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))[:, None, None]


def _layer_index(module: nn.Module) -> int:
    index = module.layer_idx
    assert isinstance(index, int)
    return index
