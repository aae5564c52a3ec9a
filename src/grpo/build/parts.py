"""Configuration → the parts of a run. Parts take plain arguments; this is where options become arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grpo.algorithm import Method, find_method
from grpo.config import GRPOConfig
from grpo.engines.native import NativeEngine
from grpo.errors import ConfigError
from grpo.policy import LoraSettings, Policy, load_policy
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rollout import RolloutCollector
from grpo.schedules import learning_rate_factor
from grpo.tasks import PromptOrder, Row, Task, arithmetic_task, find_format, gsm8k_task, read_rows, render, rows_task
from grpo.types import Prompt, SamplingParams
from grpo.update import Learner

__all__ = [
    "Given",
    "Prompts",
    "decoder",
    "make_collector",
    "make_engine",
    "make_learner",
    "make_method",
    "make_policy",
    "make_prompts",
    "make_rewards",
    "make_task",
    "number_of_steps",
    "sampling_params",
]

_FLOAT32_MISMATCH = 1e-3
_BFLOAT16_MISMATCH = 0.1
_TOKENS_PER_MICRO_BATCH = 16_384


@dataclass(frozen=True, slots=True)
class Given:
    """What the Python API hands over as objects in place of names in a configuration; None: as configured.

    Attributes:
        model: a Hugging Face causal LM, or a name of one.
        tokenizer: a Hugging Face tokenizer, or a name of one.
        train_rows: a list of prompts, of dictionaries, or a `datasets.Dataset`.
        eval_rows: the same, to evaluate on.
        rewards: functions, models or names.
        reward_weights: one a reward.
        reference_model: what the KL term is measured against.
    """

    model: Any = None
    tokenizer: Any = None
    train_rows: Any = None
    eval_rows: Any = None
    rewards: Any = None
    reward_weights: Sequence[float] | None = None
    reference_model: Any = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """A task's rows as the policy reads them.

    Attributes:
        train: prompts to train on.
        evaluation: held-out prompts, empty when there are none.
        dropped: rows left out because they are longer than `max_prompt_length`.
    """

    train: list[Prompt]
    evaluation: list[Prompt]
    dropped: int


def make_task(config: GRPOConfig, given: Given) -> Task:
    """Return the rows to train and to evaluate on."""
    data, seed = config.data, config.optimizer.seed
    answer_format = find_format(data.answer_format)
    if given.train_rows is None and data.task == "arithmetic":
        return arithmetic_task(
            train_size=data.train_size,
            eval_size=data.eval_size or 0,
            max_operand=data.max_operand,
            operators=data.operators,
            answer_format=answer_format,
            seed=seed,
        )
    if given.train_rows is None and data.task == "gsm8k" and data.dataset in (None, "openai/gsm8k"):
        return gsm8k_task(
            train_file=data.train_file,
            eval_file=data.eval_file,
            train_split=data.train_split,
            eval_split=data.eval_split or "test",
            eval_size=data.eval_size,
            answer_format=answer_format,
            seed=seed,
            system_prompt=data.system_prompt,
        )
    train, evaluation = _own_rows(config, given)
    return rows_task(
        train[: data.train_size], evaluation, eval_size=data.eval_size, answer_format=answer_format, seed=seed
    )


def _own_rows(config: GRPOConfig, given: Given) -> tuple[list[Row], list[Row] | None]:
    data = config.data

    def read(source: Any, split: str | None) -> list[Row]:
        return read_rows(
            source,
            split=split,
            config_name=data.dataset_config,
            prompt_column=data.prompt_column or "prompt",
            answer_column=data.answer_column or "answer",
        )

    source = given.train_rows if given.train_rows is not None else data.train_file or data.dataset
    if source is None:
        raise ConfigError("there are no rows to train on: give train_file, dataset or task=arithmetic")
    train = read(source, data.train_split if source == data.dataset else None)
    if given.eval_rows is not None or data.eval_file is not None:
        return train, read(given.eval_rows if given.eval_rows is not None else data.eval_file, None)
    if data.eval_split is not None:
        return train, read(data.dataset, data.eval_split)
    return train, None


def make_policy(config: GRPOConfig, given: Given) -> Policy:
    """Return the model with its tokenizer, adapters and reference."""
    options = config.policy
    lora = None
    if options.lora_rank > 0:
        lora = LoraSettings(
            rank=options.lora_rank,
            alpha=options.lora_alpha or float(options.lora_rank),
            dropout=options.lora_dropout,
            target_modules=options.lora_targets,
        )
    reference: Any = "none"
    if config.algorithm.beta > 0:
        reference = given.reference_model or options.reference_model or "start"
    return load_policy(
        given.model if given.model is not None else options.model,
        tokenizer=given.tokenizer if given.tokenizer is not None else options.tokenizer,
        dtype=options.dtype,
        device=options.device,
        lora=lora,
        reference=reference,
        revision=options.revision,
        gradient_checkpointing=options.gradient_checkpointing,
        seed=config.optimizer.seed,
    )


def make_prompts(config: GRPOConfig, task: Task, policy: Policy) -> Prompts:
    """Return the task's prompts in tokens."""
    data = config.data
    system_prompt = data.system_prompt if data.system_prompt is not None else task.answer_format.system_prompt
    limit = data.max_prompt_length
    context = policy.context_length
    if context is not None and context - config.rollout.max_completion_length < limit:
        limit = context - config.rollout.max_completion_length
        if limit < 1:
            raise ConfigError(
                f"max_completion_length {config.rollout.max_completion_length} leaves no room for a prompt: "
                f"the model has {context} positions; lower it"
            )

    def rendered(rows: Sequence[Row]) -> tuple[list[Prompt], int]:
        if not rows:
            return [], 0
        result = render(
            rows, policy.tokenizer, system_prompt=system_prompt, chat=data.chat, max_prompt_length=limit
        )
        return result.prompts, result.dropped

    train, dropped = rendered(task.train)
    chosen = task.evaluation
    if config.output.eval_prompts is not None:
        chosen = chosen[: config.output.eval_prompts]
    evaluation, eval_dropped = rendered(chosen)
    return Prompts(train, evaluation, dropped + eval_dropped)


