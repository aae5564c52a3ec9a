"""Token rows in batches of about one length, so that little of a batch is padding."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["length_batches", "micro_batches", "pad_right", "shuffled_batches"]

_BATCHES_IN_A_DRAW = 16
"""Rows are sorted by length within so many batches: enough for little padding, few enough to mix well."""


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return all indices in batches, the shortest rows first."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _cut(order, batch_size)


def shuffled_batches(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Return all indices in random batches of rows of about one length, in random order."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for draw in _cut(order, batch_size * _BATCHES_IN_A_DRAW):
        batches += _cut(sorted(draw, key=lambda index: lengths[index]), batch_size)
    rng.shuffle(batches)
    return batches


def micro_batches(batch: Sequence[int], lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return a batch in as few parts as `most_tokens`, padding included, allow; a row that is longer is alone."""
    parts: list[list[int]] = []
    longest = 0
    for index in batch:
        longest = max(longest, lengths[index])
        if parts and longest * (len(parts[-1]) + 1) <= most_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
            longest = lengths[index]
    return parts


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids [B, T], padded at the end, and the number of tokens [B] of each row; T is at least 1."""
    lengths = [len(row) for row in rows]
    longest = max(1, *lengths)
    padded = [[*row, *[pad_token_id] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]
