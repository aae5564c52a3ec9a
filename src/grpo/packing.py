"""Packing of groups into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy
import torch
from torch import Tensor

from grpo.errors import DataError
from grpo.types import Rollout, ScoredGroup

__all__ = ["PackedBatch", "PackedStep", "Segment", "StepCounts", "count_step", "empty_batch", "pack"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Position of one prompt and (some of) its completions in a packed row.

    The row holds `[prompt | completion 1 | … | completion n]` from `start` on, without padding.
    """

    start: int
    prompt_length: int
    completion_lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Several segments laid end to end in one row of N tokens; B completions of at most T tokens.

    Attributes:
        token_ids: [N] long.
        positions: [N] long; count from 0 at each prompt and from the prompt's length at each of its completions.
        segments: in row order; their completions, in order, are rows 0 … B-1 of the [B, T] tensors.
        predicted_by: [B, T] long; index in the row of the token whose hidden state predicts token
            (b, t): the prompt's last token for t = 0. 0 where there is no token.
        targets: [B, T] long; the completion's token ids, 0 where there is none.
        mask: [B, T] bool; True where the policy sampled the token and the loss counts it.
        sampling_logprobs: [B, T] float32; the sampler's, 0 where there is none.
        advantages: [B, T] float32; 0 where there is no token.
        rollout_index: [B] long; p * G + g of the completion among the step's; -1 in an `empty_batch`.
    """

    token_ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    predicted_by: Tensor
    targets: Tensor
    mask: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    rollout_index: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "segments"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Counts over a whole optimizer step, on all processes, from which token weights are made.

    Attributes:
        num_rollouts: completions of the step, those that are skipped, failed or masked out included.
        num_tokens: tokens that the policy sampled in completions that are not masked out.
    """

    num_rollouts: int
    num_tokens: int

    def __add__(self, other: StepCounts) -> StepCounts:
        """Return the counts of both, as of two processes."""
        return StepCounts(self.num_rollouts + other.num_rollouts, self.num_tokens + other.num_tokens)


def count_step(groups: Sequence[ScoredGroup], *, loss_mask: Tensor | None = None) -> StepCounts:
    """Return the counts of a step.

    Completions of zero-variance groups and those with a failed reward count in full; masked-out ones count as
    completions without tokens. TRL counts in the same way.

    Args:
        groups: all groups of the step, skipped ones included.
        loss_mask: [P, G] bool; False for a completion whose tokens the loss does not count. None: all count.
    """
    kept = None if loss_mask is None else loss_mask.tolist()
    return StepCounts(
        num_rollouts=sum(len(group.rollouts) for group in groups),
        num_tokens=sum(
            sum(scored.rollout.sampled)
            for p, group in enumerate(groups)
            for g, scored in enumerate(group.rollouts)
            if kept is None or kept[p][g]
        ),
    )


@dataclass(frozen=True, slots=True)
class PackedStep:
    """A whole step, cut into micro-batches; it can be cut again, finer.

    Attributes:
        batches: the micro-batches, on the CPU.
        counts: of the whole step; they do not depend on the way it is cut.
        recut: returns the same step's micro-batches under another token budget; None: no limit.
    """

    batches: Sequence[PackedBatch]
    counts: StepCounts
    recut: Callable[[int | None], Sequence[PackedBatch]]

    @property
    def most_tokens(self) -> int:
        """Tokens in the longest row; 0 when there is none."""
        return max((len(batch.token_ids) for batch in self.batches), default=0)

    @property
    def can_be_cut(self) -> bool:
        """True if a row holds more than one completion."""
        return any(len(batch.rollout_index) > 1 for batch in self.batches)

    def under(self, max_tokens: int | None) -> PackedStep:
        """Return the step under that budget."""
        return replace(self, batches=self.recut(max_tokens))

    def filled_up(self, num_batches: int) -> PackedStep:
        """Return the step with at least so many micro-batches; those that are added have no gradient."""
        missing = num_batches - len(self.batches)
        return self if missing <= 0 else replace(self, batches=[*self.batches, *[empty_batch()] * missing])


