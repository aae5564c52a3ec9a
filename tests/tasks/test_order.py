"""The order of prompts is a function of the seed and of how many were taken."""

from __future__ import annotations

import pytest

from grpo.errors import DataError
from grpo.tasks.order import PromptOrder
from grpo.types import Prompt

PROMPTS = [Prompt(row, str(row), str(row), (row,), {}) for row in range(7)]


def rows(prompts: list[Prompt]) -> list[int]:
    return [prompt.row for prompt in prompts]


def test_every_prompt_comes_once_an_epoch() -> None:
    order = PromptOrder(PROMPTS, seed=0)
    for epoch in range(5):
        assert sorted(rows(order.take(7 * epoch, 7))) == list(range(7))


def test_every_epoch_has_its_own_order() -> None:
    order = PromptOrder(PROMPTS, seed=0)
    assert len({tuple(rows(order.take(7 * epoch, 7))) for epoch in range(5)}) == 5


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_the_order_does_not_depend_on_how_many_are_taken_at_a_time(count: int) -> None:
    whole = rows(PromptOrder(PROMPTS, seed=3).take(0, 30))
    parts = [row for start in range(0, 30, count) for row in rows(PromptOrder(PROMPTS, seed=3).take(start, count))]
    assert parts[:30] == whole


def test_a_resumed_run_goes_on_where_the_first_one_stopped() -> None:
    whole = PromptOrder(PROMPTS, seed=1).take(0, 40)
    assert PromptOrder(PROMPTS, seed=1).take(17, 23) == whole[17:]


def test_one_step_may_cross_several_epochs() -> None:
    assert sorted(rows(PromptOrder(PROMPTS, seed=0).take(0, 21))) == sorted(list(range(7)) * 3)


def test_another_seed_gives_another_order() -> None:
    assert rows(PromptOrder(PROMPTS, seed=0).take(0, 7)) != rows(PromptOrder(PROMPTS, seed=1).take(0, 7))


def test_without_shuffling_the_order_is_that_of_the_rows() -> None:
    assert rows(PromptOrder(PROMPTS, seed=0, shuffle=False).take(5, 5)) == [5, 6, 0, 1, 2]


def test_taking_nothing_gives_nothing() -> None:
    assert PromptOrder(PROMPTS, seed=0).take(3, 0) == []


def test_no_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="no prompts to train on"):
        PromptOrder([], seed=0)


def test_the_order_of_a_seed_is_the_same_on_every_machine() -> None:
    assert rows(PromptOrder(PROMPTS, seed=0).take(0, 14)) == [4, 0, 2, 6, 1, 3, 5, 4, 1, 0, 2, 5, 3, 6]
