"""The Environment protocol, its standard implementation's parts, and the sampler that an episode sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from grpo.engines import Sampler
from grpo.errors import InputError
from grpo.types import Completion, Message, Prompt, Rollout, SamplingParams

__all__ = ["Environment", "EpisodeSampler", "StepEnvironment", "StepResult"]


@runtime_checkable
class Environment(Protocol):
    """Turns a prompt into an episode. The loop over turns belongs to the environment."""

    async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
        """Return one episode that begins with `prompt`.

        It runs on the package's event loop beside the other episodes of a step, so code that waits must use `await`.
        An exception fails only this episode, which is counted and left out of its group.

        Args:
            sampler: the source of the policy's turns.
            seed: of the episode; the same seed and weights give the same episode.
        """
        ...


class EpisodeSampler:
    """The sampler of one episode, with its place in the batch and its sampling parameters already set.

    Attributes:
        sampling: how tokens are drawn; `max_tokens` is the budget of the whole episode, in tokens after the prompt.
        error: the failure of the sampler itself, which ends the run and not just the episode; None while it works.
    """

    def __init__(
        self, sampler: Sampler, sampling: SamplingParams, position: tuple[int, int], prompt_length: int
    ) -> None:
        self.sampling = sampling
        self._prompt_length = prompt_length
        self.error: BaseException | None = None
        self._sampler = sampler
        self._position = position

    async def complete(self, token_ids: Sequence[int], seed: int, *, max_tokens: int | None = None) -> Completion:
        """Return the policy's next turn after `token_ids` (prompt and all turns so far).

        Args:
            seed: of this turn.
            max_tokens: of this turn, at most what is left of the episode's budget; None: all that is left.

        Raises:
            ValueError: nothing is left of the budget.
            InputError: the sampler cannot serve this turn.
        """
        used = len(token_ids) - self._prompt_length
        left = self.sampling.max_tokens - used
        if left < 1:
            raise ValueError(f"the episode has used its budget of {self.sampling.max_tokens} tokens")
        sampling = replace(self.sampling, max_tokens=left if max_tokens is None else min(left, max_tokens))
        try:
            (completion,) = await self._sampler.complete(
                token_ids, sampling, (seed,), position=self._position, session="{}-{}".format(*self._position)
            )
        except asyncio.CancelledError:
            raise
        except InputError as error:
            # A later turn's tokens are the environment's; a prompt that cannot be served is an error of the run.
            if used <= 0:
                self.error = error
            raise
        except BaseException as error:
            self.error = error
            raise
        return completion


@dataclass(frozen=True, slots=True)
class StepResult:
    """An environment's answer to one turn of the policy.

    Attributes:
        messages: read next by the policy; needed unless the episode is done.
        rewards: rewards for this turn, by name; those of several turns add up. None: not applicable.
        done: the episode ends here.
        info: reported in the log, later turns replacing earlier ones of the same name.
    """

    messages: Sequence[Message] = ()
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    done: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class StepEnvironment(Protocol):
    """The state of one episode; each episode has its own. Methods may be `async`; a plain one must not block."""

    def reset(self, prompt: Prompt, seed: int) -> Awaitable[None] | None:
        """Begin the episode of this prompt."""
        ...

    def step(self, completion: str) -> StepResult | Awaitable[StepResult]:
        """Answer one turn, given as text without special tokens."""
        ...

    def close(self) -> Awaitable[None] | None:
        """Free what the episode holds; called once, whatever happened."""
        ...
