"""Rewards of completions: plain functions in TRL's signature, weighted, with failures kept apart from numbers."""

from __future__ import annotations

from grpo.rewards.function import RewardFunction, TrainerState, reward_function
from grpo.rewards.gates import find_gate
from grpo.rewards.models.backbones import Backbones
from grpo.rewards.models.classifier import SequenceClassifierReward
from grpo.rewards.resolve import BUILT_IN, ON_DEMAND, RewardSpec, resolve_rewards
from grpo.rewards.suite import RewardSuite, SuiteResult
from grpo.rewards.texts import completion_texts
from grpo.rewards.weights import WeightSchedule, read_weight

__all__ = [
    "BUILT_IN",
    "ON_DEMAND",
    "Backbones",
    "RewardFunction",
    "RewardSpec",
    "RewardSuite",
    "SequenceClassifierReward",
    "SuiteResult",
    "TrainerState",
    "WeightSchedule",
    "completion_texts",
    "find_gate",
    "read_weight",
    "resolve_rewards",
    "reward_function",
]
