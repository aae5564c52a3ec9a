from __future__ import annotations

import asyncio
import itertools
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch

from grpo.errors import RewardError
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rewards.failures import RemoteError, error_location

NAN = float("nan")


def tolerant(*functions, **options):
    return RewardSuite(resolve_rewards(list(functions)), **{"max_failed_share": 1.0, **options})


def score(suite, group, lengths=(1, 1), step=0):
    texts = [f"text {index}" for index in range(len(lengths))]
    result = suite.score([group("x", list(lengths))], texts, step=step, max_steps=10)
    return [rollout.score for rollout in result.groups[0].rollouts], result


def fine(completions):
    return [1.0] * len(completions)


def raising(completions):
    raise RuntimeError("the server\nsaid no")


async def raising_later(completions):
    await asyncio.sleep(0)
    raise RuntimeError("the server\nsaid no")


@pytest.mark.parametrize("function", [raising, raising_later])
def test_an_exception_fails_every_completion_and_the_others_go_on(group, function):
    scores, result = score(tolerant(fine, function), group)
    name = function.__name__
    for one in scores:
        assert one.rewards == {"fine": 1.0, name: None}
        assert one.failures == {name: "RuntimeError: the server said no"}
        assert one.total is None
    assert result.metrics[f"rewards/{name}/failed"] == 2.0
    assert f"rewards/{name}/mean" not in result.metrics
    assert result.metrics["rewards/fine/failed"] == 0.0


def test_a_function_that_failed_as_a_whole_logs_nothing(group):
    def reward(completions, log_metric, log_extra):
        log_metric("half", 0.5)
        log_extra("column", [1, 2])
        raise RuntimeError("then it broke")

    _, result = score(tolerant(reward), group)
    assert "user/half" not in result.metrics
    assert not any(scored.logged for group in result.groups for scored in group.rollouts)


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf"), np.float32("nan"), 1e300, 10**400])
def test_a_value_that_is_no_finite_number_fails_for_its_own_completion_only(group, bad):
    scores, _ = score(tolerant(lambda completions: [bad, 2.0]), group)
    assert [one.total for one in scores] == [None, 2.0]
    assert list(scores[0].failures) == ["lambda"]
    assert scores[1].failures == {}


def test_nan_in_a_tensor_fails_for_its_own_completion_only(group):
    scores, _ = score(tolerant(lambda completions: torch.tensor([NAN, 2.0])), group)
    assert [one.total for one in scores] == [None, 2.0]
    assert scores[0].failures == {"lambda": "ValueError: reward is nan, not a finite number"}


@pytest.mark.parametrize("bad", ["1.0", {"reward": 1.0}, 1j, object()])
def test_a_value_of_another_type_fails_for_its_own_completion_only(group, bad):
    scores, _ = score(tolerant(lambda completions: [bad, 2.0]), group)
    assert [one.total for one in scores] == [None, 2.0]
    assert scores[0].failures["lambda"] == f"TypeError: reward is a {type(bad).__name__}, not a number or None"


@pytest.mark.parametrize(
    ("returned", "failure"),
    [
        ([1.0], "ValueError: returned 1 rewards for 2 completions"),
        ([1.0, 2.0, 3.0], "ValueError: returned 3 rewards for 2 completions"),
        ([], "ValueError: returned 0 rewards for 2 completions"),
        (itertools.repeat(1.0), "ValueError: returned more rewards for 2 completions"),
        (None, "TypeError: returned None, not a list of 2 rewards"),
        (1.0, "TypeError: returned a float, not a list of 2 rewards"),
        (torch.tensor(1.0), "TypeError: returned a Tensor, not a list of 2 rewards"),
        ("ab", "TypeError: returned a str, not a list of 2 rewards"),
        ({0: 1.0, 1: 2.0}, "TypeError: returned a dict, not a list of 2 rewards"),
        ({1.0, 2.0}, "TypeError: returned a set, not a list of 2 rewards"),
    ],
)
def test_something_else_than_one_value_a_completion_fails_them_all(group, returned, failure):
    scores, _ = score(tolerant(lambda completions: returned), group)
    assert [one.failures for one in scores] == [{"lambda": failure}] * 2
    assert [one.total for one in scores] == [None, None]


def test_token_rewards_that_do_not_fit_their_completion_fail_for_it_only(group):
    scores, _ = score(tolerant(lambda completions: [[1.0, 2.0], [1.0, 2.0], [NAN, 1.0]]), group, lengths=(2, 3, 2))
    assert scores[0].token_rewards == (1.0, 2.0)
    assert [one.total for one in scores] == [0.0, None, None]
    assert scores[1].failures == {"lambda": "ValueError: 2 token rewards for 3 tokens"}
    assert scores[2].failures == {"lambda": "ValueError: reward is nan, not a finite number"}


