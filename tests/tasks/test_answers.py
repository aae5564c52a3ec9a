"""Verification of answers: correct ones, wrong ones, and formats."""

from __future__ import annotations

import pytest

from grpo.errors import ConfigError, DataError
from grpo.tasks.answers import (
    FORMATS,
    AnswerFormat,
    find_format,
    gsm8k_reference,
    last_integer,
    last_number,
    normalise_number,
    same_answer,
    verify,
)
from grpo.types import Verdict

TAGS, THINK, PLAIN = FORMATS["answer_tags"], FORMATS["think_tags"], FORMATS["plain"]
GOOD = "<reasoning>2 + 3 = 5</reasoning><answer>5</answer>"


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        (GOOD, True, True),
        ("<reasoning>\n2 + 3\n= 5\n</reasoning>\n<answer>\n5\n</answer>\n", True, True),
        (f"  {GOOD}\n\n", True, True),
        (f"Sure! {GOOD}", False, True),
        (f"{GOOD} Done.", False, True),
        (f"{GOOD}.", False, True),
        (f"{GOOD}5", False, True),
        (f'"{GOOD}', False, True),
        ("<reasoning>a</reasoning>,<answer>5</answer>", False, True),
        ("<reasoning>a</reasoning> so <answer>5</answer>", False, True),
        (f"{GOOD}<answer>5</answer>", False, True),
        (f"{GOOD}{GOOD}", False, True),
        ("<reasoning>a</reasoning><answer>4</answer><answer>5</answer>", False, True),
        ("<reasoning>a <answer>5</answer></reasoning><answer>5</answer>", False, True),
        ("<reasoning>a <answer>5</answer></reasoning>", False, False),
        ("<reasoning>a <answer></reasoning>5</answer>", False, False),
        ("<answer>5</answer><reasoning>a</reasoning>", False, False),
        ("<reasoning>a</reasoning><answer></answer>", False, True),
        ("<reasoning>a</reasoning><answer> \n</answer>", False, True),
        ("<reasoning></reasoning><answer>5</answer>", False, True),
        ("<reasoning>a</reasoning><answer>5", False, False),
        ("<answer>5</answer>", False, False),
        ("</reasoning><reasoning><answer>5</answer>", False, False),
        ("5", False, False),
        ("", False, False),
    ],
)
def test_the_answer_tags_are_strict_only_when_nothing_else_stands_there(text: str, strict: bool, soft: bool) -> None:
    assert (TAGS.is_strict(text), TAGS.is_soft(text)) == (strict, soft)


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        ("<think>2 + 3</think>5", True, True),
        ("\n<think>\n2 + 3\n</think>\n\nThe answer is 5.", True, True),
        ("<think>2 + 3</think>", False, False),
        ("<think>2 + 3</think> \n", False, False),
        ("<think></think>5", False, True),
        ("well <think>2</think>5", False, True),
        ("<think>a</think>4<think>b</think>5", False, True),
        ("<think>2 + 3 = 5", False, False),
        ("2 + 3</think>5", False, False),
        ("5", False, False),
    ],
)
def test_the_think_format_needs_one_thought_and_a_rest(text: str, strict: bool, soft: bool) -> None:
    assert (THINK.is_strict(text), THINK.is_soft(text)) == (strict, soft)


def test_every_text_that_is_not_empty_is_in_the_plain_format() -> None:
    assert PLAIN.is_strict("anything") and PLAIN.is_soft("anything")
    assert not PLAIN.is_strict(" \n") and not PLAIN.is_soft("")


@pytest.mark.parametrize(
    ("answer_format", "text", "answer"),
    [
        (TAGS, GOOD, "5"),
        (TAGS, "<answer> 4 </answer><answer>\n5\n</answer>", "5"),
        (TAGS, "so <answer>5", "5"),
        (TAGS, "<answer>5 apples</answer>", "5 apples"),
        (TAGS, "<answer> </answer>", None),
        (TAGS, "5</answer>", None),
        (TAGS, "5", None),
        (THINK, "<think>2 + 3</think>\n5", "5"),
        (THINK, "</think>4</think> 5", "5"),
        (THINK, "<think>2 + 3", None),
        (THINK, "<think>2 + 3</think> ", None),
        (PLAIN, "2 + 3 = 5.", "5"),
        (PLAIN, "none", None),
    ],
)
def test_the_marked_answer_is_read_leniently(answer_format: AnswerFormat, text: str, answer: str | None) -> None:
    assert answer_format.extract(text) == answer


def test_a_format_knows_its_tags_in_order() -> None:
    assert TAGS.tags == ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    assert THINK.tags == ("<think>", "</think>")
    assert PLAIN.tags == ()


