"""Random streams are written down: a run of an older version can be repeated to the last bit."""

from __future__ import annotations

import random

import numpy
import torch

from grpo.seeding import derive_seed, seed_everything


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "rollout", 3, 1) == 5935432321729462791
    assert derive_seed(7) == 6645920422606582411


def test_every_part_of_the_purpose_counts_and_so_does_its_kind() -> None:
    seeds = [derive_seed(0), derive_seed(1), derive_seed(0, 1), derive_seed(0, "1"), derive_seed(0, 1, 2)]
    seeds += [derive_seed(0, 2, 1), derive_seed(0, 12), derive_seed(0, "a", "b"), derive_seed(0, "ab")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_all_three_generators_follow_the_seed() -> None:
    def draws(seed: int) -> tuple[float, float, float]:
        seed_everything(seed)
        return random.random(), float(numpy.random.random()), float(torch.rand(()))

    first, again, other = draws(2**62 + 5), draws(2**62 + 5), draws(2**62 + 6)
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))
    assert draws(3) == (random.Random(3).random(), float(numpy.random.RandomState(3).random()), draws(3)[2])
