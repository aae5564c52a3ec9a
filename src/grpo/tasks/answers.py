"""Answer formats, and the comparison of an answer with its reference.

No pattern here backtracks: tags are found with `str.find`, and numbers with a pattern that reads each character a
bounded number of times, so a completion of a megabyte costs milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grpo.errors import ConfigError, DataError
from grpo.types import Verdict

__all__ = [
    "FORMATS",
    "AnswerFormat",
    "find_format",
    "gsm8k_reference",
    "last_integer",
    "last_number",
    "normalise_number",
    "plain_reference",
    "same_answer",
    "verify",
]

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+"
# A minus is a sign unless it follows a number, a name or a bracket, from which it subtracts: 3-7, (3)-7, x-7, 3 -7.
_NUMBER_IN_TEXT = re.compile(rf"((?:(?<![\w)\]])(?<![0-9)] )[-−–])?)[$€£]?({_UNSIGNED})")
_NUMBER_ALONE = re.compile(rf"([-−–+]?)\s?[$€£]?([-−–+]?)\s?({_UNSIGNED})\s?[%$€£]?\.?")
# Python refuses to convert more than 4,300 digits between text and int.
_MAX_DIGITS = 1000


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A format that completions should have.

    Attributes:
        name: its name in a configuration.
        system_prompt: the prompt that asks for the format; None if no prompt is needed.
        blocks: tag names in order, each `<name>…</name>` once.
        answer_after: True if the answer is the text after the last block, False if it is inside that block.
    """

    name: str
    system_prompt: str | None
    blocks: tuple[str, ...] = ()
    answer_after: bool = True

    @property
    def tags(self) -> tuple[str, ...]:
        """Opening and closing tags in their required order."""
        return tuple(tag for block in self.blocks for tag in (f"<{block}>", f"</{block}>"))

    def extract(self, text: str) -> str | None:
        """Return the stripped answer that the tags mark; None if the tag is missing or the answer empty.

        The last of several tags counts, and a missing closing tag is accepted. For a format without blocks it is the
        last number of the text, as `last_number` reads it.
        """
        if not self.blocks:
            return last_number(text)
        block = self.blocks[-1]
        if self.answer_after:
            _, tag, answer = text.rpartition(f"</{block}>")
        else:
            _, tag, answer = text.rpartition(f"<{block}>")
            answer = answer.partition(f"</{block}>")[0]
        return (answer.strip() or None) if tag else None

    def is_strict(self, text: str) -> bool:
        """Return whether the text consists of the blocks in order and nothing else.

        Each tag occurs exactly once, no block is empty, and only white space surrounds the blocks, except for the
        answer after them if the format has it there. Line breaks do not matter.
        """
        end = 0
        for block in self.blocks:
            opening, closing = f"<{block}>", f"</{block}>"
            if text.count(opening) != 1 or text.count(closing) != 1:
                return False
            start, stop = text.find(opening, end), text.find(closing, end)
            inside = text[start + len(opening) : stop]
            if start < 0 or stop < start or text[end:start].strip() or not inside.strip():
                return False
            end = stop + len(closing)
        return bool(text[end:].strip()) == self.answer_after

    def is_soft(self, text: str) -> bool:
        """Return whether the tags occur in order, with any text in, between and around the blocks."""
        end = 0
        for tag in self.tags:
            start = text.find(tag, end)
            if start < 0:
                return False
            end = start + len(tag)
        return bool(text[end:].strip()) or not self.answer_after


FORMATS: Mapping[str, AnswerFormat] = MappingProxyType(
    {
        "answer_tags": AnswerFormat(
            name="answer_tags",
            system_prompt="Respond in the following format: <reasoning>...</reasoning><answer>...</answer>",
            blocks=("reasoning", "answer"),
            answer_after=False,
        ),
        "think_tags": AnswerFormat(
            name="think_tags",
            system_prompt="Respond in the following format: <think>...</think> followed by the answer.",
            blocks=("think",),
        ),
        "plain": AnswerFormat(name="plain", system_prompt=None),
    }
)


