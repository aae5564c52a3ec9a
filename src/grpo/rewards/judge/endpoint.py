"""Conversations → answers, from an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import JudgeError
from grpo.rewards.judge.cache import AnswerCache, content_key
from grpo.rewards.judge.failures import is_transient, retry_after_s, told
from grpo.rewards.judge.rate_limit import RateLimit
from grpo.rewards.judge.rubric import Conversation

__all__ = ["Answer", "Endpoint"]

_LONGEST_BACK_OFF_S = 30.0
# Not the global generator: that one is the run's.
_jitter = random.Random()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one conversation.

    Attributes:
        value: what was read from the answer; None when there is none.
        text: the answer itself, empty when there is none.
        error: why there is no value.
        requests: how many were sent; 0 when the answer was known.
        tokens_in: tokens of the conversation, as the endpoint counted them; 0 when the answer was known.
        tokens_out: tokens of the answer, likewise.
    """

    value: float | None = None
    text: str = ""
    error: JudgeError | None = None
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(slots=True)
class _Effort:
    """What has been spent on a conversation so far; kept when it is given up."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    trouble: BaseException | None = None
    answer: Answer | None = None


@dataclass(slots=True)
class _Lane:
    """What belongs to one event loop, and how many calls use it."""

    loop: asyncio.AbstractEventLoop
    client: Any
    places: asyncio.Semaphore
    calls: int = 0


@dataclass(slots=True)
class Endpoint:
    """A model at an address, and how hard it may be pressed.

    Attributes:
        base_url: address of the API, as in `http://127.0.0.1:8000/v1`.
        api_key: sent with every request; it is in no message and no file.
        key_name: where the key came from, for messages.
        options: members of every request besides model and messages (`temperature`, …).
        concurrency: requests under way at once.
        retries: further attempts after a rate limit, a server's error, a lost connection or a timeout.
        back_off_s: wait before the first of them, doubled for each one after it; a `Retry-After` of the
            endpoint takes its place, and holds for all requests.
        timeout_s: seconds an attempt may take.
        limit: requests a minute.
        cache: answers that are known.
    """

    model: str
    base_url: str
    api_key: str
    key_name: str
    options: Mapping[str, Any]
    concurrency: int
    retries: int
    back_off_s: float
    timeout_s: float
    limit: RateLimit
    cache: AnswerCache | None
    _lane: _Lane | None = field(default=None, init=False)

    async def ask_all(
        self,
        conversations: Sequence[Conversation],
        read: Callable[[str], float],
        *,
        deadline_s: float | None = None,
    ) -> list[Answer]:
        """Return one answer a conversation; equal conversations are asked once, known ones not at all.

        Args:
            read: makes a value of an answer's text, or raises JudgeError; only answers that it can read are kept.
            deadline_s: seconds for all of them; what is not answered by then has failed.
        """
        keys = [self._key(conversation) for conversation in conversations]
        distinct = dict(zip(keys, conversations, strict=True))
        answers = await self._known(distinct, read)
        unknown = {key: conversation for key, conversation in distinct.items() if key not in answers}
        if unknown:
            async with self._open_lane() as lane:
                answers |= await self._ask_each(unknown, read, lane, deadline_s)
        return _counted_once(keys, answers)

    async def _ask_each(
        self,
        conversations: Mapping[str, Conversation],
        read: Callable[[str], float],
        lane: _Lane,
        deadline_s: float | None,
    ) -> dict[str, Answer]:
        efforts = {key: _Effort() for key in conversations}
        tasks = {
            key: asyncio.ensure_future(self._ask(key, conversation, read, lane, efforts[key]))
            for key, conversation in conversations.items()
        }
        try:
            await asyncio.wait(tasks.values(), timeout=deadline_s)
        finally:
            for task in tasks.values():
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {
            key: self._given_up(efforts[key], deadline_s) if task.cancelled() else task.result()
            for key, task in tasks.items()
        }

    def _key(self, conversation: Conversation) -> str:
        return content_key(
            {"base_url": self.base_url, "model": self.model, "messages": conversation, "options": self.options}
        )

    async def _known(self, keys: Mapping[str, Any], read: Callable[[str], float]) -> dict[str, Answer]:
        if self.cache is None or not keys:
            return {}
        known: dict[str, Answer] = {}
        for key, text in (await asyncio.to_thread(self.cache.get_many, list(keys))).items():
            with contextlib.suppress(JudgeError):
                known[key] = Answer(read(text), text)
        return known

    async def _ask(
        self, key: str, conversation: Conversation, read: Callable[[str], float], lane: _Lane, effort: _Effort
    ) -> Answer:
        text = ""
        try:
            text = await self._text(conversation, lane, effort)
            value = read(text)
        except JudgeError as error:
            return Answer(None, text, error, effort.requests, effort.tokens_in, effort.tokens_out)
        effort.answer = Answer(value, text, None, effort.requests, effort.tokens_in, effort.tokens_out)
        if self.cache is not None:
            self.cache.put(key, text)
            await asyncio.to_thread(self.cache.flush)
        return effort.answer

    async def _text(self, conversation: Conversation, lane: _Lane, effort: _Effort) -> str:
        """Return the answer's text, after as many attempts as it takes and is allowed."""
        while True:
            async with lane.places:
                await self.limit.turn()
                effort.requests += 1
                try:
                    completion = await asyncio.wait_for(self._request(lane.client, conversation), self.timeout_s)
                    return _text_of(completion, effort, self.base_url)
                except JudgeError:
                    raise
                except Exception as error:
                    effort.trouble = error
            trouble = effort.trouble
            if effort.requests > self.retries or not is_transient(trouble):
                raise self._told(trouble, effort) from trouble
            asked_for = retry_after_s(trouble)
            if asked_for is not None:
                self.limit.hold(asked_for)
            else:
                longest = min(_LONGEST_BACK_OFF_S, self.back_off_s * 2 ** (effort.requests - 1))
                await asyncio.sleep(longest * _jitter.uniform(0.5, 1.0))

    async def _request(self, client: Any, conversation: Conversation) -> Any:
        return await client.chat.completions.create(
            model=self.model, messages=list(conversation), extra_body=dict(self.options)
        )

    @contextlib.asynccontextmanager
    async def _open_lane(self) -> AsyncIterator[_Lane]:
        """Yield the client of this event loop, one for all calls that overlap; the last of them closes it.

        Connections and semaphores cannot change loops, and only their own loop can close them.
        """
        loop = asyncio.get_running_loop()
        if self._lane is None or self._lane.loop is not loop:
            from openai import AsyncOpenAI

            # Its own further attempts would pass by our limit and our count.
            client = AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, timeout=self.timeout_s, max_retries=0)
            self._lane = _Lane(loop, client, asyncio.Semaphore(self.concurrency))
        lane = self._lane
        lane.calls += 1
        try:
            yield lane
        finally:
            lane.calls -= 1
            if lane.calls == 0:
                self._lane = None if self._lane is lane else self._lane
                await lane.client.close()

    def _told(self, trouble: BaseException, effort: _Effort) -> JudgeError:
        return told(
            trouble,
            base_url=self.base_url,
            model=self.model,
            key_name=self.key_name,
            api_key=self.api_key,
            requests=effort.requests,
            timeout_s=self.timeout_s,
        )

    def _given_up(self, effort: _Effort, deadline_s: float | None) -> Answer:
        if effort.answer is not None:
            return effort.answer
        within = "in time" if deadline_s is None else f"within the {deadline_s:g} s that all answers may take"
        if effort.trouble is not None:
            because = f"before that, {self._told(effort.trouble, effort)}"
        elif self.limit.held_s > 0:
            because = f"it asked for a pause, of which {self.limit.held_s:.0f} s are left"
        else:
            because = "raise concurrency, requests_per_minute or deadline_s"
        error = JudgeError(f"the judge at {self.base_url} did not answer {within}: {because}")
        return Answer(None, "", error, effort.requests, effort.tokens_in, effort.tokens_out)


