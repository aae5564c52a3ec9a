"""The Sampler protocol over the native engine: streaming, sharing, cancelling, pausing, weights."""

from __future__ import annotations

import asyncio
import copy
import signal

import pytest
import torch
from sampling_helpers import generate
from torch import nn

from grpo import event_loop
from grpo.engines import Piece, make_sampler
from grpo.engines.native import NativeEngine, NativeSampler
from grpo.errors import ConfigError, InputError, RunError
from grpo.policy import ExportedWeights, Policy
from grpo.types import Completion, Request, SamplingParams

PROMPT = (3, 1, 4, 1, 5)
OTHER = (9, 2, 6)
SAMPLING = SamplingParams(max_tokens=12)


def sampler_of(model: nn.Module, **limits: int) -> NativeSampler:
    return NativeSampler(NativeEngine(model, end_ids=[7], **limits))


def expected(model: nn.Module, prompt: tuple[int, ...], seeds: tuple[int, ...]) -> tuple[Completion, ...]:
    return generate(NativeEngine(model, end_ids=[7]), [Request(0, prompt, seeds, SAMPLING)])[0]


def test_complete_returns_one_completion_a_seed_in_their_order(model: nn.Module) -> None:
    sampler = sampler_of(model)
    together = event_loop.run(sampler.complete(PROMPT, SAMPLING, (1, 2, 3)))
    alone = [event_loop.run(sampler.complete(PROMPT, SAMPLING, (seed,)))[0] for seed in (1, 2, 3)]
    assert [found.token_ids for found in together] == [found.token_ids for found in alone]
    assert event_loop.run(sampler.complete(PROMPT, SAMPLING, ())) == ()


def test_streamed_pieces_are_the_completions_piece_by_piece(model: nn.Module) -> None:
    sampler = sampler_of(model)

    async def streamed() -> list[Piece]:
        return [piece async for piece in sampler.stream(PROMPT, SAMPLING, (1, 2))]

    pieces = event_loop.run(streamed())
    whole = event_loop.run(sampler.complete(PROMPT, SAMPLING, (1, 2)))
    assert len(pieces) > 4
    for index, completion in enumerate(whole):
        own = [piece for piece in pieces if piece.index == index]
        assert tuple(token for piece in own for token in piece.token_ids) == completion.token_ids
        assert tuple(value for piece in own for value in piece.logprobs) == completion.logprobs
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [completion.finish_reason]


def test_requests_of_one_place_share_their_prompt_and_are_admitted_by_position(model: nn.Module) -> None:
    sampler = sampler_of(model)
    added: list[Request] = []
    add = sampler.engine.add
    sampler.engine.add = lambda request: (added.append(request), add(request))[1]  # type: ignore[method-assign]

    async def all_at_once() -> list[tuple[Completion, ...]]:
        positions = [(1, 0), (0, 1), (1, 1), (0, 0), (2, 0)]
        prompts = [OTHER, PROMPT, OTHER, PROMPT, PROMPT]
        calls = [
            sampler.complete(prompt, SAMPLING, (100 * place + index,), position=(place, index))
            for prompt, (place, index) in zip(prompts, positions, strict=True)
        ]
        return list(await asyncio.gather(*calls))

    found = event_loop.run(all_at_once())
    assert [(request.prompt_ids, request.seeds) for request in added] == [
        (PROMPT, (0, 1)),
        (OTHER, (100, 101)),
        (PROMPT, (200,)),
    ]
    assert found[1][0].token_ids == expected(model, PROMPT, (0, 1))[1].token_ids
    assert found[0][0].token_ids == expected(model, OTHER, (100,))[0].token_ids


def test_a_cancelled_call_leaves_the_others_and_frees_the_engine(model: nn.Module) -> None:
    sampler = NativeSampler(NativeEngine(model, end_ids=[]))

    async def one_of_two() -> Completion:
        endless = asyncio.ensure_future(sampler.complete(PROMPT, SamplingParams(max_tokens=60), (1,), position=(0, 0)))
        other = asyncio.ensure_future(sampler.complete(OTHER, SAMPLING, (2,), position=(1, 0)))
        while sampler.engine.num_cache_bytes == 0:
            await asyncio.sleep(0)
        endless.cancel()
        (completion,) = await other
        assert not sampler.engine.has_work
        with pytest.raises(asyncio.CancelledError):
            await endless
        return completion

    (alone,) = generate(NativeEngine(model, end_ids=[]), [Request(0, OTHER, (2,), SAMPLING)])[0]
    assert event_loop.run(one_of_two()).token_ids == alone.token_ids
    assert sampler.engine.num_cache_bytes == 0


def test_a_cancelled_call_among_merged_ones_frees_the_engine_once_the_others_have_ended(model: nn.Module) -> None:
    sampler = NativeSampler(NativeEngine(model, end_ids=[]))
    long = SamplingParams(max_tokens=40)

    async def timed_out() -> None:
        calls = [asyncio.ensure_future(sampler.complete(PROMPT, long, (seed,), position=(0, seed))) for seed in (1, 2)]
        while not sampler.engine.has_work:
            await asyncio.sleep(0)
        calls[0].cancel()
        assert sampler.engine.has_work
        await calls[1]

    event_loop.run(timed_out())
    assert not sampler.engine.has_work
    sampler.engine.load_weights(model, 2)


