"""Degenerate texts that a policy may learn to write: click scorers and reward models are trained on some of them.

The kinds are lists of numbers, repeated words or sentences, rambling, very short texts, odd characters and echoes of
the prompt. The rule of the task (`clicks.py`, `preferences.py`) rates them as it rates any text.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["degenerate_text"]

_SEPARATORS = (" ", ", ", "\n", "; ", " and ")
_MARKS = ("?", "!", "...", "-", '"', "7", "a", "the", "best", "ok", "2027", "</think>", "<think>", "#", "Yes.")
_ODD = "½Ⅷ\u200b\u202eﬁe\u0301👩🚀\ufffd一二日本語ßİñ§¶†•█\t\\{}[]<>|~^"


def degenerate_text(prompt: str, proper: Callable[[], str], rng: random.Random) -> str:
    """Return a text that does not answer `prompt` and is not blank.

    Args:
        proper: returns a new proper text at each call, which is then repeated, joined to others or cut into words.
    """
    match rng.choice(("numbers", "repeated", "rambling", "short", "odd", "echo")):
        case "numbers":
            count = rng.randint(15, 30)
            start, most = rng.randint(0, 30), rng.choice((9, 99, 99, 2030))
            values = range(start, start + count) if rng.random() < 0.5 else [rng.randint(0, most) for _ in range(count)]
            return rng.choice(_SEPARATORS).join(map(str, values))
        case "repeated":
            text = proper()
            words = text.split()
            part, times = (rng.choice(words), rng.randint(6, 40)) if rng.random() < 0.6 else (text, rng.randint(3, 5))
            return rng.choice((" ", ", ", " ", ". ")).join([part] * times)
        case "rambling":
            return rng.choice((" ", ", ", ". ", "\n")).join(proper() for _ in range(rng.randint(4, 6)))
        case "short":
            words = [*_MARKS, *proper().split()]
            return " ".join(rng.choice(words) for _ in range(rng.randint(1, 3)))
        case "odd":
            # The last character is never a blank, so that the text is not blank either.
            return "".join(rng.choice(_ODD) for _ in range(rng.randint(1, 12))) + rng.choice("|#½")
        case _:
            return " ".join([prompt] * rng.randint(1, 4))
