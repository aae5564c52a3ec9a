"""Rubrics: templates of the question to a judge, each in a Markdown file, shipped or the user's own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from grpo.errors import ConfigError
from grpo.rewards.judge.parsing import Scale, one_line, replace_surrogates
from grpo.rewards.texts import Completion, completion_texts
from grpo.types import Message

__all__ = [
    "DEFAULT_RUBRICS",
    "Conversation",
    "Mode",
    "Rubric",
    "are_messages",
    "load_rubric",
    "message_text",
    "rubric_names",
]

Mode: TypeAlias = Literal["pointwise", "pairwise"]
Conversation: TypeAlias = tuple[Message, ...]
"""The messages to a judge: a system message if the rubric has one, and a user message."""

DEFAULT_RUBRICS: Mapping[Mode, str] = {"pointwise": "helpfulness", "pairwise": "preference"}
_SHIPPED: Mapping[Mode, str] = {"pointwise": "helpfulness, correctness or headline", "pairwise": "preference"}
_SHOWS: Mapping[Mode, tuple[str, ...]] = {"pointwise": ("completion",), "pairwise": ("first", "second")}
_ENDS_WITH: Mapping[Mode, str] = {"pointwise": "score", "pairwise": "winner"}
_HOW_TO_ANSWER: Mapping[Mode, str] = {
    "pointwise": (
        "Reason in a few sentences. Then end with a line of its own that holds the score and nothing else, "
        "a number from {lowest:g} to {highest:g}:\n\nScore: N"
    ),
    "pairwise": (
        "Reason in a few sentences. Then end with a line of its own that is one of these three:\n\n"
        "Winner: A\nWinner: B\nWinner: tie"
    ),
}
_OWN = frozenset({"prompt", "completion", "first", "second", "lowest", "highest", "boundary", "how_to_answer"})
_SPLIT = "---"
_MAX_MESSAGE = 160


def are_messages(value: Any) -> bool:
    """Return whether a value is chat messages: one or more, each with a role and a text, or parts of one."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        return False
    content = value["content"]
    parts = content if isinstance(content, (list, tuple)) else []
    is_text = content is None or isinstance(content, (str, list, tuple))
    return is_text and all(isinstance(part, Mapping) and isinstance(part.get("text", ""), str) for part in parts)


def message_text(value: Any) -> Any:
    """Return the text of chat messages, or any other value unchanged, as a template shows it.

    One message is shown as its text alone, each of several messages under its role.

    Example:
        >>> message_text([{"role": "user", "content": "1+1?"}]), message_text(["a", "b"])
        ('1+1?', ['a', 'b'])
    """
    if not are_messages(value):
        return value
    texts = [completion_texts([[message]])[0] for message in value]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[{message['role']}]\n{text}" for message, text in zip(value, texts, strict=True))


# Rubric files come from strangers too: a template must not be able to run code.
_TEMPLATES = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, finalize=message_text
)


@dataclass(frozen=True, slots=True)
class Rubric:
    """A rubric that has been read and checked by `load_rubric`.

    Attributes:
        name: the shipped rubric's name, or the file's without its suffix.
        mode: "pointwise" shows one completion (`completion`), "pairwise" two (`first`, `second`).
        columns: the data set's columns that the template names.
        system: template of the system message; empty when the rubric has none.
        user: template of the user message.
        scale: lowest and highest score.
    """

    name: str
    mode: Mode
    columns: tuple[str, ...]
    system: str
    user: str
    scale: Scale

    def conversation(self, prompt: Any, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Conversation:
        """Return the messages to the judge about one completion, or in pairwise mode about two.

        The template also has `boundary`, a word that no completion can foresee, for tags that a
        completion cannot close.

        Args:
            prompt: a text or messages.
            completions: one, or in pairwise mode two.
            columns: the row's values of the columns that the rubric names; others are ignored.

        Raises:
            ConfigError: the template cannot be filled in with this row.
        """
        try:
            texts = completion_texts(completions)
            values = {**columns, **self._own_values(prompt, texts)}
            parts = [
                (role, _template(text).render(values).strip())
                for role, text in (("system", self.system), ("user", self.user))
            ]
        except Exception as error:  # filters and tests in a template raise any exception
            raise ConfigError(
                f"rubric {self.name!r} cannot be filled in with this row: {one_line(str(error), _MAX_MESSAGE)}: "
                f"correct the template or the row"
            ) from error
        return tuple({"role": role, "content": replace_surrogates(content)} for role, content in parts if content)

    def _own_values(self, prompt: Any, texts: Sequence[str]) -> dict[str, Any]:
        lowest, highest = self.scale
        return {
            **dict(zip(_SHOWS[self.mode], texts, strict=True)),
            "prompt": message_text(prompt),
            "lowest": f"{lowest:g}",
            "highest": f"{highest:g}",
            "boundary": hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=6).hexdigest(),
            "how_to_answer": _HOW_TO_ANSWER[self.mode].format(lowest=lowest, highest=highest),
        }


