"""Rewards that are called a group at a time, while other groups are still to come."""

from __future__ import annotations

import asyncio
import threading

import pytest
from compared import without_times

from grpo.errors import RewardError
from grpo.rewards import RewardSuite, resolve_rewards

NAN = float("nan")


def suite(*specs, **options):
    return RewardSuite(resolve_rewards(list(specs)), **{"max_failed_share": 1.0, **options})


def some_groups(group, sizes=(2, 3, 2)):
    """Return groups of these sizes, one row without the column `level`, and texts that differ."""
    groups = [
        group(f"question {place}", list(range(1, size + 1)), {} if place == 1 else {"level": float(place)})
        for place, size in enumerate(sizes)
    ]
    return groups, [f"{place}.{index}" for place, size in enumerate(sizes) for index in range(size)]


def split(groups, texts):
    left = iter(texts)
    return [[next(left) for _ in group.rollouts] for group in groups]


def test_async_functions_get_a_group_at_a_time_and_others_the_whole_step(group):
    calls = {"later": [], "told_not_to": [], "plain": []}

    async def later(completions):
        calls["later"].append(completions)
        return [0.0] * len(completions)

    async def told_not_to(completions):
        calls["told_not_to"].append(completions)
        return [0.0] * len(completions)

    def plain(completions):
        calls["plain"].append(completions)
        return [0.0] * len(completions)

    groups, texts = some_groups(group)
    suite(later, {"name": told_not_to, "overlap": False}, plain).score(groups, texts, step=0, max_steps=1)
    assert sorted(calls["later"]) == split(groups, texts)
    assert calls["told_not_to"] == calls["plain"] == [texts]


def test_a_column_that_some_rows_lack_is_none_for_their_group_as_well(group):
    seen = {}

    async def later(prompts, level):
        seen[prompts[0]] = level
        return [0.0] * len(level)

    groups, texts = some_groups(group)
    result = suite(later).score(groups, texts, step=0, max_steps=1)
    assert result.metrics["rewards/failed_completions"] == 0
    assert seen == {"question 0": [0.0] * 2, "question 1": [None] * 3, "question 2": [2.0] * 2}


def mixed(delays):
    """Return a suite of three functions, one of which takes as long as `delays` says of its group."""

    async def slow(prompts, completions, log_extra, log_metric):
        await asyncio.sleep(delays.get(prompts[0], 0.0))
        log_extra("seen", [text.upper() for text in completions])
        log_metric("first", float(completions[0]))
        return [NAN if text == "1.1" else float(text) for text in completions]

    async def whole(completions):
        return [float(place) for place in range(len(completions))]

    def plain(completions, trainer_state):
        return [float(trainer_state.global_step + len(completions))] * len(completions)

    return suite({"name": slow, "weight": 0.5}, {"name": whole, "overlap": False}, plain)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_scores_do_not_depend_on_when_groups_come_nor_on_how_long_calls_take(group, order):
    groups, texts = some_groups(group)
    at_once = mixed({}).score(groups, texts, step=3, max_steps=9)
    one = mixed({f"question {place}": 0.02 * order.index(place) for place in range(3)})
    scoring = one.begin([group.prompt for group in groups], step=3, max_steps=9)
    for place in order:
        scoring.add(place, groups[place].rollouts, split(groups, texts)[place])
    assert without_times(one.conclude(scoring)) == without_times(at_once)
    assert [scored.logged["seen"] for one in at_once.groups for scored in one.rollouts] == texts
    assert at_once.metrics["user/first"] == pytest.approx(1.0)


def test_a_call_begins_with_its_group_and_not_only_at_the_end(group):
    began = threading.Event()

    async def later(completions):
        began.set()
        return [0.0] * len(completions)

    groups, texts = some_groups(group)
    one = suite(later)
    scoring = one.begin([group.prompt for group in groups], step=0, max_steps=1)
    scoring.add(1, groups[1].rollouts, split(groups, texts)[1])
    assert began.wait(10)
    scoring.cancel()


def test_calls_of_one_step_are_all_under_way_together(group):
    """64 completions that each wait for all the others: one after another they could never finish."""
    arrived = []

    async def judge(text):
        arrived.append(text)
        while len(arrived) < 64:
            await asyncio.sleep(0.001)
        return 1.0

    async def slow(completions):
        return await asyncio.gather(*map(judge, completions))

    groups, texts = some_groups(group, sizes=(8,) * 8)
    result = suite(slow, timeout_s=30).score(groups, texts, step=0, max_steps=1)
    assert [scored.score.total for one in result.groups for scored in one.rollouts] == [1.0] * 64


def test_a_scoring_that_is_given_up_cancels_its_calls(group):
    states = []
    changed = threading.Condition()

    async def later(completions):
        try:
            with changed:
                states.append("began")
                changed.notify()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            with changed:
                states.append("cancelled")
                changed.notify()
            raise

    groups, texts = some_groups(group)
    one = suite(later)
    scoring = one.begin([groups[0].prompt], step=0, max_steps=1)
    scoring.add(0, groups[0].rollouts, texts[:2])
    with changed:
        assert changed.wait_for(lambda: "began" in states, 10)
        scoring.cancel()
        assert changed.wait_for(lambda: "cancelled" in states, 10)


