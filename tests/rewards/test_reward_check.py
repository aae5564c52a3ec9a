from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from grpo.errors import ConfigError
from grpo.groups import groups_with_spread
from grpo.rewards import RewardSuite, SequenceClassifierReward, resolve_rewards
from grpo.rewards.check import CheckReport, Finding, check_rewards, make_probes
from grpo.tasks import arithmetic_task, find_format
from grpo.types import Group, Prompt, Rollout

TAGS = find_format("answer_tags")
PLAIN = find_format("plain")


def sums(count: int = 16, **columns: Any) -> list[Prompt]:
    """Return the prompts of real rows."""
    task = arithmetic_task(train_size=count, eval_size=0, max_operand=12, operators="+-", answer_format=TAGS, seed=0)
    return [Prompt(row.number, row.prompt, str(row.prompt), (1, 2), {**row.columns, **columns}) for row in task.train]


def checked(*rewards: Any, rows: Sequence[Prompt] | None = None, **options: Any) -> CheckReport:
    settings = {"answer_format": TAGS, **options}
    return check_rewards(resolve_rewards(list(rewards)), sums() if rows is None else rows, **settings)


def found(report: CheckReport, code: str) -> Finding:
    matching = [finding for finding in report.findings if finding.code == code]
    assert matching, [finding.code for finding in report.findings]
    return matching[0]


def marked(text: str) -> str:
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()


def rightness(completions, answer):
    return [1.0 * (marked(text) == right) for text, right in zip(completions, answer, strict=True)]


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


def pays_for_length(completions):
    return [len(text) / 100 for text in completions]


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


def cannot_read_everything(completions, answer):
    return [1.0 * (int(marked(text)) == int(right)) for text, right in zip(completions, answer, strict=True)]


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


def test_one_text_that_raises_does_not_hide_what_the_others_earn():
    def chokes_on_long_texts(completions, answer):
        if any(len(text) > 10_000 for text in completions):
            raise MemoryError("too long")
        return rightness(completions, answer)

    report = checked(chokes_on_long_texts)
    finding = found(report, "fails")
    assert "very long text" in finding.probes
    assert "MemoryError: too long" in finding.message
    cells = {probe.name: probe.total for probe in report.probes}
    assert cells["reference"].mean == 1.0
    assert cells["empty"].mean == 0.0
    assert report.rewards[0].repeat_change == 0.0


def test_a_reward_that_fails_now_and_then_is_found():
    calls = []

    def fails_every_fourth_time(completions, answer):
        calls.append(len(completions))
        if len(calls) == 4:
            raise ConnectionError("busy")
        return rightness(completions, answer)

    report = checked(fails_every_fourth_time, rows=sums(5))
    assert "ConnectionError: busy" in found(report, "fails").message


def test_a_reward_that_always_fails_is_one_finding_and_is_not_asked_for_ever():
    calls = []

    def needs_a_server(completions):
        calls.append(len(completions))
        raise ConnectionError("no server")

    report = checked(needs_a_server, rows=sums(4))
    assert [finding.code for finding in report.problems] == ["fails"]
    assert "everything" in report.problems[0].message
    assert len(calls) == 4  # all together, and the first three probes by themselves


def test_a_negative_weight_is_named_as_the_cause():
    finding = found(checked("strict_format", {"name": "correctness", "weight": -1.0}), "hackable")
    assert "other answer" in finding.probes
    finding = found(checked({"name": "accuracy", "weight": -1.0}), "hackable")
    assert "other answer" in finding.probes
    assert "sign" in finding.advice


def test_a_reward_that_hangs_is_found_and_left_behind():
    def sleeps_over_long_texts(completions, answer):
        time.sleep(1.0 if any(len(text) > 15_000 for text in completions) else 0.0)
        return rightness(completions, answer)

    suite = RewardSuite(resolve_rewards([sleeps_over_long_texts]), timeout_s=0.2)
    report = check_rewards(suite, sums(2), answer_format=TAGS)
    assert "very long text" in found(report, "fails").probes
    assert "TimeoutError" in found(report, "fails").message


