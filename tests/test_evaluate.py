from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import pytest
import torch
from scipy import stats

from grpo.engines.native import NativeEngine, NativeSampler
from grpo.environments import EpisodeSampler, SingleTurn
from grpo.evaluate import Evaluator, confidence_interval, pass_at_k
from grpo.intervals import mean_interval, wilson_interval
from grpo.policy import Policy
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rollout import EpisodeCollector
from grpo.seeding import derive_seed
from grpo.tasks import AnswerVerifier, find_format, verify
from grpo.types import Prompt, Rollout, SamplingParams


def make_evaluator(policy: Policy, prompts: list[Prompt], *, verifier: bool = True) -> Evaluator:
    return Evaluator(
        EpisodeCollector(
            NativeSampler(NativeEngine(policy.model, end_ids=policy.end_token_ids)),
            lambda ids: list(policy.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)),
        ),
        prompts[:6],
        rewards=RewardSuite(resolve_rewards(["correctness"])),
        verifier=AnswerVerifier(find_format("answer_tags")) if verifier else None,
        is_well_formed=find_format("answer_tags").is_strict if verifier else None,
        sampling=SamplingParams(max_tokens=24),
        samples=4,
        seed=0,
    )


def test_an_evaluation_is_the_same_every_time(tiny_policy: Policy, sums: list[Prompt]) -> None:
    evaluator = make_evaluator(tiny_policy, sums)
    assert evaluator.evaluate(0, 10) == evaluator.evaluate(5, 10)


def test_greedy_episodes_that_all_fail_leave_their_figures_out(tiny_policy: Policy, sums: list[Prompt]) -> None:
    class NotGreedy:
        async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
            if sampler.sampling.temperature == 0:
                raise ValueError("not greedy")
            return await SingleTurn().rollout(prompt, sampler, seed)

    evaluator = make_evaluator(tiny_policy, sums)
    expected = evaluator.evaluate(0, 10).metrics
    evaluator.episodes.environment = NotGreedy()
    evaluator.episodes.max_failed_share = 1.0
    metrics = evaluator.evaluate(0, 10).metrics
    assert metrics == {name: value for name, value in expected.items() if not name.startswith("accuracy_greedy")}


def test_an_evaluation_tells_strict_lenient_and_greedy_apart(tiny_policy: Policy, sums: list[Prompt]) -> None:
    metrics = make_evaluator(tiny_policy, sums).evaluate(0, 10).metrics

    assert 0.0 < metrics["accuracy"] <= metrics["accuracy_lenient"] <= 1.0
    assert metrics["accuracy"] <= metrics["format_rate"]
    low, high = metrics["accuracy_ci95"]
    assert low < metrics["accuracy"] < high
    assert metrics["pass_at_k"]["1"] == pytest.approx(metrics["accuracy"])
    assert metrics["pass_at_k"]["1"] <= metrics["pass_at_k"]["2"] <= metrics["pass_at_k"]["4"]
    assert sum(metrics["answers"].values()) <= 24


