"""Prompts × engine → scored groups: the first half of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from grpo.algorithm import Combine
from grpo.distributed import Processes
from grpo.engines import Engine, generate
from grpo.groups import Truncated, find_zero_variance_groups
from grpo.rewards import RewardSuite, SuiteResult
from grpo.seeding import derive_seed
from grpo.types import Prompt, Request, Rollout, SamplingParams, ScoredGroup

__all__ = ["Collected", "PromptSource", "RolloutCollector", "ZeroVarianceGroups"]

ZeroVarianceGroups: TypeAlias = Literal["skip", "resample", "keep"]
"""What becomes of a group whose completions all have one reward, and so advantage 0."""


class PromptSource(Protocol):
    """Prompts in an order that is a pure function of how many were taken before.

    Attributes:
        prompts: all of them; a pass takes each once.
    """

    @property
    def prompts(self) -> Sequence[Prompt]: ...

    def take(self, consumed: int, count: int) -> list[Prompt]: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step.

    Attributes:
        prompts_taken: prompts taken from the source by all processes, those of discarded groups included.
        tokens_generated: tokens in all completions that all processes sampled for the step, those of discarded groups
            included.
        metrics: of the rewards of all completions sampled for the step, resampled groups included, the seconds that
            generating took, and those that scoring took once all was generated.
    """

    groups: tuple[ScoredGroup, ...]
    prompts_taken: int
    tokens_generated: int
    metrics: Mapping[str, float]


class RolloutCollector:
    """Collects the groups of a step: samples with the engine, decodes for the rewards, scores.

    Each group is handed to the rewards as soon as it is finished, so that those which can begin while others are
    still generated; what they give does not depend on it.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: PromptSource,
        rewards: RewardSuite,
        decode: Callable[[Sequence[Sequence[int]]], list[str]],
        *,
        sampling: SamplingParams,
        prompts_per_step: int,
        group_size: int,
        zero_variance_groups: ZeroVarianceGroups,
        max_resamples: int,
        max_steps: int,
        seed: int,
        truncated: Truncated = "keep",
        combine: Combine = "sum",
        processes: Processes | None = None,
    ) -> None:
        self.engine = engine
        self.prompts = prompts
        self.rewards = rewards
        self.decode = decode
        self.sampling = sampling
        self.prompts_per_step = prompts_per_step
        self.group_size = group_size
        self.zero_variance_groups = zero_variance_groups
        self.max_resamples = max_resamples
        self.max_steps = max_steps
        self.seed = seed
        self.truncated = truncated
        self.combine = combine
        self.processes = processes or Processes()

    def epoch(self, consumed: int) -> float:
        """Return how many passes over the prompts the first `consumed` of them are."""
        return consumed / len(self.prompts.prompts)

    def collect(self, step: int, consumed: int) -> Collected:
        """Return this process's groups of `step`, the prompts before `consumed` having been used.

        With `resample` (dynamic sampling, arXiv:2503.14476 §3.2), zero-variance groups are replaced by
        groups of the next prompts until the step is full or `max_resamples` further rounds were tried;
        what is then still missing is filled with zero-variance groups, so a step always has its size.
        """
        size = len(self.processes.share(self.prompts_per_step))
        useful: list[ScoredGroup] = []
        uniform: list[ScoredGroup] = []
        rounds: list[_Round] = []
        taken = 0
        for attempt in range(1 + (self.max_resamples if self.zero_variance_groups == "resample" else 0)):
            wanted = size - len(useful)
            place, wanted_by_all = self.processes.place(wanted)
            round_ = self._sample_and_score(step, attempt, consumed + taken, place, wanted)
            taken += wanted_by_all
            rounds.append(round_)
            if self.zero_variance_groups != "resample":
                useful = list(round_.scored.groups)
                break
            zero_variance = find_zero_variance_groups(
                round_.scored.groups, truncated=self.truncated, combine=self.combine
            )
            for group, is_uniform in zip(round_.scored.groups, zero_variance.tolist(), strict=True):
                (uniform if is_uniform else useful).append(group)
            if self.processes.all_agree(len(useful) == size):
                break
        missing = size - len(useful)
        groups = tuple(useful + uniform[:missing])
        metrics = self.rewards.metrics_of([round_.scored for round_ in rounds]) | {
            "seconds_generate": sum(round_.seconds_generate for round_ in rounds),
            "seconds_score": sum(round_.seconds_score for round_ in rounds),
            "resampled_groups": float(taken - self.prompts_per_step),
        }
        tokens_generated = self.processes.sum(sum(round_.num_tokens for round_ in rounds))
        return Collected(groups, taken, tokens_generated, metrics)

    def _sample_and_score(self, step: int, attempt: int, consumed: int, place: int, count: int) -> _Round:
        """Return a round of `count` groups, of which the first is number `place` of the round on all processes."""
        began = time.perf_counter()
        prompts = self.prompts.take(consumed + place, count)
        scoring = self.rewards.begin(prompts, step=step - 1, max_steps=self.max_steps, epoch=self.epoch(consumed))

        def on_finished(place: int, rollouts: tuple[Rollout, ...]) -> None:
            scoring.add(place, rollouts, self.decode([rollout.token_ids for rollout in rollouts]))

        try:
            generate(self.engine, self._requests(step, attempt, place, prompts), on_finished)
        except BaseException:
            scoring.cancel()
            raise
        generated = time.perf_counter()
        scored = self.rewards.conclude(scoring)
        return _Round(scored, generated - began, time.perf_counter() - generated)

    def _requests(self, step: int, attempt: int, first: int, prompts: Sequence[Prompt]) -> list[Request]:
        # The place in the step is part of the seed: a data set smaller than a step repeats its rows. It is the place
        # among the prompts of all processes, of which `first` lie before these.
        return [
            Request(
                id=place,
                prompt_ids=prompt.token_ids,
                seeds=tuple(
                    derive_seed(self.seed, "rollout", step, attempt, first + place, index)
                    for index in range(self.group_size)
                ),
                sampling=self.sampling,
            )
            for place, prompt in enumerate(prompts)
        ]


@dataclass(frozen=True, slots=True)
class _Round:
    scored: SuiteResult
    seconds_generate: float
    seconds_score: float

    @property
    def num_tokens(self) -> int:
        return sum(len(member.rollout.token_ids) for group in self.scored.groups for member in group.rollouts)
