"""Texts that nobody asked for, which a policy may still come to write: for scorers to have seen them.

Number lists, words or sentences again and again, rambling, hardly anything, odd characters, the prompt. What they are
worth is for the rule behind a task to say, as for any text.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["degenerate_text"]

_SEPARATORS = (" ", ", ", "\n", "; ", " and ")
_MARKS = ("?", "!", "...", "-", '"', "7", "a", "the", "best", "ok", "2027", "</think>", "<think>", "#", "Yes.")
_ODD = "½Ⅷ\u200b\u202eﬁe\u0301👩🚀\ufffd一二日本語ßİñ§¶†•█\t\\{}[]<>|~^"


def degenerate_text(prompt: str, proper: Callable[[], str], rng: random.Random) -> str:
    """Return a text that is no answer to `prompt`, and not blank.

    Args:
        proper: returns a new proper text at each call, to be repeated, strung together or taken words from.
    """
    kind = rng.choice(("numbers", "repeated", "rambling", "hardly anything", "odd", "echo"))
    match kind:
        case "numbers":
            return _numbers(rng)
        case "repeated":
            return _repeated(proper(), rng)
        case "rambling":
            return rng.choice((" ", ", ", ". ", "\n")).join(proper() for _ in range(rng.randint(4, 6)))
        case "hardly anything":
            words = [*_MARKS, *proper().split()]
            return " ".join(rng.choice(words) for _ in range(rng.randint(1, 3)))
        case "odd":
            # A character that counts as a blank may not stand alone.
            return "".join(rng.choice(_ODD) for _ in range(rng.randint(1, 12))) + rng.choice("|#½")
        case _:
            return " ".join([prompt] * rng.randint(1, 4))


def _numbers(rng: random.Random) -> str:
    count = rng.randint(15, 30)
    start, most = rng.randint(0, 30), rng.choice((9, 99, 99, 2030))
    values = range(start, start + count) if rng.random() < 0.5 else [rng.randint(0, most) for _ in range(count)]
    return rng.choice(_SEPARATORS).join(map(str, values))


def _repeated(text: str, rng: random.Random) -> str:
    words = text.split()
    part, times = (rng.choice(words), rng.randint(6, 40)) if rng.random() < 0.6 else (text, rng.randint(3, 5))
    return rng.choice((" ", ", ", " ", ". ")).join([part] * times)
