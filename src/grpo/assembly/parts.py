"""Configuration → the parts of a run. Parts take plain arguments; this is where options become arguments."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from pydantic import BaseModel

from grpo.algorithm import Method, find_method
from grpo.assembly.budgets import cache_budget, engine_dtype
from grpo.assembly.objects import PythonObjects
from grpo.config import GRPOConfig
from grpo.distributed import connected_processes
from grpo.engines import Capabilities, Sampler, make_sampler
from grpo.environments import make_environment
from grpo.errors import ConfigError, DataError
from grpo.machine import idle_cores
from grpo.policy import LoraSettings, Policy, load_policy
from grpo.policy.sources import find_source
from grpo.policy.tokens import decode_texts
from grpo.rewards import Backbones, RewardSuite, resolve_rewards
from grpo.rewards.imports import import_object
from grpo.rewards.rules.answer import ANSWER_REWARDS
from grpo.rollout import EpisodeCollector, RolloutCollector
from grpo.schedules import learning_rate_factor
from grpo.storage import expanded
from grpo.tasks import PromptOrder
from grpo.tasks.answers import normalise_number
from grpo.tasks.values import reference_texts
from grpo.types import Prompt, SamplingParams
from grpo.update import Learner

__all__ = [
    "decoder",
    "make_collector",
    "make_episodes",
    "make_learner",
    "make_method",
    "make_policy",
    "make_policy_sampler",
    "make_rewards",
    "number_of_steps",
    "offer_base",
    "sampling_params",
    "take_threads",
    "with_fitting_reward",
]

_log = logging.getLogger(__name__)

_FLOAT32_MISMATCH = 1e-3
_BFLOAT16_MISMATCH = 0.1


def options_for(part: Callable[..., Any], *sections: BaseModel) -> dict[str, Any]:
    """Return the options that a part takes under their own names: its keyword-only parameters, or a dataclass's fields.

    An option that only one part uses is therefore a field of its section and a parameter of the part, and nothing else.
    """
    if is_dataclass(part):
        names = {field.name for field in fields(part)}
    else:
        parameters = inspect.signature(part).parameters.values()
        names = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return {
        name: getattr(section, name) for section in sections for name in type(section).model_fields if name in names
    }


def take_threads(config: GRPOConfig) -> GRPOConfig:
    """Let torch use as many threads as configured, or as there are idle cores; return the config that says so.

    If OMP_NUM_THREADS is set, torch's number of threads is used and idle cores are not counted. A resumed run keeps
    its number of threads, because the last bits of a sum depend on it.
    """
    threads = config.policy.threads
    if threads is None:
        threads = torch.get_num_threads()
        if "OMP_NUM_THREADS" not in os.environ:
            threads = min(threads, idle_cores())
    torch.set_num_threads(threads)
    return config.replace(threads=threads)


def make_policy(config: GRPOConfig, objects: PythonObjects) -> Policy:
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
    reference: Any = objects.reference_model if objects.reference_model is not None else options.reference_model
    if config.algorithm.beta == 0.0:
        if objects.reference_model is not None:
            _log.warning("reference_model has no effect: beta is 0, so there is no KL term")
        reference = "none"
    return load_policy(
        objects.model if objects.model is not None else options.model,
        tokenizer=objects.tokenizer if objects.tokenizer is not None else options.tokenizer,
        dtype=options.dtype,
        device=options.device,
        lora=lora,
        reference="start" if reference is None else reference,
        revision=options.revision,
        gradient_checkpointing=options.gradient_checkpointing,
        compile=options.compile,
        seed=config.optimizer.seed,
    )


def offer_base(backbones: Backbones, config: GRPOConfig, objects: PythonObjects, policy: Callable[[], Policy]) -> None:
    """Let rewards with the policy's base as backbone share its weights, which the training of adapters never changes.

    A model in memory is not shared: its weights may differ from those that its name stands for.
    """
    options = config.policy
    if objects.model is not None:
        return
    base, revision = None, None
    if options.lora_rank > 0:
        base, revision = options.model, options.revision
    elif expanded(options.model).is_dir():
        base = find_source(options.model).base
    if base is not None:
        backbones.offer(base, lambda: policy().model, revision=revision)


def with_fitting_reward(config: GRPOConfig, rows: Sequence[Mapping[str, Any]]) -> tuple[GRPOConfig, tuple[str, ...]]:
    """Return the config with a reward that fits the answers, where none was named, and a note that says so.

    The default for own rows, `last_integer`, compares whole numbers only.
    """
    if "rewards" in config.explicit_options() or [spec.name for spec in config.rewards.functions] != ["last_integer"]:
        return config, ()
    texts = (text for row in rows for text in reference_texts(row.get("answer")))
    other = next((text for text in texts if not (normalise_number(text) or ".").isdigit()), None)
    if other is None:
        return config, ()
    note = (
        f"no reward was named: accuracy compares completions with the column answer, as {other[:40]!r} is no whole "
        f"number; name others as rewards=…"
    )
    return config.rewritten(rewards=["accuracy"]), (note,)


def make_rewards(
    config: GRPOConfig,
    objects: PythonObjects,
    rows: Sequence[Mapping[str, Any]],
    backbones: Backbones | None = None,
    *,
    places: Sequence[str] = (),
) -> RewardSuite:
    """Return the reward functions, checked against the `rows` of the data, at least one, given by their columns.

    Args:
        places: of the rows, for messages.

    Raises:
        ConfigError: a reward is unknown or has an impossible option.
        DataError: the rows lack what a reward needs.
        CheckpointError, ModelError: a reward model does not load.
    """
    options, columns = config.rewards, rows[0]
    defaults: dict[str, Any] = {
        "format": config.data.answer_format,
        "deadline_s": _shortly_before(options.reward_timeout_s),
    }
    for name in ("correct_reward", "wrong_reward"):
        if getattr(options, name) is not None:
            defaults[name] = getattr(options, name)
    if "scorer_dir" in config.explicit_options():
        # Where `grpo reward train` saves with the same configuration.
        defaults["scorer"] = config.scorer.scorer_dir
    specs = objects.rewards if objects.rewards is not None else [spec.model_dump() for spec in options.functions]
    suite = RewardSuite(
        resolve_rewards(specs, weights=objects.reward_weights, defaults=defaults, backbones=backbones),
        timeout_s=options.reward_timeout_s,
        max_failed_share=options.max_failed_share,
        processes=connected_processes(),
        environment_weights=options.environment_weights,
        seed=config.optimizer.seed,
    )
    if objects.rewards is None and "rewards" not in config.explicit_options() and "answer" not in columns:
        others = f"they have {', '.join(sorted(columns))}" if columns else "they have the prompt only"
        raise DataError(
            f"no reward was named, and the rows have no column 'answer' to compare with ({others}): "
            f"name the column (answer_column), or give a reward (rewards) that does without"
        )
    suite.check_columns(columns)
    _check_answers(suite, rows, places)
    suite.check_rows(rows)
    return suite


def _check_answers(suite: RewardSuite, rows: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    """Raise a DataError for the first row with an answer that a built-in reward cannot compare with."""
    names = [function.name for function in suite.functions if function.function in ANSWER_REWARDS]
    if not names:
        return
    for number, columns in enumerate(rows):
        try:
            reference_texts(columns.get("answer"))
        except DataError as error:
            place = places[number] if number < len(places) else ""
            raise DataError(
                f"{place or f'row {number}'}, column 'answer': {error} (reward {names[0]!r} compares with it), or name "
                f"another column with answer_column, as answer.KEY"
            ) from error


def _shortly_before(timeout_s: float | None) -> float | None:
    """Return the time after which a reward should give up the rest, so that finished results are not lost."""
    return None if timeout_s is None else max(timeout_s - 10.0, timeout_s / 2)


def make_policy_sampler(config: GRPOConfig, policy: Policy) -> Sampler:
    """Return a sampler of the policy's present weights."""
    return make_sampler(
        config.rollout.engine,
        policy,
        **{
            **{name: getattr(config.rollout, name) for name in type(config.rollout).model_fields if name != "engine"},
            "max_cache_tokens": config.rollout.max_cache_tokens or cache_budget(config, policy),
            "dtype": engine_dtype(config, policy),
        },
    )


