"""Reinforcement fine-tuning of language models with GRPO.

    from grpo import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer("tiny", GRPOConfig(steps=60), train_dataset=prompts, rewards=my_reward)
    trainer.train()

Names are imported when they are first used, so that `import grpo` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo.assembly import GRPOTrainer
    from grpo.config import GRPOConfig, load_config
    from grpo.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        GrpoError,
        InputError,
        ModelError,
        RewardError,
        RunError,
        StaleWeightsError,
        StorageError,
    )
    from grpo.reward_models import CTRScorer
    from grpo.types import Message, Prompt, Rollout, SamplingParams, Score, Verdict

    __version__: str

__all__ = [
    "CTRScorer",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GRPOConfig",
    "GRPOTrainer",
    "GrpoError",
    "InputError",
    "Message",
    "ModelError",
    "Prompt",
    "RewardError",
    "Rollout",
    "RunError",
    "SamplingParams",
    "Score",
    "StaleWeightsError",
    "StorageError",
    "Verdict",
    "__version__",
    "load_config",
]

_HOMES = {
    "grpo.assembly": ("GRPOTrainer",),
    "grpo.config": ("GRPOConfig", "load_config"),
    "grpo.reward_models": ("CTRScorer",),
    "grpo.types": ("Message", "Prompt", "Rollout", "SamplingParams", "Score", "Verdict"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module 'grpo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "grpo.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    """Return the version of the installed distribution; "unknown" when run from a source tree without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("grpo-kit")
    except PackageNotFoundError:
        return "unknown"
