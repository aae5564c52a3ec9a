"""`GRPOConfig`: all options of a run, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from grpo.config import sections
from grpo.config.layers import fill_in, merge_layers
from grpo.config.options import OPTIONS
from grpo.config.overrides import Settings, read_settings
from grpo.config.rewards_section import RewardsSection
from grpo.config.scorer_section import ScorerSection
from grpo.config.yaml_text import MOST_BYTES, dump_yaml, parse_options
from grpo.errors import ConfigError
from grpo.storage import read_text

__all__ = ["GRPOConfig", "as_text"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """The source of a config's options; no part of what makes two configs equal.

    Attributes:
        from_recipe: options that a recipe has set.
        notes: lines to show before a run.
    """

    from_recipe: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class GRPOConfig(BaseModel):
    """All options of a run in sections; the arguments may be flat, nested, dotted, or synonyms of other projects.

    Options that depend on others (task, answer format, rewards, length of training) are filled in, so that a config
    is always complete.

    Raises:
        ConfigError: an option is unknown, has a value it cannot have, or contradicts another.

    Example:
        >>> config = GRPOConfig(learning_rate=1e-4, num_generations=4, policy={"lora_rank": 8})
        >>> config.optimizer.learning_rate, config.rollout.group_size, config.policy.lora_rank
        (0.0001, 4, 8)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: sections.PolicySection
    data: sections.DataSection
    rewards: RewardsSection
    rollout: sections.RolloutSection
    algorithm: sections.AlgorithmSection
    optimizer: sections.OptimizerSection
    scorer: ScorerSection
    output: sections.OutputSection

    @cached_property
    def _provenance(self) -> Provenance:
        # A cached property, as pydantic would compare a private attribute.
        return Provenance()

    def __init__(self, **options: Any) -> None:
        try:
            explicit, derived = fill_in(read_settings(options))
            nested: dict[str, Settings] = {name: {} for name in sections.SECTIONS}
            for name, value in (explicit | derived).items():
                nested[OPTIONS[name].section][name] = value
            super().__init__(**nested)
        except ValidationError as error:
            raise _config_error(error) from None
        for name in derived:
            self._section_of(name).model_fields_set.discard(OPTIONS[name].attribute)

    @model_validator(mode="after")
    def _refuse_micro_batches_without_completions(self) -> GRPOConfig:
        prompts, size = self.rollout.prompts_per_step, self.rollout.group_size
        micro_batches = self.optimizer.gradient_accumulation_steps
        if micro_batches > prompts * size:
            raise ValueError(
                f"gradient_accumulation_steps {micro_batches} is more than the {prompts * size} completions of a step "
                f"({prompts} prompts × {size}): lower it"
            )
        return self

    def replace(self, **options: Any) -> GRPOConfig:
        """Return a copy with `options` changed; options that followed from the old ones follow from the new.

        Example:
            >>> GRPOConfig().replace(task="rows").rewards.functions[0].name
            'last_integer'
        """
        changes = read_settings(options)
        changed = GRPOConfig(**merge_layers([self.explicit_options(), changes]))
        return changed.with_provenance(from_recipe=self._provenance.from_recipe - changes.keys())

    def rewritten(self, **values: Any) -> GRPOConfig:
        """Return the config with other spellings of values that it has; nothing else changes.

        `replace` would drop the options that a new value displaces.
        """
        config = GRPOConfig(**{**self.explicit_options(), **values})
        return config.with_provenance(from_recipe=self._provenance.from_recipe, notes=self._provenance.notes)

    def with_provenance(self, *, from_recipe: Iterable[str] = (), notes: Iterable[str] = ()) -> GRPOConfig:
        """Return this config, with the options that a recipe has set and with notes to show before a run."""
        config = self.model_copy()
        config.__dict__["_provenance"] = Provenance(frozenset(from_recipe), tuple(notes))
        return config

    def is_set_by_user(self, name: str) -> bool:
        """Return whether the user has set an option, rather than a recipe or the defaults."""
        return name in self.explicit_options() and name not in self._provenance.from_recipe

    def explicit_options(self) -> Settings:
        """Return the options that were set rather than filled in, by name."""
        values = self.flat()
        return {
            name: value
            for name, value in values.items()
            if OPTIONS[name].attribute in self._section_of(name).model_fields_set
        }

    def flat(self) -> Settings:
        """Return all options by name, in plain values."""
        nested = self.model_dump(mode="json")
        return {
            name: nested[option.section][option.attribute]
            for name, option in OPTIONS.items()
            if option.section in sections.SECTIONS
        }

    def changed_from_defaults(self) -> Settings:
        """Return, by name, the options that differ from those of `GRPOConfig()`."""
        return {name: ours for name, (ours, _) in self.differences(GRPOConfig()).items()}

    def differences(self, other: GRPOConfig) -> dict[str, tuple[Any, Any]]:
        """Return, by name, the options in which the two differ, with this one's value first."""
        theirs = other.flat()
        return {name: (value, theirs[name]) for name, value in self.flat().items() if value != theirs[name]}

    def remarks(self) -> list[str]:
        """Return lines to show before a run, such as one for each option that was set but has no effect."""
        return [*self._provenance.notes, *self._options_without_effect()]

    def to_yaml(self) -> str:
        """Return the whole config as YAML, from which `from_yaml` makes an equal one."""
        return dump_yaml(self.model_dump(mode="json"))

    @classmethod
    def from_yaml(cls, text: str, origin: str = "") -> GRPOConfig:
        """Return the config that `text` describes; `origin` names its file in messages."""
        return cls(**read_settings(parse_options(text, origin), origin))

    @classmethod
    def from_file(cls, path: str | Path) -> GRPOConfig:
        """Return the config in a run directory's `config.yaml`, as it was resolved then."""
        return cls.from_yaml(read_text(Path(path), most_bytes=MOST_BYTES), str(path))

    def _section_of(self, name: str) -> BaseModel:
        section: BaseModel = getattr(self, OPTIONS[name].section)
        return section

    def _options_without_effect(self) -> Iterator[str]:
        values = self.flat()
        for name in self.changed_from_defaults():
            # A recipe describes a scorer for several uses; an option that this use ignores is no slip.
            if OPTIONS[name].section == "scorer" and not self.is_set_by_user(name):
                continue
            for other, allowed in OPTIONS[name].known("needs").items():
                if not values[other] if allowed is None else values[other] not in allowed:
                    yield f"{name} has no effect: {other} is {as_text(values[other])}"


