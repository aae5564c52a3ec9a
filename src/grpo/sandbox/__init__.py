"""Runs programs that nobody has read: in a killed-on-timeout process, without network, in a directory of their own.

run_program → Execution; run_tests → what a program passed, and Tester for many; protections → what holds here.
`launcher/` is what runs between a program and its caller, `unit_tests/` what it is tested with.
"""

from __future__ import annotations

from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.protections import Protection, protections
from grpo.sandbox.run import namespaces_refused, run_program
from grpo.sandbox.unit_tests.tester import Case, Tester
from grpo.sandbox.unit_tests.testing import TestRun, check_tests, run_tests

__all__ = [
    "Case",
    "Execution",
    "Limits",
    "Protection",
    "TestRun",
    "Tester",
    "check_tests",
    "namespaces_refused",
    "protections",
    "run_program",
    "run_tests",
]
