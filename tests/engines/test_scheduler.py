"""Admission, limits and bookkeeping, without a model."""

from __future__ import annotations

import numpy as np
import pytest

from grpo.engines.native.scheduler import Scheduler
from grpo.types import Request, SamplingParams

END = np.array([9])


def request(request_id: int, prompt_length: int, completions: int, max_tokens: int = 4) -> Request:
    return Request(request_id, (1,) * prompt_length, tuple(range(completions)), SamplingParams(max_tokens))


def scheduler(
    max_sequences: int = 100, max_cache_tokens: int = 10_000, *, max_prefill_tokens: int = 1000, lockstep: bool = False
) -> Scheduler:
    return Scheduler(
        max_sequences=max_sequences,
        max_cache_tokens=max_cache_tokens,
        max_prefill_tokens=max_prefill_tokens,
        lockstep=lockstep,
    )


def admitted(scheduler: Scheduler) -> list[int]:
    admission = scheduler.admit()
    return [] if admission is None else [group.request.id for group in admission.row_groups]


def run_token(scheduler: Scheduler, tokens: list[int], first: int = 0) -> list[int]:
    """Give each row from `first` on a token, take those that end out and return the freed slots."""
    drawn = np.array(tokens)
    done = scheduler.record(first, drawn, np.zeros(len(tokens), dtype=np.float32), np.isin(drawn, END))
    return scheduler.finish(done, END, 3).tolist()


def test_requests_are_admitted_in_order_as_far_as_there_is_room() -> None:
    queue = scheduler(max_sequences=5)
    for request_id in range(3):
        queue.add(request(request_id, 3, 2))
    assert admitted(queue) == [0, 0, 1, 1, 2]
    assert admitted(queue) == []
    assert run_token(queue, [9, 1, 1, 1, 1]) == []
    admission = queue.admit()
    assert admission is not None
    assert admission.new_groups == []
    assert [group.request.id for group in admission.row_groups] == [2]
    assert queue.first_row(admission) == 4


def test_cached_tokens_are_counted_as_the_tables_hold_them() -> None:
    queue = scheduler(max_cache_tokens=2 * 10 + 4 * 4)
    queue.add(request(0, 2, 2))
    queue.add(request(1, 10, 5))
    # Two prompts take 2 x 10 tokens, padded to the longer; what is left holds four completions of 4.
    assert admitted(queue) == [0, 0, 1, 1]


def test_a_table_is_counted_as_long_as_it_has_been_since_it_was_empty() -> None:
    queue = scheduler(max_cache_tokens=2 * 10 + 3 * 4)
    queue.add(request(0, 10, 1))
    queue.add(request(1, 2, 1))
    assert admitted(queue) == [0, 1]
    assert run_token(queue, [9, 1]) == [0]
    queue.add(request(2, 2, 9))
    assert admitted(queue) == [2, 2]
    while not queue.is_idle:
        run_token(queue, [9] * queue.num_rows)
        admitted(queue)
    queue.add(request(3, 2, 7))
    assert admitted(queue) == [3] * 7


def test_a_longer_request_makes_every_row_of_the_tables_longer() -> None:
    # Prompts of 2 and 6 tokens take 2 x 6; completions of up to 3 and 5 tokens take 5 each.
    queue = scheduler(max_cache_tokens=2 * 6 + 4 * 5)
    queue.add(request(0, 2, 3, max_tokens=3))
    queue.add(request(1, 6, 3, max_tokens=5))
    assert admitted(queue) == [0, 0, 0, 1]
    # In the other order the short ones are counted like the long ones.
    queue = scheduler(max_cache_tokens=2 * 6 + 4 * 5)
    queue.add(request(1, 6, 3, max_tokens=5))
    queue.add(request(0, 2, 3, max_tokens=3))
    assert admitted(queue) == [1, 1, 1, 0]


def test_a_short_request_between_two_long_ones_does_not_make_room() -> None:
    queue = scheduler(max_cache_tokens=3 * 8 + 3 * 7)
    for request_id, (prompt_length, max_tokens) in enumerate(((8, 7), (1, 1), (2, 2))):
        queue.add(request(request_id, prompt_length, 2, max_tokens=max_tokens))
    assert admitted(queue) == [0, 0, 1, 1]
    queue = scheduler(max_cache_tokens=3 * 8 + 6 * 7)
    for request_id, (prompt_length, max_tokens) in enumerate(((1, 1), (8, 7), (2, 2))):
        queue.add(request(request_id, prompt_length, 2, max_tokens=max_tokens))
    assert admitted(queue) == [0, 0, 1, 1, 2, 2]


