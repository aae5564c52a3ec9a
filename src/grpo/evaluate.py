"""Evaluation on held-out prompts: strict and lenient accuracy with confidence intervals, sampled and greedy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.errors import RunError
from grpo.intervals import mean_interval, wilson_interval
from grpo.rewards import RewardSuite
from grpo.rewards.output import value_sum
from grpo.rollout import EpisodeCollector, judged_texts
from grpo.seeding import derive_seed
from grpo.tasks import Verifier
from grpo.types import Group, Prompt, SamplingParams, Verdict

__all__ = ["Evaluation", "Evaluator", "confidence_interval", "pass_at_k"]

_SHOWN_ANSWERS = 20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation; `metrics` is JSON-able and is one line of `eval.jsonl`.

    Attributes:
        metrics: `reward`, `reward_ci95`, `rewards` and `rewards_ci95` (of each, by name), `completion_length`,
            `truncated_share`, `prompts`, `samples_per_prompt`; `format_rate` where a format is asked for; when the task
            can verify answers also `accuracy` (strict, sampled), `accuracy_ci95`, `accuracy_lenient`,
            `accuracy_lenient_ci95`, `accuracy_greedy`, `accuracy_greedy_ci95`, `accuracy_greedy_lenient`,
            `pass_at_k` (by k) and `answers` (how often each of the commonest was given). Intervals are [low, high],
            None where there is nothing to measure.
    """

    metrics: Mapping[str, Any]


