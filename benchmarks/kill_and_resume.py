"""Kill a run at random moments, resume it each time, and compare its final model with an uninterrupted run's.

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 0] [key=value …]

Further arguments go to `grpo train`. Prints one JSON line; the exit code is 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULTS = [
    "steps=24",
    "epochs_per_step=2",
    "prompts_per_step=4",
    "save_every=2",
    "eval_every=6",
    "beta=0.02",
    "threads=2",
]
GRPO = [sys.executable, "-m", "grpo"]


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a directory, by name."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def start(run: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the run, or resume it if its directory exists."""
    resume = (run / "config.yaml").exists()
    command = [*GRPO, "train", "--resume", str(run)] if resume else [*GRPO, "train", f"output_dir={run}", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a run; exit if it fails."""
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"a run failed with exit code {process.returncode}: {errors.decode()}")


def steps_done(run: Path) -> int:
    """Return the number of steps that the run has logged."""
    log = run / "metrics.jsonl"
    return sum(1 for _ in log.open()) if log.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    options = [*DEFAULTS, *options]
    moments = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))

    alone, killed = root / "alone", root / "killed"
    began = time.monotonic()
    finish(start(alone, options))
    duration = time.monotonic() - began

    killed_at: list[int] = []
    while len(killed_at) < arguments.kills:
        process = start(killed, options)
        try:
            process.wait(timeout=moments.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_at.append(steps_done(killed))
            continue
        # The run finished before it was killed: start a new one, so that every kill interrupts a run.
        finish(process)
        if digests(killed / "final_model") != digests(alone / "final_model"):
            sys.exit("the final models differ")
        shutil.rmtree(killed)
    finish(start(killed, options))

    expected, found = digests(alone / "final_model"), digests(killed / "final_model")
    print(json.dumps({"kills": len(killed_at), "killed_at_step": killed_at, "files": len(expected),
                      "identical": expected == found}))  # fmt: skip
    shutil.rmtree(root)
    sys.exit(0 if expected == found else 1)


if __name__ == "__main__":
    main()
