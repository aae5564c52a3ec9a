"""Generated programming problems, with unit tests that any correct program passes.

The simplest kind, `value`, asks for the value of a sum and accepts any Python expression that has it; the others ask
for a short function. Expected results come from a reference program, which is the row's `answer`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from grpo.errors import DataError

__all__ = ["KINDS", "program_problems"]

_TRIES = 200


_Problem: TypeAlias = dict[str, Any]
"""A row with `prompt`, `tests` (a list of `assert` lines) and `answer` (a program that passes them)."""


def program_problems(
    count: int, seed: int = 0, *, kinds: Sequence[str] | None = None, max_operand: int = 12
) -> list[dict[str, Any]]:
    """Return `count` rows with `prompt`, `tests` and `answer`, no two with the same prompt.

    A longer list starts with the shorter one. Half of the problems are of the kind `value` when it is one of several.

    Args:
        kinds: names out of `KINDS`; None: all.
        max_operand: the largest number in problems of the kind `value`.

    Raises:
        DataError: a kind is unknown, or there are fewer different problems.
    """
    names = list(KINDS) if kinds is None else list(kinds)
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names or max_operand < 0:
        wrong = f"kinds {kinds!r}" if unknown or not names else f"max_operand {max_operand}"
        raise DataError(f"{wrong}: use kinds out of {sorted(KINDS)} and operands from 0 on")
    others = [name for name in names if name != "value"]
    rng = random.Random(seed)
    found: dict[str, _Problem] = {}
    tries = 0
    while len(found) < count:
        name = "value" if "value" in names and (not others or rng.random() < 0.5) else rng.choice(others)
        problem = _value(rng, max_operand) if name == "value" else KINDS[name](rng)
        tries = 0 if problem["prompt"] not in found else tries + 1
        if tries > _TRIES:
            raise DataError(
                f"{count} programming problems of the kinds {names} asked for, but there are not many more than "
                f"{len(found)} different ones: ask for fewer, raise max_operand or add kinds"
            )
        found.setdefault(problem["prompt"], problem)
    return list(found.values())


def _value(rng: random.Random, max_operand: int = 12) -> _Problem:
    left, right = rng.randint(0, max_operand), rng.randint(0, max_operand)
    operator = rng.choice("+-")
    result = left + right if operator == "+" else left - right
    prompt = f"What is {left} {operator} {right}? Answer with a Python expression."
    return {"prompt": prompt, "tests": [f"assert solution == {result}"], "answer": str(result)}


def _function(signature: str, returns: str, body: str, calls: Sequence[str]) -> _Problem:
    """Return a problem that asks for a function and tests it on `calls`.

    Args:
        signature: `name(parameters)`.
        returns: completes "Write a Python function … that returns".
        body: of the reference program: an expression, or statements on several lines.
        calls: arguments of each tested call, as source.
    """
    name = signature.partition("(")[0]
    lines = body.splitlines() if "return" in body else [f"return {body}"]
    answer = "\n".join([f"def {signature}:", *(f"    {line}" for line in lines)])
    names: dict[str, Any] = {}
    exec(answer, names)  # source from the templates below, never from a user or a model
    tests = [f"assert {name}({call}) == {eval(f'{name}({call})', names)!r}" for call in dict.fromkeys(calls)]
    return {"prompt": f"Write a Python function {signature} that returns {returns}.", "tests": tests, "answer": answer}


_WORDS = ("apple", "banana", "cherry", "level", "noon", "orange", "python", "radar", "river", "stone", "tree", "window")
_SENTENCES = ("the cat sat", "one two three four", "a", "Hello World", "green tea in a cup", "we are here now")


def _numbers(rng: random.Random, *, low: int = -9, high: int = 20) -> list[str]:
    return [str(rng.randint(low, high)) for _ in range(4)]


def _lists(rng: random.Random) -> list[str]:
    return [str([rng.randint(-9, 20) for _ in range(rng.randint(1, 6))]) for _ in range(4)]


def _words(rng: random.Random) -> list[str]:
    return [repr(word) for word in rng.sample(_WORDS, 4)]


def _add(rng: random.Random) -> _Problem:
    k = rng.randint(2, 40)
    return _function(f"add_{k}(number)", f"number plus {k}", f"number + {k}", _numbers(rng))


def _multiply(rng: random.Random) -> _Problem:
    k = rng.randint(2, 20)
    return _function(f"times_{k}(number)", f"number times {k}", f"number * {k}", _numbers(rng))


def _divisible(rng: random.Random) -> _Problem:
    k = rng.randint(2, 12)
    calls = [str(k * rng.randint(2, 9)), str(k * rng.randint(2, 9) + 1), "0", str(k - 1)]
    return _function(
        f"divides_{k}(number)", f"True if number can be divided by {k}, else False", f"number % {k} == 0", calls
    )


def _clamp(rng: random.Random) -> _Problem:
    low, high = rng.randint(-5, 3), rng.randint(5, 15)
    returns = f"number, but {low} if it is below {low} and {high} if it is above {high}"
    return _function(
        "clamp(number)", returns, f"max({low}, min({high}, number))", [str(low - 3), str(high + 4), "4", str(high)]
    )


def _reverse(rng: random.Random) -> _Problem:
    k = rng.randint(1, 4)
    returns = "text backwards" if k == 1 else f"text backwards, {k} times in a row"
    return _function("backwards(text)", returns, "text[::-1]" if k == 1 else f"text[::-1] * {k}", [*_words(rng), "''"])


def _vowels(rng: random.Random) -> _Problem:
    vowels = rng.choice(("aeiou", "ae", "ou", "aou", "ei"))
    body = f"sum(letter in {vowels!r} for letter in text)"
    returns = f"how many letters of text are one of {', '.join(vowels)}"
    return _function("count_vowels(text)", returns, body, [*_words(rng), repr(vowels)])


def _letters(rng: random.Random) -> _Problem:
    letter = rng.choice("aeinorst")
    returns = f"how often the letter {letter} occurs in text"
    return _function(f"count_{letter}(text)", returns, f"text.count({letter!r})", [*_words(rng), repr(letter * 3)])


def _palindrome(rng: random.Random) -> _Problem:
    name = rng.choice(("is_palindrome", "same_backwards", "mirrored"))
    calls = ["'level'", "'noon'", *_words(rng), "''"]
    return _function(f"{name}(text)", "True if text reads the same backwards, else False", "text == text[::-1]", calls)


def _above(rng: random.Random) -> _Problem:
    k = rng.randint(0, 12)
    body = f"sum(number for number in numbers if number > {k})"
    return _function(f"sum_above_{k}(numbers)", f"the sum of the numbers greater than {k}", body, [*_lists(rng), "[]"])


def _every(rng: random.Random) -> _Problem:
    k = rng.randint(2, 6)
    returns = f"a list of every {k}th entry of entries, the first one included"
    return _function(f"every_{k}(entries)", returns, f"entries[::{k}]", [*_lists(rng), "[]"])


def _largest(rng: random.Random) -> _Problem:
    k = rng.randint(1, 20)
    return _function(
        "largest_plus(numbers)", f"the largest of the numbers plus {k}", f"max(numbers) + {k}", _lists(rng)
    )


def _evens(rng: random.Random) -> _Problem:
    kind, rest = rng.choice((("even", 0), ("odd", 1)))
    k = rng.randint(1, 9)
    body = f"[number * {k} for number in numbers if number % 2 == {rest}]"
    returns = f"a list of the {kind} numbers" + (f", each times {k}" if k > 1 else "")
    return _function(f"{kind}_ones(numbers)", returns, body, [*_lists(rng), "[]"])


def _join(rng: random.Random) -> _Problem:
    name, mark = rng.choice((("commas", ","), ("dashes", "-"), ("dots", "."), ("slashes", "/")))
    calls = [repr(sentence) for sentence in rng.sample(_SENTENCES, 3)]
    returns = f"the words of text with {mark!r} between them"
    return _function(f"with_{name}(text)", returns, f"{mark!r}.join(text.split())", calls)


def _fizz(rng: random.Random) -> _Problem:
    k, word = rng.randint(2, 9), rng.choice(("Fizz", "Buzz", "Bang"))
    body = f"if number % {k} == 0:\n    return {word!r}\nreturn number"
    returns = f"{word!r} if number can be divided by {k}, else number itself"
    return _function("fizz(number)", returns, body, [str(k), str(5 * k), str(5 * k + 1), "1"])


def _power(rng: random.Random) -> _Problem:
    k = rng.randint(2, 5)
    return _function(f"power_{k}(number)", f"number to the power of {k}", f"number ** {k}", _numbers(rng, high=9))


KINDS: Mapping[str, Callable[[random.Random], _Problem]] = MappingProxyType(
    {
        "value": _value,
        "add": _add,
        "multiply": _multiply,
        "divisible": _divisible,
        "clamp": _clamp,
        "reverse": _reverse,
        "vowels": _vowels,
        "letters": _letters,
        "palindrome": _palindrome,
        "above": _above,
        "every": _every,
        "largest": _largest,
        "evens": _evens,
        "join": _join,
        "fizz": _fizz,
        "power": _power,
    }
)
"""Kinds of problems by name: `value` asks for the value of an expression, the others ask for a function."""
