from __future__ import annotations

import math
from itertools import combinations

import pytest
from scipy import stats

from grpo.engines.native import NativeEngine, NativeSampler
from grpo.evaluate import Evaluator, confidence_interval, pass_at_k
from grpo.policy import Policy
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rollout import EpisodeCollector
from grpo.tasks import AnswerVerifier, find_format
from grpo.types import Prompt, SamplingParams


def make_evaluator(policy: Policy, prompts: list[Prompt], *, verifier: bool = True) -> Evaluator:
    return Evaluator(
        EpisodeCollector(
            NativeSampler(NativeEngine(policy.model, end_ids=policy.end_token_ids)),
            lambda ids: list(policy.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)),
        ),
        prompts[:6],
        rewards=RewardSuite(resolve_rewards(["correctness"])),
        verifier=AnswerVerifier(find_format("answer_tags")) if verifier else None,
        sampling=SamplingParams(max_tokens=24),
        samples=4,
        seed=0,
    )


def test_an_evaluation_is_the_same_every_time(tiny_policy: Policy, sums: list[Prompt]) -> None:
    evaluator = make_evaluator(tiny_policy, sums)
    assert evaluator.evaluate(0, 10) == evaluator.evaluate(5, 10)


def test_an_evaluation_tells_strict_lenient_and_greedy_apart(tiny_policy: Policy, sums: list[Prompt]) -> None:
    metrics = make_evaluator(tiny_policy, sums).evaluate(0, 10).metrics

    assert 0.0 < metrics["accuracy"] <= metrics["accuracy_lenient"] <= 1.0
    assert metrics["accuracy"] <= metrics["format_rate"]
    low, high = metrics["accuracy_ci95"]
    assert low < metrics["accuracy"] < high
    assert metrics["pass_at_k"]["1"] == pytest.approx(metrics["accuracy"])
    assert metrics["pass_at_k"]["1"] <= metrics["pass_at_k"]["2"] <= metrics["pass_at_k"]["4"]
    assert sum(metrics["answers"].values()) <= 24


def test_without_a_judge_there_is_a_reward_and_no_accuracy(tiny_policy: Policy, sums: list[Prompt]) -> None:
    metrics = make_evaluator(tiny_policy, sums, verifier=False).evaluate(0, 10).metrics
    assert metrics["reward"] > 0
    assert "accuracy" not in metrics


@pytest.mark.parametrize(("right", "total"), [(0, 20), (3, 20), (10, 20), (20, 20)])
def test_the_interval_of_independent_outcomes_is_wilsons(right: int, total: int) -> None:
    expected = stats.binomtest(right, total).proportion_ci(method="wilson")
    low, high = confidence_interval([[place < right] for place in range(total)])
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_samples_of_one_prompt_that_agree_count_as_one() -> None:
    alike = confidence_interval([[True] * 8] * 5 + [[False] * 8] * 5)
    single = confidence_interval([[True]] * 5 + [[False]] * 5)
    mixed = confidence_interval([[True] * 4 + [False] * 4] * 10)
    assert alike == pytest.approx(single)
    assert mixed[1] - mixed[0] < alike[1] - alike[0]


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    outcomes = [True, False, False, True, False, False]
    for k in range(1, 7):
        subsets = list(combinations(outcomes, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert math.isclose(pass_at_k(6, 2, k), expected)