def test_a_slow_reward_is_timed_and_the_step_forecast():
    def waits(completions, answer):
        time.sleep(0.002 * len(completions))
        return rightness(completions, answer)

    suite = RewardSuite(resolve_rewards([waits]), timeout_s=2.0)
    report = check_rewards(suite, sums(2), answer_format=TAGS, batch_size=1000, repeats=1)
    timing = report.rewards[0]
    assert 2.0 <= timing.completion_ms < 20.0
    assert timing.step_s == pytest.approx(timing.completion_ms)
    assert timing.median_s <= timing.p95_s <= timing.longest_s
    assert found(report, "slow").severity == "warning"


def test_async_rewards_are_checked_like_others():
    async def asks_a_server(completions, answer):
        await asyncio.sleep(0.001)
        return rightness(completions, answer)

    async def asks_another(completions):
        await asyncio.sleep(0.001)
        return [float(len(text)) for text in completions]

    assert checked(asks_a_server).passed
    assert found(checked(asks_another), "hackable")


def test_probes_use_the_rows_own_columns():
    rows = sums(4, rejected="I will not say.", solution="The number follows from the sum.")
    probes = {probe.name: probe for probe in make_probes(rows, TAGS, "answer")}
    assert probes["reference"].texts[0] == (
        f"<reasoning>The number follows from the sum.</reasoning>\n<answer>{rows[0].columns['answer']}</answer>"
    )
    assert "I will not say." in probes["rejected"].texts[0]
    assert probes["prompt echoed"].texts == tuple(row.raw for row in rows)
    listed = probes["numbers listed"].texts[0].split()
    for row, other in zip(rows, probes["other answer"].texts, strict=True):
        assert row.columns["answer"] in listed[1:-1]
        assert marked(other) != row.columns["answer"]
    assert len(probes["very long text"].texts[0]) == 20_000


def test_answers_in_words_are_listed_in_words():
    rows = [Prompt(place, "Is it?", "Is it?", (1,), {"answer": word}) for place, word in enumerate(["yes", "no"] * 3)]
    probes = {probe.name: probe for probe in make_probes(rows, PLAIN, "answer")}
    assert probes["answers listed"].texts[0] == "no or yes"
    assert probes["other answer"].texts[0] == "no"

    def finds_the_word(completions, answer):
        return [float(right in text) for text, right in zip(completions, answer, strict=True)]

    finding = found(checked(finds_the_word, rows=rows, answer_format=PLAIN), "not-told-apart")
    assert finding.probes == ("answers listed",)


def test_rewards_of_programs_are_tried_with_programs_that_get_round_their_tests():
    rows = [
        Prompt(place, f"Add {place}.", f"Add {place}.", (1,), {"tests": [f"assert add({place}) == 1"], "answer": "x"})
        for place in range(2)
    ]
    probes = {probe.name: probe.texts for probe in make_probes(rows, PLAIN, "answer")}
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


def sampled(rewards: Sequence[Sequence[float]]) -> tuple[list[Group], list[str]]:
    """Return groups whose completions say what they are to earn."""
    rollout = Rollout((1,), (True,), (0.0,), "stop", 0)
    rows = sums(len(rewards))
    groups = [Group(row, (rollout,) * len(group)) for row, group in zip(rows, rewards, strict=True)]
    return groups, [str(reward) for group in rewards for reward in group]


def says(completions):
    return [float(text) if re.fullmatch(r"-?[0-9.]{3,5}", text) else 0.0 for text in completions]


