from __future__ import annotations

from collections.abc import Callable

import pytest

from grpo.engines import generate
from grpo.errors import RewardError
from grpo.rollout import RolloutCollector, describe_groups, groups_with_spread, reward_tensors, step_reward_tensor

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
    resampled = make_collector(**settings, uniform_groups="resample", max_resamples=20).collect(1, 0)

    assert not groups_with_spread(plain.groups).all()
    assert len(resampled.groups) == 4
    assert groups_with_spread(resampled.groups).all()
    assert resampled.prompts_taken > 4
    assert resampled.metrics["resampled_groups"] == resampled.prompts_taken - 4


def test_metrics_of_resampled_rounds_are_those_of_all_their_completions(make_collector: MakeCollector) -> None:
    rounds = [[8.0] * 4 + [0.0, 1.0, 2.0, 3.0] * 2, [float("nan"), 1.0, 2.0, 3.0]]
    left = list(rounds)

    def rewards_in_turn(completions: list[str], **columns: object) -> list[float]:
        return left.pop(0)

    collected = make_collector([rewards_in_turn], uniform_groups="resample", max_resamples=3).collect(1, 0)

    assert left == []
    assert collected.prompts_taken == 4
    assert collected.metrics["rewards/failed_completions"] == 1
    assert collected.metrics["rewards/rewards_in_turn/failed"] == 1
    # 12 completions with mean 44 / 12, and 4 of which the good ones have mean 2.
    assert collected.metrics["rewards/rewards_in_turn/mean"] == pytest.approx((44 + 4 * 2) / 16)


def test_a_step_is_full_even_when_no_group_ever_has_spread(make_collector: MakeCollector) -> None:
    collected = make_collector([equal_rewards], uniform_groups="resample", max_resamples=2).collect(1, 0)

    assert len(collected.groups) == 3
    assert collected.prompts_taken == 9


def test_failed_rewards_have_no_place_among_the_numbers(make_collector: MakeCollector) -> None:
    groups = make_collector([first_half_fails]).collect(1, 0).groups
    rewards, valid = reward_tensors(groups)

    assert valid.tolist() == [[False, False, True, True]] * 3
    assert rewards[0].tolist() == [0.0, 0.0, 2.0, 3.0]
    assert describe_groups(groups).metrics["reward"] == pytest.approx(sum([2, 3, 6, 7, 10, 11]) / 6)


def test_too_many_failed_rewards_stop_the_run_with_the_exception(make_collector: MakeCollector) -> None:
    def broken(completions: list[str], **columns: object) -> list[float]:
        raise ZeroDivisionError("no such luck")

    with pytest.raises(RewardError, match="ZeroDivisionError: no such luck"):
        make_collector([broken]).collect(1, 0)


def test_rewards_of_tokens_make_spread_and_lie_where_the_tokens_are(make_collector: MakeCollector) -> None:
    groups = make_collector([each_token]).collect(1, 0).groups
    tensor = step_reward_tensor(groups)

    assert tensor is not None
    assert groups_with_spread(groups).all()
    for p, group in enumerate(groups):
        for g, scored in enumerate(group.rollouts):
            length = len(scored.rollout.token_ids)
            expected = [place for place in range(length) if place % 2]
            assert tensor[p, g][~tensor[p, g].isnan()].tolist() == expected
    assert step_reward_tensor(make_collector([length_in_tokens]).collect(1, 0).groups) is None
    earned = [sum(place for place in range(len(s.rollout.token_ids)) if place % 2) for g in groups for s in g.rollouts]
    assert describe_groups(groups).metrics["reward"] == pytest.approx(sum(earned) / len(earned))


def test_what_rewards_log_stays_with_its_completion_through_resampling(make_collector: MakeCollector) -> None:
    def logging(completions: list[str], log_extra: Callable[..., None], **columns: object) -> list[float]:
        log_extra("seen", [text[:20] for text in completions])
        return [float("12" in text) for text in completions]

    collected = make_collector([logging], uniform_groups="resample", max_resamples=3).collect(1, 0)
    assert collected.prompts_taken > 3
    for group in collected.groups:
        for scored in group.rollouts:
            assert scored.logged["seen"] == scored.text[:20]


def test_generate_refuses_two_requests_of_one_id(make_collector: MakeCollector, sums: list[object]) -> None:
    from grpo.errors import InputError
    from grpo.types import Request, SamplingParams

    engine = make_collector().engine
    request = Request(1, (5, 6), (1,), SamplingParams(max_tokens=2))
    with pytest.raises(InputError):
        generate(engine, [request, request])
    assert not engine.has_work
