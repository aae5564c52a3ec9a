"""The tokens that a chat template puts between the policy's turn and its next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo.errors import DataError, ModelError
from grpo.tasks import render_chat
from grpo.types import Message

__all__ = ["TurnTokens"]

_QUESTION = "question"
_ANSWER = "\ue000answer\ue000"
"""Stands for a turn of the policy: private characters that no template writes by itself."""


class TurnTokens:
    """Extends a token sequence by messages, without changing a token before them.

    The template is rendered with a placeholder for the policy's turn, with and without the new messages; the text
    after the placeholder, cut at the end token that the policy sampled itself, is what is appended.
    """

    def __init__(self, tokenizer: Any, *, chat: bool | None = None) -> None:
        """Take the policy's tokenizer and try its template.

        Args:
            chat: True or None: use the chat template if the tokenizer has one. Otherwise turns are plain text, joined
                by blank lines like the messages of a prompt.

        Raises:
            ModelError: the template changes earlier turns when messages follow, so that no extension is exact.
        """
        self._tokenizer = tokenizer
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self._chat = has_template if chat is None else chat and has_template
        if self._chat:
            self._after_turn([{"role": "user", "content": _QUESTION}])

    def between(
        self, end_token: int, messages: Sequence[Message], *, template_options: Mapping[str, Any] | None = None
    ) -> tuple[int, ...]:
        """Return the tokens between the policy's end token and the start of its next turn.

        Args:
            end_token: the last token of the policy's turn.
            messages: read next by the policy, at least one message.
            template_options: variables of the template, those of the prompt.

        Raises:
            DataError: there is no message.
            ModelError: the template refuses the messages, or changes earlier turns when they follow.
        """
        if not messages:
            raise DataError("the environment's step is not done and has no messages: give the policy something to read")
        if not self._chat:
            text = "\n\n".join(str(message["content"]) for message in messages)
            return self._encoded(f"\n\n{text}\n\n")
        end_text = self._tokenizer.decode([end_token], skip_special_tokens=False)
        return self._encoded(self._after_turn(messages, template_options).removeprefix(end_text))

    def _after_turn(self, messages: Sequence[Message], template_options: Mapping[str, Any] | None = None) -> str:
        """Return the text between the end of the policy's turn and the start of its next one."""
        turn: list[Message] = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        after = self._rendered([*turn, *messages], template_options).rpartition(_ANSWER)[2]
        alone = self._tokenizer.apply_chat_template(
            [dict(message) for message in turn], tokenize=False, **(template_options or {})
        )
        closing = alone.rpartition(_ANSWER)[2]
        if _ANSWER not in alone or not after.startswith(closing):
            raise ModelError(
                "the chat template renders a turn differently once messages follow it, so the sampled tokens cannot be "
                "kept: set chat=false, or use a model with another template"
            )
        return after

    def _rendered(self, messages: Sequence[Message], template_options: Mapping[str, Any] | None) -> str:
        (text,) = render_chat(self._tokenizer, [messages], template_options=template_options)
        return text

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"])
