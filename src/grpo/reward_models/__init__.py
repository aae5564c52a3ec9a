"""Learned reward models: the CTR scorer (texts with clicks) and the pair scorer (better and worse answers).

rows → train_ctr_scorer → best_model/ → CTRScorer
rows → train_pair_scorer → best_model/, a Hugging Face sequence classifier
"""

from __future__ import annotations

from grpo.reward_models.ctr import train_ctr_scorer
from grpo.reward_models.data import hold_out_clicks, hold_out_pairs, read_click_rows, read_pair_rows
from grpo.reward_models.metrics import Evaluation, ReliabilityBin
from grpo.reward_models.pairs import train_pair_scorer
from grpo.reward_models.predict import CTRScorer
from grpo.reward_models.report import EpochReport, OnEpoch, ScorerReport
from grpo.reward_models.settings import ScorerSettings

__all__ = [
    "CTRScorer",
    "EpochReport",
    "Evaluation",
    "OnEpoch",
    "ReliabilityBin",
    "ScorerReport",
    "ScorerSettings",
    "hold_out_clicks",
    "hold_out_pairs",
    "read_click_rows",
    "read_pair_rows",
    "train_ctr_scorer",
    "train_pair_scorer",
]
