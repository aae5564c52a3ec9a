from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo import machine
from grpo.machine import PeakMemory, free_memory_bytes, idle_cores, keep_freed_memory, peak_memory_mb

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")
SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


@LINUX
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


@LINUX
def test_a_process_that_measures_its_steps_shows_its_whole_peak_to_the_outside() -> None:
    import resource

    peak = PeakMemory("cpu")
    ballast = bytearray(b"1") * (96 * 2**20)
    with_ballast = peak.since_restart_mb()
    del ballast
    peak.restart()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 >= with_ballast
    assert peak.since_restart_mb() >= with_ballast
    assert peak.of_all_time_mb() == peak.since_restart_mb()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_peak_of_a_step_forgets_what_was_before() -> None:
    peak = PeakMemory("cuda")
    ballast = torch.zeros(64 * 2**20, device="cuda")
    with_ballast = peak.since_restart_mb()
    del ballast
    peak.restart()
    assert peak.since_restart_mb() < with_ballast - 128
    assert peak.of_all_time_mb() == with_ballast


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_the_allocator_takes_the_settings_unless_the_user_made_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "77")
    assert keep_freed_memory()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "77"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not keep_freed_memory()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@LINUX
def test_free_memory_is_less_than_there_is() -> None:
    free = free_memory_bytes("cpu")
    assert free is not None
    assert 2**20 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_no_more_memory_than_its_limit_leaves(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "meminfo", "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n")
    write(tmp_path / "cgroup", "3:cpu:/a\n2:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n")
    root = tmp_path / "groups" / ("memory" if version == 1 else "")
    limit, usage, cached = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "inactive_file 1\ntotal_inactive_file 100\n"),
        2: ("memory.max", "memory.current", "anon 7\ninactive_file 100\n"),
    }[version]
    for name, attribute in (("meminfo", "_MEMORY"), ("cgroup", "_OWN_GROUPS"), ("groups", "_GROUPS")):
        monkeypatch.setattr(machine, attribute, tmp_path / name)
    assert free_memory_bytes("cpu") == 32_000_000 * 1024

    # The inner group has no limit of its own: the outer one's counts.
    write(root / "outer" / "inner" / limit, "max\n" if version == 2 else str(2**63 - 4096))
    write(root / "outer" / "inner" / usage, "400\n")
    write(root / "outer" / limit, "1000\n")
    write(root / "outer" / usage, "700\n")
    write(root / "outer" / "memory.stat", cached)
    assert free_memory_bytes("cpu") == 1000 - 700 + 100
