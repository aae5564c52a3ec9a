"""A run in an environment of two turns: trains, logs its turns, resumes bit for bit, is evaluated in it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import two_turns

from grpo import GRPOConfig, GRPOTrainer, assembly
from grpo.config import load_config
from grpo.errors import ConfigError
from grpo.types import Prompt

ENVIRONMENT = f"environment={two_turns.__file__}:AskThenConclude"
OPTIONS = (
    *("steps=4", "epochs_per_step=2", "beta=0.05", "prompts_per_step=3", "group_size=4", "save_every=2"),
    *("eval_prompts=4", "eval_samples=2", "eval_every=3", "max_completion_length=60", "learning_rate=1e-3"),
    ENVIRONMENT,
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "two-turns"
    assembly.train(load_config(None, [*OPTIONS, f"output_dir={run}"]))
    return run


def test_a_run_in_an_environment_resumes_bit_for_bit(run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    config = (cut / "config.yaml").read_text()
    (cut / "config.yaml").write_text(config.replace(str(run), str(cut)))
    shutil.rmtree(cut / "final_model")
    for checkpoint in cut.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)

    assembly.resume(cut)

    assert contents(cut / "final_model") == contents(run / "final_model")
    assert (cut / "completions.jsonl").read_bytes() == (run / "completions.jsonl").read_bytes()
    assert (cut / "eval.jsonl").read_bytes() == (run / "eval.jsonl").read_bytes()


def test_the_sampler_and_the_trainer_agree_on_the_tokens_of_both_turns(run: Path) -> None:
    for line in lines_of(run / "metrics.jsonl"):
        assert 0 < line["sampler_mismatch"] < 1e-5
        assert 1 < line["turns"] <= 2
        assert line["failed_episodes"] == 0


def test_the_log_has_the_turns_and_the_environments_rewards_and_info(run: Path) -> None:
    lines = lines_of(run / "completions.jsonl")
    whole = [line for line in lines if line["environment"]["turns"] == 2]
    assert len(whole) > len(lines) / 2
    for line in whole:
        first, reply, last = line["messages"]
        assert [first["role"], reply["role"], last["role"]] == ["assistant", "user", "assistant"]
        assert line["completion"] == f"{first['content']}\n{last['content']}"
        assert f"What is {line['environment']['number']} + 0?" in reply["content"]
        assert line["rewards"]["short"] == pytest.approx(1.0 / (1 + len(first["content"])))
        if line["finish_reason"] == "stop":
            assert line["rewards"]["concluded"] == float(line["environment"]["number"] in last["content"])


def test_rewards_of_the_environment_count_beside_those_of_functions(run: Path) -> None:
    for line in lines_of(run / "completions.jsonl"):
        expected = sum(value for value in line["rewards"].values() if value is not None)
        assert line["total"] == pytest.approx(expected)
    for line in lines_of(run / "metrics.jsonl"):
        assert 0 <= line["rewards/concluded/mean"] <= 1
        assert 0 < line["rewards/short/mean"] < 1


def test_evaluation_runs_in_the_environment(run: Path) -> None:
    for line in lines_of(run / "eval.jsonl"):
        assert {"concluded", "short"} <= line["rewards"].keys()


def test_a_policy_learns_from_the_environments_rewards_alone(tmp_path: Path) -> None:
    """It learns to write little in its first turn and the number in its second; only the environment pays for it."""
    trainer = GRPOTrainer(
        "tiny",
        GRPOConfig(
            steps=12, prompts_per_step=4, group_size=8, learning_rate=2e-3, max_completion_length=60, eval_size=0,
            output_dir=str(tmp_path / "run"),
        ),
        train_dataset=[f"What is {a} + {b}? Answer with an integer." for a in range(6) for b in range(6)],
        rewards=[nothing],
        environment=two_turns.AskThenConclude,
    )  # fmt: skip
    trainer.train()
    lines = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["reward"] < 1.2
    for line in lines[-3:]:
        assert line["reward"] == pytest.approx(line["rewards/short/mean"] + line["rewards/concluded/mean"])
        assert line["reward"] > 1.4


def nothing(completions: list[str], **columns: object) -> list[float]:
    return [0.0] * len(completions)


def test_weights_of_the_environments_rewards_are_set_by_name(tmp_path: Path) -> None:
    options: Mapping[str, Any] = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_completion_length": 60}
    run = tmp_path / "run"
    config = GRPOConfig(**options, eval_size=0, output_dir=str(run), environment_weights={"short": 0.5, "concluded": 0})
    trainer = GRPOTrainer(
        "tiny", config, train_dataset=["What is 2 + 3?"] * 4, rewards=[nothing], environment=two_turns.AskThenConclude
    )
    trainer.train()
    for line in lines_of(run / "completions.jsonl"):
        assert line["total"] == pytest.approx(0.5 * line["rewards"]["short"])


def test_an_environment_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(ConfigError, match="no environment named 'two'"):
        assembly.train(load_config(None, ["environment=two"]))
    with pytest.raises(ConfigError, match="cannot import"):
        assembly.train(load_config(None, ["environment=no_such_module:thing"]))


class FailsForSomePrompts(two_turns.AskThenConclude):
    """Fails in every episode of one prompt, and in some of the others."""

    def reset(self, prompt: Prompt, seed: int) -> None:
        super().reset(prompt, seed)
        if prompt.row == 0 or seed % 5 == 0:
            raise ConnectionError("no such world")


async def later(completions: list[str], **columns: object) -> list[float]:
    return [0.1 * len(text) for text in completions]


def test_a_run_survives_groups_without_any_episode(tmp_path: Path) -> None:
    trainer = GRPOTrainer(
        "tiny",
        GRPOConfig(
            steps=2, prompts_per_step=4, group_size=3, max_completion_length=60, eval_size=2, eval_samples=2,
            max_failed_share=0.9, beta=0.05, output_dir=str(tmp_path / "run"),
        ),
        train_dataset=[{"prompt": f"What is {a} + 1?", "answer": str(a + 1)} for a in range(6)],
        rewards=[nothing, later],
        environment=FailsForSomePrompts,
    )  # fmt: skip
    trainer.train()
    lines = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert sum(line["failed_episodes"] for line in lines) >= 3
    logged = lines_of(tmp_path / "run" / "completions.jsonl")
    assert len(logged) == 2 * 4 * 3 - sum(line["failed_episodes"] for line in lines)
    assert not any(line["row"] == 0 for line in logged)
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Counting:
        async def rollout(self, prompt: Prompt, sampler: Any, seed: int) -> Any:
            raise AssertionError("no episode should begin")

        def state_dict(self) -> dict[str, Any]:
            return {"mean": numpy.float64(0.5)}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            pass

    config = GRPOConfig(steps=1, output_dir=str(tmp_path / "run"))
    trainer = GRPOTrainer(
        "tiny", config, train_dataset=["Hello"], rewards=lambda completions, **_: [0.0], environment=Counting()
    )
    with pytest.raises(ConfigError, match=r"state_dict\(\) of the environment cannot be saved: .*float64.*float\(\)"):
        trainer.train()
    assert not (tmp_path / "run").exists()
