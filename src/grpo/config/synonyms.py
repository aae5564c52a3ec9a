"""Other projects' names for our options, and what becomes of each name a user writes.

Names are read in any case and with `-` or `_`, so `GROUP_SIZE`, `--group-size` and `group_size` are one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.config.sections import SECTIONS
from grpo.errors import ConfigError

__all__ = [
    "COMPUTED",
    "LEAVES",
    "SWITCHES",
    "SYNONYMS",
    "canonical_name",
    "canonical_value",
    "normalise",
    "unknown_option",
]

LEAVES: Mapping[str, str] = {leaf: name for name, section in SECTIONS.items() for leaf in section.model_fields}
"""The section that each option lies in."""

SYNONYMS: Mapping[str, str] = {
    # policy
    "model_name": "model",
    "model_id": "model",
    "model_name_or_path": "model",
    "tokenizer_name": "tokenizer",
    "torch_dtype": "dtype",
    "bf16": "dtype",
    "model_revision": "revision",
    "torch_compile": "compile",
    "lora_r": "lora_rank",
    "target_modules": "lora_targets",
    "lora_target_modules": "lora_targets",
    "ref_model": "reference_model",
    # data
    "dataset_name": "dataset",
    "shuffle_dataset": "shuffle",
    # rewards
    "reward_functions": "functions",
    "reward_funcs": "functions",
    "multi_objective_aggregation": "combine",
    # rollout
    "num_generations": "group_size",
    "num_generations_per_prompt": "group_size",
    "max_new_tokens": "max_completion_length",
    "mask_truncated_completions": "truncated",
    "use_vllm": "engine",
    "uniform_groups": "zero_variance_groups",
    # algorithm
    "loss_type": "method",
    "kl_coef": "beta",
    "kl_coeff": "beta",
    "kl_beta": "beta",
    "clip_range": "epsilon",
    "scale_rewards": "advantage_scale",
    "num_iterations": "epochs_per_step",
    "grpo_epochs": "epochs_per_step",
    "vllm_importance_sampling_cap": "sampler_correction",
    "vllm_importance_sampling_clip_max": "sampler_correction",
    # optimizer
    "lr": "learning_rate",
    "lr_scheduler_type": "schedule",
    "max_steps": "steps",
    "num_train_steps": "steps",
    "num_train_epochs": "num_epochs",
    # output
    "logging_steps": "log_every",
    "eval_steps": "eval_every",
    "eval_on_start": "eval_at_start",
    "num_generations_eval": "eval_samples",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "use_tensorboard": "tensorboard",
    "use_wandb": "wandb",
}

COMPUTED: Mapping[str, str] = {
    "batch_size": "prompts_per_step = batch_size × gradient_accumulation_steps",
    "report_to": "sets wandb and tensorboard: wandb, tensorboard, all or none",
    "reward_weights": "weights of the reward functions, in their order",
}
"""Names that stand for more than one option, or for one after a calculation."""

_VALUES: Mapping[str, Mapping[str, str]] = {
    "bf16": {"true": "bfloat16", "false": "float32"},
    "combine": {"normalize": "normalise"},
    "dtype": {"bf16": "bfloat16", "fp32": "float32", "torch.bfloat16": "bfloat16", "torch.float32": "float32"},
    "mask_truncated_completions": {"true": "mask", "false": "keep"},
    "multi_objective_aggregation": {"sum_then_normalize": "sum", "normalize_then_sum": "normalise"},
    "scale_rewards": {"true": "group", "false": "none"},
    "schedule": {"constant_with_warmup": "constant"},
    "use_vllm": {"true": "vllm", "false": "native"},
}
"""Values that other projects write, by the name they are written under or by ours."""

SWITCHES = frozenset({"bf16", "mask_truncated_completions", "use_vllm"})
"""Synonyms that are true or false where our option is a choice."""

_REFUSED: Mapping[str, str] = {
    "fp16": "float16 is not offered: use dtype=bfloat16 or dtype=float32",
    "load_in_4bit": "4-bit base weights are not offered yet: use lora_rank with dtype=bfloat16",
    "per_device_train_batch_size": (
        "it counts completions in some versions of TRL and prompts in others: "
        "say prompts_per_step (prompts in a step) instead"
    ),
    "per_device_eval_batch_size": "max_sequences bounds what is generated at the same time",
    "generation_batch_size": "say prompts_per_step (prompts in a step) and group_size (completions for each) instead",
    "steps_per_generation": "say prompts_per_step, gradient_accumulation_steps and epochs_per_step instead",
    "resume_from_checkpoint": "a run goes on with: grpo train --resume RUN",
    "other_models": "a file or recipe has it, for `grpo train FILE` and load_config",
    "recipe": "name it first (grpo train NAME), as `recipe: NAME` at the top of a file, or to load_config(NAME)",
}
"""Names that would be misread, and what to say in their place."""


def normalise(name: str) -> str:
    """Return `name` in lower case with underscores."""
    return name.strip().lower().replace("-", "_")


def canonical_name(written: str, switches: Sequence[str] = ()) -> str:
    """Return our name of an option, or one of `COMPUTED`; `switches` may be suggested as well.

    Raises:
        ConfigError: there is no such option, or its meaning differs between the projects that have it.
    """
    name = normalise(written)
    if name in LEAVES or name in COMPUTED:
        return name
    if name in SYNONYMS:
        return SYNONYMS[name]
    if name in _REFUSED:
        raise ConfigError(f"{written} cannot be used: {_REFUSED[name]}")
    raise unknown_option(written, switches)


def canonical_value(written: str, value: Any) -> Any:
    """Return what `value` under the name `written` is in our words."""
    name = normalise(written)
    table = _VALUES.get(name) or _VALUES.get(SYNONYMS.get(name, name), {})
    return table.get(str(value).strip().lower(), value)


def unknown_option(written: str, switches: Sequence[str] = ()) -> ConfigError:
    """Return the error for a name that nobody knows, with the nearest options and `switches` (`--resume`)."""
    section, _, rest = normalise(written).partition(".")
    if rest and (near := difflib.get_close_matches(section, SECTIONS, n=1, cutoff=0.7)):
        options = difflib.get_close_matches(SYNONYMS.get(rest, rest), LEAVES, n=1, cutoff=0.7)
        meant = f"{LEAVES[options[0]]}.{options[0]}" if options else near[0]
        return ConfigError(f"no section {section!r}: did you mean {meant}?")
    known = {name: name for name in (*LEAVES, *SYNONYMS, *COMPUTED, *SECTIONS)}
    known |= {normalise(switch.removeprefix("--")): switch for switch in switches}
    close = difflib.get_close_matches(normalise(written), known, n=3, cutoff=0.7)
    hint = (
        f"did you mean {' or '.join(known[name] for name in close)}?"
        if close
        else "grpo train --help lists all options"
    )
    return ConfigError(f"no option {written!r}: {hint}")
