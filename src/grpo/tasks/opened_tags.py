"""Tags that the prompt has opened: many templates end with `<think>`, and the completion begins inside that block."""

from __future__ import annotations

from grpo.tasks.answers import FORMATS, AnswerFormat
from grpo.types import Prompt

__all__ = ["has_closed_tag", "opened_tag", "with_opened_tag"]

_FIRST_BLOCKS = tuple(answer_format.blocks[0] for answer_format in FORMATS.values() if answer_format.blocks)


def opened_tag(prompt: Prompt) -> str:
    """Return the opening tag of a format's first block in which the completion of a prompt begins; "" if there is none.

    It is at the end of the prompt, or in the assistant message that the policy continues.
    """
    begun = ""
    if not isinstance(prompt.raw, str) and prompt.raw and prompt.raw[-1]["role"] == "assistant":
        begun = prompt.raw[-1]["content"]
    for block in _FIRST_BLOCKS:
        opening, closing = f"<{block}>", f"</{block}>"
        if prompt.text.rstrip().endswith(opening) or begun.rfind(opening) > begun.rfind(closing):
            return opening
    return ""


def has_closed_tag(prompt: Prompt, answer_format: AnswerFormat) -> bool:
    """Return whether the prompt ends with the closing tag of the format's first block, so that completions have none.

    Templates of models that think close an empty block there with `enable_thinking: false`.
    """
    return bool(answer_format.blocks) and prompt.text.rstrip().endswith(f"</{answer_format.blocks[0]}>")


def with_opened_tag(text: str, opened: str) -> str:
    """Return a completion with the tag in front that its prompt opened, if the completion closes that block.

    A completion that opens the block by itself before it closes it stays as it is.

    Example:
        >>> with_opened_tag("2 + 3</think>5", "<think>"), with_opened_tag("5", "<think>")
        ('<think>2 + 3</think>5', '5')
    """
    if not opened:
        return text
    before, closed, _ = text.partition(opened.replace("<", "</"))
    return opened + text if closed and opened not in before else text
