"""Measure start-up: the time of `grpo --help`, and of `grpo train` up to the end of its first step.

    python benchmarks/startup.py [--rounds 5] [--json FILE] [key=value …]

Options go to `grpo train`. The default recipe evaluates before its first step, so the time is measured with and without
evaluation. Prints median, minimum and maximum in seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import markdown_table, origin, spread

GRPO = [sys.executable, "-m", "grpo"]
NAMES = {
    "help_s": "`grpo --help`",
    "first_step_s": "`grpo train eval_size=0`, to the end of the first step",
    "first_step_with_evaluation_s": "`grpo train`, to the end of the first step, after the first evaluation",
}


def seconds_of_help() -> float:
    """Return the seconds of `grpo --help`."""
    began = time.perf_counter()
    subprocess.run([*GRPO, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def seconds_to_first_step(options: list[str]) -> float:
    """Return the seconds until a run has written the metrics of its first step."""
    with tempfile.TemporaryDirectory() as root:
        log = Path(root) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        process = subprocess.Popen(
            [*GRPO, "train", f"output_dir={root}/run", "steps=1", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        taken = None
        while taken is None and process.poll() is None:
            if log.exists() and log.stat().st_size:
                taken = time.perf_counter() - began
            time.sleep(0.005)
        _, errors = process.communicate()
        if process.returncode != 0:
            sys.exit(f"grpo train failed with exit code {process.returncode}: {errors.decode()}")
        if taken is None:
            taken = time.perf_counter() - began
    return taken


def startup_table(measured: dict[str, list[float]]) -> str:
    """Return the printed table."""
    return markdown_table(("what", "seconds"), [[NAMES[name], spread(found, 2)] for name, found in measured.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments, options = parser.parse_known_args()
    measured = {
        "help_s": [seconds_of_help() for _ in range(arguments.rounds)],
        "first_step_s": [seconds_to_first_step(["eval_size=0", *options]) for _ in range(arguments.rounds)],
        "first_step_with_evaluation_s": [seconds_to_first_step(options) for _ in range(arguments.rounds)],
    }
    print(startup_table(measured))
    if arguments.json:
        record: dict[str, Any] = {"origin": origin(), "seconds": measured}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
