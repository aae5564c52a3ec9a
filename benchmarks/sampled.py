"""Sample completions for the benchmarks that evaluate them."""

from __future__ import annotations

from collections.abc import Sequence

from grpo import assembly
from grpo.config import GRPOConfig, load_model_config

__all__ = ["sampled"]


def sampled(model: str, prompts: Sequence[str], *, like: GRPOConfig, samples: int, seed: int) -> list[list[str]]:
    """Return `samples` completions of each prompt at temperature 1, with the task, format and length of a run.

    Args:
        model: a run's directory, or any model.
        like: configuration of the run.
    """
    options = [
        *(f"task={like.data.task}", f"answer_format={like.data.answer_format}", "temperature=1", f"seed={seed}"),
        f"max_completion_length={like.rollout.max_completion_length}",
    ]
    config = load_model_config(model, None, options, needs_task=False)
    answers = assembly.generate(config, list(prompts), prompts_file=None, num_completions=samples)
    return [list(answer["completions"]) for answer in answers]
