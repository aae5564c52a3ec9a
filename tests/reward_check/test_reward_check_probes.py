"""What the check tries: texts written for real rows."""

from __future__ import annotations

from typing import Any

import pytest
from reward_checks import PLAIN, TAGS, checked, found, marked, sums

from grpo.reward_check import make_probes
from grpo.reward_check.answers import could_be_right
from grpo.reward_check.texts import ODD_ANSWERS, ODD_NUMBERS
from grpo.types import Prompt


def test_probes_use_the_rows_own_columns():
    rows = sums(4, rejected="I will not say.", solution="The number follows from the sum.")
    probes = {probe.name: [each.text for each in probe.texts] for probe in make_probes(rows, TAGS, "answer")}
    assert probes["reference"][0] == (
        f"<reasoning>The number follows from the sum.</reasoning>\n<answer>{rows[0].columns['answer']}</answer>"
    )
    assert "I will not say." in probes["rejected"][0]
    assert probes["prompt echoed"] == [row.raw for row in rows]
    listed = probes["numbers listed"][0].split()
    for row, other in zip(rows, probes["other answer"], strict=True):
        assert row.columns["answer"] in listed[1:-1]
        assert marked(other) != row.columns["answer"]
    assert len(probes["very long text"][0]) == 20_000


def test_answers_in_words_are_listed_in_words():
    rows = [Prompt(place, "Is it?", "Is it?", (1,), {"answer": word}) for place, word in enumerate(["yes", "no"] * 3)]
    probes = {probe.name: [each.text for each in probe.texts] for probe in make_probes(rows, PLAIN, "answer")}
    assert probes["answers listed"][:2] == ["no or yes or no", "yes or no or yes"]
    assert probes["other answer"][0] == "no"

    def finds_the_word(completions, answer):
        return [float(right in text) for text, right in zip(completions, answer, strict=True)]

    finding = found(checked(finds_the_word, rows=rows, answer_format=PLAIN), "not-told-apart")
    assert finding.probes == ("answers listed",)


def test_rewards_of_programs_are_tried_with_programs_that_get_round_their_tests():
    rows = [
        Prompt(place, f"Add {place}.", f"Add {place}.", (1,), {"tests": [f"assert add({place}) == 1"], "answer": "x"})
        for place in range(2)
    ]
    probes = {probe.name: [each.text for each in probe.texts] for probe in make_probes(rows, PLAIN, "answer")}
    names: dict[str, Any] = {}
    exec(probes["program that agrees"][0].removeprefix("```python").removesuffix("```"), names)
    assert names["add"](0) == 1
    assert names["solution"] == 12
    assert "_exit(0)" in probes["program that leaves"][0]


def test_rewards_that_see_chat_messages_are_checked_with_chat_messages():
    rows = [
        Prompt(row.row, ({"role": "user", "content": row.raw},), row.text, row.token_ids, row.columns) for row in sums()
    ]

    def compares(prompts, completions, answer):
        assert all(prompt[-1]["role"] == "user" for prompt in prompts)
        return [1.0 * (marked(one[-1]["content"]) == right) for one, right in zip(completions, answer, strict=True)]

    report = checked(compares, rows=rows)
    assert report.passed, report.problems
    assert {probe.name: probe.example for probe in report.probes}["prompt echoed"] == rows[0].raw[0]["content"]


def test_rewards_that_look_at_token_ids_get_those_of_the_text():
    def counts_tokens(completion_ids, completions):
        assert [len(ids) for ids in completion_ids] == [len(text.split()) for text in completions]
        return [float(len(ids) % 7) for ids in completion_ids]

    report = checked(counts_tokens, encode=lambda text: list(range(len(text.split()))))
    assert report.rewards[0].failures == {}


def test_rows_without_a_right_answer_are_left_out_where_others_have_one():
    rows = [*sums(3), Prompt(9, "Why?", "Why?", (1,), {"answer": None})]
    report = checked("correctness", rows=rows)
    assert report.rows == 3
    assert report.passed


@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_odd_answer_is_tried_on_four_rows_or_on_all(count):
    rows = [Prompt(place, "How many?", "", (1,), {"answer": str(40 + place)}) for place in range(count)]
    probes = {probe.name: probe for probe in make_probes(rows, TAGS, "answer")}
    for name, labels in (
        ("odd numbers", ODD_NUMBERS),
        ("odd numbers, in format", ODD_NUMBERS),
        ("odd Unicode, in format", ODD_ANSWERS),
    ):
        tried = [each.label for each in probes[name].texts]
        assert {label: tried.count(label) for label in labels} == dict.fromkeys(labels, min(count, 4))


def test_an_odd_answer_is_not_tried_where_it_is_the_right_one():
    rows = [Prompt(place, "How many?", "", (1,), {"answer": str(place)}) for place in range(40)]
    held = {
        "²": {2},
        "½": set(),
        "٣": {3},
        "\u202e21": {12, 21},
        "一二": {1, 2, 12, 21},
        "𝟙𝟚": {12, 21},
        "nan": set(),
        "1/0": {0, 1},
        "--5": {5},
        "0x1F": {0, 1, 31},
        "1_0": {0, 1, 10},
        "1,2,3": {1, 2, 3},
        "1e-999": {0, 1},
    }
    for text, answers in held.items():
        assert {row.row for row in rows if could_be_right(text, row.columns["answer"])} == answers, text
    for probe in make_probes(rows, PLAIN, "answer"):
        if probe.name == "odd numbers":
            assert not any(could_be_right(each.text, rows[each.row].columns["answer"]) for each in probe.texts)


def test_junk_that_holds_the_right_answer_by_accident_does_not_count():
    rows = [
        Prompt(place, text, text, (1,), {"answer": str(place)})
        for place, text in enumerate(["Add 5 and -5.", "What is 0 + 1?"])
    ]
    probes = {probe.name: probe for probe in make_probes(rows, PLAIN, "answer")}
    assert [each.counts for each in probes["prompt echoed"].texts] == [True, False]
    assert all(each.counts for each in probes["numbers listed"].texts)
    assert all(each.counts for each in probes["very long text"].texts)


def test_where_all_rows_have_one_answer_there_is_no_other_one_to_give():
    rows = [Prompt(place, "Is it?", "Is it?", (1,), {"answer": "yes"}) for place in range(3)]
    assert not {"other answer", "answers listed"} & {probe.name for probe in make_probes(rows, PLAIN, "answer")}


def test_a_program_is_not_given_to_a_row_whose_tests_it_may_pass():
    names = ["double", "double", "halve"]
    rows = [
        Prompt(
            place, "Write it.", "", (1,), {"tests": f"assert {name}({place}) == 1", "answer": f"def {name}: {place}"}
        )
        for place, name in enumerate(names)
    ]
    probes = {probe.name: [each.text for each in probe.texts] for probe in make_probes(rows, PLAIN, "answer")}
    assert [text.split()[1] for text in probes["other answer"]] == ["halve:", "halve:", "double:"]


def test_junk_is_no_longer_than_what_a_policy_can_write():
    rows = sums(4)
    long = ("repeated text", "very long text", "format repeated")
    for answer_format in (TAGS, PLAIN):
        for probe in make_probes(rows, answer_format, "answer", max_characters=400):
            if probe.name.removesuffix(", in format") in long:
                assert all(250 < len(each.text) <= 400 for each in probe.texts), probe.name
