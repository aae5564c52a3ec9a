"""Findings in words from the metrics of a run: the cause, with its number, and what to change."""

from grpo.diagnosis.findings import FINDINGS, Finding, RunView, find
from grpo.diagnosis.monitor import Monitor
from grpo.diagnosis.zero_variance import ZeroVarianceMonitor

__all__ = ["FINDINGS", "Finding", "Monitor", "RunView", "ZeroVarianceMonitor", "find"]