class Evaluator:
    """Evaluates a sampler's current weights on the same prompts with the same seeds every time."""

    def __init__(
        self,
        episodes: EpisodeCollector,
        prompts: Sequence[Prompt],
        *,
        rewards: RewardSuite | None,
        verifier: Verifier | None,
        is_well_formed: Callable[[str], bool] | None = None,
        sampling: SamplingParams,
        samples: int,
        seed: int,
    ) -> None:
        self.episodes = episodes
        self.prompts = prompts
        self.rewards = rewards
        self.verifier = verifier
        self.is_well_formed = is_well_formed
        self.sampling = sampling
        self.samples = samples
        self.seed = seed

    def evaluate(self, step: int, max_steps: int, epoch: float = 0.0) -> Evaluation:
        """Return accuracies of the sampler's current weights; the arguments are for rewards that depend on progress."""
        sampled, texts = self._sample(self.sampling, self.samples)
        lengths = [sum(rollout.sampled) for group in sampled for rollout in group.rollouts]
        if not lengths:
            raise RunError("all episodes of the evaluation failed in the environment: correct the environment")
        cut = [rollout.finish_reason == "length" for group in sampled for rollout in group.rollouts]
        metrics: dict[str, Any] = {
            "prompts": len(self.prompts),
            "samples_per_prompt": self.samples,
            "completion_length": _mean(lengths),
            "truncated_share": _mean(cut),
        }
        if failed := len(self.prompts) * self.samples - len(lengths):
            metrics["failed_episodes"] = failed
        if self.rewards is not None:
            with self.rewards.evaluating():
                scored = self.rewards.score(sampled, texts, step=step, max_steps=max_steps, epoch=epoch)
            totals = [rollout.score.sum for group in scored.groups for rollout in group.rollouts]
            sizes = [len(group.rollouts) for group in sampled]
            numbers = [total for total in totals if total is not None]
            metrics["reward"] = _mean(numbers) if numbers else None
            metrics["reward_ci95"] = _interval(totals, sizes)
            metrics["rewards"] = {name: scored.metrics.get(f"rewards/{name}/mean") for name in scored.outputs}
            metrics["rewards_ci95"] = {
                name: _interval([value_sum(value) for value in output.unnormalised], sizes)
                for name, output in scored.outputs.items()
            }
        if self.verifier is not None:
            greedy = self._sample(replace(self.sampling, temperature=0.0), 1)
            metrics |= self._accuracies(self._verdicts(sampled, texts), self._verdicts(*greedy))
        if self.is_well_formed is not None:
            metrics["format_rate"] = _mean([self.is_well_formed(text) for text in judged_texts(sampled, texts)])
        return Evaluation(metrics)

    def _sample(self, sampling: SamplingParams, samples: int) -> tuple[list[Group], list[str]]:
        seeds = [
            [derive_seed(self.seed, "evaluation", place, index) for index in range(samples)]
            for place in range(len(self.prompts))
        ]
        groups = self.episodes.collect(self.prompts, seeds, sampling)
        return groups, self.episodes.texts([rollout for group in groups for rollout in group.rollouts])

    def _verdicts(self, groups: Sequence[Group], texts: Sequence[str]) -> list[list[Verdict]]:
        """Return one verdict a completion, grouped by prompt; a prompt without completions has no group."""
        assert self.verifier is not None
        rows = [group.prompt.columns for group in groups for _ in group.rollouts]
        verdicts = iter(self.verifier.verdicts(judged_texts(groups, texts), rows))
        return [[next(verdicts) for _ in group.rollouts] for group in groups if group.rollouts]

    def _accuracies(self, sampled: list[list[Verdict]], greedy: list[list[Verdict]]) -> dict[str, Any]:
        strict = [[verdict.strict for verdict in row] for row in sampled]
        lenient = [[verdict.lenient for verdict in row] for row in sampled]
        greedy_strict = [[verdict.strict for verdict in row] for row in greedy]
        answers = Counter(verdict.answer for row in sampled for verdict in row if verdict.answer is not None)
        powers = [2**exponent for exponent in range(self.samples.bit_length())]
        # An episode that failed in its environment leaves a row shorter.
        rows_of = {k: [row for row in strict if len(row) >= k] for k in powers}
        accuracies = {
            "accuracy": _mean_of_rows(strict),
            "accuracy_ci95": list(confidence_interval(strict)),
            "accuracy_lenient": _mean_of_rows(lenient),
            "accuracy_lenient_ci95": list(confidence_interval(lenient)),
            "pass_at_k": {
                str(k): _mean([pass_at_k(len(row), sum(row), k) for row in rows]) for k, rows in rows_of.items() if rows
            },
            "answers": dict(answers.most_common(_SHOWN_ANSWERS)),
        }
        if greedy:  # not empty unless all its episodes failed in the environment
            accuracies |= {
                "accuracy_greedy": _mean_of_rows(greedy_strict),
                "accuracy_greedy_ci95": list(confidence_interval(greedy_strict)),
                "accuracy_greedy_lenient": _mean_of_rows([[verdict.lenient for verdict in row] for row in greedy]),
            }
        return accuracies


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Return the unbiased estimate that at least one of k samples is right (arXiv:2107.03374, eq. 1).

    Example:
        >>> pass_at_k(4, 1, 1)
        0.25
        >>> pass_at_k(4, 1, 4)
        1.0
    """
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def confidence_interval(outcomes: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Return the 95% interval of the share of True over prompts with several samples each.

    It is Wilson's interval at the effective number of samples: those of one prompt resemble each other,
    so their number N is divided by the design effect 1 + (Σ k² / N - 1) ρ, where k is the number of samples of
    a prompt and ρ the intraclass correlation estimated by one-way analysis of variance (Kish 1965).

    Args:
        outcomes: one row a prompt, one outcome or more in each.

    Example:
        >>> low, high = confidence_interval([[True], [True], [False], [True]])
        >>> round(low, 2), round(high, 2)
        (0.3, 0.95)
    """
    return wilson_interval(_mean_of_rows(outcomes), _effective_count(outcomes))


def _effective_count(outcomes: Sequence[Sequence[bool]]) -> float:
    sizes = [len(row) for row in outcomes]
    num_prompts, total = len(sizes), sum(sizes)
    if num_prompts in (1, total):
        return float(total)
    share = _mean_of_rows(outcomes)
    means = [sum(row) / len(row) for row in outcomes]
    squares = sum(size * (mean - share) ** 2 for size, mean in zip(sizes, means, strict=True))
    between = squares / (num_prompts - 1)
    within = sum(size * mean * (1 - mean) for size, mean in zip(sizes, means, strict=True)) / (total - num_prompts)
    weighted_size = sum(size**2 for size in sizes) / total
    variance = between + ((total - weighted_size) / (num_prompts - 1) - 1) * within
    correlation = (between - within) / variance if variance > 0 else 1.0
    return total / (1 + (weighted_size - 1) * min(1.0, max(0.0, correlation)))


def _interval(values: Sequence[float | None], sizes: Sequence[int]) -> list[float] | None:
    """Return the 95% interval of the mean of the values that are not None, with so many values for each prompt."""
    left = iter(values)
    rows = [[value for value in itertools.islice(left, size) if value is not None] for size in sizes]
    found = mean_interval(rows)
    return None if found is None else list(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of_rows(rows: Sequence[Sequence[bool]]) -> float:
    return sum(sum(row) for row in rows) / sum(len(row) for row in rows)
