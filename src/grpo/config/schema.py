"""`GRPOConfig`: everything a run is made from, checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from grpo.config.layers import merge_layers, resolve
from grpo.config.rules import contradictions, remarks
from grpo.config.scorer_section import ScorerSection
from grpo.config.sections import (
    SECTIONS,
    AlgorithmSection,
    DataSection,
    OptimizerSection,
    OutputSection,
    PolicySection,
    RewardsSection,
    RolloutSection,
)
from grpo.config.settings import Settings, nested, read_settings
from grpo.config.synonyms import LEAVES
from grpo.config.yaml_text import dump_yaml, parse_yaml
from grpo.errors import ConfigError

__all__ = ["GRPOConfig"]


class GRPOConfig(BaseModel):
    """Options of a run, nested by concern; takes them flat, nested, dotted, or under other projects' names.

    What depends on other options (task, answer format, reward functions, length of training) is filled in,
    so that a config always says what will happen.

    Raises:
        ConfigError: an option is unknown, has a value it cannot have, or contradicts another.

    Example:
        >>> config = GRPOConfig(learning_rate=1e-4, num_generations=4, policy={"lora_rank": 8})
        >>> config.optimizer.learning_rate, config.rollout.group_size, config.policy.lora_rank
        (0.0001, 4, 8)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: PolicySection
    data: DataSection
    rewards: RewardsSection
    rollout: RolloutSection
    algorithm: AlgorithmSection
    optimizer: OptimizerSection
    scorer: ScorerSection
    output: OutputSection

    @cached_property
    def _defaults(self) -> frozenset[str]:
        """Options that a recipe has set; no part of what makes two configs equal."""
        return frozenset()

    @cached_property
    def _remarks(self) -> tuple[str, ...]:
        """What whoever made this config has to say of it; no part of what makes two configs equal."""
        return ()

    def __init__(self, **options: Any) -> None:
        given, derived = resolve(read_settings(options))
        try:
            super().__init__(**nested(given | derived))
        except ValidationError as error:
            raise _config_error(error) from None
        for leaf in derived:
            getattr(self, LEAVES[leaf]).model_fields_set.discard(leaf)
        problem = next(contradictions(self), None)
        if problem is not None:
            raise ConfigError(problem)

    def replace(self, **options: Any) -> GRPOConfig:
        """Return a copy with `options` changed; what followed from the old ones follows from the new.

        Example:
            >>> GRPOConfig().replace(task="rows").rewards.functions[0].name
            'last_integer'
        """
        changes = read_settings(options)
        changed = GRPOConfig(**merge_layers([self.given(), changes]))
        return changed.with_defaults(self._defaults - changes.keys())

    def with_defaults(self, names: Collection[str]) -> GRPOConfig:
        """Return this config, in which options of these `names` are set by a recipe rather than by the user."""
        config = self.model_copy()
        config.__dict__["_defaults"] = frozenset(names)
        return config

    def with_remarks(self, lines: Iterable[str]) -> GRPOConfig:
        """Return this config with lines to be said before a run."""
        config = self.model_copy()
        config.__dict__["_remarks"] = tuple(lines)
        return config

    def is_typed(self, leaf: str) -> bool:
        """Return whether the user has set an option, and not a recipe or nobody."""
        return leaf in self._section_of(leaf).model_fields_set and leaf not in self._defaults

    def given(self) -> Settings:
        """Return the options that were set rather than filled in, by name."""
        return {leaf: value for leaf, value in self.flat().items() if leaf in self._section_of(leaf).model_fields_set}

    def flat(self) -> Settings:
        """Return all options by name, in plain values."""
        return {leaf: value for section in self._as_plain_values().values() for leaf, value in section.items()}

    def changed_from_defaults(self) -> Settings:
        """Return, by name, the options that differ from those of `GRPOConfig()`."""
        defaults = GRPOConfig().flat()
        return {leaf: value for leaf, value in self.flat().items() if value != defaults[leaf]}

    def differences(self, other: GRPOConfig) -> dict[str, tuple[Any, Any]]:
        """Return, by name, the options in which the two differ, with this one's value first."""
        theirs = other.flat()
        return {leaf: (value, theirs[leaf]) for leaf, value in self.flat().items() if value != theirs[leaf]}

    def remarks(self) -> list[str]:
        """Return what to say before a run, such as a line for each option that was set but has no effect."""
        return [*self._remarks, *remarks(self)]

    def to_yaml(self) -> str:
        """Return the whole config as YAML, from which `from_yaml` makes an equal one."""
        return dump_yaml(self._as_plain_values())

    @classmethod
    def from_yaml(cls, text: str, origin: str = "") -> GRPOConfig:
        """Return the config that `text` describes; `origin` names its file in messages."""
        return cls(**read_settings(mapping_in(text, origin), origin))

    @classmethod
    def from_file(cls, path: str | Path) -> GRPOConfig:
        """Return the config in a run directory's `config.yaml`, as it was resolved then."""
        return cls.from_yaml(Path(path).read_text(encoding="utf-8"), str(path))

    def _section_of(self, leaf: str) -> BaseModel:
        section: BaseModel = getattr(self, LEAVES[leaf])
        return section

    def _as_plain_values(self) -> dict[str, dict[str, Any]]:
        return {name: _listed(getattr(self, name).model_dump()) for name in SECTIONS}


def mapping_in(text: str, origin: str) -> dict[Any, Any]:
    """Return the options that YAML `text` holds.

    Raises:
        ConfigError: it is not YAML, or not a mapping.
    """
    options = parse_yaml(text, origin)
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ConfigError(f"{origin or 'the text'} is not a configuration: it should have lines like `steps: 100`")
    return options


def _listed(value: Any) -> Any:
    """Return `value` with tuples as lists, as YAML has them."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "some text",
    "none_required": "null",
}


def _config_error(error: ValidationError) -> ConfigError:
    """Return pydantic's findings as one line: option, what was given, what is allowed."""
    findings: dict[str, str] = {}
    for detail in error.errors():
        option = ".".join(str(part) for part in detail["loc"][1:2]) or str(detail["loc"][0])
        findings.setdefault(option, _finding(option, detail))
    return ConfigError("; ".join(findings.values()))


def _finding(option: str, detail: ErrorDetails) -> str:
    expected = _EXPECTED.get(detail["type"])
    message = detail["msg"].removeprefix("Value error, ")
    if expected is None and not message.startswith("Input should "):
        return f"{option} was given {detail['input']!r}: {message[:1].lower()}{message[1:]}"
    # The location within `functions` ends in the name of one function's setting.
    what = f"a reward function's {detail['loc'][-1]}" if option == "functions" and len(detail["loc"]) > 2 else option
    return f"{what} was given {detail['input']!r}: it should " + (
        f"be {expected}" if expected else message.removeprefix("Input should ")
    )
