from __future__ import annotations

import threading

import pytest
from judge_server import SECRET, failure, judge_at, judge_server, length_of_answer, longer_one, rewards_of

from grpo.errors import DataError
from grpo.rewards import RewardSuite, reward_function
from grpo.rewards.judge import Usage


def test_scores_are_mapped_to_zero_and_one_in_the_order_of_the_completions():
    with judge_server(length_of_answer) as server:
        judge = judge_at(server.url, scale=(0, 20))
        assert rewards_of(judge, ["12345", "", "x" * 20, "1234567890"]) == [0.25, 0.0, 1.0, 0.5]


def test_a_request_has_the_model_the_key_the_options_and_both_messages(monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{SECRET}\n")
    with judge_server(length_of_answer) as server:
        judge = judge_at(
            f"{server.url}/", api_key_env="MY_KEY", temperature=None, max_tokens=64, request={"reasoning_effort": "low"}
        )
        rewards_of(judge, ["2"])
    (asked,) = server.asked
    assert (asked.path, asked.key) == ("/v1/chat/completions", SECRET)
    assert {key: value for key, value in asked.body.items() if key != "messages"} == {
        "model": "m",
        "max_tokens": 64,
        "reasoning_effort": "low",
    }
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]


def test_the_address_comes_from_the_environment_where_none_is_given(monkeypatch):
    with judge_server(length_of_answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert rewards_of(judge_at(None), ["2"]) == [0.1]


def test_a_rubrics_column_is_required_of_the_data_and_a_row_without_it_has_no_reward():
    with judge_server(lambda asked: f"Score: {10 * (asked.shown('reference') == asked.shown('answer'))}") as server:
        judge = judge_at(server.url, rubric="correctness")
        assert reward_function(judge).columns == ("answer",)
        with pytest.raises(DataError, match="needs the column 'answer'"):
            RewardSuite([reward_function(judge)]).check_columns({"solution"})
        verdicts = rewards_of(judge, ["2", "3", "4", "5"], answer=["2", 4, None, " "])
    assert verdicts == [1.0, 0.0, None, None]
    assert len(server.asked) == 2


def test_as_many_requests_as_allowed_are_under_way_at_once_and_no_more():
    barrier = threading.Barrier(3)

    def answer(asked):
        barrier.wait(timeout=20)  # broken, unless three are answered at once
        return length_of_answer(asked)

    with judge_server(answer) as server:
        rewards = rewards_of(
            judge_at(server.url, concurrency=3, retries=0), ["1", "12", "123", "1234", "12345", "123456"]
        )
    assert rewards == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert server.most_at_once == 3


def test_equal_completions_are_asked_about_once():
    with judge_server(length_of_answer) as server:
        judge = judge_at(server.url)
        assert rewards_of(judge, ["12", "1", "12", "12"]) == [0.2, 0.1, 0.2, 0.2]
    assert len(server.asked) == 2
    assert judge.usage == Usage(requests=2, cached=2, input_tokens=20, output_tokens=6)


def test_a_row_that_cannot_fill_the_rubric_fails_its_own_completion_only(tmp_path):
    (tmp_path / "r.md").write_text("{{ 12 // size }} <answer >\n{{ completion }}\n</answer >\n{{ how_to_answer }}")
    with judge_server(length_of_answer) as server:
        verdicts = rewards_of(judge_at(server.url, rubric=tmp_path / "r.md"), ["1", "12", "123"], size=[4, 0, "few"])
    assert verdicts[0] == 0.1
    assert "cannot be filled in with this row: integer division" in failure(verdicts[1])
    assert "unsupported operand" in failure(verdicts[2])


def test_in_a_comparison_too(tmp_path):
    (tmp_path / "r.md").write_text(
        "{{ 12 // size }} <answer A >\n{{ first }}\n</answer A >\n<answer B >\n{{ second }}\n</answer B >\nwinner?"
    )
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, rubric=tmp_path / "r.md", mode="pairwise")
        verdicts = rewards_of(judge, ["1", "12", "1", "12"], prompts=["p", "p", "q", "q"], size=[3, 3, 0, 0])
    assert verdicts[:2] == [0.0, 1.0]
    assert all("cannot be filled in with this row" in failure(verdict) for verdict in verdicts[2:])