def as_text(value: Any) -> str:
    """Return an option's value as a user would write it.

    Example:
        >>> [as_text(value) for value in (True, None, 1e-5, 2.0, "auto")]
        ['true', 'null', '1e-05', '2', 'auto']
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).removesuffix(".0")


_SHOWN = 80
"""Most characters of a value that a message repeats."""

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "string_too_short": "some text",
    "none": "null",
}
"""Expected values by pydantic's type of error, or the first part of it; other types keep pydantic's message."""


def _config_error(error: ValidationError) -> ConfigError:
    """Return pydantic's findings as one line, with one finding for each option."""
    findings: dict[str, str] = {}
    for detail in error.errors():
        # A contradiction is located in a section, or in none; a shorthand's place is its name alone.
        place = [str(part) for part in detail["loc"]]
        option = place[1] if place[1:] else "".join(part for part in place if part not in sections.SECTIONS)
        findings.setdefault(option or detail["msg"], _finding(option, detail))
    return ConfigError("; ".join(findings.values()))


def _finding(option: str, detail: ErrorDetails) -> str:
    """Return one finding: the option, the value that was given, the values that are allowed."""
    expected = _EXPECTED.get(detail["type"], _EXPECTED.get(detail["type"].partition("_")[0]))
    message = detail["msg"].removeprefix("Value error, ")
    if not option:  # it is about several options, and names them
        return message
    if expected is None and not message.startswith("Input should "):
        return f"{option} was given {_shown(detail['input'])}: {message[:1].lower()}{message[1:]}"
    # The location within `rewards` ends in the name of one function's setting.
    subject = f"a reward function's {detail['loc'][-1]}" if option == "rewards" and len(detail["loc"]) > 2 else option
    return f"{subject} was given {_shown(detail['input'])}: it should " + (
        f"be {expected}" if expected else message.removeprefix("Input should ")
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
