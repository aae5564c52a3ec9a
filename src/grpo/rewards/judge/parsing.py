"""A judge's text → a number. A text that leaves room for doubt gives none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from grpo.errors import JudgeError

__all__ = ["Scale", "one_line", "parse_score", "parse_winner", "replace_surrogates"]

Scale = tuple[float, float]
"""The lowest and the highest score that a judge may give."""

_SCORE = re.compile(r"\**score(?::\**|\**:)\s*\**([+-]?[0-9]+(?:\.[0-9]+)?)\**\.?", re.IGNORECASE)
_WINNER = re.compile(r"\**winner(?::\**|\**:)\s*\**(a|b|tie)\**\.?", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_QUOTED = 80


def parse_score(text: str, scale: Scale) -> float:
    """Return the score at the end of a judge's answer.

    The answer ends with the line `Score: N` (bold or with a full stop, at most), or the answer or its last line
    is a JSON object with a number `score`. Numbers elsewhere in the text are ignored.

    Raises:
        JudgeError: the answer has no such ending, or the score is outside the scale, whose ends belong to it.

    Example:
        >>> parse_score("Clear, but one step is wrong.\\nScore: 6", (0, 10)), parse_score('{"score": 6.5}', (0, 10))
        (6.0, 6.5)
    """
    score = _ending(text, "score", _SCORE, float)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise JudgeError(f"the judge's answer does not end with 'Score: N': {_quoted_end(text)}")
    if not scale[0] <= score <= scale[1]:
        raise JudgeError(f"the judge gave {score!s:.20} on a scale from {scale[0]:g} to {scale[1]:g}")
    return float(score)


def parse_winner(text: str) -> float:
    """Return the points of the first of two completions: 1 for a win, 0.5 for a tie, 0 for a loss.

    The answer ends with the line `Winner: A`, `Winner: B` or `Winner: tie`, or with a JSON object with `winner`.

    Raises:
        JudgeError: the answer has no such ending.

    Example:
        >>> parse_winner("B leaves the question open.\\nWinner: A")
        1.0
    """
    winner = _ending(text, "winner", _WINNER, str)
    points = _POINTS.get(winner.strip().casefold()) if isinstance(winner, str) else None
    if points is None:
        raise JudgeError(f"the judge's answer does not end with 'Winner: A', 'B' or 'tie': {_quoted_end(text)}")
    return points


def _ending(text: str, key: str, line: re.Pattern[str], convert: Callable[[str], Any]) -> Any:
    """Return the value of `key` at the end of an answer: the converted text of a line, or a JSON value, or None."""
    answer = text.rpartition("</think>")[2].strip()
    fenced = _FENCE.fullmatch(answer)
    last = answer.rpartition("\n")[2].strip()
    for part in (fenced[1] if fenced else answer, last):
        if part.startswith("{"):
            return _member(part, key)
    match = line.fullmatch(last)
    return None if match is None else convert(match[1])


def _member(text: str, key: str) -> Any:
    try:
        members = json.loads(text, object_pairs_hook=list, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    # An object with two scores leaves room for doubt.
    values = [value for name, value in members if name == key]
    return values[0] if len(values) == 1 else None


def _quoted_end(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _QUOTED else f"…{line[-_QUOTED:]}")


def replace_surrogates(text: str) -> str:
    r"""Return the text with a question mark for each lone surrogate, which UTF-8 cannot hold.

    Byte-level tokens and JSON escapes can leave lone surrogates.

    Example:
        >>> replace_surrogates("fine \ud83d")
        'fine ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str, max_length: int) -> str:
    """Return the text on one line, cut to `max_length` characters.

    Example:
        >>> one_line("No such\\nmodel here", 10)
        'No such m…'
    """
    line = " ".join(replace_surrogates(text).split())
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"
