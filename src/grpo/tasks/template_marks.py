"""Recognition of texts that a chat template has already been applied to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["TemplateMarks"]

_CONTENT = "\ue000content\ue000"
"""Stands for the text of a message: private characters that no template writes by itself."""

_FIRST_ROLES = ("user", "system")


@dataclass(frozen=True, slots=True)
class TemplateMarks:
    """The text that a chat template writes around messages.

    Attributes:
        start: the start token with which each rendered text begins; empty if the template writes none.
        openings: the text before the first message of a conversation, by its role, without the start token.
        question: the text before that of a user.
        reply: the text between that of the user and the reply, without a `<think>` at its end.
    """

    start: str
    openings: tuple[str, ...]
    question: str
    reply: str

    @classmethod
    def of(cls, tokenizer: Any) -> TemplateMarks | None:
        """Return the marks of a tokenizer's template; None if the template does not render a single message."""
        user = _around(tokenizer, "user", reply=True)
        if user is None:
            return None
        before, after = user
        start = str(getattr(tokenizer, "bos_token", None) or "")
        writes_start = bool(start) and before.startswith(start)
        firsts = [found[0] for role in _FIRST_ROLES if (found := _around(tokenizer, role)) is not None]
        openings = ((first.removeprefix(start) if writes_start else first).strip() for first in firsts)
        # A default system message stands before the user's mark.
        marks = [before.rfind(token) for token in _special_tokens(tokenizer) if token != start]
        question = before[max([0, *marks]) :]
        if writes_start:
            question = question.removeprefix(start)
        return cls(
            start=start if writes_start else "",
            openings=tuple(text for text in openings if _is_mark(text, tokenizer)),
            question=question.strip(),
            reply=re.sub(r"<think>\s*(</think>\s*)?$", "", after).strip(),
        )

    def are_in(self, text: str) -> bool:
        """Return whether the template has been applied to a text.

        The text begins as a conversation does, or has a user's mark and behind it the mark of the reply.
        """
        bare = text.lstrip()
        while self.start and bare.startswith(self.start):
            bare = bare.removeprefix(self.start).lstrip()
        if any(bare.startswith(opening) for opening in self.openings):
            return True
        asked = text.find(self.question) if self.question else -1
        return bool(self.reply) and asked >= 0 and text.find(self.reply, asked + len(self.question)) >= 0

    def with_start(self, text: str) -> str:
        """Return a rendered text with the start token once, or without one if the template writes none."""
        if not self.start:
            return text
        while text.lstrip().startswith(self.start):
            text = text.lstrip().removeprefix(self.start)
        return self.start + text


def _around(tokenizer: Any, role: str, *, reply: bool = False) -> tuple[str, str] | None:
    """Return the text before and after the content of a single message; None if the template refuses it."""
    import jinja2

    message = {"role": role, "content": _CONTENT}
    try:
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=reply)
    except (jinja2.TemplateError, TypeError, KeyError, IndexError):
        return None
    before, found, after = str(text).partition(_CONTENT)
    return (before, after) if found else None


def _is_mark(text: str, tokenizer: Any) -> bool:
    """Return whether a text begins with a mark that people do not write: a special token, or a word in brackets."""
    return text.startswith(("<", "[")) or any(text.startswith(token) for token in _special_tokens(tokenizer))


def _special_tokens(tokenizer: Any) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added.values() if token.special)]
