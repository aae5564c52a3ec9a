from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from grpo.engines.native import NativeEngine, NativeSampler
from grpo.errors import RewardError
from grpo.groups import (
    describe_groups,
    find_zero_variance_groups,
    reward_tensors,
    step_reward_tensor,
)
from grpo.rewards import RewardSuite, resolve_rewards, reward_function
from grpo.rollout import RolloutCollector
from grpo.seeding import derive_seed
from grpo.types import Completion, SamplingParams

MakeCollector = Callable[..., RolloutCollector]


def equal_rewards(completions: list[str], **columns: object) -> list[float]:
    return [1.0] * len(completions)


def length_in_tokens(completion_ids: list[list[int]], **columns: object) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def first_half_fails(completions: list[str], **columns: object) -> list[float]:
    return [float("nan") if index % 4 < 2 else float(index) for index in range(len(completions))]


def each_token(completion_ids: list[list[int]], **columns: object) -> list[list[float | None]]:
    return [[float(place) if place % 2 else None for place in range(len(ids))] for ids in completion_ids]


def test_a_step_is_a_function_of_its_number_and_of_the_prompts_consumed(make_collector: MakeCollector) -> None:
    first = make_collector().collect(3, 12)
    again = make_collector().collect(3, 12)
    later = make_collector().collect(4, 12)

    assert first.groups == again.groups
    assert [group.prompt for group in first.groups] == [group.prompt for group in later.groups]
    assert first.groups != later.groups


def test_the_text_that_is_scored_is_the_text_of_the_tokens_that_are_kept(
    make_collector: MakeCollector, tiny_policy: object
) -> None:
    seen: list[list[int]] = []

    def spy(completions: list[str], completion_ids: list[list[int]], **columns: object) -> list[float]:
        seen.extend(list(ids) for ids in completion_ids)
        return [float(len(ids)) for ids in completion_ids]

    groups = make_collector([spy]).collect(1, 0).groups
    kept = [list(scored.rollout.token_ids) for group in groups for scored in group.rollouts]

    assert seen == kept
    for group in groups:
        for scored in group.rollouts:
            decoded = tiny_policy.tokenizer.decode(list(scored.rollout.token_ids), skip_special_tokens=True)  # type: ignore[attr-defined]
            assert scored.text == decoded


def test_resampling_replaces_groups_without_spread_by_later_prompts(make_collector: MakeCollector) -> None:
    settings = {"temperature": 0.6, "prompts_per_step": 4, "group_size": 2}
    plain = make_collector(**settings).collect(1, 0)
    resampled = make_collector(**settings, zero_variance_groups="resample", max_resamples=20).collect(1, 0)

    assert find_zero_variance_groups(plain.groups).any()
    assert len(resampled.groups) == 4
    assert not find_zero_variance_groups(resampled.groups).any()
    assert resampled.prompts_taken > 4
    assert resampled.metrics["resampled_groups"] == resampled.prompts_taken - 4


def test_metrics_of_resampled_rounds_are_those_of_all_their_completions(make_collector: MakeCollector) -> None:
    rounds = [[8.0] * 4 + [0.0, 1.0, 2.0, 3.0] * 2, [float("nan"), 1.0, 2.0, 3.0]]
    left = list(rounds)

    def rewards_in_turn(completions: list[str], **columns: object) -> list[float]:
        return left.pop(0)

    collected = make_collector([rewards_in_turn], zero_variance_groups="resample", max_resamples=3).collect(1, 0)

    assert left == []
    assert collected.prompts_taken == 4
    assert collected.metrics["rewards/failed_completions"] == 1
    assert collected.metrics["rewards/rewards_in_turn/failed"] == 1
    assert collected.metrics["rewards/rewards_in_turn/mean"] == pytest.approx(50 / 15)
    numbers = [8.0] * 4 + [0.0, 1.0, 2.0, 3.0] * 2 + [1.0, 2.0, 3.0]
    assert collected.metrics["rewards/rewards_in_turn/std"] == pytest.approx(statistics.stdev(numbers))


