"""A sandbox for untrusted programs: processes with time limits, without network, in a directory of their own.

`run_program` runs one program, `run_tests` tests one, `Tester` tests many, and `protections` lists the protections
that hold on this machine. `launcher/` has the process between a program and its caller, `unit_tests/` the tests.
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
