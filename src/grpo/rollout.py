"""Prompts × environment × sampler → scored groups: the first half of a step."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol, TypeAlias

from grpo import event_loop
from grpo.algorithm import Combine
from grpo.distributed import Processes
from grpo.engines import Sampler
from grpo.environments import Environment, EpisodeSampler, SingleTurn
from grpo.errors import RunError
from grpo.groups import Truncated, find_zero_variance_groups
from grpo.rewards import RewardSuite, SuiteResult, completion_texts
from grpo.seeding import derive_seed
from grpo.tasks import opened_tag
from grpo.types import Group, Prompt, Rollout, SamplingParams, ScoredGroup

__all__ = ["Collected", "EpisodeCollector", "PromptSource", "RolloutCollector", "ZeroVarianceGroups"]

_log = logging.getLogger(__name__)

ZeroVarianceGroups: TypeAlias = Literal["skip", "resample", "keep"]
"""The treatment of a group whose completions all have one reward, and so advantage 0."""

OnGroup: TypeAlias = Callable[[int, Group], None]
"""Called with the place of a prompt and its group as soon as the group's last episode has ended."""


class PromptSource(Protocol):
    """Prompts in an order that is a pure function of how many were taken before.

    Attributes:
        prompts: all of them; a pass takes each once.
    """

    @property
    def prompts(self) -> Sequence[Prompt]: ...

    def take(self, consumed: int, count: int) -> list[Prompt]: ...


class EpisodeCollector:
    """Runs the episodes of prompts side by side; training, evaluation and generation all collect with it."""

    def __init__(
        self,
        sampler: Sampler,
        decode: Callable[[Sequence[Sequence[int]]], list[str]],
        environment: Environment | None = None,
        *,
        max_failed_share: float = 0.5,
        processes: Processes | None = None,
    ) -> None:
        """Take the sampler, the decoder and the environment of all episodes.

        Args:
            decode: token sequences → texts, without end tokens.
            environment: None: each episode is one completion.
            max_failed_share: share of the episodes of one call of `collect` that may fail.
            processes: those that collect together; the share is over the episodes of all of them.
        """
        self.sampler = sampler
        self.decode = decode
        self.environment = environment or SingleTurn()
        self.max_failed_share = max_failed_share
        self.processes = processes or Processes()

    def collect(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_group: OnGroup | None = None,
    ) -> list[Group]:
        """Return the group of each prompt, with one episode for each of its seeds.

        An episode whose environment raises is left out of its group, with a warning.

        Args:
            seeds: of the episodes, prompt by prompt.

        Raises:
            RunError: more than `max_failed_share` of the episodes failed; its cause is the first exception.
            InputError: the sampler cannot serve a prompt.
        """
        groups, failures = event_loop.run(self._collect(prompts, seeds, sampling, on_group))
        self._check_failures(failures, sum(map(len, seeds)))
        return groups

    def texts(self, rollouts: Sequence[Rollout]) -> list[str]:
        """Return what the policy wrote in each rollout; several turns are joined by line breaks."""
        turns = [sampled_turns(rollout) for rollout in rollouts]
        decoded = iter(self.decode([ids for spans in turns for ids in spans]))
        return ["\n".join(next(decoded) for _ in spans) for spans in turns]

    async def _collect(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_group: OnGroup | None,
    ) -> tuple[list[Group], list[BaseException]]:
        failures: list[BaseException] = []

        async def episode(place: int, index: int) -> Rollout | None:
            sampler = EpisodeSampler(self.sampler, sampling, (place, index), len(prompts[place].token_ids))
            try:
                rollout = await self.environment.rollout(prompts[place], sampler, seeds[place][index])
                if sampler.error is not None:  # the environment has caught it
                    raise sampler.error
                return checked_rollout(rollout, sampling)
            # `sys.exit` in an environment is a failed episode, not the end of the run.
            except (Exception, SystemExit) as error:
                if sampler.error is not None:
                    raise sampler.error from None
                if not failures:
                    _log.warning(
                        "an episode failed in the environment and is left out of its group: %s", _one_line(error)
                    )
                failures.append(error)
                return None

        async def group(place: int, episodes: Sequence[asyncio.Task[Rollout | None]]) -> Group:
            rollouts = await asyncio.gather(*episodes)
            found = Group(prompts[place], tuple(rollout for rollout in rollouts if rollout is not None))
            if on_group is not None:
                on_group(place, found)
            return found

        # All episodes ask for their first turn before the sampler draws a token: they are made before their groups.
        episodes = [
            [asyncio.ensure_future(episode(place, index)) for index in range(len(seeds[place]))]
            for place in range(len(prompts))
        ]
        groups = [asyncio.ensure_future(group(place, episodes[place])) for place in range(len(prompts))]
        try:
            return list(await asyncio.gather(*groups)), failures
        finally:
            tasks = [*groups, *(task for row in episodes for task in row)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check_failures(self, failures: Sequence[BaseException], total: int) -> None:
        """Fail on all processes if too large a share of their episodes failed."""
        counts = self.processes.sum({"failed": len(failures), "total": total})
        if counts["failed"] <= self.max_failed_share * counts["total"]:
            return
        first = _one_line(failures[0]) if failures else "on another process"
        raise RunError(
            f"{counts['failed']} of {counts['total']} episodes failed in the environment, max_failed_share="
            f"{self.max_failed_share:g} allows fewer; first failure: {first}: correct the environment"
        ) from (failures[0] if failures else None)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def checked_rollout(rollout: Any, sampling: SamplingParams) -> Rollout:
    """Return the result of an environment, if it is an episode that can be trained on.

    Raises:
        TypeError: it is no `Rollout`, or its rewards are no mapping.
        ValueError: its sequences have different lengths, no token was sampled, a log-probability is not finite, or it
            is over the budget.
    """
    if not isinstance(rollout, Rollout):
        raise TypeError(f"rollout() returned a {type(rollout).__name__}, not a grpo.types.Rollout")
    lengths = len(rollout.token_ids), len(rollout.sampled), len(rollout.logprobs)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the episode has {lengths[0]} token ids, {lengths[1]} flags and {lengths[2]} log-probabilities"
        )
    if not isinstance(rollout.rewards, Mapping):
        raise TypeError(f"the episode's rewards are a {type(rollout.rewards).__name__}, not numbers by name")
    if not any(rollout.sampled):
        raise ValueError("the episode has no token that the policy sampled")
    if not all(map(math.isfinite, rollout.logprobs)):
        raise ValueError("the episode has a log-probability that is not finite")
    if lengths[0] > sampling.max_tokens:
        raise ValueError(f"the episode has {lengths[0]} tokens, over max_completion_length {sampling.max_tokens}")
    return rollout


