"""Every number that a run writes is explained in docs/metrics.md, and nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from short_runs import lines_of

from grpo.tracking.panels import VITAL_SIGNS

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"

REWARDS = """
def noted(completions, log_metric=None, log_extra=None, **_):
    log_metric("share", 0.5)
    log_extra("shown", ["x"] * len(completions))
    return [None if len(text) % 3 == 0 else float(len(text)) for text in completions]

def gated(completions, **_):
    return [1.0] * len(completions)

def broken(completions, **_):
    return [float("nan")] * len(completions)
"""
RUNS = {
    "kl": ("beta=0.04", "lora_rank=2"),
    "own": (
        "task=rows", "train_file=rows.jsonl", "max_failed_share=1", "beta=0", "eval_size=2",
        "rewards=[{name: rewards.py:noted, weight: {from: 0.5, to: 1.0, steps: 2}}, "
        "{name: rewards.py:gated, gate: noted}, {name: rewards.py:broken, weight: 0.1}]",
    ),
    "half": ("engine_dtype=bfloat16", "sampler_correction=2"),
}  # fmt: skip
NOT_OF_THESE_RUNS = {"turns", "failed_episodes", "messages", "environment"}
"""Names that only runs with an environment of several turns write."""


def sections() -> list[str]:
    return DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]


def documented() -> dict[str, set[str]]:
    """Return the names in the first column of the tables, by the file that the heading names."""
    found: dict[str, set[str]] = {}
    for section in sections():
        if section.startswith("On the screen"):
            continue
        (file,) = re.findall(r"`(\w+\.jsonl?)`", section.partition("\n")[0])
        rows = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
        found[file] = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    return found


def generalised(name: str) -> str:
    """Return the documented form of a metric's name."""
    if name.startswith("user/"):
        return "user/METRIC"
    return re.sub(r"^rewards/.+/", "rewards/NAME/", name)


@pytest.mark.parametrize("file", ["metrics.jsonl", "eval.jsonl", "completions.jsonl"])
def test_the_document_has_what_runs_write_and_nothing_else(file, train) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": f"Count to {n}."}) + "\n" for n in range(12)))
    Path("rewards.py").write_text(REWARDS)
    written: set[str] = set()
    for name, options in RUNS.items():
        run = train(*options, output_dir=name)
        written |= {generalised(key) for line in lines_of(run / file) for key in line}
    assert written - {"shown"} == documented()[file] - NOT_OF_THESE_RUNS


def test_the_document_has_each_number_on_the_screen() -> None:
    (screen,) = [section for section in sections() if section.startswith("On the screen")]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", screen, flags=re.MULTILINE)
    shown = {(column.strip("`"), label.strip("`")): metric for column, label, metric in rows}
    for label, heading, metric, _ in VITAL_SIGNS:
        name = "rewards/failed_completions" if metric == "failed_so_far" else metric
        assert f"`{name}`" in shown[heading or "–", label or "–"]
    assert {name for metric in shown.values() for name in re.findall(r"`(.+?)`", metric)} <= documented()[
        "metrics.jsonl"
    ]


def test_the_document_has_the_summary(train) -> None:
    assert set(json.loads((train() / "summary.json").read_text())) <= documented()["summary.json"]