def test_a_call_that_fails_fails_for_its_own_group_only(group):
    async def picky(prompts, completions, log_extra, log_metric):
        log_extra("seen", list(completions))
        log_metric("calls", 1.0)
        if prompts[0] == "question 1":
            raise RuntimeError("not this one")
        return [1.0] * len(completions)

    groups, texts = some_groups(group)
    result = suite(picky).score(groups, texts, step=0, max_steps=1)
    failures = [[scored.score.failures for scored in one.rollouts] for one in result.groups]
    assert failures == [[{}] * 2, [{"picky": "RuntimeError: not this one"}] * 3, [{}] * 2]
    assert result.metrics["rewards/picky/failed"] == 3.0
    assert [scored.logged["seen"] for one in result.groups for scored in one.rollouts] == [
        *texts[:2],
        None,
        None,
        None,
        *texts[5:],
    ]
    assert result.metrics["user/calls"] == 1.0


def test_a_call_that_takes_too_long_fails_for_its_own_group_only(group):
    async def picky(prompts, completions):
        if prompts[0] == "question 1":
            await asyncio.sleep(60)
        return [1.0] * len(completions)

    groups, texts = some_groups(group)
    result = suite(picky, timeout_s=0.3).score(groups, texts, step=0, max_steps=1)
    totals = [[scored.score.total for scored in one.rollouts] for one in result.groups]
    assert totals == [[1.0] * 2, [None] * 3, [1.0] * 2]


def test_the_failures_of_all_groups_count_together(group):
    async def picky(prompts, completions):
        if prompts[0] == "question 1":
            raise RuntimeError("not this one")
        return [1.0] * len(completions)

    groups, texts = some_groups(group)
    with pytest.raises(RewardError, match=r"3 of 7 completions .* RuntimeError: not this one"):
        suite(picky, max_failed_share=0.4).score(groups, texts, step=0, max_steps=1)


def test_a_column_that_one_call_logged_in_the_wrong_length_is_left_out_even_if_the_sum_is_right(group, caplog):
    async def uneven(prompts, completions, log_extra):
        log_extra("seen", [0] * {"question 0": 1, "question 1": 4, "question 2": 2}[prompts[0]])
        return [1.0] * len(completions)

    groups, texts = some_groups(group)
    result = suite(uneven).score(groups, texts, step=0, max_steps=1)
    assert not any(scored.logged for one in result.groups for scored in one.rollouts)
    assert "logged 7 values in column 'seen'" in caplog.text


def test_functions_that_are_not_async_overlap_if_told_to(group):
    """Each waits for the other's second group, and the last group comes only once both have begun."""
    meeting = threading.Barrier(2)
    calls = {"one": [], "other": []}

    def one(completions):
        calls["one"].append(completions)
        meeting.wait(10)
        return [0.0] * len(completions)

    def other(completions):
        calls["other"].append(completions)
        meeting.wait(10)
        return [0.0] * len(completions)

    groups, texts = some_groups(group)
    both = suite({"name": one, "overlap": True}, {"name": other, "overlap": True}, timeout_s=20)
    scoring = both.begin([group.prompt for group in groups], step=0, max_steps=1)
    for place in (1, 0, 2):
        scoring.add(place, groups[place].rollouts, split(groups, texts)[place])
    result = both.conclude(scoring)
    assert result.metrics["rewards/failed_completions"] == 0
    expected = split(groups, texts)
    assert calls == {name: [expected[1], expected[0], expected[2]] for name in ("one", "other")}


def test_a_call_in_a_thread_that_takes_too_long_holds_up_none_behind_it(group):
    release = threading.Event()

    def picky(prompts, completions):
        if prompts[0] == "question 1":
            release.wait(60)
        return [1.0] * len(completions)

    groups, texts = some_groups(group)
    one = suite({"name": picky, "overlap": True}, timeout_s=0.3)
    for order in ((1, 0, 2), (0, 1, 2), (2, 0, 1)):
        scoring = one.begin([group.prompt for group in groups], step=0, max_steps=1)
        for place in order:
            scoring.add(place, groups[place].rollouts, split(groups, texts)[place])
        result = one.conclude(scoring)
        totals = [[scored.score.total for scored in members.rollouts] for members in result.groups]
        assert totals == [[1.0] * 2, [None] * 3, [1.0] * 2]
    release.set()


def test_a_reward_object_may_say_itself_that_it_overlaps():
    class Tests:
        overlaps = True

        def __call__(self, completions):
            return [0.0] * len(completions)

    assert resolve_rewards([Tests()])[0].overlap
    assert not resolve_rewards([{"name": Tests(), "overlap": False}])[0].overlap


def test_a_function_whose_calls_all_take_too_long_is_not_waited_for_again(group):
    release = threading.Event()
    calls = []

    def hangs(prompts, completions):
        calls.append(prompts[0])
        release.wait(60)
        return [1.0] * len(completions)

    groups, texts = some_groups(group, sizes=(1,) * 9)
    result = suite({"name": hangs, "overlap": True}, timeout_s=0.1).score(groups, texts, step=0, max_steps=1)
    release.set()
    failures = [scored.score.failures["hangs"] for one in result.groups for scored in one.rollouts]
    assert failures[:3] == ["TimeoutError: no result within 0.1 s"] * 3
    assert failures[3:] == ["TimeoutError: not waited for: the calls before it took too long"] * 6
    assert len(calls) <= 4


def test_async_calls_that_take_too_long_cost_no_other_group_its_answer(group):
    async def slow_at_first(prompts, completions):
        if prompts[0] in ("question 0", "question 1", "question 2"):
            await asyncio.sleep(60)
        return [1.0] * len(completions)

    groups, texts = some_groups(group, sizes=(1,) * 6)
    result = suite(slow_at_first, timeout_s=0.3).score(groups, texts, step=0, max_steps=1)
    totals = [scored.score.total for one in result.groups for scored in one.rollouts]
    assert totals == [None] * 3 + [1.0] * 3
