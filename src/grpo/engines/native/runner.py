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
from grpo.engines.native.lean import Forward
from grpo.engines.native.membership import Membership

__all__ = ["Runner", "SharedPrefixRunner"]

_BLOCK = 32


class Runner(Protocol):
    """Runs the model over prompts and running completions."""

    lockstep: bool
    """Whether all rows must be at the same position: prompts of one length, nobody joins on the way."""

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
    """Keeps each prompt's keys and values once; what computes is a `Forward`."""

    lockstep = False

    def __init__(self, forward: Forward, *, max_prefill_tokens: int, device: torch.device) -> None:
        self.max_prefill_tokens = max_prefill_tokens
        self.device = device
        self._forward = forward
        self._prompts = KeyValueTable(block=1)
        self._completions = KeyValueTable(block=_BLOCK)
        self._prompt_lengths = np.zeros(0, dtype=np.int64)
        self._row_slots = np.zeros(0, dtype=np.int64)
        self._own_lengths = np.zeros(0, dtype=np.int64)
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
        self._row_slots = np.concatenate((self._row_slots, slots))
        self._own_lengths = np.concatenate((self._own_lengths, np.zeros(len(slots), dtype=np.int64)))
        self._members = None

    def decode(self, tokens: Tensor) -> Tensor:
        own_lengths = self._own_lengths
        longest, shortest = int(own_lengths.max()) + 1, int(own_lengths.min()) + 1
        self._completions.reserve(len(own_lengths), longest)
        if self._members is None:
            self._members = Membership(self._row_slots, self._prompt_lengths, self.device)
        own = torch.from_numpy(own_lengths).to(self.device)
        attend = DecodeAttention(
            prompts=self._prompts,
            completions=self._completions,
            members=self._members,
            own_lengths=own,
            longest_own=longest,
            shortest_own=shortest,
        )
        logits = self._forward(tokens, self._members.prompt_lengths + own, attend, None)
        self._own_lengths = own_lengths + 1
        return logits

    def leave(self, rows: NDArray[np.int64]) -> None:
        if len(rows) == 0:
            return
        size = len(self._row_slots)
        sources, targets = vacate(size, rows)
        remaining = size - len(rows)
        longest = int(self._own_lengths[sources].max()) if len(sources) else 0
        self._completions.move(sources, targets, longest)
        self._row_slots[targets] = self._row_slots[sources]
        self._own_lengths[targets] = self._own_lengths[sources]
        self._row_slots, self._own_lengths = self._row_slots[:remaining], self._own_lengths[:remaining]
        self._members = None
        if remaining == 0:
            self._completions.clear()

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
