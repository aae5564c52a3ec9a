"""Values of built-in types ↔ JSON tagged by type, the only form in which values leave the process of a program.

The harness carries this module into the sandbox: it imports nothing of the package.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["LONGEST", "MOST_MEMBERS", "decode", "encode", "encode_members"]

LONGEST = 200_000
"""The most characters in the JSON of a value."""
MOST_MEMBERS = 100_000
_LARGEST = 1 << 53
_MOST_DIGITS = 10_000


def encode_members(value: Any) -> Any:
    """Return the members of an iterable, for `in`, or the value itself if it is built in."""
    try:
        return encode(value)
    except TypeError:
        members = []
        for member in value:
            members.append(encode(member, 2))
            if len(members) > MOST_MEMBERS:
                raise ValueError("the value has too many members") from None
        return ["list", members]


def encode(value: Any, depth: int = 0) -> Any:
    """Return a built-in value in JSON, tagged by type, without calling methods that a subclass redefines.

    Raises:
        TypeError: the value has another type, and could claim to be equal to any value.
        ValueError: the value is nested too deep.
    """
    if depth > 50:
        raise ValueError("the value is nested too deep")
    if value is None or value is True or value is False:
        return value
    for kind, written in _WRITTEN.items():
        if isinstance(value, kind):
            return written(value, depth + 1)
    written = _WRITTEN_BY_NAME.get((type(value).__module__, type(value).__name__))
    if written is not None:
        return written(value, depth + 1)
    if hasattr(value, "tolist"):  # an array, or a number from an array
        return encode(value.tolist(), depth + 1)
    raise TypeError(f"the value is a {type(value).__name__}, not a plain one")


def _integer(value: int, _: int) -> Any:
    value = int.__add__(value, 0)
    return value if -_LARGEST < value < _LARGEST else ["int", hex(value)]


def _complex(value: complex) -> list[str]:
    return ["complex", value.real.hex(), value.imag.hex()]


def _entries(kind: type, name: str = "") -> Any:
    iterate: Any = kind.__iter__  # type: ignore[attr-defined]
    return lambda value, depth: [name or kind.__name__, [encode(entry, depth) for entry in iterate(value)]]


def _pairs(value: Any, depth: int) -> list[Any]:
    return [encode(list(entry), depth)[1] for entry in dict.items(value)]


_WRITTEN: dict[type, Any] = {
    str: lambda value, _: str.__str__(value),
    int: _integer,
    float: lambda value, _: ["float", float.hex(float.__add__(value, 0.0))],
    complex: lambda value, _: _complex(complex.__add__(value, 0j)),
    bytes: lambda value, _: ["bytes", bytes.hex(value)],
    bytearray: lambda value, _: ["bytearray", bytearray.hex(value)],
    dict: lambda value, depth: ["dict", _pairs(value, depth)],
    list: _entries(list),
    tuple: _entries(tuple),
    set: _entries(set),
    frozenset: _entries(frozenset),
    range: lambda value, _: ["range", value.start, value.stop, value.step],
    type({}.keys()): _entries(type({}.keys()), "keys"),
    type({}.values()): _entries(type({}.values()), "values"),
    type({}.items()): lambda value, depth: ["items", [encode(list(entry), depth)[1] for entry in value]],
    types.MappingProxyType: lambda value, depth: ["dict", _pairs(dict(value), depth)],
}
# These modules are not imported here, because a program with such a value has imported them. A class of the same name
# that a program defines gives an ordinary value, too.
_WRITTEN_BY_NAME: dict[tuple[str, str], Any] = {
    ("collections", "deque"): lambda value, depth: ["deque", [encode(entry, depth) for entry in value]],
    ("fractions", "Fraction"): lambda value, depth: [
        "Fraction",
        encode(value.numerator, depth),
        encode(value.denominator, depth),
    ],
    ("decimal", "Decimal"): lambda value, _: ["Decimal", str(value)],
}


def _decimal(text: str) -> Any:
    from decimal import Decimal

    number = Decimal(text)
    if number.is_finite() and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("too many digits to compute with")
    return number


def _fraction(numerator: Any, denominator: Any) -> Any:
    from fractions import Fraction

    return Fraction(decode(numerator), decode(denominator))


_KINDS: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda real, imaginary: complex(float.fromhex(real), float.fromhex(imaginary)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "list": lambda entries: [decode(entry) for entry in entries],
    "tuple": lambda entries: tuple(decode(entry) for entry in entries),
    "set": lambda entries: {decode(entry) for entry in entries},
    "frozenset": lambda entries: frozenset(decode(entry) for entry in entries),
    "dict": lambda entries: {decode(key): decode(entry) for key, entry in entries},
    "keys": lambda entries: dict.fromkeys(decode(entry) for entry in entries).keys(),
    "values": lambda entries: dict(enumerate(decode(entry) for entry in entries)).values(),
    "items": lambda entries: {decode(key): decode(entry) for key, entry in entries}.items(),
    "range": lambda start, stop, step: range(start, stop, step)[:MOST_MEMBERS],
    "deque": lambda entries: deque(decode(entry) for entry in entries),
    "Fraction": _fraction,
    "Decimal": _decimal,
}


def decode(tagged: Any) -> Any:
    """Return the value that the harness wrote as tagged JSON.

    Raises:
        LookupError, TypeError, ValueError: the harness did not write this.
    """
    if tagged is None or isinstance(tagged, (bool, int, str)):
        return tagged
    kind, *content = tagged
    return _KINDS[kind](*content)