def test_a_plain_function_that_returns_a_coroutine_has_failed(group):
    async def hidden():
        return [1.0, 1.0]

    def reward(completions):
        coroutine = hidden()
        coroutine.close()
        return coroutine

    scores, _ = score(tolerant(reward), group)
    assert scores[0].failures == {"reward": "TypeError: returned a coroutine, not a list of 2 rewards"}


def test_an_iterator_that_raises_has_failed(group):
    def reward(completions):
        yield 1.0
        raise RuntimeError("halfway")

    scores, _ = score(tolerant(reward), group)
    assert scores[0].failures == {"reward": "RuntimeError: halfway"}


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), asyncio.CancelledError()])
def test_leaving_by_another_door_is_a_failure_too(group, error):
    def leave(completions):
        raise error

    async def leave_later(completions):
        raise error

    suite = tolerant(leave, leave_later)
    for _ in range(2):
        scores, _ = score(suite, group)
        assert set(scores[0].failures) == {"leave", "leave_later"}


def test_an_exception_whose_message_cannot_be_read_is_still_told(group):
    class BrokenError(Exception):
        def __str__(self):
            raise ValueError("no words")

    def reward(completions):
        raise BrokenError

    scores, _ = score(tolerant(reward), group)
    assert scores[0].failures == {"reward": "BrokenError: (its message cannot be read)"}


def test_a_keyboard_interrupt_in_a_function_passes_through(group):
    def reward(completions):
        raise KeyboardInterrupt

    async def reward_later(completions):
        raise KeyboardInterrupt

    for function in (reward, reward_later):
        with pytest.raises(KeyboardInterrupt):
            score(tolerant(function), group)


def test_an_interrupt_from_the_keyboard_does_not_wait_for_a_function_that_hangs(group):
    release = threading.Event()
    finished = threading.Event()
    main = threading.main_thread().ident

    def hangs(completions):
        signal.pthread_kill(main, signal.SIGINT)
        release.wait(10)
        finished.set()
        return [1.0, 1.0]

    # A shell that starts its children in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            score(tolerant(hangs, timeout_s=None), group)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not finished.is_set()
    release.set()
    assert finished.wait(5)


def test_a_function_that_hangs_is_left_behind_and_the_next_ones_still_run(group):
    release = threading.Event()
    calls = []

    def hangs(completions, log_metric):
        calls.append(len(calls))
        if len(calls) == 1:
            release.wait(10)
            log_metric("late", 1.0)
        return [5.0, 5.0]

    suite = tolerant(hangs, fine, timeout_s=0.2)
    scores, result = score(suite, group)
    assert scores[0].rewards == {"hangs": None, "fine": 1.0}
    assert scores[0].failures == {"hangs": "TimeoutError: no result within 0.2 s"}
    release.set()
    scores, result = score(suite, group)
    assert scores[0].total == 6.0
    assert "user/late" not in result.metrics


def test_an_async_function_that_hangs_is_cancelled_and_its_neighbours_are_not(group):
    cancelled = threading.Event()

    async def hangs(completions):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def quick(completions):
        return [2.0, 2.0]

    scores, _ = score(tolerant(hangs, quick, timeout_s=0.2), group)
    assert scores[0].rewards == {"hangs": None, "quick": 2.0}
    assert scores[0].failures == {"hangs": "TimeoutError: no result within 0.2 s"}
    assert cancelled.wait(5)


def test_an_async_function_that_ignores_its_cancellation_is_left_behind(group):
    async def stubborn(completions):
        for _ in range(20):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return [2.0, 2.0]

    scores, _ = score(tolerant(stubborn, timeout_s=0.2), group)
    assert scores[0].failures == {"stubborn": "TimeoutError: no result within 0.2 s"}


def test_an_async_function_that_blocks_its_loop_is_left_behind_with_the_loop(group):
    release = threading.Event()
    calls = []

    async def blocks(completions):
        calls.append(0)
        if len(calls) == 1:
            release.wait(10)
        return [2.0, 2.0]

    suite = tolerant(blocks, timeout_s=0.2)
    scores, _ = score(suite, group)
    assert scores[0].failures == {"blocks": "TimeoutError: no result within 0.2 s"}
    scores, _ = score(suite, group)
    assert scores[0].total == 2.0
    release.set()


def test_a_timeout_error_of_the_functions_own_is_told_as_it_is(group):
    def reward(completions):
        raise TimeoutError("the judge is asleep")

    scores, _ = score(tolerant(reward, timeout_s=5), group)
    assert scores[0].failures == {"reward": "TimeoutError: the judge is asleep"}


