"""What a completion is worth: plain functions in TRL's signature, weighted, with failures kept apart from numbers."""

from __future__ import annotations

from grpo.rewards.function import RewardFunction, TrainerState, reward_function
from grpo.rewards.models.backbones import Backbones
from grpo.rewards.models.classifier import SequenceClassifierReward
from grpo.rewards.resolve import BUILT_IN, ON_DEMAND, RewardSpec, resolve_rewards
from grpo.rewards.suite import RewardSuite, SuiteResult
from grpo.rewards.texts import completion_texts

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
    "completion_texts",
    "resolve_rewards",
    "reward_function",
]