def empty_batch() -> PackedBatch:
    """Return a micro-batch of one completion of one token that the loss does not count; its gradient is 0."""
    one = torch.zeros(1, 1)
    return PackedBatch(
        token_ids=torch.zeros(2, dtype=torch.long),
        positions=torch.arange(2),
        segments=(Segment(0, 1, (1,)),),
        predicted_by=one.long(),
        targets=one.long(),
        mask=one.bool(),
        sampling_logprobs=one,
        advantages=one,
        rollout_index=torch.tensor([-1]),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some completions (by index in the group) of group `p`, which share one copy of its prompt."""

    p: int
    completions: tuple[int, ...]
    prompt_length: int
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.prompt_length + sum(self.lengths)

    def halves(self) -> tuple[_Piece, _Piece]:
        """Return two pieces with about equally many completion tokens."""
        first, second = _balanced_halves(self.lengths)
        return self.take(first), self.take(second)

    def take(self, indices: Sequence[int]) -> _Piece:
        """Return the piece with only those of its completions."""
        return replace(
            self,
            completions=tuple(self.completions[i] for i in indices),
            lengths=tuple(self.lengths[i] for i in indices),
        )


def pack(
    groups: Sequence[ScoredGroup],
    advantages: Tensor,
    *,
    max_tokens: int | None,
    min_batches: int = 1,
    trained: Tensor | None = None,
    loss_mask: Tensor | None = None,
) -> list[PackedBatch]:
    """Return the step's micro-batches: one packed row each, on the CPU.

    A group that fits in the budget stays together; a larger one is split over several segments, each
    with the prompt. Segments are laid into as few rows as first-fit needs, of about equal size; equal input
    gives equal rows.
    Completions without a token that the loss counts are left out: they have no gradient. The list is
    empty when nothing is left.

    Args:
        groups: P groups of at most G completions.
        advantages: [P, G, T] float; T at least the longest completion.
        max_tokens: budget of a row in tokens, prompts included; None: no limit. A completion that is
            longer with its prompt gets a row of its own.
        min_batches: make at least so many rows, if there are that many completions.
        trained: [P, G] bool; False leaves a completion out (of a zero-variance group, for example). None: all are in.
        loss_mask: [P, G] bool; False for a completion whose tokens the loss does not count (a truncated one, for
            example). None: all count.

    Raises:
        DataError: a prompt has no tokens, so that nothing predicts its completions' first token.
    """
    pieces = list(_pieces(groups, _selected(groups, trained, loss_mask), max_tokens))
    rows = _first_fit(pieces, max_tokens)
    while len(rows) < min_batches and (largest := _largest_divisible(rows)) is not None:
        rows[largest : largest + 1] = _split_row(rows[largest])
    return [_build_row(sorted(row, key=lambda piece: (piece.p, piece.completions)), groups, advantages) for row in rows]


def _selected(groups: Sequence[ScoredGroup], trained: Tensor | None, loss_mask: Tensor | None) -> list[tuple[int, ...]]:
    """Return for each group the indices of the completions that have a gradient."""
    num_completions = max((len(group.rollouts) for group in groups), default=0)
    wanted = torch.ones(len(groups), num_completions, dtype=torch.bool)
    for chosen in (trained, loss_mask):
        if chosen is not None:
            wanted &= chosen.cpu()[:, :num_completions]
    return [
        tuple(g for g, scored in enumerate(group.rollouts) if row[g] and any(scored.rollout.sampled))
        for group, row in zip(groups, wanted.tolist(), strict=True)
    ]


def _pieces(
    groups: Sequence[ScoredGroup], selected: Sequence[tuple[int, ...]], max_tokens: int | None
) -> Iterator[_Piece]:
    """Yield each group's selected completions, in as many pieces as the budget requires."""
    for p, (group, completions) in enumerate(zip(groups, selected, strict=True)):
        if not completions:
            continue
        prompt_length = len(group.prompt.token_ids)
        if prompt_length == 0:
            raise DataError(f"the prompt of row {group.prompt.row} has no tokens: give it text, or leave the row out")
        whole = _Piece(
            p, completions, prompt_length, tuple(len(group.rollouts[g].rollout.token_ids) for g in completions)
        )
        if max_tokens is None or whole.size <= max_tokens:
            yield whole
        else:
            bins = _first_fit_decreasing(whole.lengths, max_tokens - prompt_length)
            yield from (whole.take(sorted(bin_)) for bin_ in bins)


def _first_fit(pieces: Sequence[_Piece], max_tokens: int | None) -> list[list[_Piece]]:
    """Return the pieces in as few rows within the budget as first-fit finds, of about equal size if that fits too."""
    sizes = [piece.size for piece in pieces]
    bins = _first_fit_decreasing(sizes, max_tokens)
    even = _evenly(sizes, len(bins))
    # The largest row decides the peak of memory.
    if max_tokens is not None and all(sum(sizes[i] for i in bin_) <= max_tokens for bin_ in even):
        bins = even
    return [[pieces[i] for i in bin_] for bin_ in bins]


def _first_fit_decreasing(sizes: Sequence[int], capacity: int | None) -> list[list[int]]:
    """Return indices of `sizes` in bins of at most `capacity`; an index with a larger size has a bin of its own."""
    if capacity is None:
        return [list(range(len(sizes)))] if sizes else []
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        bin_ = next((b for b, left in enumerate(room) if sizes[i] <= left), None)
        if bin_ is None:
            bins.append([i])
            room.append(capacity - sizes[i])
        else:
            bins[bin_].append(i)
            room[bin_] -= sizes[i]
    return bins


def _evenly(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return indices of `sizes` in `count` bins: from the largest, each goes into the bin with the smallest sum."""
    bins: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = totals.index(min(totals))
        bins[least].append(i)
        totals[least] += sizes[i]
    return bins


def _largest_divisible(rows: Sequence[Sequence[_Piece]]) -> int | None:
    """Return the index of the row with the most tokens among those with two completions or more."""
    divisible = [i for i, row in enumerate(rows) if sum(len(piece.completions) for piece in row) > 1]
    return max(divisible, key=lambda i: (sum(piece.size for piece in rows[i]), -i), default=None)


def _split_row(row: Sequence[_Piece]) -> list[list[_Piece]]:
    """Return the row cut into two of about equal size; a prompt is repeated only where the row has a single group."""
    if len(row) == 1:
        return [[half] for half in row[0].halves()]
    return [[row[i] for i in half] for half in _balanced_halves([piece.size for piece in row])]


def _balanced_halves(sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return indices of two or more sizes in two parts, neither of them empty, of about equal sums."""
    first, second = _evenly(sizes, 2)
    return sorted(first), sorted(second)


def _build_row(row: Sequence[_Piece], groups: Sequence[ScoredGroup], advantages: Tensor) -> PackedBatch:
    """Return the pieces laid end to end in one row."""
    prompt_start, segments, row_tokens, positions = 0, [], [], []
    first_token, prompt_end, rollout_index, rollouts = [], [], [], []
    for piece in row:
        segments.append(Segment(prompt_start, piece.prompt_length, piece.lengths))
        row_tokens.append(groups[piece.p].prompt.token_ids)
        positions.append(numpy.arange(piece.prompt_length))
        start = prompt_start + piece.prompt_length
        for g, length in zip(piece.completions, piece.lengths, strict=True):
            rollout = groups[piece.p].rollouts[g].rollout
            row_tokens.append(rollout.token_ids)
            positions.append(numpy.arange(piece.prompt_length, piece.prompt_length + length))
            rollouts.append(rollout)
            first_token.append(start)
            prompt_end.append(prompt_start + piece.prompt_length - 1)
            rollout_index.append(piece.p * advantages.shape[1] + g)
            start += length
        prompt_start = start

    lengths = torch.tensor([len(rollout.token_ids) for rollout in rollouts])
    columns = torch.arange(int(lengths.max()))
    inside = columns < lengths.unsqueeze(1)
    predicted_by = torch.tensor(first_token).unsqueeze(1) + columns - 1
    predicted_by[:, 0] = torch.tensor(prompt_end)
    index = torch.tensor(rollout_index)
    return PackedBatch(
        token_ids=torch.from_numpy(numpy.fromiter(chain.from_iterable(row_tokens), numpy.int64, prompt_start)),
        positions=torch.from_numpy(numpy.concatenate(positions)),
        segments=tuple(segments),
        predicted_by=torch.where(inside, predicted_by, 0),
        targets=_padded(rollouts, "token_ids", inside, torch.long),
        mask=_padded(rollouts, "sampled", inside, torch.bool),
        sampling_logprobs=_padded(rollouts, "logprobs", inside, torch.float32),
        advantages=torch.where(inside, advantages.float().cpu().flatten(0, 1)[index, : len(columns)], 0.0),
        rollout_index=index,
    )


def _padded(rollouts: Sequence[Rollout], name: str, inside: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sequences of that name, [B, T], with zeros where `inside` is False."""
    numpy_dtypes = {torch.long: numpy.int64, torch.bool: numpy.bool_, torch.float32: numpy.float32}
    values = chain.from_iterable(getattr(rollout, name) for rollout in rollouts)
    flat: numpy.ndarray[Any, Any] = numpy.fromiter(values, numpy_dtypes[dtype], int(inside.sum()))
    padded = torch.zeros(inside.shape, dtype=dtype)
    padded[inside] = torch.from_numpy(flat)
    return padded