def test_without_a_timeout_functions_may_take_their_time(group):
    def slow(completions):
        time.sleep(0.05)
        return [1.0, 1.0]

    async def slow_too(completions):
        await asyncio.sleep(0.05)
        return [1.0, 1.0]

    scores, _ = score(tolerant(slow, slow_too, timeout_s=None), group)
    assert scores[0].total == 2.0


def test_the_share_that_may_fail_may_fail(group):
    suite = RewardSuite(resolve_rewards(lambda completions: [NAN, NAN, 1.0, 1.0]), max_failed_share=0.5)
    scores, _ = score(suite, group, lengths=(1, 1, 1, 1))
    assert [one.total for one in scores] == [None, None, 1.0, 1.0]


def test_a_larger_share_stops_the_run_with_the_exception_and_its_line(group):
    suite = RewardSuite(resolve_rewards([fine, raising]), max_failed_share=0.5)
    with pytest.raises(RewardError) as caught:
        score(suite, group, step=4)
    message = str(caught.value)
    line = raising.__code__.co_firstlineno + 1
    assert "2 of 2 completions after 4 steps" in message
    assert f"reward 'raising': RuntimeError: the server said no (at {__file__}:{line})" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_line_is_that_of_the_function_when_the_exception_comes_from_deeper_down(group):
    def reads(completions):
        import json

        return [json.loads(text) for text in completions]

    with pytest.raises(RewardError) as caught:
        score(RewardSuite(resolve_rewards(reads)), group)
    assert f"(at {__file__}:{reads.__code__.co_firstlineno + 3})" in str(caught.value)


def test_a_bad_value_is_told_with_the_line_where_its_function_begins(group):
    def broken(completions):
        return [NAN, NAN]

    with pytest.raises(RewardError, match="reward is nan") as caught:
        score(RewardSuite(resolve_rewards(broken)), group)
    assert f"(at {__file__}:{broken.__code__.co_firstlineno})" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def outer():
    return inner()


def inner():
    raise ValueError("at the bottom")


def test_the_place_of_an_error_is_the_innermost_line_of_the_users_code():
    line = inner.__code__.co_firstlineno + 1
    for function in (None, outer):
        with pytest.raises(ValueError, match="at the bottom") as caught:
            outer()
        assert error_location(caught.value, function) == f"{__file__}:{line}"


def test_an_error_from_another_process_shows_its_line_and_its_traceback():
    try:
        raise ValueError("in a worker")
    except ValueError as error:
        remote = RemoteError.of(error)
    assert str(pickle.loads(pickle.dumps(remote))).splitlines()[:2] == [
        "ValueError: in a worker",
        "Traceback (most recent call last):",
    ]


def test_no_share_allowed_means_that_one_failure_stops_the_run(group):
    with pytest.raises(RewardError, match="1 of 4 completions"):
        score(
            RewardSuite(resolve_rewards(lambda completions: [NAN, 1.0, 1.0, 1.0]), max_failed_share=0.0),
            group,
            lengths=(1, 1, 1, 1),
        )


def test_one_functions_failure_takes_the_completion_out_even_when_others_gave_numbers(group):
    scores, _ = score(tolerant(fine, lambda completions: [NAN, 1.0]), group)
    assert scores[0].rewards == {"fine": 1.0, "lambda": None}
    assert scores[0].total is None
    assert scores[1].total == 2.0


def test_an_exception_in_the_list_fails_its_own_completion_only(group):
    scores, _ = score(tolerant(lambda completions: [ConnectionError("no answer\nfrom there"), 2.0]), group)
    assert [one.total for one in scores] == [None, 2.0]
    assert scores[0].failures == {"lambda": "ConnectionError: no answer from there"}


def test_exceptions_that_a_gather_returns_fail_their_own_completions_only(group):
    async def judge(text):
        if text == "text 1":
            raise TimeoutError("too busy")
        return 1.0

    async def judged(completions):
        return await asyncio.gather(*map(judge, completions), return_exceptions=True)

    scores, result = score(tolerant(judged), group, lengths=(1, 1, 1))
    assert [one.total for one in scores] == [1.0, None, 1.0]
    assert scores[1].failures == {"judged": "TimeoutError: too busy"}
    assert result.metrics["rewards/judged/failed"] == 1.0


def test_an_exception_among_token_rewards_fails_their_completion(group):
    scores, _ = score(tolerant(lambda completions: [[1.0, ValueError("broken")], [1.0, 2.0]]), group, lengths=(2, 2))
    assert [one.total for one in scores] == [None, 0.0]


def test_an_exception_that_was_returned_stops_the_run_as_one_that_was_raised(group):
    with pytest.raises(RewardError, match=r"reward 'lambda': ConnectionError: no answer") as caught:
        score(RewardSuite(resolve_rewards(lambda completions: [ConnectionError("no answer")] * 2)), group)
    assert isinstance(caught.value.__cause__, ConnectionError)
