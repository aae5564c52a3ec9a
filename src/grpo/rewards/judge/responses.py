"""Responses of an endpoint: the text and tokens of a chat completion, or an error in one line."""

from __future__ import annotations

from typing import Any

from grpo.errors import JudgeError
from grpo.rewards.judge.credentials import without_key
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.parsing import one_line, replace_surrogates

__all__ = ["completion_text", "completion_tokens", "request_error"]

_MAX_MESSAGE, _MAX_ANSWER = 160, 80


def completion_text(completion: Any, options: JudgeOptions, key: str | None) -> str:
    """Return the text of a chat completion. The openai package does not check that members exist or have a type.

    Args:
        completion: the openai client's return value.
        options: address, for messages.
        key: blanked out in the text and in messages.

    Raises:
        JudgeError: the response is not a chat completion, or is a refusal, empty, or cut at the limit of tokens.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        received = _shorten(str(completion), key, _MAX_ANSWER)
        raise JudgeError(f"the judge at {options.base_url} sent no chat completion: {received!r}")
    refusal, content = getattr(message, "refusal", None), getattr(message, "content", None)
    reason = getattr(choice, "finish_reason", None)
    if refusal or reason == "content_filter":
        raise JudgeError(f"the judge refused: {_shorten(str(refusal or reason), key, _MAX_ANSWER)!r}")
    if reason == "length":
        raise JudgeError("the judge's answer was cut at its limit of tokens: raise max_tokens")
    if not isinstance(content, str) or not content.strip():
        raise JudgeError("the judge sent an empty answer")
    return replace_surrogates(without_key(content, key))


def completion_tokens(completion: Any) -> dict[str, int]:
    """Return the tokens of a chat completion as counts of `Usage`, if the endpoint counts them."""
    usage = getattr(completion, "usage", None)
    counts = {
        "input_tokens": getattr(usage, "prompt_tokens", None),
        "output_tokens": getattr(usage, "completion_tokens", None),
    }
    return {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}


def request_error(error: Exception, options: JudgeOptions, key: str | None) -> JudgeError:
    """Return the error in one line: the endpoint, the cause and the remedy, without the key.

    Args:
        error: the exception of the openai client.
        options: address, model and limits.
        key: blanked out in the endpoint's texts.
    """
    from openai import (
        APIConnectionError,
        APIError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        PermissionDeniedError,
    )

    url = options.base_url
    # The openai client numbers its retries in this header.
    attempts = 1 + int(error.request.headers.get("x-stainless-retry-count", 0)) if isinstance(error, APIError) else 1
    tries = f"after {attempts} attempts" if attempts > 1 else "at the first attempt"
    if isinstance(error, APITimeoutError):
        message = f"no answer from the judge at {url} within {options.timeout_s:g} s, {tries}: raise timeout_s"
    elif isinstance(error, APIConnectionError):
        reason = _reason(error.__cause__ or error, key)
        message = f"cannot reach the judge at {url} ({reason}), {tries}: start it or correct base_url"
    elif not isinstance(error, APIStatusError):
        message = f"the judge at {url} sent no chat completion ({_reason(error, key)})"
    elif isinstance(error, (AuthenticationError, PermissionDeniedError)):
        message = f"the judge at {url} refused the key from {options.api_key_env} ({_status(error, key)}): correct it"
    elif error.status_code == 429:
        remedy = "set requests_per_minute or lower concurrency"
        message = f"the judge at {url} takes no more requests ({_status(error, key)}), {tries}: {remedy}"
    else:
        message = f"the judge {options.model!r} at {url} answered {_status(error, key)}, {tries}"
    return JudgeError(message)


def _status(error: Any, key: str | None) -> str:
    text = error.body.get("message") if isinstance(error.body, dict) else None
    if not isinstance(text, str) or not text:
        return f"status {error.status_code}"
    return f"{error.status_code}: {_shorten(text, key)}"


def _reason(error: BaseException, key: str | None) -> str:
    return _shorten(f"{type(error).__name__}: {error}", key)


def _shorten(text: str, key: str | None, max_length: int = _MAX_MESSAGE) -> str:
    # The key is blanked out before the cut: half a key would no longer be found.
    return one_line(text.replace(key, "…") if key else text, max_length)
