"""Settings of short trainings, made from a configuration as the command line makes them."""

from __future__ import annotations

from typing import Any

from grpo.assembly.scorers import scorer_settings
from grpo.config import GRPOConfig
from grpo.config.scorer_section import ScorerSection
from grpo.reward_models import ScorerSettings

QUICK: dict[str, Any] = {"epochs": 1, "device": "cpu", "dtype": "float32", "lora_rank": 4}


def settings(**options: Any) -> ScorerSettings:
    """Return settings; options have their names in the configuration, for those of a scorer without `scorer_`."""
    own = ScorerSection.model_fields
    names = {name: f"scorer_{name}" if f"scorer_{name}" in own else name for name in options}
    return scorer_settings(GRPOConfig(**{names[name]: value for name, value in options.items()}))
