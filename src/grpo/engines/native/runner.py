"""Compute: token ids in, next-token logits out. Which sequences run is the scheduler's business.

A runner keeps two numberings that its caller mirrors: slots 0 … P - 1 for prompts and rows 0 … B - 1 for completions.
New ones come at the end; when some leave, the last ones take their places (`cache.vacate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo.engines.native.attention import DecodeAttention, PrefillAttention
from grpo.engines.native.cache import KeyValueTable, vacate
from grpo.engines.native.fused_decoder import Forward
from grpo.engines.native.membership import Membership

__all__ = ["COPIED_BYTES", "Runner", "SharedPrefixRunner"]

_BLOCK = 32

COPIED_BYTES = 2**20
"""Bytes of a layer below which each row gets a copy of its prompt, decided when rows enter or leave: reading the copies
is then quicker than the operations that attend to a group at a time (docs/log.md)."""


class Runner(Protocol):
    """Runs the model over prompts and running completions."""

    lockstep: bool
    """True if all rows must be at the same position: prompts of one length, and no row joins a running batch."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read new prompts into new slots; return the logits [P_new, V] of what follows each."""
        ...

    def join(self, slots: NDArray[np.int64]) -> None:
        """Begin one completion, so far empty, of the prompt in each of `slots`."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Append a token to every row, [B] int64; return the logits [B, V] of what follows."""
        ...

    def leave(self, rows: NDArray[np.int64]) -> None:
        """Drop completions; `rows` is sorted."""
        ...

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Drop prompts that have no completions; `slots` is sorted."""
        ...

    @property
    def num_cache_bytes(self) -> int:
        """Memory that the cache holds."""
        ...


class SharedPrefixRunner:
    """Keeps each prompt's keys and values once, while that pays; a `Forward` computes."""

    lockstep = False

    def __init__(self, forward: Forward, *, max_prefill_tokens: int, device: torch.device) -> None:
        self.max_prefill_tokens = max_prefill_tokens
        self.max_copied_bytes = COPIED_BYTES
        self.device = device
        self._forward = forward
        self._prompts = KeyValueTable(block=1)
        self._completions = KeyValueTable(block=_BLOCK)
        self._prompt_lengths = np.zeros(0, dtype=np.int64)
        self._row_slots = np.zeros(0, dtype=np.int64)
        self._own_lengths = np.zeros(0, dtype=np.int64)
        self._copied = False
        """True while each row of `_completions` begins with its prompt."""
        self._members: Membership | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        first_slot = len(self._prompt_lengths)
        if first_slot == 0:
            self._forward.begin()
        self._prompt_lengths = np.concatenate((self._prompt_lengths, lengths))
        self._prompts.reserve(len(self._prompt_lengths), int(lengths.max()))
        order = np.argsort(lengths, kind="stable")
        parts = [
            self._prefill_chunk([prompts[i] for i in chunk], first_slot + chunk, lengths[chunk])
            for chunk in self._chunks(order, lengths)
        ]
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        return torch.cat(parts).index_select(0, back)

    def join(self, slots: NDArray[np.int64]) -> None:
        first = len(self._row_slots)
        self._row_slots = np.concatenate((self._row_slots, slots))
        self._own_lengths = np.concatenate((self._own_lengths, np.zeros(len(slots), dtype=np.int64)))
        # Before anything is copied: one long prompt must not make room for itself in every row.
        self._choose_layout()
        if self._copied and first:
            self._copy_prompts(np.arange(first, len(self._row_slots)))
        self._members = None

    def decode(self, tokens: Tensor) -> Tensor:
        if self._members is None:
            self._members = Membership(self._row_slots, self._prompt_lengths, self.device)
            self._choose_layout()
        held = self._held_lengths()
        longest, shortest = int(held.max()) + 1, int(held.min()) + 1
        self._completions.reserve(len(held), longest)
        own = torch.from_numpy(held).to(self.device)
        attend = DecodeAttention(
            prompts=self._prompts,
            completions=self._completions,
            members=None if self._copied else self._members,
            row_numbers=self._members.row_numbers,
            own_lengths=own,
            longest_own=longest,
            shortest_own=shortest,
        )
        positions = own if self._copied else self._members.prompt_lengths + own
        logits = self._forward(tokens, positions, attend, None)
        self._own_lengths = self._own_lengths + 1
        return logits

    def leave(self, rows: NDArray[np.int64]) -> None:
        if len(rows) == 0:
            return
        size = len(self._row_slots)
        sources, targets = vacate(size, rows)
        remaining = size - len(rows)
        longest = int(self._held_lengths()[sources].max()) if len(sources) else 0
        self._completions.move(sources, targets, longest)
        self._row_slots[targets] = self._row_slots[sources]
        self._own_lengths[targets] = self._own_lengths[sources]
        self._row_slots, self._own_lengths = self._row_slots[:remaining], self._own_lengths[:remaining]
        self._members = None
        if remaining == 0:
            self._completions.clear()
            self._copied = False

    def forget(self, slots: NDArray[np.int64]) -> None:
        if len(slots) == 0:
            return
        size = len(self._prompt_lengths)
        sources, targets = vacate(size, slots)
        longest = int(self._prompt_lengths[sources].max()) if len(sources) else 0
        self._prompts.move(sources, targets, longest)
        self._prompt_lengths[targets] = self._prompt_lengths[sources]
        self._prompt_lengths = self._prompt_lengths[: size - len(slots)]
        renumbered = np.arange(size)
        renumbered[sources] = targets
        self._row_slots = renumbered[self._row_slots]
        self._members = None
        if len(self._prompt_lengths) == 0:
            self._prompts.clear()
            self._forward.end()

    @property
    def num_cache_bytes(self) -> int:
        """Memory that keys and values hold."""
        return self._prompts.num_bytes + self._completions.num_bytes

    def _held_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens that the table of completions holds of each row, [B]."""
        return self._own_lengths + self._prompt_lengths[self._row_slots] if self._copied else self._own_lengths

    def _choose_layout(self) -> None:
        """Give each row a copy of its prompt while the copies are small; remove them once they are large."""
        longest = int((self._own_lengths + self._prompt_lengths[self._row_slots]).max())
        num_bytes = len(self._row_slots) * longest * self._prompts.layer_token_bytes
        # Twice as much before it is taken away, so that rows that come and go do not cause copies every time.
        copied = num_bytes <= self.max_copied_bytes * (2 if self._copied else 1)
        if copied == self._copied:
            return
        before, self._completions = self._completions, KeyValueTable(block=_BLOCK)
        self._copied = copied
        self._completions.reserve(len(self._row_slots), int(self._held_lengths().max()) + 1)
        if copied:
            self._copy_prompts(np.arange(len(self._row_slots)))
        for slot in np.unique(self._row_slots):
            rows, prompt = (
                np.flatnonzero((self._row_slots == slot) & (self._own_lengths > 0)),
                int(self._prompt_lengths[slot]),
            )
            own = int(self._own_lengths[rows].max(initial=0))
            start, source_start = (prompt, 0) if copied else (0, prompt)
            self._completions.copy_from(before, rows, rows, source_start=source_start, start=start, length=own)

    def _copy_prompts(self, rows: NDArray[np.int64]) -> None:
        """Begin each of `rows` with its prompt."""
        slots = self._row_slots[rows]
        longest = int(self._prompt_lengths[slots].max())
        self._completions.reserve(len(self._row_slots), longest + 1)
        self._completions.copy_from(self._prompts, slots, rows, length=longest)

    def _chunks(self, order: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
        """Cut `order` so that no piece has more than `max_prefill_tokens`, one prompt at least."""
        start, tokens = 0, 0
        for end, index in enumerate(order):
            if tokens and tokens + lengths[index] > self.max_prefill_tokens:
                yield order[start:end]
                start, tokens = end, 0
            tokens += lengths[index]
        yield order[start:]

    def _prefill_chunk(
        self, prompts: Sequence[Sequence[int]], slots: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Tensor:
        token_ids = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts])
        positions = np.concatenate([np.arange(length) for length in lengths])
        last = torch.from_numpy(np.cumsum(lengths) - 1).to(self.device)
        return self._forward(
            torch.from_numpy(token_ids).to(self.device),
            torch.from_numpy(positions).to(self.device),
            PrefillAttention(self._prompts, slots, lengths),
            last,
        )
