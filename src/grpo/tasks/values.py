"""Values of data sets as plain Python ones, and reference answers as texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from grpo.errors import DataError

__all__ = ["is_missing", "kind_of", "plain_value", "reference_texts"]

_MISSING_TYPES = ("NAType", "NaTType")


def plain_value(value: Any) -> Any:
    """Return a value with numpy's numbers and arrays as Python's, in lists and mappings too.

    A float of fewer bits becomes the float that is written the same: float32's 0.1 becomes 0.1.
    """
    if type(value).__module__ == "numpy":
        if getattr(value, "shape", None) == () and getattr(value.dtype, "kind", "") == "f":
            return float(str(value))
        return plain_value(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(entry) for entry in value]
    return value


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: null, NaN, a blank text, an empty list or pandas' NA.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " ", [], [None, ""], 0, False, "0")]
        [True, True, True, True, True, False, False, False]
    """
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, (list, tuple)):
        return all(map(is_missing, value))
    return value is None or type(value).__name__ in _MISSING_TYPES


def reference_texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a reference answer, any of which is right; none where the answer is missing.

    A text stands for itself, a number for its digits, a truth value for "true" or "false", and a list for its
    entries.

    Raises:
        DataError: it is an object, a list of lists or something else that no text can be compared with.

    Example:
        >>> reference_texts(["four", 4.0, None]), reference_texts(True), reference_texts(1e20)
        (('four', '4.0'), ('true',), ('100000000000000000000',))
    """
    value = plain_value(value)
    if is_missing(value):
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(_reference_text(entry) for entry in value if not is_missing(entry))
    return (_reference_text(value),)


def _reference_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError:
            raise DataError("a number of thousands of digits where an answer is needed: use a text") from None
    if isinstance(value, (float, Decimal)) and math.isfinite(value):
        return f"{Decimal(repr(value)) if isinstance(value, float) else value:f}"
    raise DataError(f"{kind_of(value)} where an answer is needed: use a text, a number, or a list of these")


def kind_of(value: Any) -> str:
    """Return what a value is, in words for error messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, (int, float, Decimal)):
        return "a number" if isinstance(value, int) or math.isfinite(value) else "a number that is not finite"
    return f"a {type(value).__name__}"