def judged_texts(groups: Sequence[Group], texts: Sequence[str]) -> list[str]:
    """Return the text of each episode that built-in rewards judge.

    That is the last message for a prompt of messages, and the whole text for any other. A tag that the prompt opened
    stands in front if the completion closes it.

    Args:
        texts: as `EpisodeCollector.texts` returns them.
    """
    members = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    written = [
        text if isinstance(prompt.raw, str) or not rollout.messages else rollout.messages
        for (prompt, rollout), text in zip(members, texts, strict=True)
    ]
    return completion_texts(written, [opened_tag(prompt) for prompt, _ in members])


def sampled_turns(rollout: Rollout) -> list[tuple[int, ...]]:
    """Return the token ids of each turn that the policy sampled, in order."""
    if all(rollout.sampled):
        return [rollout.token_ids]
    tokens = zip(rollout.sampled, rollout.token_ids, strict=True)
    return [tuple(token for _, token in span) for sampled, span in groupby(tokens, key=lambda t: t[0]) if sampled]


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step.

    Attributes:
        prompts_taken: prompts taken from the source by all processes, those of discarded groups included.
        tokens_generated: tokens that the policy sampled for the step on all processes, those of discarded groups
            included.
        metrics: of the rewards of all completions sampled for the step, resampled groups included, the seconds that
            generating took, and those that scoring took once all was generated.
    """

    groups: tuple[ScoredGroup, ...]
    prompts_taken: int
    tokens_generated: int
    metrics: Mapping[str, float]


class RolloutCollector:
    """Collects the groups of a step: runs their episodes, decodes them for the rewards, scores them.

    Each group is handed to the rewards as soon as it is finished, so that rewards may run while other groups are
    generated; the scores do not depend on it.
    """

    def __init__(
        self,
        episodes: EpisodeCollector,
        prompts: PromptSource,
        rewards: RewardSuite,
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
        self.episodes = episodes
        self.prompts = prompts
        self.rewards = rewards
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

    def totals(self) -> dict[str, dict[str, float]]:
        """Return the totals since the run began that reward functions count, by name."""
        return self.rewards.totals()

    def epoch(self, consumed: int) -> float:
        """Return the number of passes over the prompts after which `consumed` of them were taken."""
        return consumed / len(self.prompts.prompts)

    def collect(self, step: int, consumed: int) -> Collected:
        """Return this process's groups of `step`, the prompts before `consumed` having been used.

        With `resample` (dynamic sampling, arXiv:2503.14476 §3.2), zero-variance groups are replaced by
        groups of the next prompts until the step is full or `max_resamples` further rounds were tried;
        zero-variance groups then fill the rest, so that a step always has its size.
        """
        size = len(self.processes.share(self.prompts_per_step))
        useful: list[ScoredGroup] = []
        zero_variance: list[ScoredGroup] = []
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
            found = find_zero_variance_groups(round_.scored.groups, truncated=self.truncated, combine=self.combine)
            for group, has_none in zip(round_.scored.groups, found.tolist(), strict=True):
                (zero_variance if has_none else useful).append(group)
            if self.processes.all_agree(len(useful) == size):
                break
        missing = size - len(useful)
        groups = tuple(useful + zero_variance[:missing])
        metrics = {
            **self.rewards.metrics_of([round_.scored for round_ in rounds]),
            **self._episode_metrics([group for round_ in rounds for group in round_.scored.groups]),
            "seconds_generate": sum(round_.seconds_generate for round_ in rounds),
            "seconds_score": sum(round_.seconds_score for round_ in rounds),
            "resampled_groups": float(taken - self.prompts_per_step),
        }
        tokens_generated = self.processes.sum(sum(round_.num_tokens for round_ in rounds))
        return Collected(groups, taken, tokens_generated, metrics)

    def _episode_metrics(self, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """Return figures of the episodes of all processes; none where each is one completion."""
        if isinstance(self.episodes.environment, SingleTurn):
            return {}
        turns = [len(sampled_turns(member.rollout)) for group in groups for member in group.rollouts]
        failed = len(groups) * self.group_size - len(turns)
        sums = self.processes.sum({"turns": sum(turns), "episodes": len(turns), "failed": failed})
        return {"turns": sums["turns"] / max(1, sums["episodes"]), "failed_episodes": float(sums["failed"])}

    def _sample_and_score(self, step: int, attempt: int, consumed: int, place: int, count: int) -> _Round:
        """Return a round of `count` groups, of which the first is number `place` of the round on all processes."""
        began = time.perf_counter()
        prompts = self.prompts.take(consumed + place, count)
        scoring = self.rewards.begin(
            prompts, first=place, step=step - 1, max_steps=self.max_steps, epoch=self.epoch(consumed)
        )

        def on_group(place: int, group: Group) -> None:
            scoring.add(place, group.rollouts, self.episodes.texts(group.rollouts))

        try:
            self.episodes.collect(prompts, self._seeds(step, attempt, place, count), self.sampling, on_group)
        except BaseException:
            scoring.cancel()
            raise
        generated = time.perf_counter()
        scored = self.rewards.conclude(scoring)
        return _Round(scored, generated - began, time.perf_counter() - generated)

    def _seeds(self, step: int, attempt: int, first: int, count: int) -> list[list[int]]:
        # The place in the step is part of the seed: a data set smaller than a step repeats its rows. It is the place
        # among the prompts of all processes, of which `first` lie before these.
        return [
            [derive_seed(self.seed, "rollout", step, attempt, place, index) for index in range(self.group_size)]
            for place in range(first, first + count)
        ]


@dataclass(frozen=True, slots=True)
class _Round:
    scored: SuiteResult
    seconds_generate: float
    seconds_score: float

    @property
    def num_tokens(self) -> int:
        return sum(sum(member.rollout.sampled) for group in self.scored.groups for member in group.rollouts)
