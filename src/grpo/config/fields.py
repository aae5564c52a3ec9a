"""What the sections of a configuration are made of: how values are read, and the numbers that options may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = [
    "AboveZeroShare",
    "BelowOne",
    "Count",
    "Interval",
    "NotNegative",
    "Positive",
    "Section",
    "Share",
    "option_types",
]

Count = Annotated[int, Field(ge=1)]
Interval = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
AboveZeroShare = Annotated[float, Field(gt=0, le=1)]


def option_types(annotation: Any) -> frozenset[Any]:
    """Return the plain types an annotation allows; a `Literal` stays whole, `None` is left out."""
    if get_origin(annotation) is Annotated:
        return option_types(get_args(annotation)[0])
    if get_origin(annotation) in (Literal, tuple):
        return frozenset({annotation})
    parts = get_args(annotation)
    if not parts:
        return frozenset() if annotation is type(None) else frozenset({annotation})
    return frozenset().union(*map(option_types, parts))


class Section(BaseModel):
    """Unknown keys are errors, numbers are finite, choices are read in any case and with `-` or `_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read_as_people_write(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        types = option_types(cls.model_fields[info.field_name].annotation)
        # Python counts True as 1: `steps: yes` is a slip, not one step.
        if isinstance(value, bool) and types <= {int, float}:
            raise ValueError("Input should be a number")
        choices = [choice for kind in types if get_origin(kind) is Literal for choice in get_args(kind)]
        if isinstance(value, bool) and choices:
            raise ValueError(f"Input should be {' or '.join(map(repr, choices))}")
        if isinstance(value, str) and choices:
            return value.strip().lower().replace("-", "_")
        return value