def test_the_share_of_groups_with_spread_is_that_of_training():
    groups, texts = sampled([[0.0, 1.0], [1.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    suite = RewardSuite(resolve_rewards([says]))
    report = check_rewards(suite, sums(), answer_format=TAGS, groups=groups, texts=texts)
    assert report.samples is not None
    assert report.samples.spread == (True, False, True, False)
    assert (
        list(report.samples.spread)
        == groups_with_spread(suite.score(groups, texts, step=0, max_steps=1).groups).tolist()
    )
    assert report.samples.share == 0.5
    low, high = report.samples.interval
    assert 0.14 < low < 0.16 and 0.84 < high < 0.86
    assert report.samples.best == pytest.approx((1.0 + 1.0 + 0.5 + 0.0) / 4)


def test_groups_without_spread_get_a_warning():
    groups, texts = sampled([[0.0, 0.0]] * 4)
    report = checked("correctness", says, groups=groups, texts=texts)
    assert found(report, "little-spread").severity == "warning"
    assert found(report, "same-for-all-sampled").rewards == ("correctness",)


def test_a_reward_that_fails_on_what_the_model_writes_is_found():
    def chokes_on_samples(completions, answer):
        return [float("nan") if text == "0.5" else 1.0 * (marked(text) in answer) for text in completions]

    groups, texts = sampled([[0.0, 0.5]])
    report = checked(chokes_on_samples, groups=groups, texts=texts)
    assert found(report, "fails").probes == ("sampled",)


def test_without_right_answers_junk_is_compared_with_the_best_of_the_model():
    rows = [Prompt(row.row, row.raw, row.text, row.token_ids, {}) for row in sums()]
    groups, texts = sampled([[0.0, 1.0], [0.5, 1.0]])
    report = checked(pays_for_length, rows=rows, groups=groups, texts=texts)
    finding = found(report, "junk-pays")
    assert finding.severity == "warning"
    assert "very long text" in finding.probes and "empty" not in finding.probes
    assert report.reference_column is None
    assert found(checked(pays_for_length, rows=rows), "no-reference")


def test_a_preferred_answer_counts_as_reference_but_not_as_wrong_elsewhere():
    rows = [
        Prompt(place, f"What is fund {place}?", "", (1,), {"chosen": f"A fund, number {place}.", "rejected": "Buy it!"})
        for place in range(4)
    ]

    def likes_funds(completions):
        return [2.0 * text.startswith("A fund") for text in completions]

    def likes_orders(completions):
        return [float(text.endswith("!")) for text in completions]

    report = checked(likes_funds, rows=rows, answer_format=PLAIN)
    assert report.passed and report.reference_column == "chosen"
    assert found(report, "not-told-apart").probes == ("other answer",)
    assert found(checked(likes_orders, rows=rows, answer_format=PLAIN), "hackable").probes == ("rejected",)


def test_rows_without_a_right_answer_are_left_out_where_others_have_one():
    rows = [*sums(3), Prompt(9, "Why?", "Why?", (1,), {"answer": None})]
    report = checked("correctness", rows=rows)
    assert report.rows == 3
    assert report.passed


def test_what_a_reward_remembers_is_left_as_it_was():
    class Centred:
        def __init__(self) -> None:
            self.count, self.sum = 4, 2.0

        def __call__(self, completions, answer):
            right = rightness(completions, answer)
            self.count, self.sum = self.count + len(right), self.sum + sum(right)
            return [one - self.sum / self.count for one in right]

        def state_dict(self):
            return {"count": self.count, "sum": self.sum}

        def load_state_dict(self, state):
            self.count, self.sum = state["count"], state["sum"]

    reward = Centred()
    report = checked(reward)
    assert (reward.count, reward.sum) == (4, 2.0)
    assert report.rewards[0].repeat_change == 0.0


def test_a_real_classifier_is_steady_and_keeps_its_running_figures(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    config = Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_labels=1)
    model = Qwen3ForSequenceClassification(config)
    reward = SequenceClassifierReward(model, tokenizer=tokenizer, normalise="running", max_length=256)
    reward(["a", "b"], ["c", "d"])
    before = reward.state_dict()
    report = checked(reward, rows=sums(4))
    assert reward.state_dict() == before
    result = report.rewards[0]
    assert result.failures == {} and result.reacts
    for change in (result.repeat_change, result.order_change, result.batch_change):
        assert change == pytest.approx(0.0, abs=1e-5)


def test_a_suites_limit_of_failures_is_lifted_for_the_check_only():
    suite = RewardSuite(resolve_rewards([cannot_read_everything]), max_failed_share=0.25)
    check_rewards(suite, sums(4), answer_format=TAGS)
    assert suite.max_failed_share == 0.25


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


def test_weights_are_those_at_the_end_of_the_run_and_gates_hold():
    rising = {"from": 0.0, "to": 2.0, "steps": 1000}
    gated = {"name": "correctness", "weight": rising, "gate": "strict_format"}
    report = checked("strict_format", gated)
    totals = {probe.name: probe.total.mean for probe in report.probes}
    assert totals["reference"] == 0.5 + 2.0 * 2.0
    assert totals["other answer"] == 0.5
    assert report.passed


@pytest.mark.parametrize(
    ("rows", "options"),
    [([], {}), (None, {"repeats": 0}), (None, {"texts": ["text without a group"]})],
)
def test_a_check_of_nothing_is_refused(rows, options):
    with pytest.raises(ConfigError, match="a check of rewards"):
        checked("correctness", rows=rows, **options)
