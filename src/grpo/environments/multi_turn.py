"""The standard implementation of an environment with several turns, over `reset`, `step` and `close`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from grpo.environments.protocol import EpisodeSampler, StepEnvironment, StepResult
from grpo.environments.turn_tokens import TurnTokens
from grpo.errors import ConfigError
from grpo.policy.tokens import decode_texts
from grpo.seeding import derive_seed
from grpo.types import Completion, FinishReason, Message, Prompt, Rollout

__all__ = ["MultiTurn"]


class MultiTurn:
    """Runs step environments: the policy writes a turn, the environment answers, until it is done.

    The episode is one token sequence. What the policy sampled stays as it was sampled; the tokens between two turns
    are those that the chat template puts there (`TurnTokens`), and they are not trained on. An episode
    also ends, with finish reason `length`, when a turn is cut off or its budget of tokens or turns is used up.
    """

    def __init__(
        self, make: Callable[[], StepEnvironment], tokenizer: Any, *, chat: bool | None = None, max_turns: int = 16
    ) -> None:
        """Take the function that makes the step environment of each episode.

        Args:
            make: called once an episode.
            tokenizer: the policy's.
            chat: see `TurnTokens`.
            max_turns: turns of the policy in an episode at most.

        Raises:
            ConfigError: `max_turns` is below 1.
            ModelError: the chat template cannot be extended by turns.
        """
        if max_turns < 1:
            raise ConfigError(f"max_turns={max_turns}: an episode has at least 1 turn")
        self._make = make
        self._tokenizer = tokenizer
        self._turn_tokens = TurnTokens(tokenizer, chat=chat)
        self._max_turns = max_turns

    async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
        """Return one episode; see `Environment.rollout`."""
        environment = self._make()
        episode = _Episode(prompt)
        try:
            await _settled(environment.reset(prompt, derive_seed(seed, "environment")))
            for turn in range(self._max_turns):
                # The first turn of an episode is what a single completion with its seed would be.
                turn_seed = seed if turn == 0 else derive_seed(seed, "turn", turn)
                completion = await sampler.complete(episode.all_tokens, turn_seed)
                text = self._text(completion)
                episode.add_turn(completion, text)
                if completion.finish_reason == "length":
                    break
                result: StepResult = await _settled(environment.step(text))
                episode.add_result(result)
                if result.done:
                    break
                if turn == self._max_turns - 1:
                    episode.finish_reason = "length"
                    break
                between = self._turn_tokens.between(
                    completion.token_ids[-1], result.messages, template_options=prompt.template_options
                )
                if len(episode.token_ids) + len(between) >= sampler.sampling.max_tokens:
                    episode.finish_reason = "length"
                    break
                episode.add_messages(between, result.messages)
        finally:
            await _settled(environment.close())
        return episode.rollout()

    def _text(self, completion: Completion) -> str:
        """Return what the policy wrote in a turn, without the token that ended it."""
        ends = completion.token_ids[-1:] if completion.finish_reason == "stop" else ()
        return decode_texts(self._tokenizer, [completion.token_ids], end_token_ids=ends)[0]


class _Episode:
    """An episode in the making."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.messages: list[Message] = []
        self.rewards: dict[str, float | None] = {}
        self.info: dict[str, Any] = {}
        self.finish_reason: FinishReason = "stop"

    @property
    def all_tokens(self) -> tuple[int, ...]:
        """The prompt and everything after it."""
        return (*self.prompt.token_ids, *self.token_ids)

    def add_turn(self, completion: Completion, text: str) -> None:
        """Append what the policy wrote."""
        self.token_ids += completion.token_ids
        self.sampled += [True] * len(completion.token_ids)
        self.logprobs += completion.logprobs
        self.versions += completion.policy_versions
        self.messages.append({"role": "assistant", "content": text})
        self.finish_reason = completion.finish_reason

    def add_messages(self, token_ids: tuple[int, ...], messages: Any) -> None:
        """Append what the environment wrote."""
        self.token_ids += token_ids
        self.sampled += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.messages += [dict(message) for message in messages]

    def add_result(self, result: StepResult) -> None:
        """Add the rewards of a turn to those before it."""
        for name, reward in result.rewards.items():
            before = self.rewards.get(name)
            self.rewards[name] = before if reward is None else reward + (before or 0.0)
        self.info |= result.info

    def rollout(self) -> Rollout:
        """Return the rollout of the episode so far."""
        turns = sum(message["role"] == "assistant" for message in self.messages)
        return Rollout(
            token_ids=tuple(self.token_ids),
            sampled=tuple(self.sampled),
            logprobs=tuple(self.logprobs),
            finish_reason=self.finish_reason,
            policy_version=min(self.versions, default=0),
            messages=tuple(self.messages),
            rewards=self.rewards,
            info={**self.info, "turns": turns},
        )


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
