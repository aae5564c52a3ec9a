from __future__ import annotations

import asyncio
import json

import pytest
from judge_server import judge_at, judge_server, length_of_answer, refuses

from grpo import GRPOConfig, GRPOTrainer
from grpo.errors import ConfigError, RewardError
from grpo.rewards import RewardSuite, resolve_rewards, reward_function


def test_in_a_suite_a_completion_that_the_judge_cannot_score_is_left_out(group):
    with judge_server(lambda asked: "Hm." if asked.shown("answer") == "bad" else length_of_answer(asked)) as server:
        suite = RewardSuite([reward_function(judge_at(server.url), weight=2.0)])
        result = suite.score([group("1+1?", [1, 1, 1])], ["12", "bad", "1234"], step=0, max_steps=1)
        # Another suite has another event loop: a judge must not be tied to the first one.
        again = RewardSuite([reward_function(suite.functions[0].function)])
        assert again.score([group("1+1?", [1])], ["123"], step=0, max_steps=1).metrics["rewards/judge/mean"] == 0.3
    scores = [rollout.score for rollout in result.groups[0].rollouts]
    assert [score.total for score in scores] == [0.4, None, 0.8]
    assert "does not end with" in scores[1].failures["judge"]
    assert result.metrics["rewards/judge/failed"] == 1.0
    assert result.metrics["user/judge/helpfulness/input_tokens"] == 10.0
    assert result.groups[0].rollouts[0].logged["judge/helpfulness"].endswith("Score: 2")


def test_a_run_whose_judge_refuses_the_key_stops_with_one_line(group):
    with judge_server(lambda asked: refuses(401)) as server:
        suite = RewardSuite([reward_function(judge_at(server.url))])
        with pytest.raises(RewardError, match="refused the key from OPENAI_API_KEY") as caught:
            suite.score([group("1+1?", [1, 1])], ["1", "2"], step=0, max_steps=1)
    assert "\n" not in str(caught.value)


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_judge_is_found_by_its_name_and_its_parameters_are_checked():
    with judge_server(length_of_answer) as server:
        spec = {
            "name": "judge",
            "weight": 0.5,
            "model": "m",
            "base_url": server.url,
            "scale": [0, 10],
            "cache_dir": None,
        }
        (resolved,) = resolve_rewards([spec])
        assert (resolved.name, resolved.weight, resolved.is_async) == ("judge", 0.5, True)
        assert asyncio.run(resolved.function(["1+1?"], ["12"])) == [0.2]
        with pytest.raises(ConfigError, match="no parameter 'rubrik'"):
            resolve_rewards([{**spec, "rubrik": "helpfulness"}])


def test_a_run_logs_the_judges_answers_and_their_cost(tmp_path, capsys):
    with judge_server(lambda asked: f"Score: {min(10, len(asked.shown('answer')))}") as server:
        judge = {
            "model": "m",
            "base_url": server.url,
            "scale": [0, 10],
            "cache_dir": str(tmp_path),
            "price_per_million_input_tokens": 1.0,
        }
        config = GRPOConfig(
            model="tiny",
            task="arithmetic",
            output_dir=str(tmp_path / "run"),
            rewards={"functions": [{"name": "judge", **judge}]},
            steps=1,
            prompts_per_step=2,
            group_size=2,
            max_completion_length=8,
            eval_prompts=2,
            eval_samples=1,
        )
        summary = GRPOTrainer(config=config).train()
    spent = summary["reward_totals"]["judge"]
    assert spent["requests"] + spent["cached"] >= 4 + 2 * 2
    assert spent["cost"] == pytest.approx(spent["input_tokens"] / 1e6)
    assert f"{int(spent['requests'])} requests" in capsys.readouterr().out.replace(",", "")
    (metrics,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    tokens = metrics["user/judge/helpfulness/input_tokens"]
    assert 0 < tokens <= 10
    assert metrics["user/judge/helpfulness/cost"] == pytest.approx(tokens / 1e6)
    completions = read_jsonl(tmp_path / "run" / "completions.jsonl")
    assert len(completions) == 4
    assert all(f"Score: {round(10 * row['rewards']['judge'])}" in json.dumps(row) for row in completions)