def test_a_normalised_reward_is_normalised_in_every_round_and_logged_as_it_was_given(
    make_collector: MakeCollector,
) -> None:
    rounds = [[8.0] * 4 + [0.0, 1.0, 2.0, 3.0] * 2, [10.0, 20.0, 30.0, 40.0]]
    left = list(rounds)

    def in_turn(completions: list[str], **columns: object) -> list[float]:
        return left.pop(0)

    reward = reward_function(in_turn).with_options(normalise="running")
    collected = make_collector([reward], zero_variance_groups="resample", max_resamples=3).collect(1, 0)
    assert left == []
    everything = [number for numbers in rounds for number in numbers]
    assert collected.metrics["rewards/in_turn/mean"] == pytest.approx(statistics.fmean(everything))
    assert collected.metrics["rewards/in_turn/std"] == pytest.approx(statistics.stdev(everything))
    # Each round is normalised by all rewards up to its own; those of the first group are kept in the figures.
    expected = []
    for seen, numbers in ((rounds[0], rounds[0][4:]), (everything, rounds[1])):
        mean, std = statistics.fmean(seen), statistics.stdev(seen)
        expected += [(number - mean) / (std + 1e-6) for number in numbers]
    found = [scored.score.total for group in collected.groups for scored in group.rollouts]
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_seed_of_a_completion_is_made_of_step_round_place_and_index(
    make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = make_collector([equal_rewards], zero_variance_groups="resample", max_resamples=1)
    seeds: list[tuple[int, ...]] = []
    engine = collector.episodes.sampler.engine  # type: ignore[attr-defined]
    add = engine.add
    monkeypatch.setattr(engine, "add", lambda request: seeds.append(request.seeds) or add(request))
    collector.collect(7, 0)
    assert seeds == [
        tuple(derive_seed(0, "rollout", 7, attempt, place, index) for index in range(4))
        for attempt in range(2)
        for place in range(3)
    ]


def test_a_step_is_full_even_when_no_group_ever_has_spread(make_collector: MakeCollector) -> None:
    collected = make_collector([equal_rewards], zero_variance_groups="resample", max_resamples=2).collect(1, 0)

    assert len(collected.groups) == 3
    assert collected.prompts_taken == 9


def test_failed_rewards_have_no_place_among_the_numbers(make_collector: MakeCollector) -> None:
    groups = make_collector([first_half_fails]).collect(1, 0).groups
    rewards, valid = reward_tensors(groups)

    assert valid.tolist() == [[False, False, True, True]] * 3
    assert rewards[0].tolist() == [0.0, 0.0, 2.0, 3.0]
    assert describe_groups(groups, find_zero_variance_groups(groups)).means()["reward"] == pytest.approx(
        sum([2, 3, 6, 7, 10, 11]) / 6
    )


def test_too_many_failed_rewards_stop_the_run_with_the_exception(make_collector: MakeCollector) -> None:
    def broken(completions: list[str], **columns: object) -> list[float]:
        raise ZeroDivisionError("no such luck")

    with pytest.raises(RewardError, match="ZeroDivisionError: no such luck"):
        make_collector([broken]).collect(1, 0)


def test_rewards_of_tokens_make_spread_and_lie_where_the_tokens_are(make_collector: MakeCollector) -> None:
    groups = make_collector([each_token]).collect(1, 0).groups
    tensor = step_reward_tensor(groups)

    assert tensor is not None
    assert not find_zero_variance_groups(groups).any()
    for p, group in enumerate(groups):
        for g, scored in enumerate(group.rollouts):
            length = len(scored.rollout.token_ids)
            expected = [place for place in range(length) if place % 2]
            assert tensor[p, g][~tensor[p, g].isnan()].tolist() == expected
    assert step_reward_tensor(make_collector([length_in_tokens]).collect(1, 0).groups) is None
    earned = [sum(place for place in range(len(s.rollout.token_ids)) if place % 2) for g in groups for s in g.rollouts]
    assert describe_groups(groups, find_zero_variance_groups(groups)).means()["reward"] == pytest.approx(
        sum(earned) / len(earned)
    )


def test_what_rewards_log_stays_with_its_completion_through_resampling(make_collector: MakeCollector) -> None:
    def logging(completions: list[str], log_extra: Callable[..., None], **columns: object) -> list[float]:
        log_extra("seen", [text[:20] for text in completions])
        return [float("12" in text) for text in completions]

    collected = make_collector([logging], zero_variance_groups="resample", max_resamples=3).collect(1, 0)
    assert collected.prompts_taken > 3
    for group in collected.groups:
        for scored in group.rollouts:
            assert scored.logged["seen"] == scored.text[:20]


def test_rewards_are_told_how_many_passes_over_the_prompts_are_done(make_collector: MakeCollector) -> None:
    epochs: list[float] = []

    def watching(completions: list[str], trainer_state: Any, **columns: object) -> list[float]:
        epochs.append(trainer_state.epoch)
        return [0.0] * len(completions)

    collector = make_collector([watching])
    num_prompts = len(collector.prompts.prompts)
    collector.collect(1, 0)
    collector.collect(2, 3)
    collector.collect(3, 2 * num_prompts + 1)
    assert epochs == [0.0, 3 / num_prompts, 2 + 1 / num_prompts]


def test_tokens_of_discarded_groups_were_generated_too(make_collector: MakeCollector) -> None:
    lengths: list[int] = []

    def equal(completion_ids: list[list[int]], **columns: object) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [1.0] * len(completion_ids)

    collected = make_collector([equal], zero_variance_groups="resample", max_resamples=2).collect(1, 0)
    assert len(lengths) == 36
    described = describe_groups(collected.groups, find_zero_variance_groups(collected.groups))
    assert collected.tokens_generated == sum(lengths) > described.num_tokens


def test_resampling_looks_for_spread_among_what_the_loss_counts(make_collector: MakeCollector) -> None:
    def all_differ(completions: list[str], **columns: object) -> list[float]:
        return [float(index) for index in range(len(completions))]

    for truncated in ("keep", "mask"):
        collector = make_collector([all_differ], zero_variance_groups="resample", max_resamples=2, truncated=truncated)
        collector.sampling = SamplingParams(max_tokens=2)  # too few for most completions to end by themselves
        assert (collector.collect(1, 0).prompts_taken > 3) == (truncated == "mask")


_STEPS_TO_HAND_OVER = 4
"""Steps of the engine within which a finished group has reached the rewards: the event loop turns once a step."""


class Watched:
    """An engine that generates one group after the other and calls `between` before each step.

    `between` gets the number of groups that ended at least `_STEPS_TO_HAND_OVER` steps before.
    """

    def __init__(self, engine: NativeEngine, between: Callable[[int], None]) -> None:
        self._engine = engine
        self._between = between
        self._num_steps = 0
        self._ends: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def finished(self) -> int:
        return len(self._ends)

    def step(self) -> None:
        self._num_steps += 1
        self._between(sum(self._num_steps - end > _STEPS_TO_HAND_OVER for end in self._ends))
        self._engine.step()

    def collect(self) -> list[tuple[int, int, Completion]]:
        collected = self._engine.collect()
        ended = sum(not self._engine.holds(request_id) for request_id in {found[0] for found in collected})
        self._ends += [self._num_steps] * ended
        return collected


def one_group_at_a_time(collector: RolloutCollector, between: Callable[[int], None]) -> Watched:
    sampler = collector.episodes.sampler
    assert isinstance(sampler, NativeSampler)
    alone = NativeEngine(
        sampler.engine.model, end_ids=sampler.engine._end_ids.tolist(), max_sequences=collector.group_size
    )
    watched = Watched(alone, between)
    collector.episodes.sampler = NativeSampler(watched)  # type: ignore[arg-type]
    return watched


async def characters_later(completions: list[str], **columns: object) -> list[float]:
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def characters(completions: list[str], **columns: object) -> list[float]:
    return [float(len(text)) for text in completions]


def test_generating_and_scoring_take_the_seconds_of_the_step_together(make_collector: MakeCollector) -> None:
    began = time.perf_counter()
    metrics = make_collector().collect(1, 0).metrics
    took = time.perf_counter() - began
    assert 0 < metrics["seconds_generate"] < took
    assert 0 <= metrics["seconds_score"] < took


def test_async_rewards_run_while_the_engine_goes_on(make_collector: MakeCollector) -> None:
    """The engine waits for the reward of each group that is finished before it goes on with the next."""
    began = [threading.Event() for _ in range(3)]
    calls: list[int] = []

    async def later(completions: list[str], **columns: object) -> list[float]:
        calls.append(len(completions))
        began[len(calls) - 1].set()
        return [float(len(text)) for text in completions]

    collector = make_collector([later])
    watched = one_group_at_a_time(collector, lambda finished: [event.wait(20) for event in began[:finished]] and None)
    collected = collector.collect(1, 0)
    assert watched.finished == 3
    assert calls == [4, 4, 4]
    assert all(event.is_set() for event in began)
    totals = [[scored.score.total for scored in group.rollouts] for group in collected.groups]
    assert totals == [[float(len(scored.text)) for scored in group.rollouts] for group in collected.groups]


def test_the_whole_step_waits_for_a_slow_async_reward_only_once(make_collector: MakeCollector) -> None:
    """Every completion of the step waits for all the others: they have to be under way at the same time."""
    arrived: list[str] = []

    async def judge(text: str) -> float:
        arrived.append(text)
        while len(arrived) < 64:
            await asyncio.sleep(0.001)
        return float(len(text))

    async def slow(completions: list[str], **columns: object) -> list[float]:
        return list(await asyncio.gather(*map(judge, completions)))

    collected = make_collector([slow], prompts_per_step=8, group_size=8).collect(1, 0)
    assert sum(len(group.rollouts) for group in collected.groups) == len(arrived) == 64
    assert collected.metrics["rewards/failed_completions"] == 0


def test_scoring_while_the_engine_goes_on_gives_what_scoring_at_the_end_gives(make_collector: MakeCollector) -> None:
    def without_times(metrics: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if "seconds" not in name}

    specs = [characters_later, {"name": characters, "weight": 0.5}, {"name": "xmlcount", "processes": 1}]
    overlapping, at_end = make_collector(specs), make_collector(specs)
    at_end.rewards = RewardSuite(
        [
            replace(function, overlap=False) if function.overlap else function
            for function in resolve_rewards(list(specs))
        ]
    )
    for collector in (overlapping, at_end):
        one_group_at_a_time(collector, lambda finished: None)
    first, second = overlapping.collect(2, 6), at_end.collect(2, 6)
    for collector in (overlapping, at_end):
        collector.rewards.close()
    assert first.groups == second.groups
    assert without_times(first.metrics) == without_times(second.metrics)


def test_an_engine_that_breaks_takes_the_rewards_that_were_begun_with_it(make_collector: MakeCollector) -> None:
    ended = threading.Event()

    async def endless(completions: list[str], **columns: object) -> list[float]:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        return []

    def break_after_one(finished: int) -> None:
        if finished:
            raise MemoryError("no more")

    collector = make_collector([endless])
    one_group_at_a_time(collector, break_after_one)
    with pytest.raises(MemoryError):
        collector.collect(1, 0)
    assert ended.wait(20)
    assert not collector.episodes.sampler.engine.has_work  # type: ignore[attr-defined]


def test_resampling_looks_for_spread_as_rewards_are_combined(make_collector: MakeCollector) -> None:
    def rising(completions: list[str], **columns: object) -> list[float]:
        return [float(place) for place in range(len(completions))]

    def falling(completions: list[str], **columns: object) -> list[float]:
        return [-2.0 * place for place in range(len(completions))]

    for combine, rounds in (("sum", 3), ("normalise", 1)):
        options = {"zero_variance_groups": "resample", "max_resamples": 2, "combine": combine}
        collector = make_collector([rising, {"name": falling, "weight": 0.5}], **options)
        assert collector.collect(1, 0).prompts_taken == 3 * rounds
