"""Chat completions → their text and their tokens; the openai package checks no member's presence or type."""

from __future__ import annotations

from typing import Any

from grpo.errors import JudgeError
from grpo.rewards.judge.access import Access
from grpo.rewards.judge.usage import Usage
from grpo.rewards.judge.wording import first_words, whole_characters

__all__ = ["text_of", "tokens_of"]

_SHOWN = 80


def text_of(completion: Any, access: Access) -> str:
    """Return the text of a chat completion.

    Raises:
        JudgeError: it is no chat completion, a refusal, empty, or was cut.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        shown = first_words(access.without_key(str(completion)), _SHOWN)
        raise JudgeError(f"the judge at {access.base_url} sent no chat completion: {shown!r}")
    refusal, content = getattr(message, "refusal", None), getattr(message, "content", None)
    reason = getattr(choice, "finish_reason", None)
    if refusal or reason == "content_filter":
        raise JudgeError(f"the judge refused: {first_words(str(refusal or reason), _SHOWN)!r}")
    if reason == "length":
        raise JudgeError("the judge's answer was cut at its limit of tokens: raise max_tokens")
    if not isinstance(content, str) or not content.strip():
        raise JudgeError("the judge sent an empty answer")
    return whole_characters(content)


def tokens_of(completion: Any) -> Usage:
    """Return what the endpoint says a chat completion has used; nothing where it does not say."""
    usage = getattr(completion, "usage", None)
    return Usage(
        input_tokens=_count(getattr(usage, "prompt_tokens", None)),
        output_tokens=_count(getattr(usage, "completion_tokens", None)),
    )


def _count(tokens: Any) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
