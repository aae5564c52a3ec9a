"""The options of a run: one small frozen model for each concern, one field for each option.

Option names are unique across sections, so `learning_rate` is the same as `optimizer.learning_rate`.
`None` stands for a value that is chosen later, by the method, the device or the task, as the description says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from grpo.config.fields import AboveZeroShare, BelowOne, Count, Interval, NotNegative, Positive, Section, Share, option
from grpo.config.rewards_section import RewardsSection
from grpo.config.scorer_section import ScorerSection

__all__ = [
    "GENERATED",
    "METHODS",
    "SECTIONS",
    "AlgorithmSection",
    "DataSection",
    "OptimizerSection",
    "OutputSection",
    "PolicySection",
    "RolloutSection",
    "Shorthands",
]

METHODS = ("grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo", "sapo", "rloo", "reinforce")
"""Names of the built-in methods. `grpo.algorithm` defines them, but importing it would slow down every `--help`."""

GENERATED = frozenset({"arithmetic", "finance", "headlines", "programs"})
"""Tasks that make their own rows."""


def _names(value: Any) -> Any:
    """Split a comma-separated text; a single name stays a text."""
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
    """The model that is trained, its reference model and its adapters."""

    model: str = option(
        "tiny",
        "Hub id, directory, or `tiny`, which the package contains",
        min_length=1,
        synonyms=("model_name", "model_id", "model_name_or_path", "base_model"),
        fixed=True,
    )
    tokenizer: str | None = option(
        None, "Hub id or directory; null: the model's own", synonyms=("tokenizer_name",), fixed=True
    )
    revision: str | None = option(
        None, "branch, tag or commit of a Hub model", synonyms=("model_revision",), fixed=True
    )
    dtype: Literal["float32", "bfloat16", "auto"] = option(
        "float32",
        "dtype of the forward pass; auto: bfloat16 where the device has it",
        synonyms={"torch_dtype": {}, "bf16": {"true": "bfloat16", "false": "float32"}},
        spellings={"bf16": "bfloat16", "fp32": "float32", "torch.bfloat16": "bfloat16", "torch.float32": "float32"},
    )
    device: Annotated[str, AfterValidator(_known_device)] = option("auto", "auto, cpu, cuda or cuda:N")
    threads: Count | None = option(None, "CPU threads; null: one for each core that is idle when the run starts")
    lora_rank: Interval = option(0, "rank of LoRA adapters; 0: train all weights", synonyms=("lora_r",), fixed=True)
    lora_alpha: Positive | None = option(
        None, "scale of LoRA (alpha / rank); null: the rank, so scale 1", fixed=True, needs="lora_rank"
    )
    lora_dropout: BelowOne = option(0.0, "dropout in the LoRA adapters", needs="lora_rank")
    lora_targets: Annotated[str | tuple[str, ...], BeforeValidator(_names)] = option(
        "all-linear",
        "modules that get adapters: all-linear, or names such as q_proj,v_proj",
        synonyms=("target_modules", "lora_target_modules"),
        fixed=True,
        needs="lora_rank",
    )
    reference_model: str | None = option(
        None,
        "model that the KL term measures from; null: the policy as it was at the start",
        synonyms=("ref_model",),
        fixed=True,
        needs="beta",
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    compile: bool = option(
        False,
        "compile norms and gated units with torch.compile; the first steps take longer",
        synonyms=("torch_compile",),
    )


class DataSection(Section):
    """The source of prompts and the form of a right answer."""

    task: Literal["arithmetic", "gsm8k", "headlines", "finance", "programs", "rows"] = option(
        "arithmetic", "source of the prompts; rows: your own data, the default with train_file or dataset", fixed=True
    )
    train_file: str | None = option(
        None,
        "JSONL, CSV or Parquet file of training rows",
        fixed=True,
        excludes={"dataset": "name training rows"},
        displaces=("dataset_config", "train_split", "eval_split"),
    )
    eval_file: str | None = option(
        None,
        "file of held-out rows; null: some of the training rows are held out",
        fixed=True,
        excludes={"eval_split": "name rows to evaluate on"},
    )
    dataset: str | None = option(
        None,
        "data set on the Hub (or a directory of one), in place of train_file",
        synonyms=("dataset_name",),
        fixed=True,
        displaces=("train_file", "eval_file", "dataset_config", "train_split", "eval_split"),
    )
    dataset_config: str | None = option(None, "configuration (subset) of the Hub data set", fixed=True, needs="dataset")
    train_split: str = option("train", "split of the Hub data set to train on", fixed=True, needs="dataset")
    eval_split: str | None = option(
        None, "split of the Hub data set to evaluate on", fixed=True, needs="dataset", displaces=("eval_file",)
    )
    prompt_column: str | None = option(
        None,
        "column with the prompt, a.b for a nested one; null: the task's usual names",
        fixed=True,
        needs={"task": ("gsm8k", "rows")},
    )
    answer_column: str | None = option(
        None,
        "column with the reference answer, a.b for a nested one; null: the task's usual names",
        fixed=True,
        needs={"task": ("rows",)},
    )
    system_prompt: str | None = option(None, "text before each prompt; null: the task's own, if it has one")
    answer_format: Literal["answer_tags", "think_tags", "plain"] = option(
        "answer_tags", "<reasoning>…</reasoning><answer>…</answer>, <think>…</think>, or none; own rows: plain"
    )
    chat: bool | None = option(None, "use the chat template; null: where prompts or model need it")
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "variables of the chat template, as {enable_thinking: false}; a column of this name comes first"
    )
    tools: tuple[dict[str, Any], ...] | None = option(
        None, "descriptions of tools for the chat template; a column of this name comes first"
    )
    max_prompt_length: Count = option(512, "tokens; longer prompts are dropped and counted, never cut", fixed=True)
    train_size: Count | None = option(None, "number of training rows to use; null: all", fixed=True)
    eval_size: Interval | None = option(
        None, "rows to evaluate on; null: all of eval_file or eval_split, else the task's number; 0: none", fixed=True
    )
    max_operand: Count = option(
        12, "arithmetic and programs: largest operand", fixed=True, needs={"task": ("arithmetic", "programs")}
    )
    operators: Annotated[str, AfterValidator(_known_operators)] = option(
        "+-", "arithmetic: signs to use", fixed=True, needs={"task": ("arithmetic",)}
    )
    program_kinds: Annotated[str | tuple[str, ...] | None, BeforeValidator(_names)] = option(
        None, "programs: kinds of problems, as value,reverse; null: all", fixed=True, needs={"task": ("programs",)}
    )
    shuffle: bool = option(
        True, "visit training rows in a new order each epoch", synonyms=("shuffle_dataset",), fixed=True
    )

    @model_validator(mode="after")
    def _refuse_rows_of_a_task_that_makes_its_own(self) -> DataSection:
        own = next((name for name in ("train_file", "dataset", "eval_file") if getattr(self, name) is not None), None)
        if self.task in GENERATED and own is not None:
            raise ValueError(
                f"task {self.task} makes its own rows, but {own} {getattr(self, own)!r} was given: use task=rows"
            )
        return self


class RolloutSection(Section):
    """The sampling of completions."""

    group_size: Annotated[int, AfterValidator(_a_group)] = option(
        8, "completions for each prompt", synonyms=("num_generations", "num_generations_per_prompt")
    )
    prompts_per_step: Count = option(8, "prompts in a step, over all processes", displaces=("batch_size",))
    max_completion_length: Count = option(256, "tokens", synonyms=("max_new_tokens",))
    temperature: NotNegative = option(
        1.0, "below 1 sharpens, above 1 flattens; 0: the likeliest token, not for training"
    )
    top_k: Interval = option(0, "sample among the k likeliest tokens; 0: all")
    top_p: AboveZeroShare = option(1.0, "sample among the likeliest tokens that together reach p; 1: all")
    min_p: BelowOne = option(0.0, "drop tokens below this share of the likeliest one's probability; 0: none")
    engine: Literal["native"] = option(
        "native", "sampling engine", synonyms={"use_vllm": {"true": "vllm", "false": "native"}}
    )
    environment: str = option(
        "single_turn",
        "single_turn: one completion an episode; or your own class, as file.py:Class or package.module:Class",
        fixed=True,
    )
    engine_dtype: Literal["bfloat16"] | None = option(
        None, "bfloat16: sample with a bfloat16 copy of the weights, made once a step; null: as dtype"
    )
    max_sequences: Count = option(256, "most sequences generated at the same time")
    max_cache_tokens: Count | None = option(
        None, "most tokens whose keys and values are held; null: a quarter of the free memory"
    )
    zero_variance_groups: Literal["skip", "resample", "keep"] = option(
        "skip",
        "groups whose rewards are all equal; skip: do not train on them where beta is 0; resample: replace them by "
        "groups of new prompts; keep: train on them",
        synonyms=("uniform_groups",),
    )
    max_resamples: Count = option(
        10,
        "most rounds of new prompts in a step with zero_variance_groups=resample",
        needs={"zero_variance_groups": ("resample",)},
    )
    truncated: Literal["keep", "mask"] = option(
        "keep",
        "completions cut at max_completion_length: train on them, or leave them out of the loss",
        synonyms={"mask_truncated_completions": {"true": "mask", "false": "keep"}},
    )


class AlgorithmSection(Section):
    """The method: advantages, clipping, KL term."""

    method: Annotated[str, AfterValidator(_known_method)] = option(
        "grpo", f"{', '.join(METHODS)}, or your own as 'package.module:name'", synonyms=("loss_type",)
    )
    beta: NotNegative = option(
        0.0, "weight of the KL term; 0: no reference model is loaded", synonyms=("kl_coef", "kl_coeff", "kl_beta")
    )
    kl_estimator: Literal["k1", "k2", "k3", "squared_sequence"] | None = option(
        None, "estimator of the KL from sampled tokens; null: the method's own", needs="beta"
    )
    epsilon: Positive | None = option(None, "clip range of the ratio; null: the method's", synonyms=("clip_range",))
    epsilon_high: Positive | None = option(None, "upper clip range; null: the method's")
    advantage_scale: Literal["group", "batch", "none"] | None = option(
        None,
        "divide advantages by the standard deviation in the group, in the batch, or not at all; null: the method's",
        # The third value shows that this is a choice and no switch.
        synonyms={"scale_rewards": {"true": "group", "false": "none", "batch": "batch"}},
        needs={"combine": (None, "sum")},
    )
    gamma: AboveZeroShare = option(1.0, "discount of later rewards, per token")
    epochs_per_step: Count = option(
        1, "passes over the completions of a step", synonyms=("num_iterations", "grpo_epochs")
    )
    sampler_correction: Positive | None = option(
        2.0,
        "cap of importance weights where engine_dtype differs from dtype; null: no correction",
        synonyms=("vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max"),
        needs="engine_dtype",
    )

    @model_validator(mode="after")
    def _refuse_an_empty_clip_range(self) -> AlgorithmSection:
        if self.epsilon is not None and self.epsilon_high is not None and self.epsilon_high < self.epsilon:
            raise ValueError(
                f"epsilon_high {self.epsilon_high} is below epsilon {self.epsilon}: it should be at least as large"
            )
        return self


class OptimizerSection(Section):
    """AdamW, its schedule, and the length of training."""

    learning_rate: NotNegative = option(1e-6, "peak learning rate", synonyms=("lr",))
    schedule: Literal["constant", "linear", "cosine"] = option(
        "constant",
        "learning rate after the warm-up",
        synonyms=("lr_scheduler_type",),
        spellings={"constant_with_warmup": "constant"},
    )
    warmup_steps: Interval = option(
        0,
        "steps over which the learning rate rises; may exceed steps",
        excludes={"warmup_ratio": "say how long the warm-up is"},
    )
    warmup_ratio: Share | None = option(None, "warmup_steps as a share of all steps", displaces=("warmup_steps",))
    min_learning_rate_ratio: Share = option(
        0.0,
        "final learning rate of the schedules linear and cosine, as a share of the peak",
        needs={"schedule": ("linear", "cosine")},
    )
    weight_decay: NotNegative = option(0.0, "decoupled weight decay")
    adam_beta1: BelowOne = option(0.9, "decay of AdamW's first moment")
    adam_beta2: BelowOne = option(0.999, "decay of AdamW's second moment")
    adam_epsilon: Positive = option(1e-8, "AdamW's epsilon")
    max_grad_norm: NotNegative = option(1.0, "norm that larger gradients are scaled down to; 0: no limit")
    gradient_accumulation_steps: Count = option(1, "least number of micro-batches in a step")
    tokens_per_micro_batch: Count | None = option(
        None, "most tokens in a micro-batch; null: as many as fit into memory"
    )
    steps: Count | None = option(
        None,
        "length of training in steps; null: num_epochs decides",
        synonyms=("max_steps", "num_train_steps"),
        excludes={"num_epochs": "say how long to train"},
    )
    num_epochs: Positive | None = option(
        None,
        "length of training in passes over the rows; 1 when neither is given",
        synonyms=("num_train_epochs",),
        displaces=("steps",),
    )
    seed: int = option(0, "the same seed gives the same run, bit for bit", ge=0, fixed=True)


class OutputSection(Section):
    """Files, trackers, evaluations and the display; intervals are in steps, 0 is never."""

    output_dir: str | None = option(None, "run directory; null: a new one below runs/", min_length=1, fixed=True)
    run_name: Annotated[str, AfterValidator(_below_runs)] | None = option(
        None,
        "name of the run directory below runs/; null: task and time",
        min_length=1,
        fixed=True,
        needs={"output_dir": (None,)},
    )
    log_every: Interval = option(
        1, "steps between lines on the screen and points in the trackers", synonyms=("logging_steps",)
    )
    eval_every: Interval = option(0, "steps between evaluations during training", synonyms=("eval_steps",))
    eval_at_start: bool = option(True, "evaluate before training", synonyms=("eval_on_start",))
    eval_prompts: Count | None = option(None, "most held-out prompts an evaluation uses; null: all")
    eval_samples: Count = option(
        4, "completions sampled for each prompt of an evaluation", synonyms=("num_generations_eval",)
    )
    save_every: Interval = option(
        0,
        "steps between checkpoints; in any case one is saved every ten minutes and at the end",
        synonyms=("save_steps",),
    )
    keep_checkpoints: Count = option(3, "latest checkpoints to keep, besides the best", synonyms=("save_total_limit",))
    log_completions: bool = option(True, "write every completion with its rewards to completions.jsonl")
    tensorboard: bool = option(False, "log to TensorBoard", synonyms=("use_tensorboard",))
    wandb: bool = option(False, "log to Weights & Biases", synonyms=("use_wandb",))
    wandb_project: str | None = option(None, "project at Weights & Biases", needs="wandb")
    wandb_run_name: str | None = option(
        None, "name of the run at Weights & Biases; null: the run directory's", needs="wandb"
    )
    live: bool | None = option(None, "live display; null: when the output is a terminal")


class Shorthands(Section):
    """Options that only set other options; a saved configuration has those others instead."""

    batch_size: Count | None = option(
        None, "prompts_per_step = batch_size × gradient_accumulation_steps", displaces=("prompts_per_step",)
    )
    report_to: Literal["wandb", "tensorboard", "all", "none"] | tuple[str, ...] | None = option(
        None, "sets wandb and tensorboard"
    )
    reward_weights: tuple[Any, ...] | None = option(None, "weights of the rewards, in their order")


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
