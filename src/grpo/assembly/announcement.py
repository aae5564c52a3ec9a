"""The header of a run on screen, remarks on rows that were left out, and the trackers that it reports to."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from grpo.assembly.assembly import Parts
from grpo.assembly.invocation import own_command
from grpo.config import GRPOConfig
from grpo.plurals import counted
from grpo.rewards import RewardSuite, WeightSchedule, read_weight
from grpo.tasks import has_closed_tag
from grpo.tracking import Journal, TensorBoardTracker, Tracker, WandbTracker
from grpo.tracking.console import Console, RunInfo
from grpo.tracking.formatting import number

__all__ = ["Changes", "announce", "make_trackers", "remark_on_data", "remark_on_learning_rate", "warnings_on"]

_LEARNING_RATE_OPTIONS = frozenset(
    {
        *("steps", "num_epochs", "learning_rate", "schedule", "warmup_steps", "warmup_ratio"),
        *("min_learning_rate_ratio", "prompts_per_step"),
    }
)

Changes = Mapping[str, tuple[Any, Any]]
"""Options that a resumed run changes, by name: the old and the new value."""


def announce(parts: Parts, path: Path, steps: int, first_step: int, changes: Changes) -> RunInfo:
    """Return the facts for the header on screen when a run starts or resumes."""
    config, policy = parts.config, parts.policy
    example = parts.prompts.evaluation or parts.prompts.train
    raw = example[0].raw
    return RunInfo(
        model=config.policy.model if parts.objects.model is None else f"{type(parts.objects.model).__name__} (object)",
        trained_parameters=policy.num_trainable_parameters,
        total_parameters=policy.num_parameters,
        task=parts.task.name,
        train_rows=len(parts.prompts.train),
        eval_rows=len(parts.prompts.evaluation),
        method=config.algorithm.method,
        group_size=config.rollout.group_size,
        prompts_per_step=config.rollout.prompts_per_step,
        steps=steps,
        run_path=path,
        first_step=first_step,
        rewards=_weighted_names(parts.rewards),
        changed=[f"{name} {_shown(was)} → {_shown(now)}" for name, (was, now) in changes.items()],
        device=str(policy.device),
        example_prompt=raw if isinstance(raw, str) else str(raw[-1]["content"]),
        command=own_command(),
    )


def remark_on_data(parts: Parts, journal: Journal) -> None:
    """Report rows that were left out of the data, and what is held out."""
    if parts.prompts.dropped:
        journal.warn(
            f"{counted(parts.prompts.dropped, 'row')} with prompts longer than {parts.prompts.limit} tokens left out: "
            f"{_way_to_longer_prompts(parts)} to keep them"
        )
    if parts.task.removed:
        journal.warn(
            f"{counted(parts.task.removed, 'row')} with the same prompt as a row to evaluate on left out of training: "
            f"give an eval_file with other prompts to keep them"
        )
    if has_closed_tag(parts.prompts.train[0], answer_format := parts.task.answer_format):
        tag = answer_format.blocks[0]
        journal.warn(
            f"the chat template ends the prompt with </{tag}>, so completions have no <{tag}> block and are not in the "
            f"format {answer_format.name}: let the model think (chat_template_kwargs={{enable_thinking: true}}), or "
            f"take another answer_format"
        )
    if parts.task.eval_size_wanted is not None:
        journal.note(
            f"eval_size {parts.task.eval_size_wanted} is more than a fifth of the prompts, so "
            f"{len(parts.task.evaluation)} are held out: give eval_size for another number"
        )
    for note in parts.notes:
        journal.note(note)
    if parts.evaluator is None:
        journal.note("nothing is held out, so nothing is evaluated: give eval_file or eval_size to see accuracy")


def remark_on_learning_rate(
    before: Mapping[str, Any], learning_rate: float, changes: Changes, journal: Journal
) -> None:
    """Report that the options which a resumed run changes move the learning rate.

    Args:
        before: metrics of the last step before the resume.
        learning_rate: of the next step.
    """
    names = [name for name in changes if name in _LEARNING_RATE_OPTIONS]
    was = before.get("learning_rate")
    if names and was is not None and not math.isclose(was, learning_rate):
        old, new = (number(rate, ".1e") for rate in (was, learning_rate))
        journal.note(
            f"the learning rate was {old} in step {before['step']} and continues at {new}, because "
            f"{' and '.join(names)} changed: learning_rate, schedule and min_learning_rate_ratio set another course"
        )


def _way_to_longer_prompts(parts: Parts) -> str:
    if parts.prompts.limit == parts.config.data.max_prompt_length:
        return "raise max_prompt_length"
    return f"the model has {parts.policy.context_length} positions, so lower max_completion_length"


def _weighted_names(rewards: RewardSuite) -> list[str]:
    """Return the names of the rewards, with the weight where it is not 1."""
    return [f"{function.name}{_times(function.weight)}" for function in rewards.functions]


def _times(weight: Any) -> str:
    if isinstance(weight, WeightSchedule):
        return f" ×{weight.start:g} → ×{weight.end:g}"
    return "" if weight == 1.0 else f" ×{weight:g}"


def _shown(value: Any) -> str:
    """Return an option's value as one would write it.

    Example:
        >>> [_shown(value) for value in (5e-4, 1.0, True, None, [{"name": "correctness", "weight": 2.0}])]
        ['5e-4', '1', 'true', 'null', 'correctness ×2']
    """
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping) and "name" in value:
        return _reward(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value)) or "none"
    return str(value)


def _number(value: float) -> str:
    """Return a number in its shortest form, with an exponent where it is small.

    Example:
        >>> [_number(value) for value in (0.0005, 1e-06, 0.2, 3.0)]
        ['5e-4', '1e-6', '0.2', '3']
    """
    if 0 < abs(value) < 1e-2:
        mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:g}"


def _reward(spec: Mapping[str, Any]) -> str:
    weight = spec.get("weight", 1.0)
    if isinstance(weight, Mapping):
        weight = read_weight(weight, str(spec["name"]))
    rest = ", ".join(f"{key}={_shown(entry)}" for key, entry in spec.items() if key not in ("name", "weight"))
    return f"{spec['name']}{_times(weight)}{f' ({rest})' if rest else ''}"


def make_trackers(config: GRPOConfig, path: Path) -> list[Tracker]:
    """Return the trackers that the configuration asks for, not yet started."""
    trackers: list[Tracker] = []
    if config.output.tensorboard:
        trackers.append(TensorBoardTracker(path))
    if config.output.wandb:
        trackers.append(
            WandbTracker(path, project=config.output.wandb_project or "grpo", name=config.output.wandb_run_name)
        )
    return trackers


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """Send what the package's parts log to the run's screen, where it does not break the live display."""
    logger = logging.getLogger("grpo")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_ConsoleHandler(console)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.warn(record.getMessage())
