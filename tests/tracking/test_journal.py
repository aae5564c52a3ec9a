"""What the journal tells whom, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from grpo.tracking import Journal, RunDirectory
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

GROUPS = [
    ScoredGroup(
        Prompt(3, "2 + 3?", "2 + 3?", (1, 2), {}),
        tuple(
            ScoredRollout(Rollout((7,), (True,), (-1.0,), "stop", 0), text, Score({"r": reward}, {}, reward))
            for text, reward in (("5", 1.0), ("6", 0.0))
        ),
    )
]
ADVANTAGES = torch.tensor([[1.0, -1.0]])
SUMMARY = {
    "eval_before": None,
    "eval_after": None,
    "steps": 1,
    "seconds": 1.0,
    "completion_tokens_per_s": 1.0,
    "peak_memory_mb": 1.0,
}


class Witness:
    """A screen or a tracker that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any) -> str:
            self.calls.append((name, *arguments))
            return f"shown by {name}"

        return note


def step(journal: Journal, number: int, *, spread: float = 1.0) -> Mapping[str, float]:
    metrics = {"step": number, "groups_with_spread": spread}
    journal.step(number, metrics, GROUPS, ADVANTAGES)
    return metrics


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_step_is_written_shown_and_sent_to_trackers_as_often_as_was_asked(tmp_path: Path) -> None:
    screen, tracker = Witness(), Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, screen, [tracker], log_every=2)  # type: ignore[arg-type,list-item]
        told = [step(journal, number) for number in (1, 2, 3, 4)]
    assert lines(tmp_path / "metrics.jsonl") == told
    completions = lines(tmp_path / "completions.jsonl")
    assert [(line["step"], line["completion"], line["advantage"]) for line in completions[:3]] == [
        (1, "5", 1.0),
        (1, "6", -1.0),
        (2, "5", 1.0),
    ]
    assert screen.calls == [("step", number, metrics) for number, metrics in enumerate(told, 1)]
    assert tracker.calls == [("log", 2, told[1], completions[2:4]), ("log", 4, told[3], completions[6:8])]


def test_trackers_and_completions_can_be_left_out(tmp_path: Path) -> None:
    tracker = Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, Witness(), [tracker], log_every=0, log_completions=False)  # type: ignore[arg-type,list-item]
        step(journal, 1)
    assert tracker.calls == []
    assert not (tmp_path / "completions.jsonl").exists()
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


def test_every_step_is_sent_where_nothing_else_is_asked(tmp_path: Path) -> None:
    tracker = Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, Witness(), [tracker])  # type: ignore[arg-type,list-item]
        told = [step(journal, number) for number in (1, 2)]
    completions = lines(tmp_path / "completions.jsonl")
    assert tracker.calls == [("log", 1, told[0], completions[:2]), ("log", 2, told[1], completions[2:])]


def test_an_evaluation_is_written_shown_and_sent_with_its_step(tmp_path: Path) -> None:
    screen, tracker = Witness(), Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, screen, [tracker], log_every=5)  # type: ignore[arg-type,list-item]
        journal.evaluation(3, {"accuracy": 0.5})
    assert lines(tmp_path / "eval.jsonl") == [{"step": 3, "accuracy": 0.5}]
    assert screen.calls == [("evaluation", 3, {"accuracy": 0.5})]
    assert tracker.calls == [("log_evaluation", 3, {"accuracy": 0.5})]


def test_the_end_is_written_before_it_is_shown_and_the_screen_is_closed_first(tmp_path: Path) -> None:
    screen, tracker = Witness(), Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, screen, [tracker])  # type: ignore[arg-type,list-item]
        step(journal, 1)
        journal.doing("saving")
        journal.note("a note")
        journal.finish(SUMMARY)
    assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY
    place = ("note", "shown by finish")
    assert screen.calls[1:] == [("doing", "saving"), ("note", "a note"), ("close",), place, ("finish", SUMMARY)]
    assert tracker.calls[1:] == [("finish", SUMMARY)]


def test_an_interrupted_run_has_no_outcome_and_says_how_it_continues(tmp_path: Path) -> None:
    screen, tracker = Witness(), Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, screen, [tracker])  # type: ignore[arg-type,list-item]
        journal.interrupted(SUMMARY, "grpo train --resume")
    assert not (tmp_path / "summary.json").exists()
    assert screen.calls == [("clear",), ("close",), ("note", "shown by finish"), ("note", "grpo train --resume")]
    assert tracker.calls == [("finish", SUMMARY)]


def test_steps_without_spread_are_warned_of_and_summed_up_over_all_processes_of_a_run(tmp_path: Path) -> None:
    first, second = Witness(), Witness()
    with RunDirectory.create(tmp_path) as run:
        journal = Journal(run, first)  # type: ignore[arg-type]
        for number in (1, 2, 3):
            step(journal, number, spread=0.0)
        resumed = Journal(run, second)  # type: ignore[arg-type]
        for number in (4, 5):
            step(resumed, number, spread=0.0)
        resumed.finish(SUMMARY)
    assert [call for call in first.calls if call[0] == "warn"] == []
    warned = [call[1] for call in second.calls if call[0] == "warn"]
    assert warned == [
        "no group differed in reward in the last 5 steps, so the rewards train nothing: "
        "`grpo reward check` shows which texts they pay for",
        "no group differed in reward in 5 of 5 steps: nothing was trained",
    ]
