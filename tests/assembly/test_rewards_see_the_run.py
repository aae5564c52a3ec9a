"""Reward functions that look at the data before a run, and at the run while it lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from short_runs import lines_of, quick, sums

from grpo import DataError, GRPOTrainer


class LooksAtRows:
    """A reward that notes the rows it is shown, and refuses those with a given answer."""

    def __init__(self, refused: str | None = None) -> None:
        self.refused = refused
        self.rows: list[Mapping[str, Any]] = []

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows += rows
        if any(row["answer"] == self.refused for row in rows):
            raise DataError("a row that cannot be scored")

    def __call__(self, completions: list[Any], **_: Any) -> list[float]:
        assert self.rows
        return [float(len(str(completion))) for completion in completions]


def test_a_reward_is_shown_every_row_before_the_first_step() -> None:
    rows, reward = sums(6), LooksAtRows()
    GRPOTrainer("tiny", quick(), train_dataset=rows, eval_dataset=sums(10)[6:], rewards=reward).train()
    shown = [row["answer"] for row in reward.rows]
    assert {row["answer"] for row in rows} <= set(shown)


def test_a_row_that_a_reward_cannot_score_stops_the_run_before_it_begins() -> None:
    rows = sums(6)
    with pytest.raises(DataError, match="a row that cannot be scored"):
        GRPOTrainer("tiny", quick(), train_dataset=rows, rewards=LooksAtRows(rows[-1]["answer"])).train()
    assert not Path("run/metrics.jsonl").exists()


def test_rewards_see_step_and_epoch_in_training_and_in_evaluations() -> None:
    seen: list[tuple[int, int, float]] = []

    def state(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        seen.append((trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch))
        return [float(len(str(completion))) for completion in completions]

    config = quick(steps=3, eval_every=1, zero_variance_groups="keep")
    GRPOTrainer("tiny", config, train_dataset=sums(8), eval_dataset=sums(12)[8:], rewards=state).train()
    # An evaluation comes before the first step and after each: two prompts of eight are a quarter of a pass.
    assert [step for step, _, _ in seen] == [0, 0, 1, 1, 2, 2, 3]
    assert {steps for _, steps, _ in seen} == {3}
    assert [epoch for _, _, epoch in seen] == pytest.approx([0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75])


def test_a_step_whose_rewards_all_failed_is_logged_without_a_figure_that_is_not_a_number() -> None:
    def broken(completions: list[Any], **_: Any) -> list[float]:
        raise ValueError("nothing to score with")

    config = quick(max_failed_share=1.0, zero_variance_groups="keep")
    summary = GRPOTrainer("tiny", config, train_dataset=sums(8), eval_dataset=sums(12)[8:], rewards=broken).train()
    assert summary["steps"] == 1
    assert "NaN" not in Path("run/metrics.jsonl").read_text()
    (line,) = lines_of("run/metrics.jsonl")
    assert "reward" not in line
    assert line["rewards/failed_completions"] == 4
    assert line["grad_norm"] == 0
    assert all(completion["total"] is None for completion in lines_of("run/completions.jsonl"))