def test_a_prompt_is_kept_until_its_last_completion_is_done() -> None:
    queue = scheduler(max_sequences=2)
    queue.add(request(0, 3, 3))
    queue.add(request(1, 3, 1))
    assert admitted(queue) == [0, 0]
    assert run_token(queue, [9, 9]) == []
    assert not queue.is_idle
    assert admitted(queue) == [0, 1]
    assert run_token(queue, [9, 1]) == [0]
    assert [(request_id, index) for request_id, index, _ in queue.collect()] == [(0, 0), (0, 1), (0, 2)]
    assert not queue.holds(0)
    assert run_token(queue, [9]) == [0]
    assert [(request_id, index) for request_id, index, _ in queue.collect()] == [(1, 0)]
    assert queue.is_idle
    assert not queue.has_work


def test_a_prompt_that_takes_the_slot_of_one_that_left_is_freed_there() -> None:
    queue = scheduler()
    for request_id in range(3):
        queue.add(request(request_id, 3, 1))
    assert admitted(queue) == [0, 1, 2]
    assert run_token(queue, [9, 1, 1]) == [0]
    # The last prompt has moved to slot 0, and its row to row 0.
    assert run_token(queue, [9, 1]) == [0]
    assert [request_id for request_id, _, _ in queue.collect()] == [0, 2]
    assert run_token(queue, [9]) == [0]
    assert [request_id for request_id, _, _ in queue.collect()] == [1]


def test_every_row_keeps_its_own_way_to_sample_when_rows_move() -> None:
    queue = scheduler()
    for request_id in range(3):
        sampling = SamplingParams(4, 0.5 + request_id, request_id, 1.0 - request_id / 10, request_id / 10)
        queue.add(Request(request_id, (1, 2), (request_id,), sampling))
    assert admitted(queue) == [0, 1, 2]
    streams = queue.draws(0)[0].tolist()
    run_token(queue, [9, 5, 6])
    left, counts, how = queue.draws(0)
    assert left.tolist() == [streams[2], streams[1]]
    assert counts.tolist() == [1, 1]
    assert how.temperature.tolist() == [2.5, 1.5]
    assert how.top_k.tolist() == [2, 1]
    assert how.top_p.tolist() == [0.8, 0.9]
    assert how.min_p.tolist() == [0.2, 0.1]
    assert queue.last_tokens().tolist() == [6, 5]
    assert queue.draws(1)[0].tolist() == [streams[1]]


def test_each_completion_is_handed_out_as_it_ends_with_the_index_of_its_seed() -> None:
    queue = scheduler()
    queue.add(request(5, 2, 3))
    assert admitted(queue) == [5, 5, 5]
    run_token(queue, [1, 2, 3])
    run_token(queue, [9, 2, 3])
    assert queue.num_rows == 2
    assert queue.last_tokens().tolist() == [3, 2]
    run_token(queue, [3, 9])
    assert [(request_id, index) for request_id, index, _ in queue.collect()] == [(5, 0), (5, 1)]
    assert queue.holds(5)
    assert [(index, tokens.tolist()) for index, tokens, _ in queue.running(5)] == [(2, [3, 3, 3])]
    run_token(queue, [3])
    ((request_id, index, completion),) = queue.collect()
    assert (request_id, index) == (5, 2)
    assert completion.token_ids == (3, 3, 3, 3)
    assert completion.finish_reason == "length"
    assert completion.policy_versions == (3, 3, 3, 3)
    assert len(completion.logprobs) == 4
    assert not queue.has_work


def test_an_end_token_at_the_last_place_is_a_stop() -> None:
    queue = scheduler()
    queue.add(request(0, 2, 1, max_tokens=1))
    assert admitted(queue) == [0]
    run_token(queue, [9])
    ((_, _, completion),) = queue.collect()
    assert completion.finish_reason == "stop"


def test_a_request_for_no_completions_is_no_work() -> None:
    queue = scheduler()
    queue.add(request(0, 2, 0))
    assert not queue.has_work
    assert admitted(queue) == []
    assert queue.collect() == []


