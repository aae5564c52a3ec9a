"""What may be set, its defaults, other projects' names for it, and where it is read from."""

from __future__ import annotations

from grpo.config.describe import option_reference
from grpo.config.load import DEFAULT_RECIPE, load_config, load_model_config, load_run_config
from grpo.config.overrides import split_words
from grpo.config.rewards import RewardOptions
from grpo.config.rules import GENERATED
from grpo.config.schema import GRPOConfig
from grpo.config.scorer_section import ScorerSection
from grpo.config.sections import (
    METHODS,
    AlgorithmSection,
    DataSection,
    OptimizerSection,
    OutputSection,
    PolicySection,
    RewardsSection,
    RolloutSection,
)
from grpo.config.synonyms import SYNONYMS

__all__ = [
    "DEFAULT_RECIPE",
    "GENERATED",
    "METHODS",
    "SYNONYMS",
    "AlgorithmSection",
    "DataSection",
    "GRPOConfig",
    "OptimizerSection",
    "OutputSection",
    "PolicySection",
    "RewardOptions",
    "RewardsSection",
    "RolloutSection",
    "ScorerSection",
    "load_config",
    "load_model_config",
    "load_run_config",
    "option_reference",
    "split_words",
]