def make_rewards(config: GRPOConfig, given: Given, prompts: Sequence[Prompt]) -> RewardSuite:
    """Return the reward functions, checked against the columns that the rows have."""
    options = config.rewards
    defaults: dict[str, Any] = {"format": config.data.answer_format}
    for name in ("correct_reward", "wrong_reward"):
        if getattr(options, name) is not None:
            defaults[name] = getattr(options, name)
    specs = given.rewards if given.rewards is not None else [spec.model_dump() for spec in options.functions]
    suite = RewardSuite(
        resolve_rewards(specs, weights=given.reward_weights, defaults=defaults),
        timeout_s=options.reward_timeout_s,
        max_failed_share=options.max_failed_share,
    )
    suite.check_columns(prompts[0].columns)
    return suite


def make_engine(config: GRPOConfig, policy: Policy) -> NativeEngine:
    """Return an engine that runs the policy's own module."""
    return NativeEngine(
        policy.model,
        end_ids=policy.end_token_ids,
        max_sequences=config.rollout.max_sequences,
        dtype=None if policy.compute_dtype == torch.float32 else policy.compute_dtype,
    )


def sampling_params(config: GRPOConfig) -> SamplingParams:
    """Return how completions are sampled."""
    rollout = config.rollout
    return SamplingParams(
        max_tokens=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        min_p=rollout.min_p,
    )


def decoder(policy: Policy) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Return the function that turns completions into text for rewards and logs; end tokens are left out."""

    def decode(completions: Sequence[Sequence[int]]) -> list[str]:
        return list(policy.tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True))

    return decode


def number_of_steps(config: GRPOConfig, num_train_prompts: int) -> int:
    """Return the length of the run in steps."""
    if config.optimizer.steps is not None:
        return config.optimizer.steps
    epochs = config.optimizer.num_epochs or 1.0
    return max(1, math.ceil(epochs * num_train_prompts / config.rollout.prompts_per_step))


def make_collector(
    config: GRPOConfig, policy: Policy, engine: NativeEngine, prompts: Sequence[Prompt], rewards: RewardSuite, steps: int
) -> RolloutCollector:
    """Return what samples and scores a step's groups."""
    return RolloutCollector(
        engine,
        PromptOrder(prompts, config.optimizer.seed, shuffle=config.data.shuffle),
        rewards,
        decoder(policy),
        sampling=sampling_params(config),
        prompts_per_step=config.rollout.prompts_per_step,
        group_size=config.rollout.group_size,
        uniform_groups=config.rollout.uniform_groups,
        max_resamples=config.rollout.max_resamples,
        max_steps=steps,
        seed=config.optimizer.seed,
    )


def make_learner(config: GRPOConfig, policy: Policy, steps: int) -> Learner:
    """Return what turns scored groups into updates."""
    algorithm, optimizer = config.algorithm, config.optimizer
    warmup_steps = optimizer.warmup_steps
    if optimizer.warmup_ratio is not None:
        warmup_steps = round(optimizer.warmup_ratio * steps)

    def learning_rate(step: int) -> float:
        return optimizer.learning_rate * learning_rate_factor(
            step,
            schedule=optimizer.schedule,
            warmup_steps=warmup_steps,
            steps=steps,
            minimum=optimizer.min_learning_rate_ratio,
        )

    return Learner(
        policy,
        torch.optim.AdamW(
            policy.trainable_parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_epsilon,
            weight_decay=optimizer.weight_decay,
        ),
        learning_rate,
        make_method(config),
        beta=algorithm.beta,
        gamma=algorithm.gamma,
        temperature=config.rollout.temperature,
        max_completion_length=config.rollout.max_completion_length,
        epochs_per_step=algorithm.epochs_per_step,
        max_grad_norm=optimizer.max_grad_norm,
        skip_uniform_groups=config.rollout.uniform_groups == "skip",
        truncated=config.rollout.truncated,
        tokens_per_micro_batch=optimizer.tokens_per_micro_batch or _TOKENS_PER_MICRO_BATCH,
        min_micro_batches=optimizer.gradient_accumulation_steps,
        mismatch_limit=_FLOAT32_MISMATCH if policy.compute_dtype == torch.float32 else _BFLOAT16_MISMATCH,
        seed=optimizer.seed,
    )


def make_method(config: GRPOConfig) -> Method:
    """Return the method with what the configuration sets in place of the method's own choices."""
    algorithm = config.algorithm
    return find_method(algorithm.method).override(
        epsilon=algorithm.epsilon,
        epsilon_high=algorithm.epsilon_high,
        kl=algorithm.kl_estimator,
        scale=algorithm.advantage_scale,
    )
