"""The learning rate at every step of a run, by number."""

from __future__ import annotations

import math

import pytest

from grpo.schedules import learning_rate_factor


def factors(schedule: str, *, warmup_steps: int = 2, steps: int = 6, minimum: float = 0.0) -> list[float]:
    return [
        learning_rate_factor(step, schedule=schedule, warmup_steps=warmup_steps, steps=steps, minimum=minimum)  # type: ignore[arg-type]
        for step in range(1, steps + 1)
    ]


def test_a_constant_rate_stays_at_its_peak_once_it_is_warm() -> None:
    assert factors("constant") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert factors("constant", warmup_steps=0, steps=2, minimum=0.3) == [1.0, 1.0]


def test_a_linear_rate_falls_by_equal_amounts_and_would_reach_the_minimum_after_the_last_step() -> None:
    assert factors("linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert factors("linear", minimum=0.2) == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4])
    assert factors("linear", warmup_steps=0, steps=4) == [1.0, 0.75, 0.5, 0.25]


def test_a_cosine_rate_falls_slowly_then_fast_then_slowly() -> None:
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert factors("cosine") == pytest.approx(expected)
    assert factors("cosine", minimum=0.2)[2:] == pytest.approx([0.2 + 0.8 * each for each in expected[2:]])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_run_that_only_warms_up_ends_at_its_peak(schedule: str) -> None:
    assert factors(schedule, warmup_steps=4, steps=4) == [0.25, 0.5, 0.75, 1.0]
