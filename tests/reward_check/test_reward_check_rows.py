"""Junk is compared with the right answer row by row, so that junk which pays on some rows only is found."""

from __future__ import annotations

import ast
import re

import pytest
from reward_checks import PLAIN, TAGS, checked, found, marked, rightness, sampled, sums

from grpo.types import Prompt


def is_close(given, right):
    try:
        return 2.0 * (not abs(float(given) - float(right)) > 0.5)
    except ValueError:
        return 0.0


def likes_infinity(given, right):
    return 3.0 if given == "inf" else 2.0 * (given == right)


def likes_a_half(given, right):
    return 2.5 if given == "½" else 2.0 * (given == right)


def by_answer(compare):
    """Return a reward that compares the marked answers of completions with the right ones."""

    def reward(completions, answer):
        return [compare(marked(text), right) for text, right in zip(completions, answer, strict=True)]

    return reward


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize(
    ("compare", "code", "probe", "said"),
    [
        (is_close, "not-told-apart", "odd numbers, in format", "2 (right: 2) for 'nan'"),
        (likes_infinity, "hackable", "odd numbers, in format", "3 (right: 2) for 'inf'"),
        (likes_a_half, "hackable", "odd Unicode, in format", "2.5 (right: 2) for '½'"),
    ],
)
def test_one_odd_answer_that_pays_is_found_and_named(compare, code, probe, said, rows):
    report = checked(by_answer(compare), rows=sums(rows))
    finding = found(report, code)
    assert finding.severity == "problem"
    assert probe in finding.probes
    assert f"{probe} {said}" in finding.message
    assert [each.code for each in report.problems] == [code]


def test_one_odd_answer_that_raises_does_not_hide_another_that_pays():
    def raises_on_some(given, right):
        return 3.0 if given == "inf" else 2.0 * (float(given or "-99") == float(right))

    report = checked(by_answer(raises_on_some))
    assert "odd numbers, in format" in found(report, "fails").probes
    assert "3 (right: 2) for 'inf'" in found(report, "hackable").message


def test_junk_that_pays_on_one_row_is_found_with_its_row():
    rows = sums(16)

    def knows_one_prompt(completions, answer):
        right = rightness(completions, answer)
        return [1.0 if text == rows[5].raw else one for text, one in zip(completions, right, strict=True)]

    finding = found(checked(knows_one_prompt, rows=rows), "not-told-apart")
    assert finding.severity == "problem"
    assert finding.probes == ("prompt echoed",)
    assert f"in 1 of 13 rows, as for {rows[5].raw!r} in row {rows[5].row}" in finding.message


def test_an_answer_that_no_reward_recognises_is_found_beside_others_that_are():
    rows = [*sums(7), Prompt(99, "How many?", "How many?", (1,), {"answer": "7 apples"})]

    def wants_numbers(completions, answer):
        return [
            float(given == wanted.split()[0]) for given, wanted in zip(map(marked, completions), answer, strict=True)
        ]

    finding = found(checked(wants_numbers, rows=rows), "not-told-apart")
    assert "other answer" in finding.probes
    assert "in row 99" in finding.message


def test_a_reward_that_takes_an_odd_answer_for_right_is_named_even_if_another_makes_up_for_it():
    report = checked("correctness", by_answer(is_close))
    finding = found(report, "fooled")
    assert report.passed
    assert finding.rewards == ("reward",)
    assert "odd numbers, in format" in finding.probes


def reads_with(read):
    def compare(given, right):
        try:
            return float(read(given) == int(right))
        except (ValueError, SyntaxError, TypeError, IndexError):
            return 0.0

    return compare


