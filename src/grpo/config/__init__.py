"""Options of a run: their fields, their synonyms, and the readers of recipes, files and overrides."""

from __future__ import annotations

from grpo.config.describe import option_reference
from grpo.config.layers import OWN_ROWS
from grpo.config.load import DEFAULT_RECIPE, load_config, load_model_config, load_run_config
from grpo.config.options import OPTIONS, normalise
from grpo.config.overrides import parse_overrides, read_settings, split_args
from grpo.config.rewards_section import RewardOptions
from grpo.config.schema import GRPOConfig
from grpo.config.sections import GENERATED, METHODS, SECTIONS
from grpo.config.yaml_text import parse_options

__all__ = [
    "DEFAULT_RECIPE",
    "GENERATED",
    "METHODS",
    "OPTIONS",
    "OWN_ROWS",
    "SECTIONS",
    "GRPOConfig",
    "RewardOptions",
    "load_config",
    "load_model_config",
    "load_run_config",
    "normalise",
    "option_reference",
    "parse_options",
    "parse_overrides",
    "read_settings",
    "split_args",
]
