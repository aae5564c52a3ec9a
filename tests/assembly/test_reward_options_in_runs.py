"""Weights that change, gates, processes, overlap and combined rewards in whole runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from short_runs import lines_of, sums, write_lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from grpo import assembly
from grpo.algorithm import combined_advantages
from grpo.assembly.assembly import assemble
from grpo.assembly.runs import train_parts
from grpo.config import load_config
from grpo.policy.tiny import TINY_DIRECTORY

REWARDS = """\
import asyncio
import random


async def later(completions, log_extra):
    await asyncio.sleep(0.001 * len(completions[0]))
    log_extra("first_letter", [text[:1] for text in completions])
    return [float(sum(map(ord, text)) % 7) for text in completions]


def drawn(completions):
    return [random.random() for _ in completions]
"""

OPTIONS = [
    *("train_file=rows.jsonl", "steps=4", "prompts_per_step=3", "group_size=4", "max_completion_length=12"),
    *(
        "eval_size=2",
        "eval_samples=2",
        "eval_every=4",
        "save_every=2",
        "zero_variance_groups=keep",
        "combine=normalise",
    ),
    "rewards=[{name: 'mine.py:later', weight: {from: 0.0, to: 1.0, steps: 2}}, "
    "{name: 'mine.py:drawn', weight: 0.5, processes: 2, gate: later, gate_at: 1.5}, {name: last_integer}]",
]


@pytest.fixture(autouse=True)
def files(workplace):
    Path("mine.py").write_text(REWARDS)
    write_lines("rows.jsonl", sums(8))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_weights_gates_and_combined_rewards_are_what_the_log_says():
    assembly.train(load_config(None, [*OPTIONS, "output_dir=run"]))
    metrics = lines_of("run/metrics.jsonl")
    weights = [0.0, 0.5, 1.0, 1.0]
    assert [line["rewards/later/weight"] for line in metrics] == weights
    assert not any("rewards/drawn/weight" in line for line in metrics)
    for step, weight in enumerate(weights, start=1):
        lines = [line for line in lines_of("run/completions.jsonl") if line["step"] == step]
        shut = [line for line in lines if line["rewards"]["later"] <= 1.5]
        assert [line for line in lines if "gated_out" in line] == shut
        assert all(line["rewards"]["drawn"] == 0.0 and 0.0 < line["gated_out"]["drawn"] < 1.0 for line in shut)
        assert metrics[step - 1]["rewards/drawn/gated_out"] == len(shut)
        for line in lines:
            rewards = line["rewards"]
            total = weight * rewards["later"] + 0.5 * rewards["drawn"] + rewards["last_integer"]
            assert line["total"] == pytest.approx(total, abs=1e-12)
            assert line["first_letter"] == line["completion"][:1]
        rewards = torch.tensor([list(line["rewards"].values()) for line in lines]).view(3, 4, 3)
        expected = combined_advantages(rewards, ~rewards.isnan(), torch.tensor([weight, 0.5, 1.0]))
        found = torch.tensor([line["advantage"] for line in lines]).view(3, 4)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found.any()


def worker_processes() -> list[str]:
    listed = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)  # noqa: PLW1510
    return [line for line in listed.stdout.splitlines() if "process_worker" in line]


def test_processes_of_rewards_end_with_the_run():
    parts = assemble(load_config(None, [*OPTIONS, "output_dir=run"]))
    before = len(worker_processes())
    train_parts(parts)
    for _ in range(200):
        if len(worker_processes()) <= before:
            break
        time.sleep(0.05)
    assert len(worker_processes()) <= before
    assert parts.rewards.functions[1].processes == 2, "they are still there to be used"


def resumed_bit_for_bit(options: Sequence[str]) -> Path:
    """Train twice, take the second run back to its step 2 and let it go on; return the first."""
    for name in ("alone", "cut"):
        assembly.train(load_config(None, [*options, f"output_dir={name}"]))
    alone, cut = Path("alone"), Path("cut")
    shutil.rmtree(cut / "final_model")
    for checkpoint in cut.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)
    assembly.resume(cut)
    assert contents(cut / "final_model") == contents(alone / "final_model")
    for file in ("completions.jsonl", "eval.jsonl"):
        assert (cut / file).read_bytes() == (alone / file).read_bytes()
    return alone


def test_a_run_with_them_resumes_bit_for_bit():
    resumed_bit_for_bit(OPTIONS)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ("[{name: last_integer, gate: format}]", "reward 'last_integer' has gate='format', which is no reward here"),
        ("[{name: 'mine.py:later', processes: 2}]", "reward 'later' has processes=2, but it is async"),
        ("{last_integer: {from: 0, to: 1}}", "reward 'last_integer' has no parameter 'from'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(refused, rewards, said):
    assert said in refused("train", "train_file=rows.jsonl", f"rewards={rewards}")


NORMALISED = (
    *("steps=4", "epochs_per_step=2", "beta=0.05", "prompts_per_step=3", "group_size=4", "save_every=2"),
    *("eval_prompts=4", "eval_samples=2", "eval_every=1", "max_completion_length=16", "train_size=40"),
    # The classifier's figures decide how much it weighs beside the other reward.
    "rewards=[{name: strict_format}, {name: ./taste, normalise: running, weight: 0.5}]",
)


def test_a_run_with_a_normalised_reward_resumes_bit_for_bit():
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(TINY_DIRECTORY, num_labels=1).save_pretrained("taste")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained("taste")
    alone = resumed_bit_for_bit(NORMALISED)
    state = torch.load(alone / "final_model" / "training_state.pt", weights_only=True)
    assert state["parts"]["rewards"]["normalisations"]["taste"]["count"] == 4 * 3 * 4, "evaluations are left out"


def test_an_evaluation_says_what_each_reward_and_the_format_come_to(capsys):
    rewards = "[{name: think_xmlcount}, {name: clicks_by_rule, weight: 0}]"
    words = ["ctr-headlines", "steps=1", "eval_every=1", "eval_samples=2", "prompts_per_step=2", "group_size=2"]
    assembly.train(load_config(words[0], [*words[1:], f"rewards={rewards}", "output_dir=run", "train_size=3"]))
    (first, last), steps = lines_of("run/eval.jsonl"), lines_of("run/metrics.jsonl")
    for line in (first, last):
        assert sorted(line["rewards"]) == ["clicks_by_rule", "think_xmlcount"]
        assert 0.0 <= line["rewards"]["clicks_by_rule"] <= 0.9
        assert 0.0 < line["format_rate"] <= 1.0
        assert line["reward"] == pytest.approx(line["rewards"]["think_xmlcount"])
        assert "accuracy" not in line
    assert len(steps) == 1
    shown = capsys.readouterr().out
    assert "3 rows to train on, 2 held out" in shown
    after = shown[shown.index("before") :]
    assert "format" in after
    assert "clicks_by_rule" in after


def test_a_reward_gives_up_shortly_before_a_call_of_it_would_be_given_up():
    judge = "{name: judge, model: m, base_url: 'http://127.0.0.1:1/v1', cache_dir: null}"
    rewards = f"[{{name: unit_tests}}, {{name: unit_tests, deadline_s: 7}}, {judge}]"
    for timeout, deadline in ((60, 50.0), (300, 290.0), (5, 2.5), ("null", None)):
        config = load_config("code", [f"rewards={rewards}", f"reward_timeout_s={timeout}"])
        first, second, judge = (one.function for one in assemble(config).rewards.functions)
        assert (first.deadline_s, second.deadline_s, judge.options.deadline_s) == (deadline, 7.0, deadline)


def test_tests_that_are_none_are_told_before_a_run_begins(refused):
    write_lines("rows.jsonl", [{"prompt": "Add.", "tests": ["assert f(1) == 2"]}, {"prompt": "Sub.", "tests": ["1 +"]}])
    said = refused("train", "train_file=rows.jsonl", "eval_size=0", "rewards=unit_tests", "output_dir=run")
    assert "row 2: tests '1 +' are not Python" in said
    assert not Path("run").exists()
