"""Runs programs that nobody has read: in a killed-on-timeout process, without network, in a directory of their own.

run_program → Execution; run_tests → what a program passed; protections → what holds on this machine.
"""

from __future__ import annotations

from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.protections import Protection, protections
from grpo.sandbox.run import run_program
from grpo.sandbox.testing import TestRun, check_tests, run_tests

__all__ = ["Execution", "Limits", "Protection", "TestRun", "check_tests", "protections", "run_program", "run_tests"]
