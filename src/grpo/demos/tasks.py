"""Tasks with generated rows: headlines, financial questions, programs. `DEMO_TASKS` has them by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from grpo.demos.clicks import best_headline
from grpo.demos.headlines import TOPICS, headline_prompt
from grpo.demos.preferences import CONCEPTS, QUESTIONS, better_answer, worse_answer
from grpo.demos.programs import program_problems
from grpo.seeding import derive_seed
from grpo.tasks.answers import AnswerFormat
from grpo.tasks.program_answers import ProgramVerifier
from grpo.tasks.rows import Row
from grpo.tasks.task import Task, rows_task

__all__ = ["DEMO_TASKS", "PROGRAM_PROBLEMS", "DemoTask", "finance_task", "headlines_task", "programs_task"]

PROGRAM_PROBLEMS = 256

_THOUGHTS = (
    "The topic is {topic}. A number makes it concrete, and the best of something makes people curious. "
    "It should be short and clear."
)


def headlines_task(
    *, train_size: int | None = None, eval_size: int | None, answer_format: AnswerFormat, seed: int
) -> Task:
    """Return a prompt for a headline on each topic.

    There is no column `answer`, because many headlines are good. Probes of rewards compare with the columns
    `reference`, a headline with the greatest click probability, and `reasoning`, thoughts that lead to it.

    Args:
        train_size: number of training topics; None: all that are left.
        eval_size: number of held-out topics; None: two.

    Raises:
        DataError: no topic is left to train on.
    """
    rows = [
        Row(
            number,
            headline_prompt(topic),
            {"topic": topic, "reference": best_headline(topic), "reasoning": _THOUGHTS.format(topic=topic)},
        )
        for number, topic in enumerate(TOPICS)
    ]
    size = 2 if eval_size is None else eval_size
    task = rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="headlines")
    return _with_train_size(task, train_size, seed)


def finance_task(
    *, train_size: int | None = None, eval_size: int | None, answer_format: AnswerFormat, seed: int
) -> Task:
    """Return all financial questions, with a better and a worse answer as columns `chosen` and `rejected`.

    Args:
        train_size: number of training questions; None: all that are left.
        eval_size: number of held-out questions; None: 32.

    Raises:
        DataError: no question is left to train on.
    """
    rng = random.Random(derive_seed(seed, "finance"))
    rows: list[Row] = []
    for concept in CONCEPTS:
        for question in QUESTIONS:
            columns = {"chosen": better_answer(concept, rng).text, "rejected": worse_answer(concept, rng).text}
            rows.append(Row(len(rows), question.format(name=concept.name), columns))
    size = 32 if eval_size is None else eval_size
    task = rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="finance")
    return _with_train_size(task, train_size, seed)


def programs_task(
    *,
    train_size: int | None = None,
    eval_size: int | None,
    answer_format: AnswerFormat,
    seed: int,
    program_kinds: str | Sequence[str] | None = None,
    max_operand: int = 12,
) -> Task:
    """Return programming problems with columns `tests` and `answer`, a program that passes them.

    Args:
        train_size: number of training problems; None: `PROGRAM_PROBLEMS`.
        eval_size: number of further, held-out problems; None: 32.
        program_kinds: one name or several out of `programs.KINDS`; None: all.
        max_operand: as in `program_problems`.

    Raises:
        DataError: there are fewer different problems, or a kind is unknown.
    """
    size = 32 if eval_size is None else eval_size
    wanted = (train_size or PROGRAM_PROBLEMS) + size
    kinds = (program_kinds,) if isinstance(program_kinds, str) else program_kinds
    problems = program_problems(wanted, derive_seed(seed, "programs"), kinds=kinds, max_operand=max_operand)
    rows = [
        Row(number, problem["prompt"], {name: value for name, value in problem.items() if name != "prompt"})
        for number, problem in enumerate(problems)
    ]
    task = rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="programs")
    return replace(task, verifier=ProgramVerifier(answer_format))


@dataclass(frozen=True, slots=True)
class DemoTask:
    """A task with generated rows.

    Attributes:
        make: returns the task for `train_size`, `eval_size`, `answer_format`, `seed` and the further options.
        options: names of the further options, which are also their names in a configuration.
    """

    make: Callable[..., Task]
    options: tuple[str, ...] = ()


DEMO_TASKS: Mapping[str, DemoTask] = MappingProxyType(
    {
        "headlines": DemoTask(headlines_task),
        "finance": DemoTask(finance_task),
        "programs": DemoTask(programs_task, ("program_kinds", "max_operand")),
    }
)


def _with_train_size(task: Task, train_size: int | None, seed: int) -> Task:
    """Return the task with a random sample of its training rows, which are ordered by subject."""
    if train_size is None or train_size >= len(task.train):
        return task
    rng = random.Random(derive_seed(seed, "train_size"))
    return replace(task, train=rng.sample(task.train, train_size))
