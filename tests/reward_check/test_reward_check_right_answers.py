"""A reward is not called wrong where no right answer was tried; the check says so instead, and what to do."""

from __future__ import annotations

import pytest
from reward_checks import PLAIN, TAGS, checked, found, marked, sampled, sums

from grpo.cli.check_text import report_text
from grpo.reward_check.answers import accepted_texts, is_unmistakable, places_of_other_answers
from grpo.types import Group, Prompt

TEXTS = (
    "Photosynthesis turns light into chemical energy, in the chloroplasts of plant cells.",
    "The French Revolution began in 1789 because of debts, hunger and old privileges.",
    "Inflation lowers the value of money, so that most prices rise over the years.",
)
LISTS = (["2", "3", "5"], ["2", "3"], ["5", "7"])
PROGRAMS = ("def f(x):\n    return x + 1", "def g(x):\n    return x + 2")


def rows_of(*columns):
    return [Prompt(place, f"Question {place}?", "", (1,), dict(each)) for place, each in enumerate(columns)]


def answers(*values):
    return rows_of(*({"answer": value} for value in values))


def programs(*texts, **columns):
    names = ("f", "g")
    return rows_of(
        *(
            {"tests": [f"assert {name}(1) == {place + 2}"], **({"answer": text} if text else {}), **columns}
            for place, (name, text) in enumerate(zip(names, texts, strict=True))
        )
    )


def repeats_it(completions, answer):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def wants_a_summary(completions, answer):
    return [
        float("In short:" in text and len(text) < len(right)) for text, right in zip(completions, answer, strict=True)
    ]


def wants_keywords(completions, keywords):
    return [float(all(word in text for word in each)) for text, each in zip(completions, keywords, strict=True)]


def gives_none_without_keywords(completions, keywords):
    return [
        1.0 if all(word in text for word in each) else None for text, each in zip(completions, keywords, strict=True)
    ]


def wants_one(completions, answer):
    return [float(text in right) for text, right in zip(completions, answer, strict=True)]


def wants_the_last(completions, answer):
    return [float(text == right[-1]) for text, right in zip(completions, answer, strict=True)]


def wants_all(completions, answer):
    given = [{part.strip() for part in text.split(",")} for text in completions]
    return [float(parts == set(right)) for parts, right in zip(given, answer, strict=True)]


def wants_all_marked(completions, answer):
    return wants_all([marked(text) for text in completions], answer)


def wants_a_box(completions, answer):
    return [float(f"\\boxed{{{right}}}" in text) for text, right in zip(completions, answer, strict=True)]


def compares_text_with_a_number(completions, answer):
    return [float(text == int(right)) for text, right in zip(completions, answer, strict=True)]


def takes_every_form(completions, answer):
    return [float("<answer>" in text and bool(marked(text))) for text in completions]


def pays_for_the_opposite(completions, answer):
    return [-float(text in right) for text, right in zip(completions, answer, strict=True)]


@pytest.mark.parametrize(
    ("rewards", "rows", "answer_format"),
    [
        ([repeats_it], answers(*TEXTS), PLAIN),
        (["correctness", "strict_format"], answers(*TEXTS), TAGS),
        ([wants_one], answers(*LISTS), PLAIN),
        ([wants_the_last], answers(*LISTS), PLAIN),
        ([wants_all], answers(*LISTS), PLAIN),
        ([wants_all_marked, "strict_format"], answers(*LISTS), TAGS),
        (["last_integer"], answers(["4.5", "4"], ["7.5", "7"]), PLAIN),
        (["correctness"], answers(["4", "four"], ["5", "five"], ["four", "4"]), TAGS),
        (["unit_tests"], programs(*PROGRAMS), PLAIN),
    ],
)
def test_a_right_answer_is_found_among_its_forms(rewards, rows, answer_format):
    report = checked(*rewards, rows=rows, answer_format=answer_format)
    assert report.findings == ()
    assert report.has_right_answers and (report.untried_rows, report.unasked_rows) == (0, 0)
    assert report.probes[0].rows_at_least == 1.0
    assert report_text(report).endswith("no junk earns as much as the right answer")


