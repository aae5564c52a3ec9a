"""Rewards tried out before they cost a run: on right answers, on junk, again, in another order, and timed."""

from __future__ import annotations

from grpo.rewards.check.probes import Probe, Try, make_probes
from grpo.rewards.check.report import (
    Cell,
    CheckReport,
    Finding,
    ProbeResult,
    RewardResult,
    SampleResult,
    Severity,
    Standing,
)
from grpo.rewards.check.run import check_rewards

__all__ = [
    "Cell",
    "CheckReport",
    "Finding",
    "Probe",
    "ProbeResult",
    "RewardResult",
    "SampleResult",
    "Severity",
    "Standing",
    "Try",
    "check_rewards",
    "make_probes",
]
