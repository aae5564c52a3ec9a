"""`NativeSampler`: the Sampler protocol over the native engine.

One task drives the engine: it admits waiting requests by position, draws a token for every running completion, and
hands out completions that have ended. Between two tokens it yields to the event loop once, so that an episode whose
turn has ended asks for its next turn before the next token is drawn. With environments that wait for nothing outside
the event loop, each run therefore has the same batches.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.engines.native.engine import NativeEngine
from grpo.engines.protocol import Capabilities, Piece
from grpo.errors import ConfigError, RunError
from grpo.policy import ExportedWeights
from grpo.types import Completion, Request, SamplingParams

__all__ = ["NativeSampler"]

_Shared = tuple[int, tuple[int, ...], SamplingParams]
"""Key of requests that share one prefill: place in the batch, prompt, sampling parameters."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call of `complete` or `stream` that is not answered yet.

    Attributes:
        pieces: for `stream`: pieces that were sampled and not yet yielded; None marks the end.
        sent: for `stream`: tokens handed out so far of each completion.
    """

    shared: _Shared
    place: int
    seeds: tuple[int, ...]
    future: asyncio.Future[tuple[Completion, ...]]
    completions: dict[int, Completion] = field(default_factory=dict)
    pieces: asyncio.Queue[Piece | None] | None = None
    sent: dict[int, int] = field(default_factory=dict)

    def add_pieces(self, index: int, tokens: Sequence[int], logprobs: Sequence[float], version: int) -> None:
        """Hand the caller of `stream` the tokens that it has not seen of a running completion."""
        sent = self.sent.get(index, 0)
        if self.pieces is not None and len(tokens) > sent:
            self.pieces.put_nowait(Piece(index, tuple(tokens[sent:]), tuple(logprobs[sent:]), None, version))
            self.sent[index] = len(tokens)

    def end(self, index: int, completion: Completion) -> None:
        """Note a completion that has ended; the call is answered with the last one."""
        self.completions[index] = completion
        if self.pieces is not None:
            new = slice(self.sent.get(index, 0), None)
            self.pieces.put_nowait(
                Piece(
                    index,
                    completion.token_ids[new],
                    completion.logprobs[new],
                    completion.finish_reason,
                    completion.policy_versions[-1],
                )
            )
        if len(self.completions) == len(self.seeds):
            if not self.future.done():
                self.future.set_result(tuple(self.completions[i] for i in range(len(self.seeds))))
            if self.pieces is not None:
                self.pieces.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """End the call with an exception."""
        if not self.future.done():
            self.future.set_exception(error)
            # Retrieved here so that asyncio does not report it as lost where the caller was cancelled meanwhile.
            self.future.exception()
        if self.pieces is not None:
            self.pieces.put_nowait(None)


class NativeSampler:
    """Samples in this process, from the policy's own parameters or a copy that is made once a step."""

    def __init__(self, engine: NativeEngine, *, trainer_arithmetic: bool = True) -> None:
        """Take an engine that has nothing in hand.

        Args:
            trainer_arithmetic: the engine computes in the dtype of the policy's own forward pass.
        """
        self.engine = engine
        self.capabilities = Capabilities(
            trainer_arithmetic=trainer_arithmetic, full_logprobs=True, seeded=True, in_process=True
        )
        self._waiting: list[_Call] = []
        self._admitted: dict[int, list[tuple[_Call, int]]] = {}
        """By the engine's request id: for each of its seeds, the call and the index of the seed there."""
        self._ids = itertools.count()
        self._driver: asyncio.Task[None] | None = None
        self._running: asyncio.Event | None = None
        self._closed = False

    @property
    def policy_version(self) -> int:
        """The version of the weights that the next token is drawn with."""
        return self.engine.policy_version

    async def complete(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, seeds: Sequence[int], **request: Any
    ) -> tuple[Completion, ...]:
        """See `Sampler.complete`. Requests of one place with one prompt are read once."""
        if not seeds:
            return ()
        call = self._enqueue(prompt_ids, sampling, seeds, **request)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._drop(call)
            raise

    async def stream(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, seeds: Sequence[int], **request: Any
    ) -> AsyncIterator[Piece]:
        """See `Sampler.stream`."""
        if not seeds:
            return
        call = self._enqueue(prompt_ids, sampling, seeds, **request)
        call.pieces = asyncio.Queue()
        try:
            while (piece := await call.pieces.get()) is not None:
                yield piece
            call.future.result()
        finally:
            self._drop(call)

    async def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """See `Sampler.score`. A cache of its own is used: requests in hand are not disturbed."""
        return self.engine.score(prompts, completions, temperature=temperature)

    async def update_weights(self, weights: ExportedWeights, version: int) -> None:
        """See `Sampler.update_weights`. Where the engine runs the exported module itself, nothing is copied."""
        self.engine.load_weights(weights.module, version)

    async def checksums(self) -> Mapping[str, str] | None:
        """Return digests of the tensors; None where the engine samples from a packed copy of them."""
        return None if self.engine.runs_fused else ExportedWeights(self.engine.model).checksums()

    async def abort(self) -> None:
        """See `Sampler.abort`."""
        self._fail_all(RunError("the sampler dropped its requests (abort)"))

    async def pause(self) -> None:
        """See `Sampler.pause`."""
        self._gate().clear()

    async def resume(self) -> None:
        """See `Sampler.resume`."""
        self._gate().set()

    async def close(self) -> None:
        """See `Sampler.close`."""
        self._closed = True
        self._fail_all(RunError("the sampler was closed"))
        await self.resume()

    def _gate(self) -> asyncio.Event:
        """Return the event that is clear while the sampler is paused."""
        if self._running is None:
            self._running = asyncio.Event()
            self._running.set()
        return self._running

    def _enqueue(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        position: tuple[int, int] = (0, 0),
        adapter: str | None = None,
        session: str | None = None,  # noqa: ARG002 (no cache outlives a completion)
        media: Sequence[Any] = (),
    ) -> _Call:
        if self._closed:
            raise RunError("the sampler was closed: make a new one")
        if adapter is not None:
            raise ConfigError(f"adapter {adapter!r}: the native engine samples with the policy's own adapter only")
        if media:
            raise ConfigError("the native engine reads tokens only: leave images and other media out of the prompt")
        future: asyncio.Future[tuple[Completion, ...]] = asyncio.get_running_loop().create_future()
        call = _Call((position[0], tuple(prompt_ids), sampling), position[1], tuple(seeds), future)
        self._waiting.append(call)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
            # Retrieved, so that asyncio does not report the exception of a driver that was interrupted.
            self._driver.add_done_callback(lambda driver: driver.cancelled() or driver.exception())
        return call

    def _drop(self, call: _Call) -> None:
        """Forget a call; the engine stops a request of which no call is left."""
        call.future.cancel()
        if call in self._waiting:
            self._waiting.remove(call)
        self._cancel_unwanted()

    def _cancel_unwanted(self) -> None:
        """Stop the engine's requests whose calls have all been answered or forgotten."""
        for request_id, owners in list(self._admitted.items()):
            if all(owner.future.done() for owner, _ in owners):
                self.engine.cancel(request_id)
                del self._admitted[request_id]

    def _fail_all(self, error: BaseException) -> None:
        calls = [*self._waiting, *(call for owners in self._admitted.values() for call, _ in owners)]
        self._waiting.clear()
        self._admitted.clear()
        self.engine.abort()
        for call in calls:
            call.fail(error)

    async def _drive(self) -> None:
        """Run the engine until no call is left."""
        while self._waiting or self._admitted:
            # Callers whose completions have just ended run now, and may ask for more.
            await asyncio.sleep(0)
            await self._gate().wait()
            try:
                self._admit()
                self.engine.step()
                self._hand_out()
            # An engine that fails ends its calls, which report the exception: the driver has no caller of its own.
            except Exception as error:
                self._fail_all(error)
            # An interrupt ends the event loop once, here; each call that repeated it would end the loop again.
            except BaseException:
                self._fail_all(RunError("sampling was interrupted"))
                raise

    def _admit(self) -> None:
        """Give waiting calls to the engine in order of position, those that share a prompt as one request."""
        waiting = sorted(self._waiting, key=lambda call: (call.shared[0], call.place))
        self._waiting.clear()
        for (place, prompt_ids, sampling), group in itertools.groupby(waiting, key=lambda call: call.shared):
            calls = list(group)
            owners = [(call, index) for call in calls for index in range(len(call.seeds))]
            request_id = next(self._ids)
            seeds = tuple(seed for call in calls for seed in call.seeds)
            try:
                self.engine.add(Request(request_id, prompt_ids, seeds, sampling, (place, calls[0].place)))
            # A request that can never be served fails alone.
            except Exception as error:
                for call in calls:
                    call.fail(error)
            else:
                self._admitted[request_id] = owners

    def _hand_out(self) -> None:
        """Deliver new pieces and ended completions to their calls."""
        for request_id, owners in self._admitted.items():
            if any(call.pieces is not None for call, _ in owners):
                self._hand_out_pieces(request_id, owners)
        for request_id, place, completion in self.engine.collect():
            call, index = self._admitted[request_id][place]
            call.end(index, completion)
        self._admitted = {number: owners for number, owners in self._admitted.items() if self.engine.holds(number)}
        self._cancel_unwanted()

    def _hand_out_pieces(self, request_id: int, owners: Sequence[tuple[_Call, int]]) -> None:
        for place, tokens, logprobs in self.engine.running(request_id):
            call, index = owners[place]
            call.add_pieces(index, tokens.tolist(), logprobs.tolist(), self.policy_version)