def make_episodes(config: GRPOConfig, objects: PythonObjects, policy: Policy) -> EpisodeCollector:
    """Return the collector of episodes: the sampler in the configured environment.

    Raises:
        ConfigError: the environment is unknown or cannot be imported.
    """
    named: Any = config.rollout.environment if objects.environment is None else objects.environment
    if isinstance(named, str) and ":" in named:
        named = import_object(named, kind="environment")
    return EpisodeCollector(
        make_policy_sampler(config, policy),
        decoder(policy),
        make_environment(named, policy.tokenizer, chat=config.data.chat),
        max_failed_share=config.rewards.max_failed_share,
        processes=connected_processes(),
    )


def sampling_params(config: GRPOConfig) -> SamplingParams:
    """Return the sampling parameters of completions."""
    return SamplingParams(
        max_tokens=config.rollout.max_completion_length, **options_for(SamplingParams, config.rollout)
    )


def decoder(policy: Policy) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Return the function that turns completions into text for rewards and logs, without end tokens."""

    def decode(completions: Sequence[Sequence[int]]) -> list[str]:
        return decode_texts(policy.tokenizer, completions, end_token_ids=policy.end_token_ids)

    return decode


def number_of_steps(config: GRPOConfig, num_train_prompts: int) -> int:
    """Return the length of the run in steps."""
    if config.optimizer.steps is not None:
        return config.optimizer.steps
    epochs = config.optimizer.num_epochs or 1.0
    return max(1, math.ceil(epochs * num_train_prompts / config.rollout.prompts_per_step))


def make_collector(
    config: GRPOConfig,
    episodes: EpisodeCollector,
    prompts: Sequence[Prompt],
    rewards: RewardSuite,
    method: Method,
    *,
    steps: int,
) -> RolloutCollector:
    """Return the collector of a step's scored groups."""
    return RolloutCollector(
        episodes,
        PromptOrder(prompts, config.optimizer.seed, shuffle=config.data.shuffle),
        rewards,
        sampling=sampling_params(config),
        max_steps=steps,
        combine=method.combine,
        processes=connected_processes(),
        **options_for(RolloutCollector, config.rollout, config.optimizer),
    )


