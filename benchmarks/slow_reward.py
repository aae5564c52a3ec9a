"""Measure the cost of a slow async reward, whose calls wait beside each other and beside generation.

    python benchmarks/slow_reward.py [--seconds 1] [--steps 5] [--prompts 8] [--group-size 8]

Trains the embedded model with an async reward that takes `--seconds` for each completion. Prints one JSON line with the
seconds of each step after the first, for this run and for the same run without waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grpo import GRPOConfig, GRPOTrainer


def step_seconds(wait_s: float, arguments: argparse.Namespace) -> list[float]:
    """Return the seconds of each step but the first, which compiles kernels."""

    async def score(text: str) -> float:
        await asyncio.sleep(wait_s)
        return float(len(text) % 7)

    async def slow(completions: Sequence[str]) -> list[float]:
        return await asyncio.gather(*map(score, completions))

    with tempfile.TemporaryDirectory() as root:
        config = GRPOConfig(
            steps=arguments.steps + 1,
            prompts_per_step=arguments.prompts,
            task="arithmetic",
            group_size=arguments.group_size,
            max_completion_length=24,
            eval_size=0,
            save_every=0,
            live=False,
            log_every=0,
            output_dir=f"{root}/run",
        )
        GRPOTrainer("tiny", config, rewards=[slow]).train()
        lines = (Path(root) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["seconds"] for line in lines[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    arguments = parser.parse_args()
    measured = {
        "completions": arguments.prompts * arguments.group_size,
        "reward_s": arguments.seconds,
        "step_s": step_seconds(arguments.seconds, arguments),
        "step_without_waiting_s": step_seconds(0.0, arguments),
    }
    medians = {f"median_{name}": statistics.median(measured[name]) for name in ("step_s", "step_without_waiting_s")}
    print(json.dumps(measured | medians))


if __name__ == "__main__":
    main()
