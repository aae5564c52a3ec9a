"""Learned reward models: the CTR scorer (texts with clicks) and the pair scorer (better and worse answers).

rows → train_ctr_scorer → best_model/ → CTRScorer
rows → train_pair_scorer → best_model/, a Hugging Face sequence classifier
"""

from __future__ import annotations

from grpo.scorer.ctr import train_ctr_scorer
from grpo.scorer.data import hold_out_clicks, hold_out_pairs, read_click_rows, read_pair_rows
from grpo.scorer.metrics import Evaluation, ReliabilityBin
from grpo.scorer.pairs import train_pair_scorer
from grpo.scorer.predict import CTRScorer
from grpo.scorer.report import EpochReport, OnEpoch, ScorerReport
from grpo.scorer.settings import ScorerSettings

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