def test_the_system_prompts_are_those_of_the_tagged_formats() -> None:
    assert TAGS.system_prompt == "Respond in the following format: <reasoning>...</reasoning><answer>...</answer>"
    assert THINK.system_prompt == "Respond in the following format: <think>...</think> followed by the answer."
    assert PLAIN.system_prompt is None


def test_an_unknown_format_is_refused_with_those_that_exist() -> None:
    assert find_format("plain") is PLAIN
    with pytest.raises(ConfigError, match=r"no answer format named 'xml'.*answer_tags.*plain.*think_tags"):
        find_format("xml")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,234.00", "1234"),
        ("1,234,567", "1234567"),
        ("18.", "18"),
        ("18.50", "18.5"),
        ("50%", "50"),
        (" 50 %. ", "50"),
        ("-4", "-4"),
        ("−4", "-4"),
        ("–4", "-4"),
        ("- 4", "-4"),
        ("+4", "4"),
        ("-$4", "-4"),
        ("$-4", "-4"),
        ("€5", "5"),
        ("007", "7"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("0", "0"),
        ("1/2", None),
        ("1,23", None),
        ("1 234", None),
        ("1e5", None),
        ("5 apples", None),
        ("3 - 7", None),
        ("--4", None),
        ("-$-4", None),
        ("", None),
        (".", None),
        ("-", None),
        ("1.2.3", None),
        ("four", None),
    ],
)
def test_a_text_that_is_one_number_is_normalised(text: str, number: str | None) -> None:
    assert normalise_number(text) == number


@pytest.mark.parametrize(
    ("text", "number", "integer"),
    [
        ("3-7", "7", 7),
        ("3 - 7 = -4", "-4", -4),
        ("3 - 7 = −4.", "-4", -4),
        ("3 -7", "7", 7),
        ("(3)-7", "7", 7),
        ("x-7", "7", 7),
        ("(-7)", "-7", -7),
        ("answer:-7", "-7", -7),
        ("3 + -7", "-7", -7),
        ("- 4", "4", 4),
        ("it is $-4", "-4", -4),
        ("it is -$4", "-4", -4),
        ("a total of $1,250.50.", "1250.5", None),
        ("1, 2, 3", "3", 3),
        ("1,2,3", "3", 3),
        ("2 or 3.5", "3.5", 2),
        ("costs 18.00 dollars", "18", 18),
        ("12,345 people", "12345", 12345),
        ("10/2 = 5", "5", 5),
        ("5%", "5", 5),
        ("#### 42", "42", 42),
        ("no number", None, None),
        ("", None, None),
    ],
)
def test_the_last_number_and_the_last_integer_of_a_text_are_read(
    text: str, number: str | None, integer: int | None
) -> None:
    assert last_number(text) == number
    assert last_integer(text) == integer


def test_a_number_too_long_for_python_is_no_integer() -> None:
    digits = "9" * 5000
    assert last_integer(f"7 {digits}") == 7
    assert last_number(digits) == digits
    assert not same_answer(digits, "9")


@pytest.mark.parametrize(
    ("given", "reference", "same"),
    [
        ("5", "5", True),
        ("$5.00", "5", True),
        ("1,234", "1234", True),
        ("5", "5.0", True),
        ("5 apples", "5", False),
        ("5", "5 apples", False),
        ("0.5", "1/2", False),
        ("1/2", "1/2", True),
        (" new   YORK\n", "New York", True),
        ("STRASSE", "straße", True),
        ("York", "New York", False),
        ("", "", False),
        (None, "5", False),
    ],
)
def test_answers_are_the_same_by_value_or_by_words(given: str | None, reference: str, same: bool) -> None:
    assert same_answer(given, reference) is same


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (GOOD, Verdict(strict=True, lenient=True, well_formed=True, answer="5")),
        (GOOD.replace("r>5", "r>6"), Verdict(strict=False, lenient=False, well_formed=True, answer="6")),
        (GOOD.replace("r>5", "r>5 apples"), Verdict(strict=False, lenient=True, well_formed=True, answer="5")),
        (GOOD.replace("r>5", "r>five"), Verdict(strict=False, lenient=False, well_formed=True, answer="five")),
        (f"Sure. {GOOD}", Verdict(strict=False, lenient=True, well_formed=False, answer="5")),
        (f"{GOOD}{GOOD}", Verdict(strict=False, lenient=True, well_formed=False, answer="5")),
        (f"{GOOD}<answer>6</answer>", Verdict(strict=False, lenient=False, well_formed=False, answer="6")),
        ("2 + 3 = 5", Verdict(strict=False, lenient=True, well_formed=False, answer="5")),
        ("<answer></answer> 5", Verdict(strict=False, lenient=True, well_formed=False, answer="5")),
        ("no idea", Verdict(strict=False, lenient=False, well_formed=False, answer=None)),
        ("", Verdict(strict=False, lenient=False, well_formed=False, answer=None)),
    ],
)
def test_a_tagged_number_is_judged_strictly_and_leniently(text: str, verdict: Verdict) -> None:
    assert verify(text, "5", answer_format=TAGS) == verdict