@pytest.mark.parametrize(
    ("rewards", "rows", "answer_format", "advice"),
    [
        ([wants_a_summary], answers(*TEXTS), PLAIN, f"as {TEXTS[0]!r}; put a text that they accept into the column"),
        ([wants_a_summary, "strict_format"], answers(*TEXTS), TAGS, "Compare what the rewards expect"),
        ([wants_a_box], answers(*LISTS), TAGS, "Compare what the rewards expect"),
        (["unit_tests"], programs("return x + 1", "return x + 2"), PLAIN, "Compare what the rewards expect"),
        (["unit_tests"], programs(None, None), PLAIN, "Give rows a right answer in the column answer"),
        ([wants_keywords], rows_of({"keywords": ["sun"]}, {"keywords": ["king"]}), PLAIN, "Give rows a right answer"),
        ([gives_none_without_keywords], rows_of({"keywords": ["sun"]}), PLAIN, "or name the column by answer_column"),
    ],
)
def test_a_reward_that_no_text_pleases_is_not_called_wrong(rewards, rows, answer_format, advice):
    report = checked(*rewards, rows=rows, answer_format=answer_format)
    assert report.passed and not report.has_right_answers
    finding = found(report, "no-right-answer")
    assert finding.severity == "warning"
    assert finding.rewards == (report.rewards[0].name,)
    given = "no number" if rewards == [gives_none_without_keywords] else "0"
    assert finding.message == (
        f"no right answer was tried, so it is unknown whether reward {report.rewards[0].name!r} recognises one; "
        f"it gave {given} to every text"
    )
    assert advice in finding.advice
    assert "passed: no reward is broken, but no right answer was tried, " in report_text(report)


def test_rows_without_a_recognised_answer_are_compared_with_nothing_and_counted():
    rows = [*sums(4), *answers("12\n13", ["14 apples", "15 apples"])]

    def wants_numbers(completions, answer):
        pairs = zip(map(marked, completions), map(str, answer), strict=True)
        return [float(given == right and right.isdigit()) for given, right in pairs]

    report = checked(wants_numbers, rows=[row for row in rows if not str(row.columns["answer"]).startswith("-")])
    assert report.passed, report.problems
    assert (report.untried_rows, report.rows) == (2, report.rows)
    finding = found(report, "no-right-answer")
    assert finding.message.startswith(f"no right answer was tried in 2 of {report.rows} rows, so junk is compared with")
    comparison = next(probe for probe in report.probes if probe.name == "empty").comparisons[0]
    assert (comparison.rows, comparison.level) == (report.rows - 2, 0)


def test_a_form_that_nothing_asks_for_is_named():
    report = checked(wants_a_box, answer_format=PLAIN)
    assert report.passed, report.problems
    finding = found(report, "form-not-asked-for")
    box = "\\boxed{" + sums()[0].columns["answer"] + "}"
    assert finding.message == (
        f"in 16 of 16 rows the rewards recognise a right answer only in a form that the answer format does not ask "
        f"for, as in {box!r}"
    )
    assert report.probes[0].total.mean == 1.0


@pytest.mark.parametrize(
    ("reward", "rows", "answer_format", "code"),
    [
        (wants_a_box, sums(), TAGS, "constant"),
        (takes_every_form, answers(*TEXTS), TAGS, "not-told-apart"),
        (pays_for_the_opposite, answers(*LISTS), PLAIN, "hackable"),
        (compares_text_with_a_number, sums(), PLAIN, "constant"),
    ],
)
def test_a_wrong_reward_is_still_found(reward, rows, answer_format, code):
    report = checked(reward, rows=rows, answer_format=answer_format)
    assert code in [finding.code for finding in report.problems]


def test_without_a_recognised_answer_junk_is_compared_with_the_best_of_the_model():
    groups, texts = sampled([[0.0, 1.0], [0.5, 1.0]])
    rows = answers(*TEXTS[:2])
    groups = [Group(row, group.rollouts) for row, group in zip(rows, groups, strict=True)]

    def likes_length(completions):
        return [len(text) / 100 for text in completions]

    report = checked(likes_length, wants_a_summary, rows=rows, answer_format=PLAIN, groups=groups, texts=texts)
    assert report.passed and "very long text" in found(report, "junk-pays").probes
    assert found(report, "no-right-answer").rewards == ("wants_a_summary",)


def test_the_answer_to_another_row_is_wrong_only_if_this_row_accepts_it_nowhere():
    rows = answers(["4", "four"], ["four", "4"], ["5"])
    accepted = [accepted_texts(row, "answer") for row in rows]
    assert accepted == [("4", "four"), ("four", "4"), ("5",)]
    assert places_of_other_answers(rows, accepted) == [2, 2, 0]
    assert [is_unmistakable(row, texts) for row, texts in zip(rows, accepted, strict=True)] == [False, False, True]


def test_counts_have_a_singular():
    def pays_for_the_question(prompts, completions, answer):
        return [float(text == prompt) for prompt, text in zip(prompts, completions, strict=True)]

    rows = answers(LISTS[0])
    report = checked(pays_for_the_question, rows=rows, answer_format=PLAIN, repeats=1)
    assert "no right answer was tried in 1 of 1 row, so" in found(report, "no-right-answer").message
    assert "over 1 row; right answers" in report_text(report)
    assert "called 1 time " in report_text(report)
    groups, texts = sampled([[0.0, 0.0]])
    report = checked("correctness", rows=sums(1), groups=groups, texts=texts)
    assert found(report, "little-spread").message == "the rewards differ in 0 of 1 sampled group of 2"
    assert "in 0 of 1 sampled group of 2" in report_text(report)
