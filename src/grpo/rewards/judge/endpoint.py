"""Conversations → answers, from an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.errors import JudgeError
from grpo.rewards.judge.cache import AnswerCache, content_key
from grpo.rewards.judge.connection import LoopClient, LoopClients, RateLimit, find_access
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.responses import completion_text, completion_usage, is_transient, request_error, retry_after_s
from grpo.rewards.judge.rubric import Conversation
from grpo.rewards.judge.usage import Meter, Usage

__all__ = ["Endpoint", "JudgeAnswer"]

_LONGEST_BACK_OFF_S = 30.0
# Not the global generator: that one is the run's.
_jitter = random.Random()


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """What came of one conversation.

    Attributes:
        value: what was read from the answer; None when there is none.
        text: the answer itself, empty when there is none.
        error: why there is no value.
    """

    value: float | None = None
    text: str = ""
    error: Exception | None = None


@dataclass(slots=True)
class _Attempts:
    """What has been done for a conversation so far; kept when it is given up.

    Attributes:
        key: of the conversation in the cache.
        count: requests that were sent.
        error: what the last of them ended with.
        answer: there already, and perhaps not on disk yet.
    """

    key: str
    conversation: Conversation
    count: int = 0
    error: BaseException | None = None
    answer: JudgeAnswer | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """What is the same for all conversations of a call."""

    read: Callable[[str], float]
    meter: Meter
    cache: AnswerCache | None
    connection: LoopClient


class Endpoint:
    """A model at an address, pressed as hard as the options allow, and what it has answered."""

    def __init__(self, options: JudgeOptions) -> None:
        """Get ready; nothing is sent yet.

        Raises:
            ConfigError: address, key, cache or the `openai` package cannot be used.
        """
        self._options = options
        self._model = options.model.strip()
        self._access = find_access(options.base_url, options.api_key_env, options.timeout_s)
        self._limit = RateLimit(options.requests_per_minute)
        self._clients = LoopClients(self._access.open_client, options.concurrency)
        self._cache = None if options.cache_dir is None else AnswerCache(options.cache_dir)

    async def ask_all(
        self,
        conversations: Sequence[Conversation],
        read: Callable[[str], float],
        meter: Meter,
        *,
        use_cache: bool = True,
    ) -> list[JudgeAnswer]:
        """Return one answer a conversation; equal conversations are asked once, known ones not at all.

        What is not answered when `deadline_s` is over has failed.

        Args:
            conversations: what to send.
            read: makes a value of an answer's text, or raises JudgeError; only answers that it can read are kept.
            meter: counts what is sent and received, as it happens.
            use_cache: False: answers are neither looked up nor kept.
        """
        cache = self._cache if use_cache else None
        keys = [self._key(conversation) for conversation in conversations]
        distinct = dict(zip(keys, conversations, strict=True))
        answers = await _known(cache, distinct, read)
        unknown = {key: _Attempts(key, asked) for key, asked in distinct.items() if key not in answers}
        meter.count(Usage(cached=len(conversations) - len(unknown)))
        if unknown:
            async with self._clients.enter() as connection:
                answers |= await self._ask_each(unknown, _Call(read, meter, cache, connection))
        return [answers[key] for key in keys]

    async def _ask_each(self, unknown: Mapping[str, _Attempts], call: _Call) -> dict[str, JudgeAnswer]:
        tasks = {key: asyncio.ensure_future(self._ask(attempts, call)) for key, attempts in unknown.items()}
        try:
            await asyncio.wait(tasks.values(), timeout=self._options.deadline_s)
        finally:
            for task in tasks.values():
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {key: self._given_up(unknown[key]) if task.cancelled() else task.result() for key, task in tasks.items()}

    def _key(self, conversation: Conversation) -> str:
        return content_key(
            {
                "base_url": self._access.base_url,
                "model": self._model,
                "messages": conversation,
                "options": self._options.members,
            }
        )

    async def _ask(self, attempts: _Attempts, call: _Call) -> JudgeAnswer:
        text = ""
        try:
            text = await self._text(attempts, call)
            attempts.answer = JudgeAnswer(call.read(text), text)
        except JudgeError as error:
            return JudgeAnswer(None, text, error)
        if call.cache is not None:
            call.cache.put(attempts.key, text)
            await asyncio.to_thread(call.cache.flush)
        return attempts.answer

    async def _text(self, attempts: _Attempts, call: _Call) -> str:
        """Return the answer's text, after as many attempts as it takes and is allowed.

        Raises:
            JudgeError: none of them brought one.
        """
        while True:
            try:
                return completion_text(await self._attempt(attempts, call), self._access)
            except JudgeError:
                raise
            except Exception as error:
                attempts.error = failure = error
            if attempts.count > self._options.retries or not is_transient(failure):
                raise self._error(attempts, failure) from failure
            await self._back_off(attempts.count, failure)

    async def _attempt(self, attempts: _Attempts, call: _Call) -> Any:
        async with call.connection.slots:
            await self._limit.turn()
            attempts.count += 1
            call.meter.count(Usage(requests=1))
            sent = call.connection.client.chat.completions.create(
                model=self._model, messages=list(attempts.conversation), extra_body=self._options.members
            )
            completion = await asyncio.wait_for(sent, self._options.timeout_s)
            call.meter.count(completion_usage(completion))
            return completion

    async def _back_off(self, requests: int, error: BaseException) -> None:
        """Wait before the next request, or hold all requests for as long as the endpoint asks."""
        asked_for = retry_after_s(error)
        if asked_for is not None:
            self._limit.hold(asked_for)
            return
        longest = min(_LONGEST_BACK_OFF_S, self._options.back_off_s * 2 ** (requests - 1))
        await asyncio.sleep(longest * _jitter.uniform(0.5, 1.0))

    def _error(self, attempts: _Attempts, error: BaseException) -> JudgeError:
        return request_error(error, self._access, model=self._model, requests=attempts.count)

    def _given_up(self, attempts: _Attempts) -> JudgeAnswer:
        """Return what there is of an answer when the time is over."""
        if attempts.answer is not None:
            return attempts.answer
        if attempts.error is not None:
            because = f"before that, {self._error(attempts, attempts.error)}"
        elif self._limit.held_s > 0:
            because = f"it asked for a pause, of which {self._limit.held_s:.0f} s are left"
        else:
            because = "raise concurrency, requests_per_minute or deadline_s"
        deadline_s = self._options.deadline_s
        within = "in time" if deadline_s is None else f"within the {deadline_s:g} s that all answers may take"
        return JudgeAnswer(error=JudgeError(f"the judge at {self._access.base_url} did not answer {within}: {because}"))


async def _known(
    cache: AnswerCache | None, keys: Mapping[str, Any], read: Callable[[str], float]
) -> dict[str, JudgeAnswer]:
    """Return the answers on disk that can be read."""
    if cache is None or not keys:
        return {}
    known: dict[str, JudgeAnswer] = {}
    for key, text in (await asyncio.to_thread(cache.get_many, list(keys))).items():
        with contextlib.suppress(JudgeError):
            known[key] = JudgeAnswer(read(text), text)
    return known
