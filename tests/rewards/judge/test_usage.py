from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from judge_server import HANGS, judge_at, judge_server, length_of_answer, refuses, rewards_of, says

from grpo.rewards import RewardSuite, reward_function
from grpo.rewards.judge import Usage

PRICES = {"price_per_million_input_tokens": 1e6, "price_per_million_output_tokens": 2e6}


def test_requests_tokens_and_cost_are_logged_per_completion_and_added_up_for_the_run():
    logged, columns = {}, {}
    with judge_server(length_of_answer) as server:
        judge = judge_at(server.url, **PRICES)
        rewards_of(judge, ["1234"])
        rewards_of(judge, ["12", "1", "12", "123"], log_metric=logged.__setitem__, log_extra=columns.__setitem__)
    assert logged == {
        "judge/helpfulness/requests": 0.75,
        "judge/helpfulness/cached": 0.25,
        "judge/helpfulness/input_tokens": 7.5,
        "judge/helpfulness/output_tokens": 2.25,
        "judge/helpfulness/cost": 7.5 + 2 * 2.25,
    }
    amounts = {"requests": 4, "cached": 1, "input_tokens": 40, "output_tokens": 12}
    assert judge.totals == {**amounts, "cost": 40.0 + 2 * 12.0}
    assert [text.rpartition("\n")[2] for text in columns["judge/helpfulness"]] == [
        "Score: 2",
        "Score: 1",
        "Score: 2",
        "Score: 3",
    ]


def test_without_a_price_there_is_no_cost_and_one_price_is_enough():
    assert "cost" not in judge_at("http://127.0.0.1:1/v1").totals
    assert judge_at("http://127.0.0.1:1/v1", price_per_million_output_tokens=1).totals["cost"] == 0.0


def test_unreadable_answers_and_failed_attempts_are_counted():
    def answer(asked):
        return refuses(500) if asked.number == 0 else "Hm."

    with judge_server(answer) as server:
        judge = judge_at(server.url)
        rewards_of(judge, ["a"])
    assert judge.usage == Usage(requests=2, input_tokens=10, output_tokens=3)


def test_a_call_that_is_given_up_has_been_counted():
    async def give_up(judge):
        call = asyncio.ensure_future(judge(["p"] * 3, ["1", "12", "bad"]))
        while judge.usage.output_tokens < 6 or judge.usage.requests < 3:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()

    with judge_server(lambda asked: HANGS if asked.shown("answer") == "bad" else "Score: 5") as server:
        judge = judge_at(server.url, timeout_s=600.0, deadline_s=None)
        asyncio.run(give_up(judge))
    assert judge.usage == Usage(requests=3, input_tokens=20, output_tokens=6)


def test_a_call_that_the_suite_gives_up_has_been_counted(group):
    with judge_server(lambda asked: HANGS if asked.shown("answer") == "bad" else "Score: 5") as server:
        judge = judge_at(server.url, timeout_s=600.0, deadline_s=600.0)
        suite = RewardSuite([reward_function(judge)], timeout_s=3.0, max_failed_share=1.0)
        suite.score([group("p", [1, 1])], ["good", "bad"], step=0, max_steps=1)
        after_one = judge.usage
        result = suite.score([group("p", [1])], ["fine"], step=1, max_steps=2)
    assert after_one == Usage(requests=2, input_tokens=10, output_tokens=3)
    assert result.metrics["user/judge/helpfulness/requests"] == 1.0
    assert result.metrics["rewards/judge/requests_total"] == 3.0


def test_a_resumed_run_continues_the_counts_of_the_first_one(group):
    with judge_server(length_of_answer) as server:
        first = RewardSuite([reward_function(judge_at(server.url, **PRICES))])
        assert first.functions[0].function.state_dict() == {}
        first.score([group("p", [1, 1])], ["1", "12"], step=0, max_steps=2)
        state = json.loads(json.dumps(first.state_dict()))
        judge = judge_at(server.url, **PRICES)
        resumed = RewardSuite([reward_function(judge)])
        resumed.load_state_dict(state)
        result = resumed.score([group("p", [1])], ["123"], step=1, max_steps=2)
    assert judge.usage == Usage(requests=3, input_tokens=30, output_tokens=9)
    assert result.metrics["rewards/judge/cost_total"] == 30.0 + 2 * 9.0


def test_loading_a_state_decreases_no_count():
    with judge_server(length_of_answer) as server:
        judge = judge_at(server.url)
        rewards_of(judge, ["1"])
        before = judge.state_dict()
        rewards_of(judge, ["12", "123"])
        judge.load_state_dict(before)
        judge.load_state_dict({})
    assert judge.usage == Usage(requests=3, input_tokens=30, output_tokens=9)


def test_an_endpoint_that_does_not_count_tokens_has_no_known_cost():
    said = says("Score: 5")
    without_usage = replace(said, body=json.dumps({**json.loads(said.body), "usage": None}).encode())
    with judge_server(lambda asked: without_usage) as server:
        judge = judge_at(server.url)
        assert rewards_of(judge, ["1"]) == [0.5]
    assert judge.usage == Usage(requests=1)
