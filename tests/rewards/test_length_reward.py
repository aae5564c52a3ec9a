from __future__ import annotations

import pytest

from grpo.errors import ConfigError
from grpo.rewards.rules.length import reasoning_length


def reasoning(num_words: int) -> str:
    words = " ".join(f"w{number}" for number in range(num_words))
    return f"<reasoning>{words}</reasoning><answer>1</answer>"


def test_the_reward_rises_to_the_target_stays_and_falls_to_zero():
    texts = [reasoning(count) for count in (0, 5, 10, 20, 40, 60, 80, 200)]
    rewards = reasoning_length(texts, target=10, limit=40, reward=1.0)
    assert rewards == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_endless_text_earns_nothing():
    assert reasoning_length([reasoning(100_000)], target=50) == [0.0]


def test_going_round_in_circles_earns_no_more_than_one_round():
    once = "first we add the two numbers and then we look"
    one, many = (f"<reasoning>{text}</reasoning>" for text in (once, " ".join([once] * 20)))
    short, repeated = reasoning_length([one, many], target=100, reward=1.0)
    assert short == pytest.approx(0.10)
    assert repeated <= short + 0.03


def test_a_word_counts_anew_after_other_words():
    texts = [f"<reasoning>{words}</reasoning>" for words in ("a b c a d c", "a b c a b c")]
    assert reasoning_length(texts, target=6, limit=60, reward=6.0) == pytest.approx([6.0, 5.0])


def test_only_the_words_inside_the_block_count():
    text = "<reasoning>one two</reasoning><answer>three four five six</answer> seven eight"
    assert reasoning_length([text], target=4, reward=1.0) == [0.5]


@pytest.mark.parametrize(
    "text",
    [
        "one two three four",
        "<reasoning>one two three four",
        "one two three four</reasoning>",
        "</reasoning>one two three four<reasoning>",
        "<reasoning>one two</reasoning><reasoning>three four</reasoning>",
        "<reasoning>one <reasoning>two</reasoning></reasoning>",
    ],
)
def test_a_block_that_is_not_opened_once_and_closed_once_earns_nothing(text):
    assert reasoning_length([text], target=2) == [0.0]


def test_thoughts_are_measured_with_think_tags():
    text = "<think>one two three</think> 7"
    assert reasoning_length([text], format="think_tags", target=3, reward=1.0) == [1.0]
    assert reasoning_length([text], target=3) == [0.0]


def test_a_script_without_spaces_counts_by_the_character():
    assert reasoning_length(["<reasoning>三加四等于七</reasoning>"], target=6, reward=1.0) == [1.0]


def test_messages_are_read_as_text():
    message = [{"role": "assistant", "content": reasoning(5)}]
    assert reasoning_length([message], target=10, reward=1.0) == [0.5]


@pytest.mark.parametrize(("target", "limit"), [(0, None), (-5, None), (10, 9)])
def test_a_shape_that_makes_no_sense_is_refused(target, limit):
    with pytest.raises(ConfigError, match="1 <= target <= limit"):
        reasoning_length(["x"], target=target, limit=limit)


def test_a_format_without_reasoning_is_refused():
    with pytest.raises(ConfigError, match="no reasoning block"):
        reasoning_length(["x"], format="plain")
