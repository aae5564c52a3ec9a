"""Time whole training steps (generate, score, reference, update, log) on a workload.

    python benchmarks/step.py DIR [STEPS] [--device cpu|cuda] [--dtype float32|bfloat16] [key=value …]

DIR holds a Hugging Face model, `prompts.jsonl` (rows with `prompt`) and `workload.json` (prompts_per_step, group_size,
max_completion_length, learning_rate, beta, temperature, epochs_per_step). Further arguments are options of
`grpo train`. The first two steps are warm-up. Prints one JSON line: medians of the seconds of a step and of its phases
(`generate_s`, …), completion tokens a second, completion lengths, peak memory of the process (or of the GPU) in MiB,
and the useful floating-point operations (see `flops.py`) of a step and its phases in GFLOP, and of a step in GFLOP a
second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flops import GroupLengths, ModelShape, forward_flops, generation_flops, shape_of, update_flops
from grpo import GRPOConfig, GRPOTrainer
from grpo.errors import GrpoError
from grpo.trainer import Trainer
from grpo.types import ScoredGroup

WARM_UP = 2
PHASES = ("generate", "score", "reference", "update")
NO_LIMIT = 2**30


@dataclass
class Watch:
    """Measurements of the steps of a run."""

    device: str
    seconds: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    lengths: list[list[GroupLengths]] = field(default_factory=list)
    peak_mb: float = 0.0

    def update_peak_memory(self, reported_mb: float = 0.0) -> None:
        """Update the peak. Called at every step, because the trainer may reset PyTorch's count between steps."""
        if self.device.startswith("cuda"):
            now = torch.cuda.max_memory_allocated() / 2**20
        else:
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        self.peak_mb = max(self.peak_mb, now, reported_mb)


def even_token_share(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return the share of even token ids in each completion: a reward that takes almost no time."""
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def lengths_of(groups: Sequence[ScoredGroup], advantages: Any, beta: float) -> list[GroupLengths]:
    """Return the lengths of a step's groups; without a KL term a zero-variance group has no gradient."""
    return [
        GroupLengths(
            len(group.prompt.token_ids),
            tuple(len(scored.rollout.token_ids) for scored in group.rollouts),
            trained=beta > 0 or any(float(advantage) != 0 for advantage in row),
        )
        for group, row in zip(groups, advantages, strict=True)
    ]


def watch_steps(trainer: GRPOTrainer, device: str, beta: float) -> Watch:
    """Train and return the measurements; the seconds of a step include its logging."""
    watch = Watch(device)
    step = Trainer._step

    def timed(self: Trainer, number: int) -> None:
        journal_step = self.journal.step

        def seen(at: int, metrics: Any, groups: Any, advantages: Any) -> None:
            watch.metrics.append(dict(metrics))
            watch.lengths.append(lengths_of(groups, advantages, beta))
            journal_step(at, metrics, groups, advantages)

        self.journal.step = seen  # type: ignore[assignment,method-assign]
        watch.update_peak_memory()
        began = time.perf_counter()
        step(self, number)
        watch.seconds.append(time.perf_counter() - began)
        self.journal.step = journal_step  # type: ignore[method-assign]
        watch.update_peak_memory(watch.metrics[-1]["peak_memory_mb"])

    Trainer._step = timed  # type: ignore[assignment,method-assign]
    try:
        trainer.train()
    finally:
        Trainer._step = step  # type: ignore[method-assign]
    watch.update_peak_memory()
    return watch


def useful_gflop(shape: ModelShape, groups: Sequence[GroupLengths], *, beta: float, epochs: int) -> dict[str, float]:
    """Return the useful operations of a step by phase, in GFLOP."""
    return {
        "generate": sum(generation_flops(shape, group) for group in groups) / 1e9,
        "reference": sum(forward_flops(shape, group) for group in groups if beta > 0) / 1e9,
        "update": epochs * sum(update_flops(shape, group) for group in groups) / 1e9,
    }


def report(watch: Watch, shape: ModelShape, *, beta: float, epochs: int) -> dict[str, Any]:
    """Return the printed figures."""
    seconds, metrics, groups = watch.seconds[WARM_UP:], watch.metrics[WARM_UP:], watch.lengths[WARM_UP:]
    lengths = [length for step in groups for group in step for length in group.completions]
    step_s = statistics.median(seconds)
    phases = {
        f"{phase}_s": round(statistics.median(line[f"seconds_{phase}"] for line in metrics), 4)
        for phase in PHASES
        if all(f"seconds_{phase}" in line for line in metrics)
    }
    work = [useful_gflop(shape, step, beta=beta, epochs=epochs) for step in groups]
    return {
        "peer": "grpo",
        "step_s": round(step_s, 4),
        "min_step_s": round(min(seconds), 4),
        "completion_tokens_per_s": round(sum(lengths) / len(seconds) / step_s, 1),
        "mean_length": round(statistics.mean(lengths), 1),
        "max_length": max(lengths),
        "peak_memory_mb": round(watch.peak_mb),
        **phases,
        "threads": torch.get_num_threads(),
        "useful_gflop": round(statistics.median(sum(step.values()) for step in work), 3),
        **{
            f"{phase}_gflop": round(statistics.median(step[phase] for step in work), 3)
            for phase in ("generate", "reference", "update")
        },
        "useful_gflop_per_s": round(
            statistics.median(sum(step.values()) / taken for step, taken in zip(work, seconds, strict=True)), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("steps", nargs="?", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments, options = parser.parse_known_intermixed_args()
    if not (arguments.dir / "workload.json").is_file():
        parser.error(f"{arguments.dir} holds no workload.json: write a workload with shapes.py")
    os.environ["HF_HUB_OFFLINE"] = "1"

    work = json.loads((arguments.dir / "workload.json").read_text())
    rows = [json.loads(line) for line in (arguments.dir / "prompts.jsonl").open()]
    with tempfile.TemporaryDirectory() as root:
        config = GRPOConfig(
            **{
                **work,
                "dtype": arguments.dtype,
                "device": arguments.device,
                "steps": arguments.steps + WARM_UP,
                "eval_size": 0,
                "live": False,
                # Otherwise the longest prompts would be dropped, which would change the step.
                "max_prompt_length": NO_LIMIT,
                "output_dir": f"{root}/run",
                **dict(option.split("=", 1) for option in options),
            }
        )
        beta, epochs = config.algorithm.beta, config.algorithm.epochs_per_step
        # The run's own output is not needed.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            trainer = GRPOTrainer(str(arguments.dir), config, train_dataset=rows, rewards=even_token_share)
            shape = shape_of(trainer.model)
            watch = watch_steps(trainer, arguments.device, beta)
    print(json.dumps(report(watch, shape, beta=beta, epochs=epochs)))


if __name__ == "__main__":
    try:
        main()
    except GrpoError as error:
        sys.exit(f"error: {error}")
