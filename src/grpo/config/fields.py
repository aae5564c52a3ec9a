"""The fields that sections are made of: limits of numbers, everything known about an option, how values are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

__all__ = [
    "AboveZeroShare",
    "BelowOne",
    "Count",
    "Interval",
    "NotNegative",
    "Positive",
    "Section",
    "Share",
    "choices_of",
    "known_about",
    "option",
    "option_types",
]

_LARGEST = 2**63 - 1
"""Largest whole number that tensors and random generators take."""

Count = Annotated[int, Field(ge=1)]
Interval = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
AboveZeroShare = Annotated[float, Field(gt=0, le=1)]


def option(
    default: Any,
    description: str,
    *,
    synonyms: Sequence[str] | Mapping[str, Mapping[str, str]] = (),
    spellings: Mapping[str, str] | None = None,
    fixed: bool = False,
    needs: str | Mapping[str, Sequence[Any]] | None = None,
    excludes: Mapping[str, str] | None = None,
    displaces: Sequence[str] = (),
    **field: Any,
) -> Any:
    """Return the pydantic field of an option, with everything else that is known about the option.

    Args:
        synonyms: other projects' names for it; as a mapping, with the values written under each name and ours.
        spellings: other spellings of its values under any name, and ours.
        fixed: True where a resumed run may not change it.
        needs: an option without which (0, false, null) this one has no effect; or options with the values they need.
        excludes: options of the same section that cannot be set beside it, with the reason, which begins with a verb.
        displaces: options that lower layers lose when a higher layer sets this one, besides those it excludes.
        field: arguments of pydantic's `Field`, as `alias` (the option's name where it differs from the attribute).
    """
    known: dict[str, Any] = {
        "synonyms": {name: {} for name in synonyms} if not isinstance(synonyms, Mapping) else dict(synonyms),
        "spellings": dict(spellings or {}),
        "fixed": fixed,
        "needs": {needs: None} if isinstance(needs, str) else dict(needs or {}),
        "excludes": dict(excludes or {}),
        "displaces": list(displaces),
    }
    return Field(default, description=description, json_schema_extra=known, **field)


_PLAIN: Mapping[str, Any] = option(None, "").json_schema_extra
"""The arguments of `option` for a plain pydantic field: their defaults."""


def known_about(field: FieldInfo, key: str) -> Any:
    """Return the argument `key` of `option` that made a field; its default for a plain pydantic field."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return {**_PLAIN, **extra}[key]


def option_types(annotation: Any) -> frozenset[Any]:
    """Return the plain types an annotation allows; a `Literal`, tuple or dict stays whole, `None` is left out."""
    if get_origin(annotation) is Annotated:
        return option_types(get_args(annotation)[0])
    if get_origin(annotation) in (Literal, tuple, dict):
        return frozenset({annotation})
    parts = get_args(annotation)
    if not parts:
        return frozenset() if annotation is type(None) else frozenset({annotation})
    return frozenset().union(*map(option_types, parts))


def choices_of(types: frozenset[Any]) -> list[str]:
    """Return the values of all `Literal` types among `types`."""
    return [choice for kind in types if get_origin(kind) is Literal for choice in get_args(kind)]


class Section(BaseModel):
    """A group of options: unknown names are errors, numbers are finite, choices have any case and `-` or `_`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, populate_by_name=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_value(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        types = option_types(cls.model_fields[info.field_name].annotation)
        # Python counts True as 1: `steps: yes` is a slip, not one step.
        if isinstance(value, bool) and types <= {int, float}:
            raise ValueError("Input should be a number")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"Input should be at most {_LARGEST}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("Input should be text without null characters")
        choices = choices_of(types)
        if isinstance(value, bool) and choices:
            raise ValueError(f"Input should be {' or '.join(map(repr, choices))}")
        return value.strip().lower().replace("-", "_") if isinstance(value, str) and choices else value

    @model_validator(mode="after")
    def _refuse_exclusive_options(self) -> Section:
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in fields}
        # Zero and null choose nothing, like the default.
        chosen = {
            name: repr(value).removesuffix(".0")
            for name, value in values.items()
            if value and value != fields[name].default
        }
        for name, value in chosen.items():
            for other, reason in known_about(fields[name], "excludes").items():
                if other in chosen:
                    both = f"{name} {value} and {other} {chosen[other]}"
                    raise ValueError(f"{both} both {reason}: give one of them")
        return self
