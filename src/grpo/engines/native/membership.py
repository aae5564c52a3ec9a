"""Rows of the batch by prompt: attention state that changes only when a sequence enters or leaves the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["UNSEEN", "Membership", "Places"]

UNSEEN = -1e30
"""Added to scores of keys that are not seen. Finite: a row that sees no key of its prompt must not become NaN."""


@dataclass(frozen=True, slots=True)
class Places:
    """Index maps between (row, key head) and (prompt, key head, number in the group).

    Attributes:
        rows_of_groups: [P * H_kv * Gmax] int64, from the second to the first.
        groups_of_rows: [B * H_kv] int64, from the first to the second.
    """

    rows_of_groups: Tensor
    groups_of_rows: Tensor


class Membership:
    """Rows grouped by prompt; groups are padded to the largest.

    Attributes:
        row_numbers: [B] int64, 0 … B - 1.
        prompt_lengths: [B] int64, of each row's prompt.
        prompt_lengths_by_group: [P] int64.
        group_rows: [P, Gmax] int64; the rows of each prompt, 0 where it has fewer.
        longest_prompt: tokens.
    """

    def __init__(self, row_slots: NDArray[np.int64], prompt_lengths: NDArray[np.int64], device: torch.device) -> None:
        """Group rows.

        Args:
            row_slots: [B], number of each row's prompt.
            prompt_lengths: [P].
        """
        rows = np.arange(len(row_slots))
        sizes = np.bincount(row_slots, minlength=len(prompt_lengths))
        order = np.argsort(row_slots, kind="stable")
        rank = np.empty_like(rows)
        rank[order] = rows - (np.cumsum(sizes) - sizes)[row_slots[order]]
        self._row_slots, self._rank = row_slots, rank
        self._group_rows = np.zeros((len(sizes), int(sizes.max())), dtype=np.int64)
        self._group_rows[row_slots, rank] = rows
        self._device = device
        self._places: dict[int, Places] = {}
        self._masks: dict[torch.dtype, Tensor] = {}
        self._same_length = bool(prompt_lengths.min() == prompt_lengths.max())
        self.longest_prompt = int(prompt_lengths.max())
        self.row_numbers = self._tensor(rows)
        self.prompt_lengths = self._tensor(prompt_lengths[row_slots])
        self.prompt_lengths_by_group = self._tensor(prompt_lengths)
        self.group_rows = self._tensor(self._group_rows)

    def places(self, kv_heads: int) -> Places:
        """Return the translation for a model with that many key heads."""
        found = self._places.get(kv_heads)
        if found is None:
            heads = np.arange(kv_heads)
            of_groups = self._group_rows[:, None, :] * kv_heads + heads[:, None]
            size = self._group_rows.shape[1]
            of_rows = (self._row_slots[:, None] * kv_heads + heads) * size + self._rank[:, None]
            found = Places(self._tensor(of_groups.reshape(-1)), self._tensor(of_rows.reshape(-1)))
            self._places[kv_heads] = found
        return found

    def prompt_mask(self, dtype: torch.dtype) -> Tensor | None:
        """Return the summand of scores of prompt tokens, [P, 1, 1, L]; None: all prompts are equally long."""
        if self._same_length:
            return None
        found = self._masks.get(dtype)
        if found is None:
            position = torch.arange(self.longest_prompt, device=self._device)
            beyond = position >= self.prompt_lengths_by_group[:, None]
            found = torch.zeros(beyond.shape, dtype=dtype, device=self._device).masked_fill_(beyond, UNSEEN)
            found = found[:, None, None]
            self._masks[dtype] = found
        return found

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
