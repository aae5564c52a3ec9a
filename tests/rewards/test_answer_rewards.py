from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from grpo.rewards.rules.answer import accuracy, correctness, integer_answer, last_integer


def tagged(answer: str) -> str:
    return f"<reasoning>so</reasoning><answer>{answer}</answer>"


def test_int_pays_half_for_a_marked_whole_number_and_nothing_else():
    right = ["7", " 7\n", "-7", "1,234", "$18", "18.00"]
    wrong = ["7.5", "seven", "7 apples", "3 4", "", "1/2", "٧"]
    assert integer_answer([tagged(text) for text in right]) == [0.5] * len(right)
    assert integer_answer([tagged(text) for text in wrong]) == [0.0] * len(wrong)
    assert integer_answer(["7"]) == [0.0]


def test_int_reads_what_follows_a_thought_with_think_tags():
    assert integer_answer(["<think>3</think> 7", "<think>3</think> maybe 7"], format="think_tags") == [0.5, 0.0]


def test_correctness_pays_two_where_the_marked_answer_equals_the_reference():
    texts = [tagged("7"), tagged("$7.00"), tagged("8"), "7", "<answer>7</answer>"]
    assert correctness(texts, ["7"] * 5) == [2.0, 2.0, 0.0, 0.0, 2.0]


def test_listing_answers_does_not_pay():
    listed = [
        tagged("5 6 7 8"),
        "<answer>7</answer><answer>8</answer>",
        tagged("7") + tagged("8"),
        tagged("7 or 8"),
    ]
    assert correctness(listed, ["7"] * 4) == [0.0] * 4
    assert accuracy(listed, ["7"] * 4) == [0.0] * 4


def test_references_may_be_numbers_of_any_kind():
    references = [7, 7.0, "7", np.int64(7), np.float64(7.0), Decimal("7.00"), "7.0"]
    assert correctness([tagged("7")] * 7, references) == [2.0] * 7
    assert last_integer(["it is 7"] * 7, references) == [1.0] * 7


def test_a_large_float_reference_is_not_written_with_an_exponent():
    assert correctness([tagged("100000000000000000000")], [1e20]) == [2.0]


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_a_row_without_a_reference_is_not_applicable(missing):
    for reward in (correctness, accuracy, last_integer):
        assert reward([tagged("7"), tagged("7")], [missing, "7"])[0] is None
        assert reward([tagged("7"), tagged("7")], [missing, "7"])[1] > 0


def test_text_answers_are_compared_without_regard_to_case_and_spacing():
    assert correctness([tagged(" New   york ")], ["new York"]) == [2.0]


def test_last_integer_takes_the_last_whole_number_of_the_text():
    texts = ["3 + 4 = 7", "7 is 3 + 4", "none", "", "it is 7.5", "-7", tagged("7")]
    assert last_integer(texts, ["7"] * 7) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_the_values_for_right_and_wrong_can_be_set():
    assert last_integer(["7", "8"], ["7", "7"], correct_reward=2.5, wrong_reward=-1.0) == [2.5, -1.0]
    assert correctness([tagged("7"), "8"], [7, 7], correct_reward=1.0, wrong_reward=-0.5) == [1.0, -0.5]
    assert accuracy([tagged("7"), "7"], [7, 7], correct_reward=3.0, wrong_reward=-3.0) == [3.0, -3.0]


def test_last_integer_has_nothing_to_say_about_a_reference_that_is_no_whole_number():
    assert last_integer(["7"] * 3, ["7.5", "seven", "#### 7 8"]) == [None] * 3


def test_a_number_of_ten_thousand_digits_is_read_as_wrong_and_breaks_nothing():
    huge = "9" * 10_000
    assert last_integer([huge, tagged(huge)], ["7", "7"]) == [0.0, 0.0]
    assert correctness([tagged(huge)], ["7"]) == [0.0]


def test_accuracy_needs_the_format_and_the_answer():
    texts = [tagged("7"), tagged("8"), "<answer>7</answer>", tagged("7") + " Bye.", tagged("7 apples")]
    assert accuracy(texts, [7] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_accuracy_follows_the_chosen_format():
    assert accuracy(["<think>a</think>7", tagged("7")], [7, 7], format="think_tags") == [1.0, 0.0]
    assert accuracy(["the answer is 7", "7 or 8"], [7, 7], format="plain") == [1.0, 0.0]


def test_messages_and_strings_earn_the_same():
    messages = [[{"role": "assistant", "content": tagged("7")}]]
    for reward in (correctness, accuracy, last_integer):
        assert reward(messages, ["7"]) == reward([tagged("7")], ["7"])


def test_any_entry_of_a_list_of_answers_is_right():
    texts = [tagged("7"), tagged("seven"), tagged("8"), tagged("7 seven")]
    assert correctness(texts, [["7", "Seven"]] * 4) == [2.0, 2.0, 0.0, 0.0]
    assert accuracy(texts, [np.array(["seven", "7"], dtype=object)] * 4) == [1.0, 1.0, 0.0, 0.0]
    assert last_integer(["it is 7", "it is 8", "9"], [[7, "8", "none"]] * 3) == [1.0, 1.0, 0.0]
    assert correctness([tagged("7")], [[]]) == [None]


def test_truth_values_are_answers():
    assert correctness([tagged("True"), tagged("false"), tagged("1")], [True, False, True]) == [2.0, 2.0, 0.0]


def test_numbers_of_every_type_are_compared_by_their_digits():
    references = [np.float32(0.1), np.float16(0.1), Decimal("1E-1"), 0.1]
    assert correctness([tagged("0.1")] * 4, references) == [2.0] * 4
    assert correctness([tagged("1000")], [Decimal("1E+3")]) == [2.0]
