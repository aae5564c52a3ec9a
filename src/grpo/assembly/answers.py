"""Evaluation and generation without training: accuracy on held-out rows, and completions of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.assembly.assembly import Parts, assemble
from grpo.assembly.data import read_prompts
from grpo.assembly.objects import PythonObjects, require_stored_rows
from grpo.assembly.parts import decoder, make_policy, make_policy_sampler, sampling_params
from grpo.checkpoint import model_step
from grpo.config import GRPOConfig
from grpo.engines import Sampler, sync_weights
from grpo.errors import ConfigError, DataError
from grpo.plurals import counted
from grpo.policy import Policy
from grpo.policy.sources import find_source
from grpo.rollout import EpisodeCollector
from grpo.seeding import derive_seed
from grpo.storage import expanded
from grpo.tasks import Row, find_format, read_rows, render
from grpo.types import Prompt

__all__ = ["Weights", "complete", "evaluate", "evaluate_parts", "find_weights", "generate"]

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that a run saved.

    Attributes:
        folder: `final_model` or a checkpoint.
        step: number of steps that they were trained.
        is_final: they are those of the end of the run.
        was_chosen: the folder itself was named, not just its run.
    """

    folder: Path
    step: int
    is_final: bool
    was_chosen: bool


def find_weights(config: GRPOConfig) -> tuple[GRPOConfig, Weights | None]:
    """Return a config that names the folder of its model, and the facts about it where a run has saved it.

    Raises:
        ModelError: it is the directory of a run that has nothing to load.
    """
    name = config.policy.model
    place = expanded(name)
    if name == "tiny" or not place.is_dir():
        return config, None
    folder = find_source(name).directory
    step = model_step(folder)
    if step is None:
        return config, None
    is_final = folder.name == "final_model"
    return config.replace(model=str(folder)), Weights(folder, step, is_final, place.resolve() == folder)


def evaluate(config: GRPOConfig) -> Mapping[str, Any]:
    """Return the metrics of `config.policy.model` on the task's held-out rows.

    Raises:
        ConfigError: the rows were in memory when the model was trained, and are not stored.
        DataError: nothing is held out.
    """
    require_stored_rows(config)
    return evaluate_parts(assemble(config.replace(beta=0.0), only_evaluate=True))


def evaluate_parts(parts: Parts) -> Mapping[str, Any]:
    """Return the metrics of the present policy.

    Raises:
        DataError: nothing is held out.
    """
    if parts.evaluator is None:
        raise DataError("no rows are held out to evaluate on: give eval_file, or eval_size to hold out training rows")
    return parts.evaluator.evaluate(step=0, max_steps=0).metrics


def generate(
    config: GRPOConfig, prompts: Sequence[Any], *, prompts_file: str | Path | None = None, num_completions: int = 1
) -> Iterator[Mapping[str, Any]]:
    """Yield for each prompt `{"prompt", "completions"}`, in order.

    Args:
        prompts: texts or lists of messages.
        prompts_file: rows with a column `prompt`, which follow.

    Raises:
        InputError: the model, a prompt or the file cannot be used.
    """
    rows = read_rows(list(prompts)) if prompts else []
    if prompts_file is not None:
        rows += read_prompts(config, str(prompts_file))
    if not rows:
        raise ConfigError("no prompt was given: name at least one")
    policy = make_policy(config, PythonObjects())
    return complete(config, policy, rows, num_completions=num_completions)


def complete(
    config: GRPOConfig,
    policy: Policy,
    rows: Sequence[Row],
    *,
    num_completions: int = 1,
    sampler: Sampler | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Yield `{"prompt", "completions"}` for each row, sampled from the present policy.

    Args:
        sampler: of the policy, which gets its present weights; None: a new one.
    """
    if sampler is None:
        sampler = make_policy_sampler(config, policy)
    else:
        sync_weights(sampler, policy.export_weights(), version=sampler.policy_version)
    system_prompt = config.data.system_prompt
    if system_prompt is None:
        system_prompt = find_format(config.data.answer_format).system_prompt
    rendered = render(
        rows,
        policy.tokenizer,
        system_prompt=system_prompt,
        chat=config.data.chat,
        max_prompt_length=config.data.max_prompt_length,
        template_options=config.data.chat_template_kwargs,
        tools=config.data.tools,
    )
    if rendered.dropped:
        are = "is" if rendered.dropped == 1 else "are"
        raise DataError(
            f"{rendered.dropped:,} of {counted(len(rows), 'prompt')} {are} longer than "
            f"{counted(config.data.max_prompt_length, 'token')}: shorten them or raise max_prompt_length"
        )
    # Questions put to the model are single turns, whatever environment it was trained in.
    episodes = EpisodeCollector(sampler, decoder(policy))
    for start in range(0, len(rendered.prompts), _PROMPTS_AT_ONCE):
        yield from _complete_batch(
            config, episodes, rendered.prompts[start : start + _PROMPTS_AT_ONCE], num_completions
        )


def _complete_batch(
    config: GRPOConfig, episodes: EpisodeCollector, prompts: Sequence[Prompt], num_completions: int
) -> Iterator[Mapping[str, Any]]:
    seeds = [
        [derive_seed(config.optimizer.seed, "generate", prompt.row, index) for index in range(num_completions)]
        for prompt in prompts
    ]
    for group in episodes.collect(prompts, seeds, sampling_params(config)):
        raw = group.prompt.raw
        shown = raw if isinstance(raw, str) else [dict(message) for message in raw]
        yield {"prompt": shown, "completions": episodes.texts(group.rollouts)}