def rubric_names() -> list[str]:
    """Return the names of the shipped rubrics in alphabetical order."""
    folder = files("grpo.rewards.judge").joinpath("rubrics")
    return sorted(entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md"))


def load_rubric(rubric: str | Path, *, mode: Mode, scale: Scale) -> Rubric:
    """Return a shipped rubric by its name, or the rubric in a Markdown file.

    The file is a Jinja template of the user message; the text before a line `---` is the system message.
    It may use `prompt`, `completion` (pairwise: `first`, `second`), `lowest`, `highest`, `boundary`,
    `how_to_answer` and any column of the data set.

    Args:
        rubric: a name out of `rubric_names()`, or a path.
        mode: "pointwise" for a rubric that shows one completion, "pairwise" for two.
        scale: lowest and highest score.

    Raises:
        ConfigError: the rubric does not exist, is no template, does not show the completions, or does not say
            how to answer.
    """
    name, text = _read(rubric)
    system, user = _split(text)
    try:
        parts = [_TEMPLATES.parse(part) for part in (system, user)]
    except TemplateSyntaxError as error:
        raise ConfigError(f"rubric {name!r} is no template: line {error.lineno}: {error.message}") from error
    variables = set().union(*map(meta.find_undeclared_variables, parts))
    unseen = [variable for variable in _SHOWS[mode] if variable not in variables]
    if unseen:
        raise ConfigError(
            f"rubric {name!r} does not show {unseen[0]!r} to the judge, which mode={mode!r} needs: "
            f"write {{{{ {unseen[0]} }}}} where it belongs, or use a rubric for this mode ({_SHIPPED[mode]})"
        )
    if "how_to_answer" not in variables and _ENDS_WITH[mode] not in text.casefold():
        raise ConfigError(f"rubric {name!r} does not say how to answer: write {{{{ how_to_answer }}}} at its end")
    columns = tuple(sorted(variables - _OWN))
    return Rubric(name=name, mode=mode, columns=columns, system=system, user=user, scale=scale)


def _read(rubric: str | Path) -> tuple[str, str]:
    """Return a rubric's name and text.

    Raises:
        ConfigError: the rubric does not exist or cannot be read.
    """
    if str(rubric) in rubric_names():
        file = files("grpo.rewards.judge").joinpath("rubrics", f"{rubric}.md")
        return str(rubric), file.read_text(encoding="utf-8")
    path = Path(rubric).expanduser()
    try:
        return path.stem, path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no rubric {str(rubric)!r}: use one of {rubric_names()}, or the path of a Markdown file in UTF-8"
        ) from error


def _split(text: str) -> tuple[str, str]:
    """Return the text before the first line `---` (empty without one) and the text after it."""
    lines = text.splitlines()
    separators = [number for number, line in enumerate(lines) if line.strip() == _SPLIT]
    start = separators[0] if separators else -1
    return "\n".join(lines[: max(0, start)]), "\n".join(lines[start + 1 :])


@functools.lru_cache(maxsize=64)
def _template(text: str) -> Template:
    return _TEMPLATES.from_string(text)