def test_listing_answers_is_never_strictly_right() -> None:
    listing = "".join(f"<answer>{number}</answer>" for number in range(10))
    assert not verify(f"<reasoning>a</reasoning>{listing}", "9", answer_format=TAGS).strict
    inside = "<reasoning>a</reasoning><answer>1 2 3 4 5</answer>"
    assert not verify(inside, "5", answer_format=TAGS).strict
    assert not verify("<think>a</think>1 2 3 4 5", "5", answer_format=THINK).strict


def test_after_a_thought_the_answer_must_stand_alone_to_be_strictly_right() -> None:
    assert verify("<think>2 + 3</think>\n5", "5", answer_format=THINK).strict
    sentence = verify("<think>2 + 3</think>It is 5.", "5", answer_format=THINK)
    assert sentence == Verdict(strict=False, lenient=True, well_formed=True, answer="5")


def test_plain_text_is_judged_by_its_last_number() -> None:
    assert verify("2 + 3 = 5", "5", answer_format=PLAIN) == Verdict(True, True, True, "5")
    assert verify("5 is not 6", "5", answer_format=PLAIN) == Verdict(False, False, True, "6")
    assert verify("none", "5", answer_format=PLAIN) == Verdict(False, False, True, None)


@pytest.mark.parametrize(
    ("answer_format", "text", "strict", "lenient"),
    [
        (TAGS, "<reasoning>a</reasoning><answer>paris</answer>", True, True),
        (TAGS, "<reasoning>a</reasoning><answer>It is Paris</answer>", False, False),
        (TAGS, "The capital is Paris.", False, True),
        (TAGS, "The capital is comparis.", False, False),
        (PLAIN, " Paris\n", True, True),
        (PLAIN, "It is **Paris**.", False, True),
        (PLAIN, "Paris or London", False, False),
        (PLAIN, "", False, False),
    ],
)
def test_answers_in_words_are_judged_too(answer_format: AnswerFormat, text: str, strict: bool, lenient: bool) -> None:
    verdict = verify(text, "Paris", answer_format=answer_format)
    assert (verdict.strict, verdict.lenient) == (strict, lenient)


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("New York", True),
        ("I live in new   YORK!", True),
        ("It is 'New York'...", True),
        ("the answer:New York", True),
        ("I live in York", False),
        ("We renew York", False),
        ("9New York", False),
        ("New York City", False),
        ("?", False),
        ("", False),
    ],
)
def test_the_last_words_of_a_text_may_be_the_answer(text: str, lenient: bool) -> None:
    assert verify(text, "New York", answer_format=PLAIN).lenient is lenient
    # A reference of punctuation alone has no words that could be the last ones.
    assert not verify(f"{text} so", "?!", answer_format=PLAIN).lenient


@pytest.mark.parametrize(
    "text",
    [
        "1," * 300_000,
        "<reasoning>" * 50_000,
        "<answer>" * 50_000 + "</answer>" * 50_000,
        "-" * 500_000,
        "-" + " " * 500_000 + "x",
        "1" + " " * 500_000 + "x",
        "1,234" * 100_000 + "x",
    ],
)
def test_a_very_long_text_is_judged_without_backtracking(text: str) -> None:
    # A pattern that backtracks would need hours here, and run into the suite's own time limit.
    for answer_format in FORMATS.values():
        assert not verify(text, "5", answer_format=answer_format).strict
    assert normalise_number(text) is None


def test_the_reference_of_a_gsm8k_answer_follows_the_hashes() -> None:
    assert gsm8k_reference("He pays 6 * 7 = <<6*7=42>>42.\n#### 42") == "42"
    assert gsm8k_reference("#### $1,234.0") == "1234"
    assert gsm8k_reference("#### -3 ") == "-3"


@pytest.mark.parametrize("answer", ["42", "", "####", "#### forty", "#### 42\nor 43"])
def test_a_gsm8k_answer_without_a_reference_is_refused(answer: str) -> None:
    with pytest.raises(DataError, match="no reference answer in"):
        gsm8k_reference(answer)
