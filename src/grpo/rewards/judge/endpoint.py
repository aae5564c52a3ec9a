"""Conversations → answers, from an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from grpo.errors import JudgeError
from grpo.rewards.judge.cache import AnswerCache, content_key
from grpo.rewards.judge.client import RateLimit, open_client, read_key
from grpo.rewards.judge.credentials import without_key
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.responses import completion_text, completion_tokens, request_error
from grpo.rewards.judge.rubric import Conversation
from grpo.rewards.judge.usage import Meter

__all__ = ["Endpoint", "JudgeAnswer"]


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """The result of one conversation.

    Attributes:
        value: the number read from the answer, or the reason why there is none.
        text: the answer, empty when there is none.
    """

    value: float | Exception
    text: str = ""


class Endpoint:
    """A model at an address, the limits of its use, and the cache of its answers."""

    def __init__(self, options: JudgeOptions) -> None:
        """Check the key and open the cache; sends nothing.

        Raises:
            ConfigError: key, cache or the `openai` package cannot be used.
        """
        self._options = options
        self._key = read_key(options)
        self._limit = RateLimit(options.requests_per_minute)
        # A semaphore belongs to one event loop, and each suite has its own.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._cache = None if options.cache_dir is None else AnswerCache(options.cache_dir)

    async def ask_all(
        self,
        conversations: Sequence[Conversation],
        read: Callable[[str], float],
        meter: Meter,
        *,
        use_cache: bool = True,
    ) -> list[JudgeAnswer]:
        """Return one answer for each conversation; equal ones are asked once, answers in the cache are reused.

        Args:
            conversations: the messages of each question.
            read: returns the value of an answer's text, or raises JudgeError; the cache keeps readable answers only.
            meter: counts requests and tokens as they arise.
            use_cache: False: answers are neither looked up nor kept.
        """
        cache = self._cache if use_cache else None
        keys = [self._cache_key(conversation) for conversation in conversations]
        distinct = dict(zip(keys, conversations, strict=True))
        answers = {} if cache is None else await _cached(cache, list(distinct), read, self._key)
        unknown = [key for key in distinct if key not in answers]
        meter.count(cached=len(conversations) - len(unknown))
        if not unknown:
            return [answers[key] for key in keys]

        async def ask(key: str) -> JudgeAnswer:
            answer = await self._ask(client, distinct[key], read, meter)
            if cache is not None and not isinstance(answer.value, Exception):
                await asyncio.to_thread(cache.put, key, answer.text)
            return answer

        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._options.concurrency))
        async with open_client(self._options, self._key, meter, limit=self._limit, slots=slots) as client:
            answers |= zip(unknown, await asyncio.gather(*map(ask, unknown)), strict=True)
        return [answers[key] for key in keys]

    def _cache_key(self, conversation: Conversation) -> str:
        options = self._options
        return content_key(
            {
                "base_url": options.base_url,
                "model": options.model,
                "messages": conversation,
                "options": options.request_members,
            }
        )

    async def _ask(
        self, client: Any, conversation: Conversation, read: Callable[[str], float], meter: Meter
    ) -> JudgeAnswer:
        """Return the answer to one conversation, or its failure, at the deadline at the latest."""
        options, text = self._options, ""
        try:
            text = await asyncio.wait_for(self._text(client, conversation, meter), options.deadline_s)
            return JudgeAnswer(read(text), text)
        except JudgeError as error:
            return JudgeAnswer(error, text)
        except asyncio.TimeoutError:
            within = f"within the {options.deadline_s:g} s of a call"
            remedy = "raise concurrency, requests_per_minute or deadline_s"
            if meter.last_failure:
                remedy = f"its last failure was {meter.last_failure}"
            return JudgeAnswer(JudgeError(f"the judge at {options.base_url} did not answer {within}: {remedy}"))

    async def _text(self, client: Any, conversation: Conversation, meter: Meter) -> str:
        """Return the text of the endpoint's answer.

        Raises:
            JudgeError: the endpoint sent none.
        """
        options = self._options
        try:
            completion = await client.chat.completions.create(
                model=options.model, messages=list(conversation), extra_body=options.request_members
            )
        except Exception as error:
            raise request_error(error, options, self._key) from None  # its texts may repeat the key
        meter.count(**completion_tokens(completion))
        return completion_text(completion, options, self._key)


async def _cached(
    cache: AnswerCache, keys: Sequence[str], read: Callable[[str], float], api_key: str | None
) -> dict[str, JudgeAnswer]:
    """Return the readable answers in the cache; an older version may have kept one that repeats the API key."""
    answers: dict[str, JudgeAnswer] = {}
    for key, kept in (await asyncio.to_thread(cache.get_many, keys)).items():
        text = without_key(kept, api_key)
        with contextlib.suppress(JudgeError):
            answers[key] = JudgeAnswer(read(text), text)
    return answers