def test_an_interrupt_in_the_engine_leaves_the_loop_once_and_every_call_is_cleaned_up(model: nn.Module) -> None:
    sampler = sampler_of(model)
    step, closed = sampler.engine.step, []

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        step()

    async def episode(seed: int) -> None:
        try:
            await sampler.complete(PROMPT, SAMPLING, (seed,), position=(0, seed))
        finally:
            await asyncio.sleep(0)
            closed.append(seed)

    async def all_of_them() -> None:
        episodes = [asyncio.ensure_future(episode(seed)) for seed in range(4)]
        try:
            await asyncio.gather(*episodes)
        finally:
            await asyncio.gather(*episodes, return_exceptions=True)

    sampler.engine.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        event_loop.run(all_of_them())
    assert closed == [0, 1, 2, 3]
    sampler.engine.step = step  # type: ignore[method-assign]
    assert not sampler.engine.has_work
    for _ in range(4):
        assert event_loop.run(sampler.complete(PROMPT, SAMPLING, (1,))) == expected(model, PROMPT, (1,))


def test_a_stream_that_is_left_early_stops_its_request(model: nn.Module) -> None:
    sampler = NativeSampler(NativeEngine(model, end_ids=[]))

    async def first_piece() -> Piece:
        pieces = sampler.stream(PROMPT, SamplingParams(max_tokens=60), (1,))
        piece = await anext(pieces)
        await pieces.aclose()
        return piece

    assert len(event_loop.run(first_piece()).token_ids) == 1
    assert not sampler.engine.has_work


def test_a_request_that_cannot_be_served_fails_alone(model: nn.Module) -> None:
    sampler = sampler_of(model)

    async def both() -> tuple[Completion, ...]:
        good = asyncio.ensure_future(sampler.complete(PROMPT, SAMPLING, (1,), position=(0, 0)))
        with pytest.raises(InputError, match="no tokens"):
            await sampler.complete((), SAMPLING, (1,), position=(1, 0))
        return await good

    assert event_loop.run(both())[0].token_ids == expected(model, PROMPT, (1,))[0].token_ids


def test_abort_and_close_end_calls_with_an_error(model: nn.Module) -> None:
    sampler = sampler_of(model)

    async def aborted() -> None:
        call = asyncio.ensure_future(sampler.complete(PROMPT, SAMPLING, (1,)))
        await asyncio.sleep(0)
        await sampler.abort()
        with pytest.raises(RunError, match="dropped its requests"):
            await call
        await sampler.close()
        with pytest.raises(RunError, match="closed"):
            await sampler.complete(PROMPT, SAMPLING, (1,))

    event_loop.run(aborted())
    assert not sampler.engine.has_work


def test_a_paused_sampler_draws_nothing_until_it_is_resumed(model: nn.Module) -> None:
    sampler = sampler_of(model)

    async def paused() -> tuple[Completion, ...]:
        early = asyncio.ensure_future(sampler.complete(OTHER, SAMPLING, (2,)))
        while not sampler.engine.has_work:
            await asyncio.sleep(0)
        await sampler.pause()
        drawn = sampler.engine.running(0)[0][1].tolist()
        call = asyncio.ensure_future(sampler.complete(PROMPT, SAMPLING, (1,)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not call.done()
        assert sampler.engine.running(0)[0][1].tolist() == drawn
        await sampler.resume()
        await early
        return await call

    assert event_loop.run(paused())[0].token_ids == expected(model, PROMPT, (1,))[0].token_ids


def test_an_engine_that_fails_ends_its_calls_and_serves_the_next(model: nn.Module) -> None:
    sampler = sampler_of(model)
    step = sampler.engine.step

    def fail() -> None:
        raise MemoryError("no more")

    sampler.engine.step = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match="no more"):
        event_loop.run(sampler.complete(PROMPT, SAMPLING, (1,)))
    sampler.engine.step = step  # type: ignore[method-assign]
    assert event_loop.run(sampler.complete(PROMPT, SAMPLING, (1,))) == expected(model, PROMPT, (1,))


@pytest.mark.parametrize("request_options", [{"adapter": "mine"}, {"media": (object(),)}])
def test_what_the_native_engine_does_not_have_is_refused(model: nn.Module, request_options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="native engine"):
        event_loop.run(sampler_of(model).complete(PROMPT, SAMPLING, (1,), **request_options))  # type: ignore[arg-type]


def test_new_weights_are_sampled_from_and_have_the_exporters_checksums(model: nn.Module) -> None:
    trained = copy.deepcopy(model)
    sampler = sampler_of(model)
    before = event_loop.run(sampler.complete(PROMPT, SAMPLING, (1,)))
    with torch.no_grad():
        trained.lm_head.weight.mul_(-1)
    weights = ExportedWeights(trained)
    own = ExportedWeights(model)
    differing = {name for name, digest in weights.checksums().items() if own.checksums()[name] != digest}
    assert differing == {"lm_head.weight"}
    event_loop.run(sampler.update_weights(weights, version=3))
    after = event_loop.run(sampler.complete(PROMPT, SAMPLING, (1,)))
    assert weights.checksums() == own.checksums()
    # It samples from a packed copy, whose bits are others.
    assert event_loop.run(sampler.checksums()) is None
    assert after[0].token_ids == expected(trained, PROMPT, (1,))[0].token_ids != before[0].token_ids
    assert set(after[0].policy_versions) == {3}


def test_engines_are_found_by_name(tiny_policy: Policy) -> None:
    options = {"max_sequences": 4, "max_cache_tokens": 4096}
    exact = make_sampler("native", tiny_policy, dtype=torch.float32, **options)
    rough = make_sampler("native", tiny_policy, dtype=torch.bfloat16, **options)
    assert exact.capabilities.trainer_arithmetic
    assert not rough.capabilities.trainer_arithmetic
    with pytest.raises(ConfigError, match="no engine named 'vlm': use one of native"):
        make_sampler("vlm", tiny_policy)
