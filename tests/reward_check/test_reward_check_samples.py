"""Findings about completions that the policy sampled."""

from __future__ import annotations

import re

import pytest
from reward_checks import TAGS, checked, found, marked, pays_for_length, sampled, sums

from grpo.groups import find_zero_variance_groups
from grpo.reward_check import check_rewards
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.types import Prompt


def says(completions):
    return [float(text) if re.fullmatch(r"-?[0-9.]{3,5}", text) else 0.0 for text in completions]


def test_the_share_of_find_zero_variance_groups_is_that_of_training():
    groups, texts = sampled([[0.0, 1.0], [1.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    suite = RewardSuite(resolve_rewards([says]))
    report = check_rewards(suite, sums(), answer_format=TAGS, groups=groups, texts=texts)
    assert report.samples is not None
    assert report.samples.spread == (True, False, True, False)
    assert (
        list(report.samples.spread)
        == (~find_zero_variance_groups(suite.score(groups, texts, step=0, max_steps=1).groups)).tolist()
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


def test_completions_that_training_masks_give_no_spread():
    groups, texts = sampled([[0.0, 1.0], [0.5, 0.0]], finish_reason="length")
    for truncated, share in (("keep", 1.0), ("mask", 0.0)):
        report = checked("correctness", says, groups=groups, texts=texts, truncated=truncated)
        assert report.samples is not None and report.samples.share == share


def test_rewards_that_cancel_out_have_spread_where_each_is_normalised():
    def says_the_opposite(completions):
        return [1 - 2 * reward for reward in says(completions)]

    groups, texts = sampled([[0.0, 1.0], [0.5, 0.0]])
    for combine, share in (("sum", 0.0), ("normalise", 1.0)):
        rewards = [{"name": says, "weight": 2.0}, says_the_opposite]
        report = checked(*rewards, groups=groups, texts=texts, combine=combine)
        assert report.samples is not None and report.samples.share == share
