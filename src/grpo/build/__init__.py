"""From a configuration to a run: the only room that reads configuration."""

from __future__ import annotations

from grpo.build.answers import evaluate, find_weights, generate
from grpo.build.api import GRPOTrainer
from grpo.build.resuming import resume
from grpo.build.runs import train
from grpo.build.scorers import score_texts, train_scorer

__all__ = [
    "GRPOTrainer",
    "evaluate",
    "find_weights",
    "generate",
    "resume",
    "score_texts",
    "train",
    "train_scorer",
]
