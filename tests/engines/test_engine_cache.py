"""Rows that come, go and move."""

from __future__ import annotations

import numpy as np
import torch

from grpo.engines.native.cache import KeyValueTable, vacate

SHAPES = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 6))
"""A key and a value of two heads."""


def test_rows_that_stay_end_up_first_and_each_once() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        size = int(generator.integers(1, 12))
        leaving = np.flatnonzero(generator.random(size) < 0.5)
        rows = np.arange(size)
        sources, targets = vacate(size, leaving)
        rows[targets] = rows[sources]
        remaining = rows[: size - len(leaving)]
        assert sorted(remaining) == sorted(set(range(size)) - set(leaving.tolist()))
        assert len(sources) == len(targets) <= len(leaving)


def test_a_table_keeps_what_was_written_when_it_grows_and_when_rows_move() -> None:
    table = KeyValueTable(block=4)
    table.reserve(2, 3)
    key, value = torch.zeros(2, 2, 1, 5), torch.zeros(2, 2, 1, 3)
    keys, values = table.layer(7, key, value)
    assert keys.shape == (2, 2, 4, 5)
    assert values.shape == (2, 2, 4, 3)
    keys.copy_(torch.arange(keys.numel()).view(keys.shape))
    before = keys.clone()
    table.reserve(3, 5)
    grown, _ = table.layer(7, key, value)
    assert torch.equal(grown[:2, :, :4], before)
    assert grown[2:].abs().max() == 0
    assert grown[:, :, 4:].abs().max() == 0
    table.move(np.array([1]), np.array([0]), 2)
    assert torch.equal(grown[0, :, :2], before[1, :, :2])
    assert torch.equal(grown[0, :, 2:4], before[0, :, 2:])


def test_rows_are_copied_from_another_table_to_where_they_are_wanted() -> None:
    source, table = KeyValueTable(block=1), KeyValueTable(block=4)
    source.reserve(3, 5)
    table.reserve(4, 8)
    for part in source.layer(2, *SHAPES):
        part.copy_(torch.arange(part.numel()).view(part.shape))
    table.copy_from(source, np.array([2, 0]), np.array([1, 3]), source_start=1, start=4, length=3)
    for found, given in zip(table.layer(2, *SHAPES), source.layer(2, *SHAPES), strict=True):
        assert torch.equal(found[1, :, 4:7], given[2, :, 1:4])
        assert torch.equal(found[3, :, 4:7], given[0, :, 1:4])
        assert found[[0, 2]].abs().max() == found[:, :, :4].abs().max() == 0
    assert source.layer_token_bytes == 2 * (3 + 6) * 4


def test_a_cleared_table_holds_no_memory() -> None:
    table = KeyValueTable(block=4)
    table.reserve(8, 8)
    table.layer(0, torch.zeros(8, 1, 1, 2), torch.zeros(8, 1, 1, 2))
    assert table.num_bytes == 2 * 8 * 8 * 2 * 4
    table.clear()
    assert table.num_bytes == 0
