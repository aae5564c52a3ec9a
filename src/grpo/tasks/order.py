"""The order of training prompts."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from grpo.errors import DataError
from grpo.seeding import derive_seed
from grpo.types import Prompt

__all__ = ["PromptOrder"]


class PromptOrder:
    """Endless passes over prompts, each in its own random order, without state between calls.

    The next prompts depend only on the seed and on the number of prompts taken before, so a resumed run continues
    with the prompt after the last one of the interrupted run.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, *, shuffle: bool = True) -> None:
        if not prompts:
            raise DataError("no prompts to train on: the data set is empty: give at least one row")
        self.prompts = prompts
        self.seed = seed
        self.shuffle = shuffle

    def take(self, consumed: int, count: int) -> list[Prompt]:
        """Return the `count` prompts after the first `consumed`; each prompt occurs once in an epoch."""
        taken: list[Prompt] = []
        while len(taken) < count:
            epoch, start = divmod(consumed + len(taken), len(self.prompts))
            places = self._order(epoch)[start : start + count - len(taken)]
            taken.extend(self.prompts[place] for place in places)
        return taken

    def _order(self, epoch: int) -> Sequence[int]:
        if not self.shuffle:
            return range(len(self.prompts))
        return _permutation(len(self.prompts), derive_seed(self.seed, "order", epoch))


@functools.lru_cache(maxsize=4)
def _permutation(length: int, seed: int) -> tuple[int, ...]:
    places = list(range(length))
    random.Random(seed).shuffle(places)
    return tuple(places)
