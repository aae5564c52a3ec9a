"""Prompts for one policy: rows with the chat template applied, in tokens, without those that are too long."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.errors import DataError, ModelError
from grpo.tasks.messages import SYSTEM_ROLES
from grpo.tasks.prompt_lengths import without_overlong
from grpo.tasks.rows import Row
from grpo.tasks.template_marks import TemplateMarks
from grpo.tasks.template_options import options_of_row, unused_options
from grpo.tasks.tokenise import name_of, tokenise
from grpo.types import Message, Prompt

__all__ = ["Rendered", "render", "render_chat"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Prompts in the order of their rows, and the number of rows that were dropped because they were too long."""

    prompts: list[Prompt]
    dropped: int


def render(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    system_prompt: str | None = None,
    chat: bool | None = None,
    max_prompt_length: int | None = None,
    template_options: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Rendered:
    """Return the rows as prompts for one policy.

    With the chat template, a text becomes one user message; without it, messages become one text, joined by blank
    lines. A text that the template has been applied to already stays as it is, and so do its tokens. Prompts longer
    than `max_prompt_length` are dropped and counted, never cut. `Prompt.raw` has the type of the row, so that a reward
    function for texts receives texts with any policy: a text is unchanged, and messages start with the system message.

    Args:
        tokenizer: a `transformers` tokenizer.
        system_prompt: put before every row that has no system message of its own.
        chat: True: apply the chat template; None: apply it if the rows are messages or the tokenizer has a template.
        max_prompt_length: in tokens, with special tokens and template; None: no limit.
        template_options: further variables of the chat template, for example `enable_thinking`; entries of the column
            `chat_template_kwargs` replace them.
        tools: descriptions of tools for the template; the column `tools` replaces them.

    Raises:
        DataError: no row is left, or a prompt has no tokens.
        ModelError: a chat template is needed and there is none, or the template refuses the messages.
    """
    num_rows, rows = len(rows), without_overlong(rows, tokenizer, max_prompt_length)
    if num_rows and not rows:
        raise DataError(
            f"no prompt left of {num_rows}: all have more than {max_prompt_length} tokens: raise max_prompt_length"
        )
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if not has_template and (chat or (chat is None and any(not isinstance(row.prompt, str) for row in rows))):
        raise ModelError(
            f"{name_of(tokenizer)} has no chat template: set chat=false for plain text, or use an instruction-tuned "
            f"model"
        )
    use_chat = has_template if chat is None else chat
    conversations = [_with_system(row.prompt, system_prompt) for row in rows]
    options = [options_of_row(row, template_options, tools) for row in rows]
    _warn_about_lost_options(options, tokenizer if use_chat else None)
    rendered = _already_rendered(rows, tokenizer) if has_template else [None] * len(rows)
    if system_prompt is not None:
        _warn_about_lost_system_prompt(rendered, system_prompt)
    if use_chat:
        places = [place for place, text in enumerate(rendered) if text is None]
        written = dict(zip(places, _render_each(tokenizer, conversations, options, places), strict=True))
    else:
        written = {
            place: "\n\n".join(message["content"] for message in messages)
            for place, messages in enumerate(conversations)
        }
    texts = [written[place] if text is None else text for place, text in enumerate(rendered)]
    token_ids = tokenise(tokenizer, texts, [use_chat or text is not None for text in rendered])
    prompts = [
        Prompt(row.number, row.prompt if isinstance(row.prompt, str) else messages, text, ids, row.columns, variables)
        for row, messages, text, ids, variables in zip(rows, conversations, texts, token_ids, options, strict=True)
        if max_prompt_length is None or len(ids) <= max_prompt_length
    ]
    if not prompts:
        shortest = min((len(ids) for ids in token_ids), default=0)
        raise DataError(
            f"no prompt left of {num_rows}: the shortest has {shortest} tokens and max_prompt_length is "
            f"{max_prompt_length}: raise it"
            if rows
            else "the data set is empty: give at least one row"
        )
    return Rendered(prompts, dropped=num_rows - len(prompts))


def render_chat(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    *,
    template_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return each conversation as the text that the policy continues.

    A conversation that ends with an assistant message is continued inside that message. If a template refuses system
    messages (as Gemma 2's does), the system text is put at the start of the first user message.

    Raises:
        ModelError: the template refuses the messages.
    """
    import jinja2

    options = dict(template_options or {})
    texts = [""] * len(conversations)
    for continued in (False, True):
        places = [place for place, messages in enumerate(conversations) if _is_prefilled(messages) is continued]
        batch = [[dict(message) for message in conversations[place]] for place in places]
        if not batch:
            continue
        options |= {"add_generation_prompt": not continued, "continue_final_message": continued}
        try:
            rendered = tokenizer.apply_chat_template(batch, tokenize=False, **options)
        except jinja2.TemplateError:
            rendered = _apply_without_system(tokenizer, batch, options)
        for place, text in zip(places, rendered, strict=True):
            texts[place] = text
    return texts


def _render_each(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    options: Sequence[Mapping[str, Any]],
    places: Sequence[int],
) -> list[str]:
    """Return the conversations at some places as texts, each with its own variables of the template."""
    by_options: dict[str, list[int]] = {}
    for place in places:
        by_options.setdefault(json.dumps(options[place], sort_keys=True, default=repr), []).append(place)
    texts: dict[int, str] = {}
    for alike in by_options.values():
        batch = [conversations[place] for place in alike]
        texts |= zip(alike, render_chat(tokenizer, batch, template_options=options[alike[0]]), strict=True)
    return [texts[place] for place in places]


def _apply_without_system(tokenizer: Any, batch: Sequence[Sequence[Message]], options: Mapping[str, Any]) -> list[str]:
    import jinja2

    merged = [_merge_system(messages) for messages in batch]
    try:
        return list(tokenizer.apply_chat_template(merged, tokenize=False, **options))
    except jinja2.TemplateError as error:
        raise ModelError(
            f"the chat template of {name_of(tokenizer)} refuses the messages: {error}: change the roles of the "
            f"prompts, or set chat=false for plain text"
        ) from error


def _with_system(prompt: str | tuple[Message, ...], system_prompt: str | None) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    if system_prompt is None or any(_is_system(message) for message in messages):
        return messages
    return ({"role": "system", "content": system_prompt}, *messages)


def _merge_system(messages: Sequence[Message]) -> list[dict[str, str]]:
    system = [message["content"] for message in messages if _is_system(message)]
    others = [dict(message) for message in messages if not _is_system(message)]
    for message in others:
        if message["role"] == "user":
            message["content"] = "\n\n".join([*system, message["content"]])
            break
    return others


def _is_system(message: Message) -> bool:
    return message["role"] in SYSTEM_ROLES


def _is_prefilled(messages: Sequence[Message]) -> bool:
    return bool(messages[-1]["role"] == "assistant")


def _already_rendered(rows: Sequence[Row], tokenizer: Any) -> list[str | None]:
    """Return each prompt to which the chat template has been applied already, with one start token; None for others."""
    if not any(isinstance(row.prompt, str) for row in rows):
        return [None] * len(rows)
    marks = TemplateMarks.of(tokenizer)
    if marks is None:
        return [None] * len(rows)
    return [
        marks.with_start(row.prompt) if isinstance(row.prompt, str) and marks.are_in(row.prompt) else None
        for row in rows
    ]


def _warn_about_lost_options(options: Sequence[Mapping[str, Any]], tokenizer: Any | None) -> None:
    """Warn of variables that have no effect: there is no template (None), or it does not mention them."""
    given = {name: None for each in options for name in each}
    lost = list(given) if tokenizer is None else unused_options(given, tokenizer)
    if lost:
        reason = "prompts are plain text" if tokenizer is None else "the chat template does not mention it"
        _log.warning("%s has no effect: %s", " and ".join(lost), reason)


def _warn_about_lost_system_prompt(rendered: Sequence[str | None], system_prompt: str) -> None:
    without = sum(text is not None and system_prompt not in text for text in rendered)
    if without:
        _log.warning(
            "%d of %d prompts have the chat template applied already and are used as they are, without the system "
            "prompt %r: give messages instead, or put it into the prompts",
            without,
            len(rendered),
            system_prompt if len(system_prompt) <= 40 else f"{system_prompt[:40]}…",
        )