def test_a_cancelled_request_leaves_the_batch_and_the_others_stay() -> None:
    queue = scheduler(max_sequences=5)
    for request_id in range(3):
        queue.add(request(request_id, 3, 2))
    assert admitted(queue) == [0, 0, 1, 1, 2]
    run_token(queue, [9, 1, 2, 3, 4])
    rows, slots = queue.cancel(1)
    # Row 0 had ended and was filled with the last one.
    assert (rows.tolist(), slots.tolist()) == ([2, 3], [1])
    assert queue.last_tokens().tolist() == [4, 1]
    assert not queue.holds(1)
    assert admitted(queue) == [2]
    rows, slots = queue.cancel(0)
    assert (rows.tolist(), slots.tolist()) == ([1], [0])
    assert queue.collect() == []
    run_token(queue, [9, 9])
    assert [(request_id, index) for request_id, index, _ in queue.collect()] == [(2, 0), (2, 1)]
    assert queue.is_idle
    assert not queue.has_work


def test_a_request_that_waits_can_be_cancelled() -> None:
    queue = scheduler(max_sequences=1)
    for request_id in range(3):
        queue.add(request(request_id, 3, 1))
    assert admitted(queue) == [0]
    rows, slots = queue.cancel(1)
    assert len(rows) == len(slots) == 0
    run_token(queue, [9])
    assert admitted(queue) == [2]


def test_in_lockstep_no_more_prompt_tokens_are_read_at_once_than_allowed() -> None:
    queue = scheduler(max_prefill_tokens=9, lockstep=True)
    for request_id in range(3):
        queue.add(request(request_id, 4, 1))
    assert admitted(queue) == [0, 1]
    queue = scheduler(max_prefill_tokens=3, lockstep=True)
    queue.add(request(0, 4, 2))
    assert admitted(queue) == [0, 0]


def test_in_lockstep_only_prompts_of_one_length_run_together_and_nobody_joins() -> None:
    queue = scheduler(max_sequences=3, lockstep=True)
    for request_id, length in enumerate((4, 4, 5)):
        queue.add(request(request_id, length, 2))
    assert admitted(queue) == [0, 0, 1]
    assert run_token(queue, [9, 9, 1]) == [0]
    assert admitted(queue) == []
    assert run_token(queue, [9]) == [0]
    admission = queue.admit()
    assert admission is not None
    # The rest of group 1 needs its prompt again: nothing but running completions had kept it.
    assert [group.request.id for group in admission.new_groups] == [1]
    run_token(queue, [9])
    assert admitted(queue) == [2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_everything_is_served_once_under_any_limits(seed: int) -> None:
    generator = np.random.default_rng(seed)
    queue = scheduler(int(generator.integers(1, 9)), int(generator.integers(24, 200)), lockstep=bool(seed % 2))
    wanted = {}
    for request_id in range(12):
        wanted[request_id] = int(generator.integers(0, 6))
        queue.add(
            request(request_id, int(generator.integers(1, 12)), wanted[request_id], int(generator.integers(1, 12)))
        )
    served = dict.fromkeys(wanted, 0)
    for _ in range(2000):
        admission = queue.admit()
        assert queue.num_rows <= queue.max_sequences
        first = queue.first_row(admission)
        run_token(queue, generator.integers(0, 10, queue.num_rows - first).tolist(), first)
        for request_id, _, _ in queue.collect():
            served[request_id] += 1
        if not queue.has_work:
            break
    assert served == wanted


def test_waiting_requests_are_admitted_by_position_and_those_that_began_stay_first() -> None:
    queue = scheduler(max_sequences=3)
    for request_id, place in enumerate((2, 5, 4)):
        queue.add(Request(request_id, (1, 2), (0, 1), SamplingParams(4), (place, 0)))
    assert admitted(queue) == [0, 0, 2]
    queue.add(Request(3, (1, 2), (0,), SamplingParams(4), (0, 0)))
    queue.add(Request(4, (1, 2), (0,), SamplingParams(4), (5, 0)))
    run_token(queue, [9, 9, 9])
    # Half of request 2 has begun; the others follow by position, request 4 behind 1 that came before it.
    assert admitted(queue) == [2, 3, 1]
    run_token(queue, [9, 9, 9])
    assert admitted(queue) == [1, 4]
