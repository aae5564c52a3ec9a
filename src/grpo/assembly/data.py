"""Configuration → rows, and rows → prompts as the policy reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.assembly.objects import PythonObjects
from grpo.config import GRPOConfig
from grpo.demos import DEMO_TASKS
from grpo.errors import ConfigError, DataError
from grpo.policy import Policy
from grpo.tasks import Row, Task, arithmetic_task, find_format, gsm8k_task, read_rows, render, rows_task
from grpo.tasks.gsm8k import GSM8K_CONFIG, GSM8K_HUB_NAME
from grpo.types import Prompt

__all__ = ["Prompts", "evaluation_task", "make_prompts", "make_task", "read_prompts"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """A task's rows as the policy reads them.

    Attributes:
        train: prompts to train on.
        evaluation: held-out prompts, empty when there are none.
        dropped: rows left out because they are longer than `limit`.
        limit: in tokens: `max_prompt_length`, or less where the model has room for less.
    """

    train: list[Prompt]
    evaluation: list[Prompt]
    dropped: int
    limit: int


def make_task(config: GRPOConfig, objects: PythonObjects) -> Task:
    """Return the rows to train and to evaluate on.

    Raises:
        ConfigError: there is nowhere to take rows from.
        DataError: the data cannot be used, or too little of it is left to train on.
    """
    data = config.data
    common: dict[str, Any] = {
        "train_size": data.train_size,
        "answer_format": find_format(data.answer_format),
        "seed": config.optimizer.seed,
    }
    if data.task in DEMO_TASKS:
        demo = DEMO_TASKS[data.task]
        return demo.make(eval_size=data.eval_size, **common, **{name: getattr(data, name) for name in demo.options})
    if data.task == "arithmetic":
        return arithmetic_task(
            eval_size=data.eval_size or 0,
            max_operand=data.max_operand,
            operators=data.operators,
            spares_train_rows=_spares_train_rows(config),
            **common,
        )
    task = _gsm8k(config, objects) if data.task == "gsm8k" else _rows(config, objects)
    return replace(task, train=task.train[: data.train_size])


def _gsm8k(config: GRPOConfig, objects: PythonObjects) -> Task:
    data = config.data
    is_original = data.dataset in (None, GSM8K_HUB_NAME)
    return gsm8k_task(
        train_file=_first(objects.train_rows, data.train_file),
        eval_file=_first(objects.eval_rows, data.eval_file),
        dataset=data.dataset or GSM8K_HUB_NAME,
        dataset_config=data.dataset_config or (GSM8K_CONFIG if is_original else None),
        train_split=data.train_split,
        eval_split=data.eval_split or ("test" if is_original else None),
        prompt_column=data.prompt_column or "question",
        eval_size=data.eval_size,
        answer_format=find_format(data.answer_format),
        seed=config.optimizer.seed,
        system_prompt=data.system_prompt,
        spares_train_rows=_spares_train_rows(config),
    )


def _rows(config: GRPOConfig, objects: PythonObjects) -> Task:
    train, evaluation = _own_rows(config, objects)
    return rows_task(
        train,
        evaluation,
        eval_size=config.data.eval_size,
        answer_format=find_format(config.data.answer_format),
        seed=config.optimizer.seed,
        spares_train_rows=_spares_train_rows(config),
    )


def _spares_train_rows(config: GRPOConfig) -> bool:
    """Return whether fewer rows than asked for may be held out: what a recipe asks for was meant for its own rows."""
    return not config.is_set_by_user("eval_size")


def evaluation_task(config: GRPOConfig, objects: PythonObjects) -> Task:
    """Return the task to evaluate on; evaluation rows in a file or in memory need no training rows.

    Raises:
        DataError: nothing is held out.
    """
    own = _first(objects.eval_rows, config.data.eval_file)
    if config.data.eval_size == 0:
        raise DataError("eval_size is 0, so there are no rows to evaluate on: leave it out, or give a number")
    if own is None:
        return make_task(config, objects)
    alone = config.replace(train_file=own if isinstance(own, str) else None, dataset=None, eval_file=None, eval_size=0)
    task = make_task(alone, replace(objects, train_rows=objects.eval_rows, eval_rows=None))
    return replace(task, train=[], evaluation=task.train[: config.data.eval_size])


def _own_rows(config: GRPOConfig, objects: PythonObjects) -> tuple[list[Row], list[Row] | None]:
    data = config.data
    source = _first(objects.train_rows, data.train_file, data.dataset)
    if source is None:
        raise ConfigError(f"there are no rows for task {data.task}: give train_file, dataset, or task=arithmetic")
    train = _read(config, source, data.train_split if source is data.dataset else None)
    held_out = _first(objects.eval_rows, data.eval_file)
    if held_out is not None:
        return train, _read(config, held_out, None)
    if data.eval_split is not None and data.dataset is not None:
        return train, _read(config, data.dataset, data.eval_split)
    return train, None


def read_prompts(config: GRPOConfig, file: str) -> list[Row]:
    """Return the rows of a file of prompts, for which answers are not needed."""
    return read_rows(file, prompt_column=config.data.prompt_column or "prompt")


def _read(config: GRPOConfig, source: Any, split: str | None) -> list[Row]:
    answer_column = config.data.answer_column or "answer"
    return read_rows(
        source,
        split=split,
        config_name=config.data.dataset_config,
        prompt_column=config.data.prompt_column or "prompt",
        answer_column=answer_column,
        # Another column that is called `answer` makes room for the one that was named.
        column_names={} if answer_column == "answer" else {"answer": "other_answer"},
    )


def make_prompts(config: GRPOConfig, task: Task, policy: Policy) -> Prompts:
    """Return the task's prompts in tokens.

    Raises:
        ConfigError: `max_completion_length` leaves no room for a prompt.
        DataError: no prompt is short enough.
    """
    data, longest = config.data, config.rollout.max_completion_length
    system_prompt = data.system_prompt if data.system_prompt is not None else task.answer_format.system_prompt
    limit = data.max_prompt_length
    context = policy.context_length
    if context is not None and context - longest < limit:
        limit = context - longest
        if limit < 1:
            raise ConfigError(
                f"max_completion_length {longest} leaves no room for a prompt: the model has {context} positions; "
                f"lower it"
            )

    def rendered(rows: Sequence[Row]) -> tuple[list[Prompt], int]:
        if not rows:
            return [], 0
        result = render(
            rows,
            policy.tokenizer,
            system_prompt=system_prompt,
            chat=data.chat,
            max_prompt_length=limit,
            template_options=data.chat_template_kwargs,
            tools=data.tools,
        )
        return result.prompts, result.dropped

    train, dropped = rendered(task.train)
    evaluation, eval_dropped = rendered(task.evaluation[: config.output.eval_prompts])
    return Prompts(train, evaluation, dropped + eval_dropped, limit)


def _first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)
