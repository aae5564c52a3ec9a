"""Learned reward models: the CTR scorer (texts with clicks) and the pair scorer (better and worse answers).

rows → train_scorer → best_model/ → CTRScorer, or any program that loads Hugging Face sequence classifiers
"""

from __future__ import annotations

from grpo.reward_models.ctr_scorer import CTRScorer
from grpo.reward_models.data import ScorerKind, hold_out, read_scorer_rows
from grpo.reward_models.reports import EpochReport, Evaluation, OnEpoch, OnProgress, ReliabilityBin, ScorerReport
from grpo.reward_models.settings import ScorerSettings
from grpo.reward_models.train import train_scorer

__all__ = [
    "CTRScorer",
    "EpochReport",
    "Evaluation",
    "OnEpoch",
    "OnProgress",
    "ReliabilityBin",
    "ScorerKind",
    "ScorerReport",
    "ScorerSettings",
    "hold_out",
    "read_scorer_rows",
    "train_scorer",
]
