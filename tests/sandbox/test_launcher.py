"""What the launcher of a program takes along: little, since it starts once for each of them."""

from __future__ import annotations

import subprocess
import sys

from grpo.sandbox import run as sandbox_run

SLOW = {"pathlib", "json", "typing", "contextlib", "dataclasses", "re", "signal", "enum", "logging", "subprocess"}


def imported(*switches: str, program: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, *switches, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(shown.stdout.split())


def test_the_launcher_imports_nothing_that_takes_long_and_of_the_package_only_its_own() -> None:
    modules = imported("-I", "-S", "-B", program=sandbox_run._BOOTSTRAP)
    assert "grpo.sandbox.launcher.main" in modules
    assert modules & SLOW == set()
    own = {name for name in modules if name.startswith("grpo")}
    others = {name for name in own if not name.startswith("grpo.sandbox.launcher")}
    assert others == {"grpo", "grpo.processes", "grpo.sandbox", "grpo.sandbox.folder"}


def test_who_runs_no_program_does_not_load_the_launcher() -> None:
    modules = imported(program="import grpo.rewards, grpo.rewards.code, grpo.rewards.calling.process_worker")
    assert "grpo.sandbox.run" in modules
    assert {name for name in modules if name.startswith("grpo.sandbox.launcher")} == set()
