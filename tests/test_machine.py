from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from grpo.machine import idle_cores, peak_memory_mb

SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")
def test_cores_that_others_keep_busy_are_not_idle() -> None:
    cores = os.cpu_count() or 1
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(cores)]
    try:
        assert idle_cores(1.0) == 1
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_there_is_always_a_core() -> None:
    assert 1 <= idle_cores(0.01) <= (os.cpu_count() or 1)


def test_peak_memory_only_grows() -> None:
    before = peak_memory_mb("cpu")
    ballast = bytearray(64 * 2**20)
    after = peak_memory_mb("cpu")
    assert len(ballast) == 64 * 2**20
    assert math.isfinite(before)
    assert after >= before > 10