def _text_of(completion: Any, effort: _Effort, base_url: str) -> str:
    """Return the text of a chat completion, and add its tokens to the effort.

    The openai package checks no answer's form: every member may be missing or of another type.

    Raises:
        JudgeError: it is no chat completion, a refusal, or was cut.
    """
    usage = getattr(completion, "usage", None)
    effort.tokens_in += _count(getattr(usage, "prompt_tokens", None))
    effort.tokens_out += _count(getattr(usage, "completion_tokens", None))
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise JudgeError(f"the judge at {base_url} sent no chat completion: {str(completion)[:80]!r}")
    refusal, content = getattr(message, "refusal", None), getattr(message, "content", None)
    reason = getattr(choice, "finish_reason", None)
    if refusal or reason == "content_filter":
        raise JudgeError(f"the judge refused: {str(refusal or reason)[:80]!r}")
    if reason == "length":
        raise JudgeError("the judge's answer was cut at its limit of tokens: raise max_tokens")
    if not isinstance(content, str) or not content.strip():
        raise JudgeError("the judge sent an empty answer")
    return content


def _count(tokens: Any) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def _counted_once(keys: Sequence[str], answers: Mapping[str, Answer]) -> list[Answer]:
    """Return the answers in order; of equal conversations only the first one's has cost something."""
    seen: set[str] = set()
    in_order: list[Answer] = []
    for key in keys:
        answer = answers[key]
        in_order.append(Answer(answer.value, answer.text, answer.error) if key in seen else answer)
        seen.add(key)
    return in_order
