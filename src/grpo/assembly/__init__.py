"""From a configuration to a run: the only room that reads configuration."""

from __future__ import annotations

from grpo.assembly.answers import evaluate, find_weights, generate
from grpo.assembly.api import GRPOTrainer
from grpo.assembly.resuming import resume
from grpo.assembly.runs import train
from grpo.assembly.scorers import score_texts, train_scorer

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
