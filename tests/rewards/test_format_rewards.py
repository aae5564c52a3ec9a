from __future__ import annotations

import pytest

from grpo.errors import ConfigError
from grpo.rewards.rules.format import (
    soft_format,
    strict_format,
    think_soft_format,
    think_strict_format,
    think_xmlcount,
    xmlcount,
)

GOOD = "<reasoning>\n3 + 4 = 7\n</reasoning>\n<answer>\n7\n</answer>\n"
GOOD_THOUGHT = "<think>3 + 4 = 7</think> 7"


def test_a_completion_in_the_format_earns_all_three():
    assert strict_format([GOOD]) == soft_format([GOOD]) == xmlcount([GOOD]) == [0.5]


def test_a_thought_and_its_answer_earn_all_three_for_think_tags():
    assert think_strict_format([GOOD_THOUGHT]) == [0.5]
    assert think_soft_format([GOOD_THOUGHT]) == [0.5]
    assert think_xmlcount([GOOD_THOUGHT]) == [0.5]


def test_think_rewards_are_the_same_functions_with_another_format():
    texts = [GOOD, GOOD_THOUGHT, "<think>x", "x</think>7", ""]
    assert think_strict_format(texts) == strict_format(texts, format="think_tags")
    assert think_soft_format(texts) == soft_format(texts, format="think_tags")
    assert think_xmlcount(texts) == xmlcount(texts, format="think_tags")


def test_messages_and_strings_earn_the_same():
    messages = [[{"role": "assistant", "content": GOOD}], [{"role": "assistant", "content": "no"}]]
    for reward in (strict_format, soft_format, xmlcount):
        assert reward(messages) == reward([GOOD, "no"])


def test_content_given_in_parts_is_read_as_one_text():
    parts = [{"type": "text", "text": GOOD[:20]}, {"type": "text", "text": GOOD[20:]}]
    assert strict_format([[{"role": "assistant", "content": parts}]]) == [0.5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "Sure! " + GOOD,
        GOOD + "Hope this helps.",
        GOOD + GOOD,
        "<answer>7</answer><reasoning>3 + 4</reasoning>",
        "<reasoning><answer>7</answer></reasoning>",
        "<reasoning>a</reasoning><answer>7</answer><answer>8</answer>",
        "<reasoning>a</reasoning><answer></answer>",
        "<REASONING>a</REASONING><ANSWER>7</ANSWER>",
        "<reasoning>a</reasoning><answer>7",
    ],
)
def test_anything_but_the_format_earns_no_strict_reward(text):
    assert strict_format([text]) == [0.0]


def test_soft_format_forgives_what_is_around_but_not_the_order():
    assert soft_format(["Sure! " + GOOD + "Bye."]) == [0.5]
    assert soft_format(["<answer>7</answer><reasoning>a</reasoning>"]) == [0.0]
    assert soft_format(["<reasoning>a</reasoning><answer>7"]) == [0.0]


def test_xmlcount_gives_a_quarter_of_its_reward_for_each_tag_that_stands_once():
    assert xmlcount(["<reasoning>a", "<reasoning>a</reasoning>", "<reasoning>a</reasoning><answer>7"]) == [
        0.125,
        0.25,
        0.375,
    ]


def test_xmlcount_does_not_pay_for_a_tag_that_stands_twice():
    assert xmlcount(["<reasoning><reasoning>"]) == [0.0]
    assert xmlcount([GOOD + GOOD]) == [0.0]


def test_xmlcount_takes_a_thousandth_for_each_character_after_the_answer():
    assert xmlcount([GOOD + "x" * 100]) == [pytest.approx(0.4)]
    assert xmlcount([GOOD + "  \n"]) == [0.5]


def test_xmlcount_of_endless_rambling_is_zero_and_not_a_large_negative_number():
    assert xmlcount([GOOD + "x" * 1_000_000]) == [0.0]


def test_the_answer_after_a_thought_costs_nothing():
    assert think_xmlcount(["<think>a</think>" + "7" * 100]) == [0.5]


def test_a_megabyte_of_opened_tags_is_read_without_backtracking():
    text = "<reasoning>" * 100_000
    assert strict_format([text]) == soft_format([text]) == xmlcount([text]) == [0.0]


def test_other_scripts_are_text_like_any_other():
    text = "<reasoning>三加四等于七 🙂</reasoning><answer>７</answer>"
    assert strict_format([text]) == [0.5]


def test_the_size_of_the_rewards_can_be_set():
    assert strict_format([GOOD], reward=2.0) == [2.0]
    assert xmlcount([GOOD + "x" * 10], reward=1.0, penalty_per_character=0.01) == [pytest.approx(0.9)]


@pytest.mark.parametrize("reward", [strict_format, soft_format, xmlcount])
def test_a_format_without_tags_is_refused(reward):
    with pytest.raises(ConfigError, match=r"'plain' has no tags.*answer_tags"):
        reward(["7"], format="plain")