@pytest.mark.parametrize(
    "read",
    [
        int,
        float,
        ast.literal_eval,
        lambda given: int(given, 0),
        lambda given: int(re.sub(r"[^0-9-]", "", given)),
        lambda given: int(re.findall(r"-?[0-9]+", given)[0]),
        lambda given: int(re.findall(r"-?[0-9]+", given)[-1]),
        lambda given: abs(int(re.findall(r"[0-9]+", given)[-1])),
    ],
    ids=["int", "float", "literal", "any base", "digits", "first number", "last number", "last number, unsigned"],
)
@pytest.mark.parametrize("answer_format", [TAGS, PLAIN])
def test_a_generous_reader_of_right_answers_passes(read, answer_format):
    rows = [
        Prompt(place, f"What is 0 + {place}?", "", (1,), {"answer": str(place), "number": place}) for place in range(32)
    ]
    compare = reads_with(read)

    def reward(completions, answer):
        given = [marked(text) if answer_format is TAGS else text for text in completions]
        return [compare(one, right) for one, right in zip(given, answer, strict=True)]

    report = checked(reward, rows=rows, answer_format=answer_format)
    assert report.passed, report.problems


@pytest.mark.parametrize("words", [["yes", "no"], ["A", "B", "C", "D"], ["yes"]])
@pytest.mark.parametrize("reads", [str.startswith, str.endswith])
def test_a_generous_reader_of_words_passes(words, reads):
    rows = [
        Prompt(place, "Is it A, B, C or D? Yes or no", "", (1,), {"answer": words[place % len(words)]})
        for place in range(8)
    ]

    def reward(completions, answer):
        return [float(reads(text, right)) for text, right in zip(completions, answer, strict=True)]

    report = checked(reward, rows=rows, answer_format=PLAIN)
    assert report.passed, report.problems


def preferences(count):
    return [
        Prompt(place, f"What is fund {place}?", "", (1,), {"chosen": f"A fund, number {place}.", "rejected": "Buy it!"})
        for place in range(count)
    ]


@pytest.mark.parametrize(
    ("share", "code", "severity"), [(0.25, "pays-in-some-rows", "warning"), (0.75, "hackable", "problem")]
)
def test_what_pays_better_than_a_good_answer_is_a_problem_where_that_is_the_rule(share, code, severity):
    rows = preferences(16)

    def likes_orders_now_and_then(prompts, completions):
        places = [int(re.findall("[0-9]+", prompt)[0]) for prompt in prompts]
        return [
            1.0 * text.startswith("A fund") + 1.5 * (text == "Buy it!" and place < share * len(rows))
            for place, text in zip(places, completions, strict=True)
        ]

    report = checked(likes_orders_now_and_then, rows=rows, answer_format=PLAIN)
    finding = found(report, code)
    assert (finding.severity, finding.probes) == (severity, ("rejected",))
    assert f"in {int(share * 16)} of 16 rows, as for 'Buy it!'" in finding.message
    assert report.passed == (severity == "warning")


def test_an_odd_answer_that_always_pays_better_than_a_good_one_is_a_problem():
    def likes_infinity_best(completions):
        return [3.0 if text == "inf" else 2.0 * text.startswith("A fund") for text in completions]

    finding = found(checked(likes_infinity_best, rows=preferences(16), answer_format=PLAIN), "hackable")
    assert finding.severity == "problem"
    assert "for 'inf'" in finding.message


def test_an_odd_answer_that_pays_better_than_the_model_is_named():
    rows = [Prompt(row.row, row.raw, row.text, row.token_ids, {}) for row in sums()]
    groups, texts = sampled([[0.0, 1.0], [0.5, 1.0]])

    def likes_infinity_best(completions):
        return [3.0 if text == "inf" else float(text in ("1.0", "0.5")) for text in completions]

    finding = found(checked(likes_infinity_best, rows=rows, groups=groups, texts=texts), "junk-pays")
    assert finding.probes == ("odd numbers",)
    assert "3 for 'inf'" in finding.message


def test_a_preferred_answer_counts_as_reference_but_not_as_wrong_elsewhere():
    rows = preferences(4)

    def likes_funds(completions):
        return [2.0 * text.startswith("A fund") for text in completions]

    def likes_orders(completions):
        return [float(text.endswith("!")) for text in completions]

    report = checked(likes_funds, rows=rows, answer_format=PLAIN)
    assert report.passed and report.reference_column == "chosen"
    assert found(report, "not-told-apart").probes == ("other answer",)
    assert found(checked(likes_orders, rows=rows, answer_format=PLAIN), "hackable").probes == ("rejected",)
