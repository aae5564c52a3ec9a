"""The table of all options, and the names that find them.

Names are read in any case and with `-` or `_`, so `GROUP_SIZE`, `--group-size` and `group_size` are one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from grpo.config.fields import Section, known_about, option_types
from grpo.config.sections import SECTIONS, Shorthands
from grpo.errors import ConfigError

__all__ = ["ALL_SECTIONS", "OPTIONS", "Option", "find_option", "normalise", "unknown_option"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option as its field describes it.

    Attributes:
        name: the name in messages, on the command line and in flat settings.
        section: the section that it lies in, `shorthands` among them.
        attribute: its attribute of the section.
        field: type, default and description; `known_about` has the rest.
    """

    name: str
    section: str
    attribute: str
    field: FieldInfo

    def known(self, key: str) -> Any:
        """Return the argument `key` of `grpo.config.fields.option`."""
        return known_about(self.field, key)

    @property
    def types(self) -> frozenset[Any]:
        """Types of its values; `None` is left out."""
        return option_types(self.field.annotation)

    @property
    def may_be_null(self) -> bool:
        """True where null is one of its values; elsewhere null stands for the default."""
        return type(None) in get_args(self.field.annotation)

    def is_switch(self, written: str) -> bool:
        """Return whether the option is true or false under the name `written`, which may be a synonym."""
        return self.types == {bool} or set(self.known("synonyms").get(normalise(written), ())) == {"true", "false"}

    def value(self, written: str, value: Any) -> Any:
        """Return our spelling of a value that was given under the name `written`."""
        spellings = self.known("synonyms").get(normalise(written)) or self.known("spellings")
        return spellings.get(str(value).strip().lower(), value)


ALL_SECTIONS: Mapping[str, type[Section]] = {**SECTIONS, "shorthands": Shorthands}

OPTIONS: Mapping[str, Option] = {
    field.alias or attribute: Option(field.alias or attribute, section, attribute, field)
    for section, model in ALL_SECTIONS.items()
    for attribute, field in model.model_fields.items()
}
"""All options by name, in the order in which they are shown."""

_BY_NAME = {name: option for option in OPTIONS.values() for name in (option.name, *option.known("synonyms"))}

_REFUSED: Mapping[str, str] = {
    "fp16": "float16 is not offered: use dtype=bfloat16 or dtype=float32",
    "load_in_4bit": "4-bit base weights are not offered yet: use lora_rank with dtype=bfloat16",
    "per_device_train_batch_size": (
        "it counts completions in some versions of TRL and prompts in others: "
        "say prompts_per_step (prompts in a step) instead"
    ),
    "per_device_eval_batch_size": "max_sequences bounds the sequences that are generated at the same time",
    "generation_batch_size": "say prompts_per_step (prompts in a step) and group_size (completions for each) instead",
    "steps_per_generation": "say prompts_per_step, gradient_accumulation_steps and epochs_per_step instead",
    "resume_from_checkpoint": "resume a run with: grpo train --resume RUN",
    "other_models": "it is a table of a file or recipe, for `grpo train FILE` and load_config",
    "recipe": "name it first (grpo train NAME), as `recipe: NAME` at the top of a file, or to load_config(NAME)",
}
"""Names that would be misread, and the advice to give instead."""


def normalise(name: str) -> str:
    """Return `name` in lower case with underscores."""
    return name.strip().lower().replace("-", "_")


def find_option(written: str, switches: Sequence[str] = ()) -> Option:
    """Return the option of a name or synonym; `switches` may be suggested as well.

    Raises:
        ConfigError: there is no such option, or its meaning differs between the projects that have it.
    """
    name = normalise(written)
    if name in _REFUSED:
        raise ConfigError(f"{written} cannot be used: {_REFUSED[name]}")
    if name not in _BY_NAME:
        raise unknown_option(written, switches)
    return _BY_NAME[name]


def unknown_option(written: str, switches: Sequence[str] = ()) -> ConfigError:
    """Return the error for an unknown name, with the nearest options and `switches` (such as `--resume`)."""
    section, _, rest = normalise(written).partition(".")
    if rest and (near := difflib.get_close_matches(section, SECTIONS, n=1, cutoff=0.7)):
        names = difflib.get_close_matches(rest, _BY_NAME, n=1, cutoff=0.7)
        meant = f"{_BY_NAME[names[0]].section}.{_BY_NAME[names[0]].name}" if names else near[0]
        return ConfigError(f"no section {section!r}: did you mean {meant.removeprefix('shorthands.')}?")
    known = {name: name for name in (*_BY_NAME, *SECTIONS)}
    known |= {normalise(switch.removeprefix("--")): switch for switch in switches}
    close = difflib.get_close_matches(normalise(written), known, n=3, cutoff=0.7)
    hint = (
        f"did you mean {' or '.join(known[name] for name in close)}?"
        if close
        else "grpo train --help lists all options"
    )
    return ConfigError(f"no option {written!r}: {hint}")
