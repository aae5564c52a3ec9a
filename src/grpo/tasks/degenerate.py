"""Texts that no editor would print, which a policy may still come to write: for scorers to have seen them.

Number lists, words or headlines again and again, rambling, hardly anything, odd characters, the prompt.
Whether readers click on them is for the rule behind the clicks to say, as for any text.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from grpo.tasks.headlines import headline, headline_prompt

__all__ = ["degenerate_headline"]

_SEPARATORS = (" ", ", ", "\n", "; ", " and ")
_MARKS = ("?", "!", "...", "-", '"', "7", "a", "the", "best", "ok", "2027", "</think>", "<think>", "#", "Yes.")
_ODD = "½Ⅷ\u200b\u202eﬁe\u0301👩🚀\ufffd一二日本語ßİñ§¶†•█\t\\{}[]<>|~^"


def degenerate_headline(topic: str, rng: random.Random) -> str:
    """Return a text that is no headline, and not blank.

    Raises:
        DataError: no such topic.
    """
    return rng.choice(_KINDS)(topic, rng)


def _numbers(topic: str, rng: random.Random) -> str:  # noqa: ARG001 (numbers are about nothing)
    count = rng.randint(15, 40)
    start, most = rng.randint(0, 30), rng.choice((9, 99, 99, 2030))
    values = range(start, start + count) if rng.random() < 0.5 else [rng.randint(0, most) for _ in range(count)]
    return rng.choice(_SEPARATORS).join(map(str, values))


def _repeated(topic: str, rng: random.Random) -> str:
    words = headline(topic, rng).split()
    part, times = (
        (rng.choice(words), rng.randint(6, 40)) if rng.random() < 0.6 else (" ".join(words), rng.randint(3, 5))
    )
    return rng.choice((" ", ", ", " ", ". ")).join([part] * times)


def _rambling(topic: str, rng: random.Random) -> str:
    return rng.choice((" ", ", ", ". ", "\n")).join(headline(topic, rng) for _ in range(rng.randint(4, 6)))


def _hardly_anything(topic: str, rng: random.Random) -> str:
    words = [*_MARKS, *headline(topic, rng).split()]
    return " ".join(rng.choice(words) for _ in range(rng.randint(1, 3)))


def _odd_characters(topic: str, rng: random.Random) -> str:  # noqa: ARG001 (they are about nothing)
    # A character that counts as a blank may not stand alone.
    return "".join(rng.choice(_ODD) for _ in range(rng.randint(1, 12))) + rng.choice("|#½")


def _echo(topic: str, rng: random.Random) -> str:
    return " ".join([headline_prompt(topic)] * rng.randint(1, 4))


_KINDS: tuple[Callable[[str, random.Random], str], ...] = (
    _numbers,
    _repeated,
    _rambling,
    _hardly_anything,
    _odd_characters,
    _echo,
)
