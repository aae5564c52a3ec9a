"""Planted bugs are found, and sound rewards pass."""

from __future__ import annotations

import json
import random
import re

import pytest
from reward_checks import cannot_read_everything, checked, found, marked, pays_for_length, rightness, sampled, sums

from grpo.reward_check import check_rewards
from grpo.rewards import resolve_rewards
from grpo.tasks import find_format

# Planted bugs. Each is a mistake that people make.


def finds_the_answer_anywhere(completions, answer):
    return [2.0 * (right in text) for text, right in zip(completions, answer, strict=True)]


def takes_any_tagged_answer(completions, answer):
    given = [re.findall(r"<answer>(.*?)</answer>", text) for text in completions]
    return [2.0 * (right in answers) for answers, right in zip(given, answer, strict=True)]


def pays_for_every_tag(completions, answer):
    right = rightness(completions, answer)
    return [one + 0.25 * text.count("<answer>") for one, text in zip(right, completions, strict=True)]


def has_the_wrong_sign(completions, answer):
    return [-2.0 * right for right in rightness(completions, answer)]


def pays_for_the_form_alone(completions, answer):
    return [1.0 * ("<answer>" in text and bool(marked(text))) for text in completions]


def compares_text_with_a_number(completions, answer):
    return [1.0 * (marked(text) == int(right)) for text, right in zip(completions, answer, strict=True)]


def compares_the_answer_with_itself(completions, answer):
    return [1.0 * (right == wanted) for right, wanted in zip(answer, answer, strict=True)]


def reads_the_prompt(prompts, completions):
    return [float(len(prompt)) for prompt in prompts]


def looks_at_a_missing_column(completions, **columns):
    labels = columns.get("solution", [None] * len(completions))
    return [None if label is None else 1.0 for label in labels]


def trusts_isdigit(completions, answer):
    read = [int(marked(text)) if marked(text).isdigit() else None for text in completions]
    return [1.0 * (number == int(right)) for number, right in zip(read, answer, strict=True)]


def measures_a_distance(completions, answer):
    rewards = []
    for text, right in zip(completions, answer, strict=True):
        try:
            rewards.append(-abs(float(marked(text)) - float(right)))
        except ValueError:
            rewards.append(-100.0)
    return rewards


def drops_repetitions(completions, answer):
    return [1.0 * (marked(text) in answer) for text in dict.fromkeys(completions)]


def is_noisy(completions, answer):
    return [right + random.uniform(-0.8, 0.8) for right in rightness(completions, answer)]


def returns_them_sorted(completions, answer):
    return sorted(rightness(completions, answer), reverse=True)


def normalises_over_the_batch(completions, answer):
    lengths = [len(marked(text)) == len(right) for text, right in zip(completions, answer, strict=True)]
    right = rightness(completions, answer)
    return [one - 10 * sum(lengths) / len(completions) for one in right]


class RemembersWhatItSaw:
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, completions, answer):
        new = [0.5 * (text not in self.seen) for text in completions]
        self.seen |= set(completions)
        return list(map(sum, zip(new, rightness(completions, answer), strict=True)))


@pytest.mark.parametrize(
    ("reward", "code", "probe"),
    [
        (finds_the_answer_anywhere, "not-told-apart", "numbers listed, in format"),
        (takes_any_tagged_answer, "not-told-apart", "numbers listed, each in tags"),
        (pays_for_every_tag, "hackable", "format repeated"),
        (has_the_wrong_sign, "hackable", "other answer"),
        (pays_for_length, "hackable", "very long text"),
        (pays_for_the_form_alone, "not-told-apart", "other answer"),
        (compares_text_with_a_number, "constant", None),
        (compares_the_answer_with_itself, "constant", None),
        (reads_the_prompt, "ignores-completion", None),
        (looks_at_a_missing_column, "never-applies", None),
        (cannot_read_everything, "fails", "empty"),
        (trusts_isdigit, "fails", "odd Unicode, in format"),
        (measures_a_distance, "fails", "odd numbers, in format"),
        (drops_repetitions, "fails", "numbers listed"),
        (is_noisy, "not-repeatable", None),
        (returns_them_sorted, "depends-on-order", None),
        (normalises_over_the_batch, "depends-on-batch", None),
        (RemembersWhatItSaw(), "not-repeatable", None),
    ],
)
def test_a_planted_bug_is_found(reward, code, probe):
    report = checked(reward)
    finding = found(report, code)
    assert finding.severity == "problem"
    assert not report.passed
    assert probe is None or probe in finding.probes
    assert code in ("hackable", "not-told-apart") or finding.rewards == (report.rewards[0].name,)


