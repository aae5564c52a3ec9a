"""Calls of the rewards: failures, time and state."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest
import torch
from reward_checks import TAGS, cannot_read_everything, checked, found, rightness, sampled, sums
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from grpo.errors import ConfigError
from grpo.reward_check import check_rewards
from grpo.rewards import RewardSuite, SequenceClassifierReward, resolve_rewards


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
    assert len(calls) == 5  # all together in two calls, and the first three probes by themselves


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
    assert timing.completion_ms >= 2.0
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


def test_a_reward_that_remembers_nothing_yet_remembers_nothing_afterwards():
    class PaysForNews:
        def __init__(self) -> None:
            self.seen: dict[str, int] = {}

        def __call__(self, completions, answer):
            for text in completions:
                self.seen[text] = self.seen.get(text, 0) + 1
            return rightness(completions, answer)

        def state_dict(self):
            return dict(self.seen)

        def load_state_dict(self, state):
            self.seen = dict(state)

    reward = PaysForNews()
    assert checked(reward, rows=sums(4)).passed
    assert reward.seen == {}


def test_what_was_looked_up_before_is_asked_again():
    class Cached:
        """Noisy, but for what it was asked before."""

        def __init__(self) -> None:
            self.known: dict[str, float] = {}
            self.remembers = True

        def __call__(self, completions, answer):
            right = rightness(completions, answer)
            new = [one + random.uniform(-0.9, 0.9) for one in right]
            if not self.remembers:
                return new
            return [self.known.setdefault(text, one) for text, one in zip(completions, new, strict=True)]

        @contextlib.contextmanager
        def without_memory(self):
            self.remembers = False
            yield
            self.remembers = True

    reward = Cached()
    assert found(checked(reward), "not-repeatable").severity == "problem"
    assert reward.remembers
    assert reward.known == {}


def test_a_real_classifier_is_steady_and_keeps_its_running_figures(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    config = Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_labels=1)
    model = Qwen3ForSequenceClassification(config)
    reward = SequenceClassifierReward(model, tokenizer=tokenizer, max_length=256)
    suite = RewardSuite(resolve_rewards([{"name": reward, "normalise": "running"}]))
    suite.score(*sampled([[0.0, 1.0]]), step=0, max_steps=1)
    before = suite.state_dict()
    assert before
    report = check_rewards(suite, sums(4), answer_format=TAGS)
    assert suite.state_dict() == before
    result = report.rewards[0]
    assert result.failures == {} and result.reacts
    for change in (result.repeat_change, result.order_change, result.batch_change):
        assert change == pytest.approx(0.0, abs=1e-5)


def test_a_suites_limit_of_failures_is_lifted_for_the_check_only():
    suite = RewardSuite(resolve_rewards([cannot_read_everything]), max_failed_share=0.25)
    check_rewards(suite, sums(4), answer_format=TAGS)
    assert suite.max_failed_share == 0.25


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
