"""What a judge wrote → a number; whatever leaves room for doubt is no number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from grpo.errors import JudgeError

__all__ = ["Scale", "parse_score", "parse_winner"]

Scale = tuple[float, float]
"""The lowest and the highest score that a judge may give."""

_SCORE = re.compile(r"\**score(?::\**|\**:)\s*\**([+-]?[0-9]+(?:\.[0-9]+)?)\**\.?", re.IGNORECASE)
_WINNER = re.compile(r"\**winner(?::\**|\**:)\s*\**(a|b|tie)\**\.?", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_SHOWN = 80


def parse_score(text: str, scale: Scale) -> float:
    """Return the score that ends a judge's answer.

    The answer ends with the line `Score: N` (bold or with a full stop, at most), or it is, or its last line
    is, a JSON object with a number `score`. Nothing else is searched for a number.

    Raises:
        JudgeError: there is no such ending, or the score is not on the scale, ends included.

    Example:
        >>> parse_score("Clear, but one step is wrong.\\nScore: 6", (0, 10)), parse_score('{"score": 6.5}', (0, 10))
        (6.0, 6.5)
    """
    score = _ending(text, "score", _SCORE, float)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise JudgeError(f"the judge's answer does not end with 'Score: N': {_shown(text)}")
    if not scale[0] <= score <= scale[1]:
        raise JudgeError(f"the judge gave {score!s:.20} on a scale from {scale[0]:g} to {scale[1]:g}")
    return float(score)


def parse_winner(text: str) -> float:
    """Return the points that the first of two completions gets: 1 won, 0.5 tie, 0 lost.

    The answer ends with the line `Winner: A`, `Winner: B` or `Winner: tie`, or with a JSON object with `winner`.

    Raises:
        JudgeError: there is no such ending.

    Example:
        >>> parse_winner("B leaves the question open.\\nWinner: A")
        1.0
    """
    winner = _ending(text, "winner", _WINNER, str)
    points = _POINTS.get(winner.strip().casefold()) if isinstance(winner, str) else None
    if points is None:
        raise JudgeError(f"the judge's answer does not end with 'Winner: A', 'B' or 'tie': {_shown(text)}")
    return points


def _ending(text: str, key: str, line: re.Pattern[str], made: Callable[[str], Any]) -> Any:
    """Return what the answer's end says of `key`: `made` of a line's text, or a value from JSON; None: nothing."""
    said = text.rpartition("</think>")[2].strip()
    fenced = _FENCE.fullmatch(said)
    last = said.rpartition("\n")[2].strip()
    for part in (fenced[1] if fenced else said, last):
        if part.startswith("{"):
            return _member(part, key)
    match = line.fullmatch(last)
    return None if match is None else made(match[1])


def _member(text: str, key: str) -> Any:
    try:
        members = json.loads(text, object_pairs_hook=list, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    # Two scores in one object are no score.
    values = [value for name, value in members if name == key]
    return values[0] if len(values) == 1 else None


def _shown(text: str) -> str:
    said = " ".join(text.split())
    return repr(said if len(said) <= _SHOWN else f"…{said[-_SHOWN:]}")
