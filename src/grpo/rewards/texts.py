"""Texts of completions in the form that reward functions are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from grpo.tasks.opened_tags import with_opened_tag

__all__ = ["Completion", "completion_texts"]

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A string for a plain prompt; for a chat prompt the messages that answer it."""


def completion_texts(completions: Sequence[Completion], opened_tags: Sequence[str] | None = None) -> list[str]:
    """Return the text of each completion: the string itself, or the content of its last message.

    Args:
        opened_tags: the tag that the prompt of each completion opened (`tasks.opened_tags`), which is put in front.

    Example:
        >>> completion_texts(["4", [{"role": "assistant", "content": "four"}]])
        ['4', 'four']
    """
    texts = [_text(completion) for completion in completions]
    if opened_tags is None:
        return texts
    return [with_opened_tag(text, tag) for text, tag in zip(texts, opened_tags, strict=True)]


def _text(completion: Completion) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
