"""Probe the rewards: find inputs that score well without solving the task, and rewards that fail, vary or are slow."""

from __future__ import annotations

from grpo.reward_check.check import check_rewards
from grpo.reward_check.probes import LONGEST, Probe, ProbeText, make_probes
from grpo.reward_check.report import (
    Cell,
    CheckReport,
    ComparisonResult,
    Finding,
    ProbeResult,
    RewardResult,
    SampleResult,
    Severity,
)

__all__ = [
    "LONGEST",
    "Cell",
    "CheckReport",
    "ComparisonResult",
    "Finding",
    "Probe",
    "ProbeResult",
    "ProbeText",
    "RewardResult",
    "SampleResult",
    "Severity",
    "check_rewards",
    "make_probes",
]
