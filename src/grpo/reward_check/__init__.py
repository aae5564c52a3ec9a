"""Rewards tried out before they cost a run: on right answers, on junk, again, in another order, and timed."""

from __future__ import annotations

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
from grpo.reward_check.run import check_rewards

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
