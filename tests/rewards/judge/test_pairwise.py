from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from judge_server import failure, judge_at, judge_server, longer_one, rewards_of

from grpo.rewards import reward_function
from grpo.rewards.judge.comparisons import neighbour_pairs, shares_won


def test_against_a_column_the_reward_is_the_share_of_points_over_both_orders():
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise", against="reference")
        assert reward_function(judge).columns == ("reference",)
        verdicts = rewards_of(judge, ["123", "1", "ab", "12", "x"], reference=["12", "12", "12", "12", None])
    assert verdicts == [1.0, 0.0, 0.5, 0.5, None]
    assert len(server.asked) == 6, "equal texts tie without being shown, and a row without reference is not asked about"


def test_a_judge_that_always_prefers_the_first_makes_no_difference_in_both_orders():
    with judge_server(lambda asked: "Winner: A") as server:
        assert rewards_of(judge_at(server.url, mode="pairwise"), ["1", "12", "123"]) == [0.5, 0.5, 0.5]
        both_orders = judge_at(server.url, mode="pairwise", against="answer")
        assert rewards_of(both_orders, ["1"], answer=["2"]) == [0.5]
        one_order = judge_at(server.url, mode="pairwise", against="answer", both_orders=False)
        assert rewards_of(one_order, ["1"], answer=["2"]) == [1.0]


def test_within_groups_the_reward_is_the_share_of_comparisons_won():
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise")
        completions = ["1", "123", "12", "1234", "12", "1", "alone"]
        verdicts = rewards_of(judge, completions, prompts=["p"] * 4 + ["q"] * 2 + ["r"])
    assert verdicts[:4] == pytest.approx([0.0, 2 / 3, 1 / 3, 1.0])
    assert verdicts[4:] == [1.0, 0.0, None]
    assert len(server.asked) == 2 * (6 + 1)


def test_a_comparison_that_failed_in_one_order_is_not_decided():
    def answer(asked):
        return "Hm." if asked.shown("answer A") == "bad" else longer_one(asked)

    extras = {}
    with judge_server(answer) as server:
        judge = judge_at(server.url, mode="pairwise")
        verdicts = rewards_of(judge, ["1", "bad", "12"], log_extra=extras.__setitem__)
    assert verdicts[::2] == [0.0, 1.0]
    assert "Winner" in failure(verdicts[1])
    assert extras == {"judge/preference": [1, 0, 1]}


@pytest.mark.parametrize(("size", "comparisons"), itertools.product(range(1, 10), range(2, 10)))
def test_all_of_a_group_take_part_equally_often_and_no_pair_meets_twice(size, comparisons):
    pairs = neighbour_pairs(size, comparisons)
    met = Counter(place for pair in pairs for place in pair)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(first != second for first, second in pairs)
    wanted = size - 1 if size - 1 <= comparisons else comparisons // 2 * 2
    assert [met[place] for place in range(size)] == [wanted] * size


def test_undecided_comparisons_are_left_out_of_the_share():
    assert shares_won([1, 1, 1], [(0, 1), (0, 2)], [None, 1.0]) == [1.0, None, 0.0]


def test_equal_texts_share_a_place_on_the_ring_and_tie_with_each_other():
    assert shares_won([3], [], []) == [0.5]
    assert shares_won([1], [], []) == [None]
    assert shares_won([1, 2, 1], [(0, 1), (0, 2)], [1.0, 0.0])[0] == pytest.approx(2 / 3), (
        "a text counts as often as it is there"
    )
    assert shares_won([2, 1], [(0, 1)], [None]) == [None, None], "ties alone say nothing where others are unknown"
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise")
        assert rewards_of(judge, ["12", "1", "12"]) == [0.75, 0.0, 0.75]
        assert rewards_of(judge, ["1", "1"]) == [0.5, 0.5]
    assert len(server.asked) == 2


@pytest.mark.parametrize("both_orders", [True, False])
def test_the_order_within_a_group_changes_neither_the_pairs_nor_their_first_texts(both_orders):
    texts = [*(letter * (place + 1) for place, letter in enumerate("abcdefghij")), "aa", "aa", "bb"]
    rng = random.Random(0)

    def in_this_order(order):
        with judge_server(longer_one) as server:
            judge = judge_at(server.url, mode="pairwise", comparisons=4, both_orders=both_orders)
            rewards = rewards_of(judge, order)
        asked = {(asked.shown("answer A"), asked.shown("answer B")) for asked in server.asked}
        return set(zip(order, rewards, strict=True)), asked

    rewards, asked = in_this_order(texts)
    assert len(rewards) == len(set(texts)), "equal texts have one reward"
    assert len(asked) == (44 if both_orders else 22), "four comparisons for each of eleven different texts"
    for _ in range(3):
        assert in_this_order(rng.sample(texts, len(texts))) == (rewards, asked)


def test_the_completions_of_one_prompt_are_one_group_wherever_they_stand():
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise")
        verdicts = rewards_of(judge, ["1", "ab", "12", "a", "123"], prompts=["p", "q", "p", "q", "p"])
    assert verdicts == [0.0, 1.0, 0.5, 0.0, 1.0]


def test_references_given_as_messages_are_compared_by_their_text():
    question, answer = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "ab"}
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise", against="chosen")
        completions = [[{"role": "assistant", "content": text}] for text in ("1", "abc", "ab")]
        verdicts = rewards_of(judge, completions, chosen=[[answer], [question, answer], [answer]])
    assert verdicts == [0.0, 1.0, 0.5]
    assert {asked.shown("answer A") for asked in server.asked} == {"1", "ab", "abc"}


def test_a_reference_that_is_neither_text_nor_messages_fails_no_other_completion():
    broken = [{"role": "assistant", "content": 5}]
    with judge_server(longer_one) as server:
        judge = judge_at(server.url, mode="pairwise", against="chosen")
        verdicts = rewards_of(judge, ["abc", "abc"], chosen=["ab", broken])
    assert verdicts == [1.0, 0.0], "it is shown as it is"
