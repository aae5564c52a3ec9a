"""Runs programs that nobody has read: in a killed-on-timeout process, without network, in a directory of their own.

run_program → Execution; run_tests → what a program passed, and Tester for many; protections → what holds here.
"""

from __future__ import annotations

from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.protections import Protection, protections
from grpo.sandbox.run import run_program
from grpo.sandbox.tester import Case, Tester
from grpo.sandbox.testing import TestRun, check_tests, run_tests

__all__ = [
    "Case",
    "Execution",
    "Limits",
    "Protection",
    "TestRun",
    "Tester",
    "check_tests",
    "protections",
    "run_program",
    "run_tests",
]
