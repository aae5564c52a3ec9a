"""Scored groups → advantages → packed micro-batches → an updated policy: the second half of a step."""

from __future__ import annotations

from grpo.update.advantages import StepAdvantages
from grpo.update.learner import Learner
from grpo.update.memory import activation_bytes_per_token, is_out_of_memory, token_budget

__all__ = ["Learner", "StepAdvantages", "activation_bytes_per_token", "is_out_of_memory", "token_budget"]
