"""The Sampler protocol: the one way in which training, evaluation and generation get completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grpo import event_loop
from grpo.policy import ExportedWeights
from grpo.types import Completion, FinishReason, Request, SamplingParams

__all__ = ["Capabilities", "Piece", "Sampler", "sample"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Promises of a sampler, fixed for its lifetime.

    Attributes:
        trainer_arithmetic: it computes as the trainer's forward does (same dtype, same weights), so that its
            log-probabilities may stand in for the trainer's; otherwise importance weights correct the difference.
        full_logprobs: its log-probabilities are those of `Rollout.logprobs`: of softmax(logits / temperature) over the
            whole vocabulary, before top-k, top-p and min-p. A sampler without them cannot be trained from.
        seeded: a seed reproduces a completion, so that a resumed run repeats the same bits.
        in_process: it reads the policy's own parameters in this process, without a copy between processes.
    """

    trainer_arithmetic: bool
    full_logprobs: bool
    seeded: bool
    in_process: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Newly sampled tokens of one completion.

    Attributes:
        index: place of the completion's seed in the request.
        token_ids, logprobs: the new tokens; see `Completion`.
        finish_reason: None while the completion continues.
        policy_version: the weights that they were drawn with.
    """

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None
    policy_version: int


class Sampler(Protocol):
    """Samples completions from the weights that it was given last."""

    @property
    def capabilities(self) -> Capabilities:
        """Promises of this sampler."""
        ...

    @property
    def policy_version(self) -> int:
        """The version of the weights that the next token is drawn with."""
        ...

    async def complete(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        position: tuple[int, int] = (0, 0),
        adapter: str | None = None,
        session: str | None = None,
        media: Sequence[Any] = (),
    ) -> tuple[Completion, ...]:
        """Return one completion of the prompt for each seed, in their order.

        Args:
            position: place of the prompt in its batch and place of the first completion in its group. Waiting
                requests are admitted in this order, not in that of arrival, so that batches repeat.
            adapter: name of an adapter to sample with; None: the weights of the last update.
            session: name of an episode whose turns share a prefix; a hint for caches.
            media: images and the like that the prompt's placeholders stand for.

        Raises:
            InputError: the prompt is empty, does not fit the model or the cache, or the sampler has no adapters
                or media.
            RunError: the sampler failed, or `abort` dropped the request.
        """
        ...

    def stream(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, seeds: Sequence[int], **request: Any
    ) -> AsyncIterator[Piece]:
        """Yield the pieces that `complete` collects while they are sampled; arguments and errors as there."""
        ...

    async def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of each completion after its prompt.

        Computed the way a sampled token is, cache included, so it shows which weights the sampler really has.
        """
        ...

    async def update_weights(self, weights: ExportedWeights, version: int) -> None:
        """Sample from these weights from now on; they carry that version.

        Raises:
            RunError: completions are running whose cached keys and values belong to the old weights.
            ModelError: the weights are of another architecture or size.
        """
        ...

    async def checksums(self) -> Mapping[str, str] | None:
        """Return a digest of each tensor by exported name, as `ExportedWeights.checksums` has them; None: not known."""
        ...

    async def abort(self) -> None:
        """Drop every request; their callers get a RunError."""
        ...

    async def pause(self) -> None:
        """Draw no more tokens until `resume`; requests stay."""
        ...

    async def resume(self) -> None:
        """Continue after `pause`."""
        ...

    async def close(self) -> None:
        """Drop every request and free what the sampler holds; it cannot be used again."""
        ...


def sample(sampler: Sampler, requests: Sequence[Request]) -> list[tuple[Completion, ...]]:
    """Return the completions of each request, in the order of `requests`; waits for all of them.

    Raises:
        InputError, RunError: as `Sampler.complete`, for the first request that fails; the others are dropped.
    """

    async def all_of_them() -> list[tuple[Completion, ...]]:
        calls = [
            asyncio.ensure_future(
                sampler.complete(request.prompt_ids, request.sampling, request.seeds, position=(place, 0))
            )
            for place, request in enumerate(requests)
        ]
        try:
            return list(await asyncio.gather(*calls))
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    return event_loop.run(all_of_them())
