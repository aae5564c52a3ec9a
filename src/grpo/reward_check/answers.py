"""Right answers of rows, sets of answers that could be right, and tests for a right answer inside a text."""

from __future__ import annotations

import builtins
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any

from grpo.errors import DataError
from grpo.rewards.texts import completion_texts
from grpo.tasks.answers import normalise_number, plain_reference, same_answer
from grpo.tasks.values import reference_texts
from grpo.types import Prompt

__all__ = [
    "EXACT",
    "Candidates",
    "accepted_texts",
    "as_text",
    "candidates",
    "could_be_right",
    "is_unmistakable",
    "names_called",
    "places_of_other_answers",
    "reference_column",
    "reference_text",
]

EXACT = "answer"
"""The column whose answers are the only right ones; those of other columns are good, perhaps for other rows as well."""

_COLUMNS = (EXACT, "reference", "chosen")
_LONGEST_LISTED = 60
_MOST_NUMBERS = 2_000
_RUN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


@dataclass(frozen=True, slots=True)
class Candidates:
    """A set of answers one of which is right, none twice.

    Attributes:
        kind: "number" or "answer".
        separator: stands between them in a list.
    """

    kind: str
    values: tuple[str, ...]
    separator: str

    def around(self, accepted: Sequence[str]) -> tuple[str, ...]:
        """Return the answers with a right one neither first nor last, as a reward may rightly read only one of those.

        Numbers extend beyond all right ones already. Empty when there is no other answer.

        Args:
            accepted: the right answers; empty: none is known.
        """
        if self.kind == "number" or not accepted:
            return self.values
        others = [value for value in self.values if not any(same_answer(value, right) for right in accepted)]
        return (others[0], accepted[0], *(others[1:] or others)) if others else ()


def reference_column(rows: Sequence[Prompt]) -> str | None:
    """Return the first of `answer`, `reference` and `chosen` that is not empty in some row; None when all are."""
    for name in _COLUMNS:
        if any(reference_text(row, name) is not None for row in rows):
            return name
    return None


def reference_text(row: Prompt, column: str) -> str | None:
    """Return the right answer of a row as text, the first of several; None when it has none."""
    return next(iter(accepted_texts(row, column)), None)


def accepted_texts(row: Prompt, column: str) -> tuple[str, ...]:
    """Return the right answers of a row as texts, any of which may be given."""
    return tuple(map(plain_reference, _as_texts(row.columns.get(column))))


def as_text(value: Any) -> str | None:
    """Return a column's value as an answer: a text, a number, the first of several, or the text of the last message.

    Example:
        >>> [as_text(value) for value in ("four", 4, 4.5, ["4", "four"], [{"role": "assistant", "content": "4"}], "")]
        ['four', '4', '4.5', '4', '4', None]
    """
    return next(iter(_as_texts(value)), None)


def _as_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and value:
        value = completion_texts([value])[0] if isinstance(value[-1], Mapping) else value
    try:
        return reference_texts(value)
    except DataError:
        return ()


def is_unmistakable(row: Prompt, accepted: Sequence[str]) -> bool:
    """Return whether a right answer can be written in one way only: a number or a few words, and no program.

    A reward that refuses any other answer may expect all entries of a list, a summary of a text, or other code.
    """
    (first, *more) = accepted
    return not more and len(first) <= _LONGEST_LISTED and "\n" not in first and not row.columns.get("tests")


def places_of_other_answers(rows: Sequence[Prompt], accepted: Sequence[Sequence[str]]) -> list[int] | None:
    """Return for each row the place of a row whose first answer is wrong here; None when some row has none.

    Where rows have tests, programs written for the same name are excluded, since they may pass.

    Args:
        accepted: the right answers of each row.
    """

    def is_wrong(at: int, place: int) -> bool:
        is_right = any(same_answer(accepted[at][0], reference) for reference in accepted[place])
        return not is_right and not _same_tests(rows[at], rows[place])

    found: list[int] = []
    for place in range(len(rows)):
        following = chain(range(place + 1, len(rows)), range(place))
        other = next((at for at in following if is_wrong(at, place)), None)
        if other is None:
            return None
        found.append(other)
    return found


def _same_tests(one: Prompt, other: Prompt) -> bool:
    ours, theirs = one.columns.get("tests"), other.columns.get("tests")
    return bool(ours and theirs) and (ours == theirs or not names_called(ours).isdisjoint(names_called(theirs)))


def names_called(tests: Any) -> set[str]:
    """Return the names that tests call, without built-in ones."""
    source = tests if isinstance(tests, str) else "\n".join(map(str, tests))
    return set(_CALLED.findall(source)) - {"assert"} - set(dir(builtins))


def candidates(references: Sequence[str]) -> Candidates:
    """Return all answers that could be right: the rows' own where they are short words, else numbers.

    The numbers extend beyond the rows' answers at both ends, so that the first and the last are right for no row.

    Example:
        >>> candidates(["no", "yes", "no"]).values
        ('no', 'yes')
        >>> candidates(["2", "4.5"]).values[:10]
        ('-3', '-2', '-1', '0', '1', '2', '3', '4', '4.5', '5')
    """
    numbers = [Decimal(number) for number in map(normalise_number, references) if number is not None]
    if len(numbers) < len(references) and all(len(text) <= _LONGEST_LISTED for text in references):
        return Candidates("answer", tuple(sorted(set(references))), " or ")
    low, high = min([0, *map(math.floor, numbers)]) - 3, max([20, *map(math.ceil, numbers)]) + 3
    whole = range(low, high + 1) if high - low < _MOST_NUMBERS else [low, *range(101), high]
    return Candidates("number", tuple(f"{number:f}" for number in sorted({*map(Decimal, whole), *numbers})), " ")


def could_be_right(text: str, reference: str) -> bool:
    """Return whether a generous reader could find the right answer in a text; a reward that does so is sound.

    For a number, that is any number in the text whatever its sign or script, with or without separators, forwards or
    backwards, or as Python parses it; for other answers, their words.

    Example:
        >>> [could_be_right(text, "3") for text in ("What is 0 + 3?", "٣", "1,2,3", "13", "nan")]
        [True, True, True, False, False]
        >>> could_be_right("Is it right or wrong?", "Right"), could_be_right("nothing", "no")
        (True, False)
    """
    number = normalise_number(reference)
    if number is not None:
        return abs(float(number)) in _numbers(text)
    words = re.escape(" ".join(reference.casefold().split()))
    return re.search(rf"(?<!\w){words}(?!\w)", " ".join(text.casefold().split())) is not None


@lru_cache(maxsize=128)
def _numbers(text: str) -> frozenset[float]:
    """Return the absolute values of all numbers that can be read in a text."""
    digits = "".join(map(_digit, text))
    joined = "".join(each for each in digits if each not in ",_" and unicodedata.category(each) != "Cf")
    runs = {*_RUN.findall(digits), *_RUN.findall(joined)}
    found = {float(run) for run in runs} | {float(run[::-1]) for run in runs}
    # Decimal digits count in runs, not one by one.
    found |= {unicodedata.numeric(each) for each in text if each.isnumeric() and not each.isdecimal()}
    for read in (float, lambda whole: float(int(whole, 0))):
        try:
            found.add(read(text))
        except (ValueError, OverflowError):
            continue
    return frozenset(abs(number) for number in found if math.isfinite(number))


def _digit(character: str) -> str:
    """Return a digit of any script as an ASCII digit, and any other character unchanged."""
    value = unicodedata.numeric(character, None)
    return str(int(value)) if value is not None and value in range(10) else character
