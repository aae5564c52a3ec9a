"""Time whole training steps of TRL's GRPOTrainer on a workload; arguments and keys are those of `step.py`.

    python benchmarks/trl_step.py DIR [STEPS] [--device cpu|cuda] [--dtype float32|bfloat16]

TRL has the settings that its documentation recommends for one machine: one micro-batch, no gradient checkpointing, no
evaluation, no saving. The time of a step is from `on_step_begin` to `on_step_end`, optimizer included. The first two
steps are warm-up. Needs `pip install -e '.[dev]'`.
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
from pathlib import Path
from typing import Any

WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("steps", nargs="?", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    with contextlib.redirect_stdout(sys.stderr):
        answer = measure(arguments.dir, arguments.steps, arguments.device, arguments.dtype)
    print(json.dumps(answer))


def measure(directory: Path, steps: int, device: str, dtype: str) -> dict[str, Any]:
    """Return the printed figures."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    work = json.loads((directory / "workload.json").read_text())
    completions_per_step = work["prompts_per_step"] * work["group_size"]
    lengths: list[int] = []
    seconds: list[float] = []

    def share_of_even_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as output, (directory / "prompts.jsonl").open() as prompts:
        trainer = GRPOTrainer(
            model=str(directory),
            reward_funcs=share_of_even_tokens,
            train_dataset=Dataset.from_list([json.loads(line) for line in prompts]),
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=output,
                per_device_train_batch_size=completions_per_step,
                num_generations=work["group_size"],
                num_iterations=work["epochs_per_step"],
                max_completion_length=work["max_completion_length"],
                max_steps=steps + WARM_UP,
                learning_rate=work["learning_rate"],
                lr_scheduler_type="constant",
                beta=work["beta"],
                temperature=work["temperature"],
                loss_type="grpo",
                gradient_checkpointing=False,
                use_cpu=device == "cpu",
                bf16=dtype == "bfloat16",
                model_init_kwargs={"dtype": dtype},
                save_strategy="no",
                report_to=[],
                logging_steps=10**6,
                disable_tqdm=True,
            ),
        )
        trainer.train()
    counted, step_s = lengths[WARM_UP * completions_per_step :], statistics.median(seconds[WARM_UP:])
    if device == "cpu":
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    else:
        peak_mb = torch.cuda.max_memory_allocated() / 2**20
    return {
        "peer": "trl",
        "step_s": round(step_s, 4),
        "min_step_s": round(min(seconds[WARM_UP:]), 4),
        "completion_tokens_per_s": round(statistics.mean(counted) * completions_per_step / step_s, 1),
        "mean_length": round(statistics.mean(counted), 1),
        "max_length": max(counted),
        "peak_memory_mb": round(peak_mb),
    }


if __name__ == "__main__":
    main()
