"""What comes back from an endpoint: the text and tokens of a chat completion, or what went wrong and how to say it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

from grpo.errors import JudgeError
from grpo.rewards.judge.connection import Access
from grpo.rewards.judge.usage import Usage

__all__ = [
    "completion_text",
    "completion_usage",
    "first_words",
    "is_transient",
    "request_error",
    "retry_after_s",
    "whole_characters",
]

_TRANSIENT = frozenset({408, 409, 425, 429})
# Too many requests, says the status; no money left, says the code: waiting mends the first only.
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_LONGEST_MESSAGE, _LONGEST_ANSWER = 160, 80


def completion_text(completion: Any, access: Access) -> str:
    """Return the text of a chat completion; the openai package checks no member's presence or type.

    Args:
        access: where it came from, for messages.

    Raises:
        JudgeError: it is no chat completion, a refusal, empty, or was cut.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        shown = first_words(access.without_key(str(completion)), _LONGEST_ANSWER)
        raise JudgeError(f"the judge at {access.base_url} sent no chat completion: {shown!r}")
    refusal, content = getattr(message, "refusal", None), getattr(message, "content", None)
    reason = getattr(choice, "finish_reason", None)
    if refusal or reason == "content_filter":
        raise JudgeError(f"the judge refused: {first_words(str(refusal or reason), _LONGEST_ANSWER)!r}")
    if reason == "length":
        raise JudgeError("the judge's answer was cut at its limit of tokens: raise max_tokens")
    if not isinstance(content, str) or not content.strip():
        raise JudgeError("the judge sent an empty answer")
    return whole_characters(content)


def completion_usage(completion: Any) -> Usage:
    """Return what the endpoint says a chat completion has used; nothing where it does not say."""
    usage = getattr(completion, "usage", None)
    return Usage(
        input_tokens=_count(getattr(usage, "prompt_tokens", None)),
        output_tokens=_count(getattr(usage, "completion_tokens", None)),
    )


def _count(tokens: Any) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a little later."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, (APIConnectionError, asyncio.TimeoutError)):
        return True
    if not isinstance(error, APIStatusError) or error.code in _NO_MONEY:
        return False
    return error.status_code in _TRANSIENT or error.status_code >= 500


def retry_after_s(error: BaseException) -> float | None:
    """Return the seconds that the endpoint asks to wait (`Retry-After`: a number or a date); None: it does not say."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return None
    said = error.response.headers.get("retry-after", "")
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(said)
    if math.isnan(seconds):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def request_error(error: BaseException, access: Access, *, model: str, requests: int) -> JudgeError:
    """Return the error that says in one line what happened and what to do; the key is not in it.

    Args:
        error: what the last request ended with.
        access: where it was sent.
        model: that was asked, as its endpoint calls it.
        requests: how many were sent in vain.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError, AuthenticationError, PermissionDeniedError

    url = access.base_url
    attempts = f"after {requests} attempts" if requests > 1 else "at the first attempt"
    if isinstance(error, (APITimeoutError, asyncio.TimeoutError)):
        message = f"no answer from the judge at {url} within {access.timeout_s:g} s, {attempts}: raise timeout_s"
    elif isinstance(error, APIConnectionError):
        reason = _reason(error.__cause__ or error, access)
        message = f"cannot reach the judge at {url} ({reason}), {attempts}: start it or mend base_url"
    elif isinstance(error, (AuthenticationError, PermissionDeniedError)):
        status = _status(error, access)
        message = f"the judge at {url} refused the key from {access.key_name} ({status}): set the right one"
    elif isinstance(error, APIStatusError) and error.status_code == 429:
        message = (
            f"the judge at {url} takes no more requests ({_status(error, access)}), {attempts}: "
            f"set requests_per_minute or lower concurrency"
        )
    elif isinstance(error, APIStatusError):
        message = f"the judge {model!r} at {url} answered {_status(error, access)}, {attempts}"
    else:
        message = f"the judge at {url} sent no chat completion ({_reason(error, access)})"
    return JudgeError(message)


def _status(error: BaseException, access: Access) -> str:
    status = getattr(error, "status_code", "?")
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return f"{status}: {_short(said, access)}" if isinstance(said, str) and said else f"status {status}"


def _reason(error: BaseException, access: Access) -> str:
    return _short(f"{type(error).__name__}: {error}", access)


def _short(said: str, access: Access) -> str:
    # Blanked out first: half of a key that the cut leaves would not be found any more.
    return first_words(access.without_key(said), _LONGEST_MESSAGE)


def whole_characters(text: str) -> str:
    r"""Return the text with a question mark for each half of a character, which UTF-8 cannot hold.

    Byte-level tokens and JSON's escapes can leave such halves.

    Example:
        >>> whole_characters("fine \ud83d")
        'fine ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def first_words(text: str, longest: int) -> str:
    """Return the text in one line, cut after `longest` characters.

    Example:
        >>> first_words("No such\\nmodel here", 10)
        'No such m…'
    """
    line = " ".join(whole_characters(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