def make_learner(config: GRPOConfig, policy: Policy, method: Method, sampler: Capabilities, *, steps: int) -> Learner:
    """Return the learner: scored groups → updates.

    Args:
        sampler: of the sampler whose completions are learned from.
    """
    algorithm, optimizer = config.algorithm, config.optimizer
    if not sampler.full_logprobs:
        raise ConfigError(
            f"engine {config.rollout.engine} has no log-probabilities over the whole vocabulary, which training "
            f"needs: use engine=native"
        )
    is_exact = sampler.trainer_arithmetic
    is_float32 = is_exact and policy.compute_dtype == torch.float32
    correction = {"sampler_correction": None} if is_exact else {}
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
        method,
        skip_zero_variance_groups=config.rollout.zero_variance_groups == "skip",
        min_micro_batches=optimizer.gradient_accumulation_steps,
        mismatch_limit=_FLOAT32_MISMATCH if is_float32 else _BFLOAT16_MISMATCH,
        sampler_is_exact=is_exact,
        processes=connected_processes(),
        **{**options_for(Learner, algorithm, optimizer, config.rollout), **correction},
    )


def make_method(config: GRPOConfig) -> Method:
    """Return the method, its own choices replaced by those that the configuration sets."""
    algorithm = config.algorithm
    return find_method(algorithm.method).override(
        epsilon=algorithm.epsilon,
        epsilon_high=algorithm.epsilon_high,
        kl=algorithm.kl_estimator,
        scale=algorithm.advantage_scale,
        combine=config.rewards.combine,
    )
