"""What may be set: one small frozen model for each concern.

Leaf names are unique across sections, so `learning_rate` says as much as `optimizer.learning_rate`.
`None` means "decided later": by the method, by the device or by the task, as the description says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from grpo.config.fields import (
    AboveZeroShare,
    BelowOne,
    Count,
    Interval,
    NotNegative,
    Positive,
    Section,
    Share,
)
from grpo.config.rewards import RewardOptions, reward_specs
from grpo.config.scorer_section import ScorerSection

__all__ = [
    "METHODS",
    "SECTIONS",
    "AlgorithmSection",
    "DataSection",
    "OptimizerSection",
    "OutputSection",
    "PolicySection",
    "RewardsSection",
    "RolloutSection",
]

METHODS = ("grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo", "sapo", "rloo", "reinforce")
"""Names of the built-in methods. `grpo.algorithm` defines them, but importing it would slow down every `--help`."""


def _names(value: Any) -> Any:
    """Split a comma-separated string; a single word stays a word."""
    if isinstance(value, str) and "," in value:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _known_method(value: str) -> str:
    if ":" in value:
        return value
    name = value.strip().lower().replace("-", "_")
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"Input should be one of {', '.join(METHODS)} or 'package.module:name'{hint}")
    return name


def _known_device(value: str) -> str:
    name = value.strip().lower()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("Input should be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return name


def _known_operators(value: str) -> str:
    if not value or set(value) - set("+-*") or len(set(value)) < len(value):
        raise ValueError("Input should be some of the signs + - *, each once")
    return value


def _below_runs(value: str) -> str:
    path = PurePath(value)
    if path.anchor or ".." in path.parts or not path.parts:
        raise ValueError("Input should be a name that stays below runs/: for another place give output_dir")
    return value


def _a_group(value: int) -> int:
    if value < 2:
        raise ValueError("Input should be at least 2: a completion is compared with the others of its group")
    return value


class PolicySection(Section):
    """The model that is trained, and what it is compared with."""

    model: str = Field("tiny", min_length=1, description="Hub id, directory, or `tiny`, which the package contains")
    tokenizer: str | None = Field(None, description="Hub id or directory; null: the model's own")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="arithmetic of the forward; auto: bfloat16 where the device has it"
    )
    device: Annotated[str, AfterValidator(_known_device)] = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: Count | None = Field(
        None, description="CPU threads; null: one for each core that is idle when the run starts"
    )
    lora_rank: Interval = Field(0, description="rank of LoRA adapters; 0: train all weights")
    lora_alpha: Positive | None = Field(None, description="scale of LoRA (alpha / rank); null: the rank, so scale 1")
    lora_dropout: BelowOne = Field(0.0, description="dropout in the LoRA adapters")
    lora_targets: Annotated[str | tuple[str, ...], BeforeValidator(_names)] = Field(
        "all-linear", description="modules that get adapters: all-linear, or names such as q_proj,v_proj"
    )
    reference_model: str | None = Field(
        None, description="what the KL term measures from; null: the policy as it was at the start"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward to save memory")
    compile: bool = Field(
        False, description="compile norms and gated units with torch.compile; the first steps take longer"
    )


class DataSection(Section):
    """Where prompts come from, and what a right answer looks like."""

    task: Literal["arithmetic", "gsm8k", "headlines", "finance", "programs", "rows"] = Field(
        "arithmetic", description="rows (own data) when train_file or dataset is given and no task"
    )
    train_file: str | None = Field(None, description="JSONL, CSV or Parquet file of training rows")
    eval_file: str | None = Field(
        None, description="file of held-out rows; null: some of the training rows are held out"
    )
    dataset: str | None = Field(None, description="data set on the Hub (or a directory of one), in place of train_file")
    dataset_config: str | None = Field(None, description="configuration (subset) of the Hub data set")
    train_split: str = Field("train", description="split of the Hub data set to train on")
    eval_split: str | None = Field(None, description="split of the Hub data set to evaluate on")
    prompt_column: str | None = Field(None, description="column with the prompt; null: the task's usual names")
    answer_column: str | None = Field(
        None, description="column with the reference answer; null: the task's usual names"
    )
    system_prompt: str | None = Field(None, description="put before each prompt; null: the task's own, if it has one")
    answer_format: Literal["answer_tags", "think_tags", "plain"] = Field(
        "answer_tags",
        description="<reasoning>…</reasoning><answer>…</answer>, <think>…</think>, or none; own rows: plain",
    )
    chat: bool | None = Field(None, description="use the chat template; null: when prompts or model call for it")
    max_prompt_length: Count = Field(512, description="tokens; longer prompts are dropped and counted, never cut")
    train_size: Count | None = Field(None, description="use only so many training rows; null: all")
    eval_size: Interval | None = Field(
        None, description="rows to evaluate on; null: all of eval_file or eval_split, else as the task has it; 0: none"
    )
    max_operand: Count = Field(12, description="arithmetic: largest number in a sum")
    operators: Annotated[str, AfterValidator(_known_operators)] = Field("+-", description="arithmetic: signs to use")
    program_kinds: Annotated[str | tuple[str, ...] | None, BeforeValidator(_names)] = Field(
        None, description="programs: kinds of problems, as value,reverse; null: all"
    )
    shuffle: bool = Field(True, description="visit training rows in a new order each epoch")


class RewardsSection(Section):
    """What is good about a completion."""

    functions: Annotated[tuple[RewardOptions, ...], BeforeValidator(reward_specs)] = Field(
        (), description="names, 'module:function' or 'file.py:function', with weights; empty: what fits answer_format"
    )
    combine: Literal["sum", "normalise"] = Field(
        "sum",
        description="normalise the weighted sum of the rewards, or each reward in its group and add them up (GDPO)",
    )
    correct_reward: float | None = Field(
        None, description="what the rewards that compare with the reference give a right answer; null: their own"
    )
    wrong_reward: float | None = Field(None, description="… and any other answer; null: their own")
    reward_timeout_s: Positive | None = Field(60.0, description="seconds a reward function may take; null: no limit")
    max_failed_share: Share = Field(0.5, description="share of a step's rewards that may fail before the run stops")


class RolloutSection(Section):
    """How completions are sampled."""

    group_size: Annotated[int, AfterValidator(_a_group)] = Field(8, description="completions for each prompt")
    prompts_per_step: Count = Field(8, description="prompts in a step, over all processes")
    max_completion_length: Count = Field(256, description="tokens")
    temperature: NotNegative = Field(
        1.0, description="below 1 sharpens, above 1 flattens; 0: the likeliest token, not for training"
    )
    top_k: Interval = Field(0, description="sample among the k likeliest tokens; 0: all")
    top_p: AboveZeroShare = Field(1.0, description="sample among the likeliest tokens that together reach p; 1: all")
    min_p: BelowOne = Field(0.0, description="drop tokens below this share of the likeliest one's probability; 0: none")
    engine: Literal["native"] = Field("native", description="what generates")
    environment: str = Field(
        "single_turn", description="single_turn: one completion an episode; or your own as package.module:name"
    )
    engine_dtype: Literal["bfloat16"] | None = Field(
        None, description="bfloat16: sample with a bfloat16 copy of the weights, made once a step; null: as dtype"
    )
    max_sequences: Count = Field(256, description="most sequences generated at the same time")
    max_cache_tokens: Count | None = Field(
        None, description="most tokens whose keys and values are held; null: a quarter of the free memory"
    )
    zero_variance_groups: Literal["skip", "resample", "keep"] = Field(
        "skip",
        description="groups whose rewards are all equal: no compute, new prompts in their place, or as any other",
    )
    max_resamples: Count = Field(10, description="resample: rounds of new prompts before the step goes on as it is")
    truncated: Literal["keep", "mask"] = Field(
        "keep", description="train on completions that ran out of tokens, or not"
    )


class AlgorithmSection(Section):
    """From rewards to a loss."""

    method: Annotated[str, AfterValidator(_known_method)] = Field(
        "grpo", description=f"{', '.join(METHODS)}, or your own as 'package.module:name'"
    )
    beta: NotNegative = Field(0.0, description="weight of the KL term; 0: no reference model is loaded")
    kl_estimator: Literal["k1", "k2", "k3", "squared_sequence"] | None = Field(
        None, description="how the KL is estimated from sampled tokens; null: the method's own"
    )
    epsilon: Positive | None = Field(None, description="clip range of the ratio; null: the method's")
    epsilon_high: Positive | None = Field(None, description="upper clip range; null: the method's")
    advantage_scale: Literal["group", "batch", "none"] | None = Field(
        None, description="standard deviation that advantages are divided by; null: the method's"
    )
    gamma: AboveZeroShare = Field(1.0, description="discount of later rewards, per token")
    epochs_per_step: Count = Field(1, description="passes over the completions of a step")
    sampler_correction: Positive | None = Field(
        2.0, description="cap of importance weights where engine_dtype differs from dtype; null: no correction"
    )


class OptimizerSection(Section):
    """AdamW, its schedule, and how long training lasts."""

    learning_rate: NotNegative = Field(1e-6, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="after the warm-up")
    warmup_steps: Interval = Field(0, description="steps over which the learning rate rises; may exceed steps")
    warmup_ratio: Share | None = Field(None, description="the same as a share of all steps")
    min_learning_rate_ratio: Share = Field(0.0, description="where linear and cosine end, as a share of the peak")
    weight_decay: NotNegative = Field(0.0, description="decoupled weight decay")
    adam_beta1: BelowOne = Field(0.9, description="decay of AdamW's first moment")
    adam_beta2: BelowOne = Field(0.999, description="decay of AdamW's second moment")
    adam_epsilon: Positive = Field(1e-8, description="AdamW's epsilon")
    max_grad_norm: NotNegative = Field(1.0, description="gradients are scaled down to this norm; 0: never")
    gradient_accumulation_steps: Count = Field(1, description="least number of micro-batches a step is cut into")
    tokens_per_micro_batch: Count | None = Field(None, description="most tokens in one; null: what fits into memory")
    steps: Count | None = Field(None, description="length of training in steps; null: num_epochs decides")
    num_epochs: Positive | None = Field(
        None, description="length of training in passes over the rows; 1 when neither is given"
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same run, bit for bit")


class OutputSection(Section):
    """What is written, shown and measured; intervals are in steps, 0 is never."""

    output_dir: str | None = Field(None, min_length=1, description="run directory; null: a new one below runs/")
    run_name: Annotated[str, AfterValidator(_below_runs)] | None = Field(
        None, min_length=1, description="name of the run directory below runs/; null: task and time"
    )
    log_every: Interval = Field(1, description="steps between lines on the screen and points in the trackers")
    eval_every: Interval = Field(0, description="steps between evaluations, besides before and after")
    eval_at_start: bool = Field(True, description="evaluate before training")
    eval_prompts: Count | None = Field(None, description="most held-out prompts an evaluation uses; null: all")
    eval_samples: Count = Field(4, description="completions sampled for each prompt of an evaluation")
    save_every: Interval = Field(0, description="steps between checkpoints; the end is always saved")
    keep_checkpoints: Count = Field(3, description="latest checkpoints to keep, besides the best")
    log_completions: bool = Field(True, description="write every completion with its rewards to completions.jsonl")
    tensorboard: bool = Field(False, description="log to TensorBoard")
    wandb: bool = Field(False, description="log to Weights & Biases")
    wandb_project: str | None = Field(None, description="project at Weights & Biases")
    wandb_run_name: str | None = Field(None, description="name of the run there; null: that of the run directory")
    live: bool | None = Field(None, description="live display; null: when the output is a terminal")


SECTIONS: Mapping[str, type[Section]] = {
    "policy": PolicySection,
    "data": DataSection,
    "rewards": RewardsSection,
    "rollout": RolloutSection,
    "algorithm": AlgorithmSection,
    "optimizer": OptimizerSection,
    "scorer": ScorerSection,
    "output": OutputSection,
}
"""By name, in the order in which they are shown."""
