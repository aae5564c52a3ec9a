"""Findings name the cause with its number and what to change, and say nothing of runs that are well."""

from __future__ import annotations

import random
from typing import Any

import pytest

from grpo.diagnosis import FINDINGS, Monitor, RunView, find

OPTIONS = {
    "max_completion_length": 64,
    "temperature": 1.0,
    "group_size": 8,
    "learning_rate": 1e-5,
}


def lines(count: int = 10, **changes: Any) -> list[dict[str, Any]]:
    """Return metrics of steps that are well; a change is a value or a function of the step."""
    well = {"truncated_share": 0.1, "zero_variance_groups": 0.2, "entropy": 0.5, "grad_norm": 1.0}
    well["reward"] = lambda step: 0.1 + 0.02 * step  # type: ignore[assignment]
    values = {**well, **changes}
    return [
        {"step": step, **{name: value(step) if callable(value) else value for name, value in values.items()}}
        for step in range(1, count + 1)
    ]


def noise(step: int) -> float:
    return 0.4 + 0.02 * random.Random(step).gauss(0, 1)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 50])
def test_a_run_that_is_well_has_no_finding(count: int) -> None:
    assert find(RunView(lines(count), OPTIONS)) == {}


@pytest.mark.parametrize(
    ("name", "metrics", "options", "text"),
    [
        (
            "cut off",
            lines(truncated_share=0.95),
            {},
            "95% of the completions of the last 5 steps were cut off at max_completion_length=64: raise it",
        ),
        (
            "no variety",
            lines(zero_variance_groups=0.9, entropy=0.012),
            {"temperature": 0.1},
            "temperature=0.1 makes the completions of a group alike (entropy 0.012 a token), 90% of the groups",
        ),
        (
            "small groups",
            lines(zero_variance_groups=0.6),
            {"group_size": 2},
            "with group_size=2, 60% of the groups of the last 5 steps had equal rewards and trained nothing",
        ),
        (
            "no effect",
            lines(40, reward=noise),
            {"learning_rate": 1e-9},
            "learning_rate=1e-09 has not moved the reward in 40 steps (",
        ),
        (
            "collapse",
            lines(20, reward=lambda step: 0.5 if step < 10 else 0.01, entropy=lambda step: 0.4 if step < 10 else 3.1),
            {"learning_rate": 0.1},
            "the mean reward fell from 0.5 to 0.01 while the entropy went from 0.4 to 3.1: lower learning_rate=0.1",
        ),
    ],
)
def test_each_finding_names_its_number_and_what_to_change(
    name: str, metrics: list[dict[str, Any]], options: dict[str, Any], text: str
) -> None:
    found = find(RunView(metrics, OPTIONS | options))
    assert list(found) == [name]
    assert found[name].startswith(text)
    assert ": " in found[name]


def test_every_finding_of_the_table_is_tested_here() -> None:
    assert [finding.name for finding in FINDINGS] == ["cut off", "no variety", "small groups", "no effect", "collapse"]


def test_a_finding_is_reported_once_and_again_at_the_end_if_it_still_holds() -> None:
    monitor = Monitor(OPTIONS)
    told = [monitor.after_step(line) for line in lines(9, truncated_share=0.9)]
    assert [len(found) for found in told] == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert len(monitor.conclusions()) == 1
    for line in lines(5):
        assert monitor.after_step(line) == []
    assert monitor.conclusions() == []


def test_a_resumed_run_does_not_repeat_what_was_reported() -> None:
    monitor = Monitor(OPTIONS, lines(6, truncated_share=0.9))
    assert monitor.after_step(lines(1, truncated_share=0.9)[0]) == []


def test_metrics_that_are_missing_or_not_finite_are_no_reason_for_a_finding() -> None:
    assert find(RunView([{"step": step} for step in range(30)], OPTIONS)) == {}
    assert find(RunView(lines(30, entropy=None, reward=float("nan"), truncated_share=None), {})) == {}