def test_every_figure_of_an_evaluation_is_that_of_its_completions(tiny_policy: Policy, sums: list[Prompt]) -> None:
    evaluator = make_evaluator(tiny_policy, sums)
    # Short enough that some completions are cut.
    evaluator.sampling = SamplingParams(max_tokens=17)
    decode, batches = evaluator.episodes.decode, list[list[list[int]]]()

    def noted(ids: Sequence[Sequence[int]]) -> list[str]:
        batches.append([list(each) for each in ids])
        return decode(ids)

    evaluator.episodes.decode = noted
    metrics = evaluator.evaluate(0, 10).metrics
    sampled, greedy = batches
    assert (metrics["prompts"], metrics["samples_per_prompt"], len(sampled), len(greedy)) == (6, 4, 24, 6)

    ends = set(tiny_policy.end_token_ids)
    cut = [ids[-1] not in ends for ids in sampled]
    assert 0 < sum(cut) < 12
    assert metrics["truncated_share"] == pytest.approx(fmean(cut))
    assert metrics["completion_length"] == pytest.approx(fmean(map(len, sampled)))

    answer_format = find_format("answer_tags")
    answers = [str(prompt.columns["answer"]) for prompt in evaluator.prompts]
    verdicts = [verify(text, answers[i // 4], answer_format=answer_format) for i, text in enumerate(decode(sampled))]
    strict = [verdict.strict for verdict in verdicts]
    assert metrics["accuracy"] == pytest.approx(fmean(strict))
    assert metrics["accuracy_lenient"] == pytest.approx(fmean(verdict.lenient for verdict in verdicts))
    assert metrics["format_rate"] == pytest.approx(fmean(verdict.well_formed for verdict in verdicts))
    assert len({metrics["accuracy"], metrics["accuracy_lenient"], metrics["format_rate"]}) > 1
    rows = [strict[start : start + 4] for start in range(0, 24, 4)]
    assert metrics["accuracy_ci95"] == list(confidence_interval(rows))
    lenient = [verdict.lenient for verdict in verdicts]
    assert metrics["accuracy_lenient_ci95"] == list(
        confidence_interval([lenient[start : start + 4] for start in range(0, 24, 4)])
    )
    assert metrics["pass_at_k"]["4"] == pytest.approx(fmean(map(any, rows)))
    counted = Counter(verdict.answer for verdict in verdicts if verdict.answer is not None)
    assert metrics["answers"] == dict(counted)
    assert list(metrics["answers"].values()) == sorted(counted.values(), reverse=True)

    plain = [
        verify(text, answer, answer_format=answer_format) for text, answer in zip(decode(greedy), answers, strict=True)
    ]
    assert metrics["accuracy_greedy"] == pytest.approx(fmean(verdict.strict for verdict in plain))
    assert metrics["accuracy_greedy_lenient"] == pytest.approx(fmean(verdict.lenient for verdict in plain))
    assert metrics["accuracy_greedy_ci95"] == list(confidence_interval([[verdict.strict] for verdict in plain]))


def test_the_seed_of_a_sample_is_made_of_its_prompt_s_place_and_its_index(
    tiny_policy: Policy, sums: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = make_evaluator(tiny_policy, sums)
    seeds: list[tuple[int, ...]] = []
    engine = evaluator.episodes.sampler.engine  # type: ignore[attr-defined]
    add = engine.add
    monkeypatch.setattr(engine, "add", lambda request: seeds.append(request.seeds) or add(request))
    evaluator.evaluate(5, 10)
    sampled = [tuple(derive_seed(0, "evaluation", place, index) for index in range(4)) for place in range(6)]
    assert seeds == [*sampled, *(each[:1] for each in sampled)]


def test_greedy_accuracy_is_that_of_the_likeliest_tokens(tiny_policy: Policy, sums: list[Prompt]) -> None:
    evaluator = make_evaluator(tiny_policy, sums)
    decode, batches = evaluator.episodes.decode, list[list[list[int]]]()

    def noted(ids: Sequence[Sequence[int]]) -> list[str]:
        batches.append([list(each) for each in ids])
        return decode(ids)

    evaluator.episodes.decode = noted
    evaluator.evaluate(0, 10)
    for prompt, found in zip(evaluator.prompts, batches[1], strict=True):
        ids = list(prompt.token_ids)
        with torch.no_grad():
            logits = tiny_policy.model(torch.tensor([[*ids, *found]])).logits[0, len(ids) - 1 : -1]
        assert found == logits.argmax(dim=-1).tolist()


def test_rewards_of_an_evaluation_are_means_of_what_could_be_scored(tiny_policy: Policy, sums: list[Prompt]) -> None:
    evaluator = make_evaluator(tiny_policy, sums, verifier=False)
    places: list[float] = []

    def place(completions: list[str], **_: object) -> list[float]:
        places.extend(float(len(text)) for text in completions)
        return [float("nan") if len(text) % 2 else float(len(text)) for text in completions]

    evaluator.rewards = RewardSuite(
        resolve_rewards([{"name": place, "weight": 2.0}, {"name": "correctness", "weight": 0.0}]), max_failed_share=1.0
    )
    metrics = evaluator.evaluate(0, 10).metrics
    even = [each for each in places if each % 2 == 0]
    assert 0 < len(even) < len(places) == 24
    assert metrics["rewards"]["place"] == pytest.approx(fmean(even))
    assert metrics["reward"] == pytest.approx(2 * fmean(even))
    size = len(places) // metrics["prompts"]
    rows = [[each for each in places[start : start + size] if each % 2 == 0] for start in range(0, len(places), size)]
    assert metrics["rewards_ci95"]["place"] == pytest.approx(mean_interval(rows))
    assert metrics["reward_ci95"] == pytest.approx([2 * bound for bound in metrics["rewards_ci95"]["place"]])

    evaluator.rewards = RewardSuite(
        resolve_rewards([lambda completions, **_: [float("nan")] * len(completions)]), max_failed_share=1.0
    )
    nothing = evaluator.evaluate(0, 10).metrics
    assert nothing["reward"] is None
    assert list(nothing["rewards"].values()) == [None]
    assert nothing["reward_ci95"] is None
    assert list(nothing["rewards_ci95"].values()) == [None]


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


def test_the_design_effect_of_samples_that_resemble_each_other_is_kish_s() -> None:
    """By hand: mean squares 7/12 between and 7/36 within prompts, ρ = 1/3, 12 / (1 + 3 ρ) = 6 effective samples."""
    outcomes = [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert confidence_interval(outcomes) == pytest.approx(wilson_interval(7 / 12, 6.0), abs=1e-12)


def test_samples_count_in_full_where_prompts_differ_no_more_than_chance() -> None:
    assert confidence_interval([[True, False]] * 3) == pytest.approx(wilson_interval(0.5, 6.0), abs=1e-12)
    assert confidence_interval([[True, True, False]]) == pytest.approx(wilson_interval(2 / 3, 3.0), abs=1e-12)


@pytest.mark.parametrize("outcome", [True, False])
def test_equal_answers_to_every_sample_say_as_much_as_one_sample_a_prompt(outcome: bool) -> None:
    found = confidence_interval([[outcome] * 8] * 5)
    assert found == pytest.approx(wilson_interval(float(outcome), 5.0), abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    outcomes = [True, False, False, True, False, False]
    for k in range(1, 7):
        subsets = list(combinations(outcomes, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert math.isclose(pass_at_k(6, 2, k), expected)


def test_prompts_with_fewer_samples_count_by_their_samples() -> None:
    ragged = confidence_interval([[True] * 4, [False] * 2, [True], [False] * 3])
    # Samples of a prompt that agree are one sample: the effective number is total² / Σ k².
    assert ragged == pytest.approx(wilson_interval(0.5, 10 / (30 / 10)))
    mixed = [[True, False], [False, True, True, False], [True, False, False, True]]
    assert confidence_interval(mixed) == pytest.approx(wilson_interval(0.5, 10))


def test_an_evaluation_leaves_out_episodes_that_failed(tiny_policy: Policy, sums: list[Prompt]) -> None:
    class Failing:
        """Fails for every sample of the first prompt, and for one of the second."""

        def __init__(self) -> None:
            self.second = 0

        async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
            self.second += prompt.row == sums[1].row
            if prompt.row == sums[0].row or (prompt.row == sums[1].row and self.second == 1):
                raise ConnectionError("no such world")
            return await SingleTurn().rollout(prompt, sampler, seed)

    evaluator = make_evaluator(tiny_policy, sums)
    evaluator.episodes.environment = Failing()
    metrics = evaluator.evaluate(0, 10).metrics
    assert metrics["failed_episodes"] == 5
    assert sum(metrics["answers"].values()) <= 19
    assert set(metrics["pass_at_k"]) == {"1", "2", "4"}
    assert 0 <= metrics["accuracy_ci95"][0] <= metrics["accuracy"] <= metrics["accuracy_ci95"][1] <= 1
