"""From a configuration to a run: the only room that reads configuration."""

from __future__ import annotations

from grpo.build.answers import evaluate, generate
from grpo.build.api import GRPOTrainer
from grpo.build.runs import resume, train

__all__ = ["GRPOTrainer", "evaluate", "generate", "resume", "train"]