def find_format(name: str) -> AnswerFormat:
    """Return the format with that name.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"no answer format named {name!r}: use one of {sorted(FORMATS)}")
    return FORMATS[name]


def verify(text: str, reference: str, *, answer_format: AnswerFormat) -> Verdict:
    """Return whether a completion gives the reference answer.

    Strict: the text is in the format and the marked answer equals the reference ("5" or "$5.00" for 5, not
    "5 apples"; without blocks, the last number of the text counts). Lenient: the last number of the marked answer
    equals the reference, or, if no answer is marked, the last number of the text. A reference that is not a number
    must be the whole marked answer, or the last words of a text without one. If the reference is a GSM8K solution,
    its number counts.
    """
    reference = plain_reference(reference)
    well_formed = answer_format.is_strict(text)
    numeric = normalise_number(reference) is not None
    by_format = answer_format.blocks or numeric
    marked = answer_format.extract(text) if by_format else text.strip() or None
    strict = well_formed and same_answer(marked, reference)
    if numeric:
        answer = last_number(text) if marked is None else last_number(marked) or marked
        return Verdict(strict, strict or same_answer(answer, reference), well_formed, answer)
    unmarked = marked is None or not answer_format.blocks
    found = _ends_with(text, reference) if unmarked else same_answer(marked, reference)
    return Verdict(strict, strict or found, well_formed, marked)


def same_answer(given: str | None, reference: str) -> bool:
    """Return whether an answer equals the reference.

    Numbers are compared by value ("$1,234.00" equals "1234"), other text without regard to case and spacing.
    Expressions are not evaluated: "1/2" equals "1/2" but not "0.5". A missing or empty answer equals no reference.
    If the reference is a GSM8K solution, its number counts.
    """
    reference = plain_reference(reference)
    if given is None or not given.strip():
        return False
    number = normalise_number(given)
    if number is not None:
        return number == normalise_number(reference)
    return _folded(given) == _folded(reference)


def normalise_number(text: str) -> str | None:
    """Return a text that is one number in plain digits; None for any other text.

    Removed are spaces around the number, a currency sign ($, €, £), a percent sign, a final full stop, commas between
    thousands, leading zeros and trailing zeros of the decimals; a typographic minus becomes "-". Fractions,
    exponents, units and decimal commas are not numbers here.

    Example:
        >>> [normalise_number(text) for text in ("$1,234.00", "18.", "50%", "−4", "1/2", "5 apples")]
        ['1234', '18', '50', '-4', None, None]
    """
    match = _NUMBER_ALONE.fullmatch(text.strip().rstrip("."))
    if match is None or (match[1] and match[2]):
        return None
    return _canonical(match[1] or match[2], match[3])


def last_number(text: str) -> str | None:
    """Return the last number in a text as `normalise_number` writes it; None if there is none.

    A hyphen after a number, a name or a bracket is an operator; elsewhere it is a sign.

    Example:
        >>> [last_number(text) for text in ("3-7", "3 - 7 = -4", "about $1,250.50.", "none")]
        ['7', '-4', '1250.5', None]
    """
    match = None
    for match in _NUMBER_IN_TEXT.finditer(text):  # noqa: B007 - the last match is the result
        pass
    return None if match is None else _canonical(match[1], match[2])


def last_integer(text: str) -> int | None:
    """Return the last whole number in a text; None if there is none.

    Numbers with decimals are skipped ("3.5" holds no whole number, "18.00" is one), and so are numbers of more than
    1,000 digits.
    """
    last = None
    for match in _NUMBER_IN_TEXT.finditer(text):
        number = _canonical(match[1], match[2])
        if "." not in number and len(number) <= _MAX_DIGITS:
            last = number
    return None if last is None else int(last)


def gsm8k_reference(answer: str) -> str:
    """Return the number after the last `####` of a GSM8K solution.

    Raises:
        DataError: there is no `####`, or no number after it.
    """
    _, mark, reference = answer.rpartition("####")
    number = normalise_number(reference)
    if not mark or number is None:
        raise DataError(f"no reference answer in {answer[-60:]!r}: a GSM8K answer ends with '#### ' and a number")
    return number


def plain_reference(reference: str) -> str:
    """Return the number of a reference that is a GSM8K solution; any other reference as it is.

    Example:
        >>> plain_reference("4 + 3 = <<4+3=7>>7 #### 7"), plain_reference("seven")
        ('7', 'seven')
    """
    if "####" not in reference:
        return reference
    try:
        return gsm8k_reference(reference)
    except DataError:
        return reference


def _canonical(sign: str, digits: str) -> str:
    whole, _, decimals = digits.replace(",", "").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return number if sign in ("", "+") or number == "0" else f"-{number}"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _ends_with(text: str, words: str) -> bool:
    tail, ending = _folded(text).rstrip(" .!?*\"'"), _folded(words).rstrip(" .!?*\"'")
    before = tail[: len(tail) - len(ending)]
    return bool(ending) and tail.endswith(ending) and not (before and before[-1].isalnum())
