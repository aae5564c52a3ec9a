"""Admission and records of running sequences: bookkeeping on the host, no models.

Requests wait in order of their position, those of one position in order of arrival. A request's completions need not
start together: as many are admitted as fit, and its prompt stays cached until the last one is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grpo.engines.native.cache import vacate
from grpo.engines.native.sampling import SamplingRows, stream_of
from grpo.types import Completion, Request

__all__ = ["Admission", "RunningGroup", "Scheduler"]


@dataclass(slots=True, eq=False)
class RunningGroup:
    """A request and its progress."""

    request: Request
    slot: int = -1
    num_admitted: int = 0
    num_running: int = 0
    num_uncollected: int = 0
    first_logits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """Completions that enter the batch in one step.

    Attributes:
        new_groups: their prompts have to be read first; they take the next slots in this order.
        row_groups: the group of each new row, in row order.
    """

    new_groups: list[RunningGroup]
    row_groups: list[RunningGroup]


class _Rows:
    """Running completions, one a row, as arrays so that a step costs the same for one and for hundreds."""

    def __init__(self) -> None:
        self.groups: list[RunningGroup] = []
        self.index = np.zeros(0, dtype=np.int64)
        self.stream = np.zeros(0, dtype=np.uint64)
        self.count = np.zeros(0, dtype=np.int64)
        self.max_tokens = np.zeros(0, dtype=np.int64)
        self.temperature = np.zeros(0)
        self.top_k = np.zeros(0, dtype=np.int64)
        self.top_p = np.zeros(0)
        self.min_p = np.zeros(0)
        self.tokens = np.zeros((0, 0), dtype=np.int64)
        self.logprobs = np.zeros((0, 0), dtype=np.float32)

    def append(self, group: RunningGroup, indices: range) -> None:
        """Add a row for each of the completions `indices` of `group`."""
        sampling, seeds = group.request.sampling, group.request.seeds
        added: dict[str, Sequence[float] | NDArray[np.uint64]] = {
            "index": indices,
            "stream": np.array([stream_of(seeds[i]) for i in indices], dtype=np.uint64),
            "count": [0] * len(indices),
            "max_tokens": [sampling.max_tokens] * len(indices),
            "temperature": [sampling.temperature] * len(indices),
            "top_k": [sampling.top_k] * len(indices),
            "top_p": [sampling.top_p] * len(indices),
            "min_p": [sampling.min_p] * len(indices),
        }
        for name, values in added.items():
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.asarray(values, dtype=column.dtype))))
        self.groups += [group] * len(indices)
        self._reserve(len(self.groups), sampling.max_tokens)

    def remove(self, rows: NDArray[np.int64]) -> None:
        size = len(self.groups)
        sources, targets = vacate(size, rows)
        remaining = size - len(rows)
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            self.groups[target] = self.groups[source]
        del self.groups[remaining:]
        for name in ("index", "stream", "count", "max_tokens", "temperature", "top_k", "top_p", "min_p"):
            column = getattr(self, name)
            column[targets] = column[sources]
            setattr(self, name, column[:remaining])
        self.tokens[targets] = self.tokens[sources]
        self.logprobs[targets] = self.logprobs[sources]

    def _reserve(self, rows: int, length: int) -> None:
        old_rows, old_length = self.tokens.shape
        if rows > old_rows or length > old_length:
            padding = ((0, max(0, rows - old_rows)), (0, max(0, length - old_length)))
            self.tokens = np.pad(self.tokens, padding)
            self.logprobs = np.pad(self.logprobs, padding)


class Scheduler:
    """Admits waiting completions under the limits, records their tokens and hands out finished requests."""

    def __init__(self, *, max_sequences: int, max_cache_tokens: int, max_prefill_tokens: int, lockstep: bool) -> None:
        """Start with nothing in hand.

        Args:
            max_prefill_tokens: prompt tokens that a lockstep runner reads in one pass; others cut prompts themselves.
            lockstep: the runner takes prompts of one length, and no completion joins while others run.
        """
        self.max_sequences = max_sequences
        self.max_cache_tokens = max_cache_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self.lockstep = lockstep
        self._waiting: deque[RunningGroup] = deque()
        self._slots: list[RunningGroup] = []
        self._rows = _Rows()
        self._finished: list[tuple[RunningGroup, int, Completion]] = []
        self._groups: dict[int, RunningGroup] = {}
        self._longest_prompt = self._longest_own = 0

    @property
    def num_rows(self) -> int:
        """Completions that are running."""
        return len(self._rows.groups)

    @property
    def is_idle(self) -> bool:
        """True if no prompt is cached, so that no cached key belongs to the present weights."""
        return not self._slots

    @property
    def has_work(self) -> bool:
        """True while a completion of any request is still to be collected."""
        return bool(self._groups)

    def holds(self, request_id: int) -> bool:
        """Return whether a request of that id was added of which a completion is still to be collected."""
        return request_id in self._groups

    def add(self, request: Request) -> None:
        """Queue a request; one without seeds asks for nothing."""
        if request.seeds:
            self._groups[request.id] = group = RunningGroup(request, num_uncollected=len(request.seeds))
            self._waiting.insert(self._place_in_queue(group), group)

    def _place_in_queue(self, group: RunningGroup) -> int:
        """Return the place of a new group: behind all of its position or before, and behind one that has begun."""
        place = len(self._waiting)
        while place > 0:
            before = self._waiting[place - 1]
            if before.num_admitted > 0 or before.request.position <= group.request.position:
                break
            place -= 1
        return place

    def admit(self) -> Admission | None:
        """Move waiting completions into the batch, as many as fit; None when there are none or no room."""
        if not self._waiting or (self.lockstep and self.num_rows):
            return None
        admission = Admission([], [])
        prompt_length = len(self._waiting[0].request.prompt_ids)
        while self._waiting:
            group = self._waiting[0]
            if self.lockstep and not self._joins_lockstep(group, prompt_length, len(admission.new_groups)):
                break
            room = self._room(group)
            if room <= 0:
                break
            self._start(group, room, admission)
            if group.num_admitted < len(group.request.seeds):
                break
            self._waiting.popleft()
        return admission if admission.row_groups else None

    def first_row(self, admission: Admission | None) -> int:
        """Return the first row that draws a token in this step: those before a new one wait for it."""
        return self.num_rows - len(admission.row_groups) if admission else 0

    def last_tokens(self) -> NDArray[np.int64]:
        """Return the token each row drew last, [B]."""
        rows = self._rows
        return rows.tokens[np.arange(self.num_rows), rows.count - 1]

    def draws(self, first: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], SamplingRows]:
        """Return, of the rows from `first` on, their streams, the index of their next token and how they sample."""
        rows = self._rows
        how = SamplingRows(rows.temperature[first:], rows.top_k[first:], rows.top_p[first:], rows.min_p[first:])
        return rows.stream[first:], rows.count[first:], how

    def record(
        self, first: int, tokens: NDArray[np.int64], logprobs: NDArray[np.float32], is_end: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Append a token to each row from `first` on; return the rows that are done with it, sorted."""
        rows = self._rows
        numbers = np.arange(first, self.num_rows)
        rows.tokens[numbers, rows.count[first:]] = tokens
        rows.logprobs[numbers, rows.count[first:]] = logprobs
        rows.count[first:] += 1
        return numbers[is_end | (rows.count[first:] >= rows.max_tokens[first:])]

    def finish(self, done: NDArray[np.int64], end_ids: NDArray[np.int64], policy_version: int) -> NDArray[np.int64]:
        """Take the rows `done` out of the batch; return the slots whose prompts are needed no more, sorted."""
        rows = self._rows
        stopped = np.isin(rows.tokens[done, rows.count[done] - 1], end_ids).tolist()
        for row, stop in zip(done.tolist(), stopped, strict=True):
            group, count = rows.groups[row], int(rows.count[row])
            completion = Completion(
                token_ids=tuple(rows.tokens[row, :count].tolist()),
                logprobs=tuple(rows.logprobs[row, :count].tolist()),
                finish_reason="stop" if stop else "length",
                policy_versions=(policy_version,) * count,
            )
            self._finished.append((group, int(rows.index[row]), completion))
            group.num_running -= 1
        rows.remove(done)
        return self._free_slots()

    def collect(self) -> list[tuple[int, int, Completion]]:
        """Return and drop the finished completions: request id, index of the seed, completion."""
        collected = []
        for group, index, completion in self._finished:
            group.num_uncollected -= 1
            if group.num_uncollected == 0:
                del self._groups[group.request.id]
            collected.append((group.request.id, index, completion))
        self._finished = []
        return collected

    def running(self, request_id: int) -> list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """Return the index, the tokens and their log-probabilities of each running completion of a request."""
        rows = self._rows
        return [
            (int(rows.index[row]), rows.tokens[row, : rows.count[row]], rows.logprobs[row, : rows.count[row]])
            for row, group in enumerate(rows.groups)
            if group.request.id == request_id
        ]

    def cancel(self, request_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Drop a request; return the rows that leave the batch and the slots whose prompts are not needed any more."""
        group = self._groups.pop(request_id)
        if group in self._waiting:
            self._waiting.remove(group)
        self._finished = [found for found in self._finished if found[0] is not group]
        leaving = np.array([row for row, owner in enumerate(self._rows.groups) if owner is group], dtype=np.int64)
        self._rows.remove(leaving)
        group.num_running, group.num_admitted = 0, len(group.request.seeds)
        return leaving, self._free_slots()

    def _joins_lockstep(self, group: RunningGroup, prompt_length: int, num_prompts: int) -> bool:
        """Return whether `group` is read in one pass with `num_prompts` others of `prompt_length` tokens."""
        fits = num_prompts == 0 or (num_prompts + 1) * prompt_length <= self.max_prefill_tokens
        return fits and len(group.request.prompt_ids) == prompt_length

    def _room(self, group: RunningGroup) -> int:
        """Return how many completions of `group` fit beside what runs.

        Every row of a table takes as many tokens as the longest one, until all rows have left. Each row is therefore
        counted at that length, and the length of a completion is its budget: an admitted completion never has to be
        thrown out.
        """
        request = group.request
        if self.is_idle:
            self._longest_prompt = self._longest_own = 0
        longest_prompt = max(len(request.prompt_ids), self._longest_prompt)
        longest_own = max(request.sampling.max_tokens, self._longest_own)
        prompts = len(self._slots) + (group.slot < 0)
        fitting = (self.max_cache_tokens - prompts * longest_prompt) // longest_own
        return min(self.max_sequences, fitting) - self.num_rows

    def _start(self, group: RunningGroup, room: int, admission: Admission) -> None:
        if group.slot < 0:
            group.slot = len(self._slots)
            self._slots.append(group)
            admission.new_groups.append(group)
        self._longest_prompt = max(self._longest_prompt, len(group.request.prompt_ids))
        self._longest_own = max(self._longest_own, group.request.sampling.max_tokens)
        end = min(group.num_admitted + room, len(group.request.seeds))
        indices = range(group.num_admitted, end)
        self._rows.append(group, indices)
        admission.row_groups.extend([group] * len(indices))
        group.num_admitted = end
        group.num_running += len(indices)

    def _free_slots(self) -> NDArray[np.int64]:
        freed = []
        for slot, group in enumerate(self._slots):
            complete = group.num_admitted == len(group.request.seeds)
            # A lockstep runner keeps nothing of a prompt but its completions.
            if group.num_running == 0 and (complete or self.lockstep):
                freed.append(slot)
                group.slot, group.first_logits = -1, None
        leaving = np.array(freed, dtype=np.int64)
        sources, targets = vacate(len(self._slots), leaving)
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            self._slots[target] = self._slots[source]
            self._slots[target].slot = target
        del self._slots[len(self._slots) - len(leaving) :]
        return leaving
