"""What options say about each other: contradictions are errors, options without effect are remarked on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo.config.schema import GRPOConfig

__all__ = ["GENERATED", "contradictions", "remarks"]

GENERATED = frozenset({"arithmetic", "finance", "headlines", "programs"})
"""Tasks that make their own rows."""


def contradictions(config: GRPOConfig) -> Iterator[str]:
    """Yield a line for each pair of options that cannot both hold."""
    data, rollout, optimizer = config.data, config.rollout, config.optimizer
    if data.train_file is not None and data.dataset is not None:
        yield f"train_file {data.train_file!r} and dataset {data.dataset!r} both name training rows: give one of them"
    own = next((name for name in ("train_file", "dataset", "eval_file") if getattr(data, name) is not None), None)
    if data.task in GENERATED and own is not None:
        yield f"task {data.task} makes its own rows, but {own} {getattr(data, own)!r} was given: use task=rows"
    if data.eval_file is not None and data.eval_split is not None:
        yield f"eval_file {data.eval_file!r} and eval_split {data.eval_split!r} both name rows to evaluate on: give one"
    if optimizer.warmup_steps and optimizer.warmup_ratio:
        yield (
            f"warmup_steps {optimizer.warmup_steps} and warmup_ratio {optimizer.warmup_ratio} both say how long the "
            f"warm-up is: give one of them"
        )
    completions = rollout.prompts_per_step * rollout.group_size
    if optimizer.gradient_accumulation_steps > completions:
        yield (
            f"gradient_accumulation_steps {optimizer.gradient_accumulation_steps} is more than the {completions} "
            f"completions of a step ({rollout.prompts_per_step} prompts × {rollout.group_size}): lower it"
        )
    epsilon, epsilon_high = config.algorithm.epsilon, config.algorithm.epsilon_high
    if epsilon is not None and epsilon_high is not None and epsilon_high < epsilon:
        yield f"epsilon_high {epsilon_high} is below epsilon {epsilon}: it should be at least as large"


def remarks(config: GRPOConfig) -> Iterator[str]:
    """Yield a line for each option that was set but changes nothing."""
    conditions: list[tuple[str, bool, str]] = [
        *(
            (name, config.policy.lora_rank > 0, "lora_rank is 0")
            for name in ("lora_alpha", "lora_dropout", "lora_targets")
        ),
        *((name, config.algorithm.beta > 0, "beta is 0") for name in ("reference_model", "kl_estimator")),
        *(
            (name, config.data.task in tasks, f"task is {config.data.task}")
            for name, tasks in (("max_operand", ("arithmetic", "programs")), ("operators", ("arithmetic",)))
        ),
        ("prompt_column", config.data.task not in GENERATED, f"task is {config.data.task}"),
        ("program_kinds", config.data.task == "programs", f"task is {config.data.task}"),
        ("answer_column", config.data.task == "rows", f"task is {config.data.task}"),
        *((name, config.data.dataset is not None, "there is no dataset") for name in ("dataset_config", "train_split")),
        ("eval_split", config.data.dataset is not None, "there is no dataset"),
        ("advantage_scale", config.rewards.combine == "sum", "combine is normalise"),
        ("max_resamples", config.rollout.zero_variance_groups == "resample", "zero_variance_groups is not resample"),
        ("min_learning_rate_ratio", config.optimizer.schedule != "constant", "schedule is constant"),
        *((name, config.output.wandb, "wandb is off") for name in ("wandb_project", "wandb_run_name")),
        ("sampler_correction", config.rollout.engine_dtype is not None, "engine_dtype is null"),
        ("run_name", config.output.output_dir is None, "output_dir names the run directory"),
    ]
    changed = config.changed_from_defaults()
    for name, has_effect, reason in conditions:
        if name in changed and not has_effect:
            yield f"{name} has no effect: {reason}"
    yield from _scorer_remarks(config, changed)


def _scorer_remarks(config: GRPOConfig, changed: Collection[str]) -> Iterator[str]:
    """Yield a line for each option of a scorer that the user has set, and not a recipe, and that changes nothing."""
    scorer = config.scorer
    conditions = (
        ("scorer_rows", scorer.scorer_train_file is None, "the rows are those of scorer_train_file"),
        *((name, scorer.scorer_kind == "pair", "scorer_kind is ctr") for name in ("scorer_margin", "scorer_merge")),
        ("scorer_head_dropout", scorer.scorer_kind == "ctr", "scorer_kind is pair"),
    )
    for name, has_effect, reason in conditions:
        if name in changed and config.is_typed(name) and not has_effect:
            yield f"{name} has no effect: {reason}"
