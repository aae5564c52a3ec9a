"""Invariant 4: N steps + kill + resume + N steps = 2N steps, bit for bit, also inside a step's epochs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grpo import assembly
from grpo.config import load_config

OPTIONS = (
    *("steps=4", "epochs_per_step=2", "beta=0.05", "prompts_per_step=3", "group_size=4", "save_every=2"),
    *("eval_prompts=4", "eval_samples=2", "eval_every=3", "max_completion_length=20", "schedule=cosine"),
)

MORTAL_METHOD = """
import os, signal
from grpo.algorithm.surrogates import clip

calls = 0


def surrogate(ratio, logprobs, advantages, region):
    global calls
    calls += 1
    if calls == int(os.environ.get("DIE_AT_CALL", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return clip(ratio, logprobs, advantages, region)
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def log_without_times(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("seconds", "per_s", "memory")
    return [{k: v for k, v in line.items() if not any(word in k for word in measured)} for line in lines]


def lose_all_after_step_2(run: Path) -> None:
    """Leave what a run killed before its next checkpoint leaves: the logs of later steps, and no later weights."""
    shutil.rmtree(run / "final_model")
    for checkpoint in run.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)
    assert (run / "checkpoint-2").is_dir()


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    run = tmp_path / "alone"
    assembly.train(load_config(None, [*OPTIONS, f"output_dir={run}"]))
    return run


def test_a_run_that_lost_its_last_steps_ends_with_the_same_bytes(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "cut"
    assembly.train(load_config(None, [*OPTIONS, f"output_dir={run}"]))
    expected = contents(run / "final_model")
    lose_all_after_step_2(run)

    assembly.resume(run)

    assert contents(run / "final_model") == expected == contents(alone / "final_model")
    assert log_without_times(run) == log_without_times(alone)
    assert (run / "completions.jsonl").read_bytes() == (alone / "completions.jsonl").read_bytes()
    assert (run / "eval.jsonl").read_bytes() == (alone / "eval.jsonl").read_bytes()


def test_lora_resumes_bit_for_bit(tmp_path: Path) -> None:
    options = [*OPTIONS, "lora_rank=4", "lora_dropout=0.1", "learning_rate=1e-2"]
    run = tmp_path / "run"
    assembly.train(load_config(None, [*options, f"output_dir={run}"]))
    expected = contents(run / "final_model")
    lose_all_after_step_2(run)

    assembly.resume(run)

    assert contents(run / "final_model") == expected


@pytest.mark.parametrize("call", [1, 4, 7])
def test_a_run_killed_inside_an_epoch_ends_with_the_same_bytes(call: int, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL_METHOD)
    places = filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", "grpo", "train"]
    options = [*OPTIONS, "method=mortal:surrogate"]

    def run_command(*words: str, die_at: int = 0) -> int:
        process = subprocess.run(
            [*command, *words],
            check=False,
            env={**environment, "DIE_AT_CALL": str(die_at)},
            capture_output=True,
            text=True,
        )
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        return process.returncode

    assert run_command(*options, f"output_dir={tmp_path / 'killed'}", die_at=call) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "final_model").exists()
    assert run_command("--resume", str(tmp_path / "killed")) == 0
    if call == 1:
        assert run_command(*options, f"output_dir={tmp_path / 'alone'}") == 0
    else:
        # The custom surrogate computes what the built-in one does.
        assembly.train(load_config(None, [*OPTIONS, f"output_dir={tmp_path / 'alone'}"]))
    assert contents(tmp_path / "killed" / "final_model") == contents(tmp_path / "alone" / "final_model")
