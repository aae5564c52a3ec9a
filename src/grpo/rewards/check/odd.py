"""Odd ways to write numbers, and whether a text that is meant as junk happens to hold a right answer."""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

from grpo.tasks.answers import normalise_number

__all__ = ["ODD_ANSWERS", "ODD_NUMBERS", "ODD_TEXT", "could_be_right"]

# No lone surrogates: what a tokenizer decodes never has any.
ODD_TEXT = "²½Ⅷ ٣๓ 1\u200b2 \u202e21\u202c ﬁne e\u0301 𝟙𝟚 👩\u200d👩\u200d👧 \x00 \ufffd \u2028 ﷽ 一二 ß İ\n\r\t\x0b"
ODD_ANSWERS = ("²", "½", "٣", "\u202e21", "\x00", "\ufffd", "一二", "𝟙𝟚", "\u200b", "İ")
ODD_NUMBERS = ("nan", "inf", "-inf", "1e999", "9" * 5_000, "1/0", "--5", "0x1F", "1_0", "1,2,3", ".", "1e-999")

_RUN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")


def could_be_right(text: str, reference: str) -> bool:
    """Return whether a generous reader could find the right answer in a text: a reward that does is not fooled by it.

    For a number that is any number in the text whatever its sign or script, with separators or without, forwards or
    backwards, or what Python reads; for other answers, their words.

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
    # Of digits it is their runs that count.
    found |= {unicodedata.numeric(each) for each in text if each.isnumeric() and not each.isdecimal()}
    for read in (float, lambda whole: float(int(whole, 0))):
        try:
            found.add(read(text))
        except (ValueError, OverflowError):
            continue
    return frozenset(abs(number) for number in found if math.isfinite(number))


def _digit(character: str) -> str:
    """Return a digit of any script as we write it, and any other character as it is."""
    value = unicodedata.numeric(character, None)
    return str(int(value)) if value is not None and value in range(10) else character