def test_a_bug_is_found_beside_sound_rewards():
    report = checked("strict_format", "correctness", {"name": pays_for_length, "weight": 0.1})
    finding = found(report, "hackable")
    assert "very long text" in finding.probes
    assert "pays_for_length" in finding.rewards
    assert found(checked("strict_format", "correctness", compares_text_with_a_number), "constant").rewards == (
        "compares_text_with_a_number",
    )


def test_one_reward_that_is_fooled_is_named_even_if_another_makes_up_for_it():
    report = checked("correctness", finds_the_answer_anywhere)
    finding = found(report, "fooled")
    assert finding.severity == "warning"
    assert finding.rewards == ("finds_the_answer_anywhere",)
    assert "numbers listed" in finding.probes
    assert report.passed


@pytest.mark.parametrize(
    ("rewards", "answer_format"),
    [
        (["strict_format", "correctness"], "answer_tags"),
        (["xmlcount", "soft_format", "strict_format", "int", "correctness"], "answer_tags"),
        (["accuracy"], "answer_tags"),
        (["last_integer"], "plain"),
        (["accuracy"], "plain"),
        (["strict_format", "xmlcount", "correctness"], "think_tags"),
        ([{"name": "reasoning_length", "target": 12}, "correctness"], "answer_tags"),
    ],
)
def test_the_built_in_rewards_pass(rewards, answer_format):
    functions = resolve_rewards(rewards, defaults={"format": answer_format})
    report = check_rewards(functions, sums(), answer_format=find_format(answer_format))
    assert report.passed, report.problems
    assert report.probes[0].name == "reference"
    assert report.probes[0].rows_at_least == 1.0


def test_format_rewards_alone_get_a_warning_that_nothing_sees_the_answers():
    report = checked("strict_format")
    finding = found(report, "not-told-apart")
    assert finding.severity == "warning"
    assert "correctness" in finding.advice
    assert report.passed


def test_the_table_has_means_extremes_and_failures_of_every_probe():
    report = checked("correctness", cannot_read_everything)
    cells = {probe.name: probe.rewards for probe in report.probes}
    right = cells["reference"]["correctness"]
    assert (right.mean, right.lowest, right.highest, right.numbers, right.failed) == (2.0, 2.0, 2.0, 16, 0)
    assert cells["reference"]["cannot_read_everything"].mean == 1.0
    assert cells["empty"]["cannot_read_everything"].failed == 16
    assert cells["empty"]["cannot_read_everything"].mean is None
    assert cells["empty"]["correctness"].mean == 0.0
    totals = {probe.name: probe.total for probe in report.probes}
    assert totals["reference"].mean == 3.0
    assert totals["empty"].failed == 16


def test_a_negative_weight_is_named_as_the_cause():
    finding = found(checked("strict_format", {"name": "correctness", "weight": -1.0}), "hackable")
    assert "other answer" in finding.probes
    finding = found(checked({"name": "accuracy", "weight": -1.0}), "hackable")
    assert "other answer" in finding.probes
    assert "sign" in finding.advice


def test_the_report_goes_through_json_as_it_is():
    groups, texts = sampled([[0.0, 1.0]])
    report = checked("correctness", measures_a_distance, is_noisy, groups=groups, texts=texts)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["passed"] is False
    assert json.loads(text)["rows"] == 16


def test_the_same_check_gives_the_same_findings():
    first, second = checked("correctness", cannot_read_everything), checked("correctness", cannot_read_everything)
    assert first.probes == second.probes
    assert first.findings == second.findings


def shorter(completions, **_):
    return [1.0 - min(len(text), 200) / 200 for text in completions]


def longer_to_a_limit(completions, **_):
    return [min(len(text), 100) / 100 for text in completions]


def number_of_words(completions, **_):
    return [float(len(text.split())) for text in completions]


@pytest.mark.parametrize(
    ("reward", "code", "severity", "fix"),
    [
        (shorter, "hackable", "problem", "Give an empty text, or an empty answer, a reward of 0. "),
        (longer_to_a_limit, "not-told-apart", "warning", ""),
        (
            number_of_words,
            "hackable",
            "problem",
            "Put a limit on what length earns, and do not pay for the same words twice. ",
        ),
    ],
)
def test_the_advice_on_a_reward_by_length_is_about_length_and_a_reward_for_the_answer(reward, code, severity, fix):
    finding = found(checked(reward), code)
    assert finding.severity == severity
    assert finding.meaning.startswith("No reward reads the right answers")
    assert finding.advice.startswith(f"{fix}Add a reward that compares with the answer")


def compares(completions, **columns):
    right = columns["answer"]
    return [float("<answer>" in text) + (answer in text) for text, answer in zip(completions, right, strict=True)]


def test_a_reward_that_reads_the_answers_among_all_columns_is_seen_to_read_them():
    assert not any("No reward reads" in finding.meaning for finding in checked(compares).findings)
