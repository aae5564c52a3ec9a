"""Tasks whose rows this package writes itself: headlines, financial questions, small programs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from grpo.demos.clicks import best_headline
from grpo.demos.headlines import TOPICS, headline_prompt
from grpo.demos.preferences import CONCEPTS, QUESTIONS, better_answer, worse_answer
from grpo.demos.programs import program_problems
from grpo.seeding import derive_seed
from grpo.tasks.answers import AnswerFormat
from grpo.tasks.program_answers import ProgramVerifier
from grpo.tasks.rows import Row
from grpo.tasks.task import Task, rows_task

__all__ = ["PROGRAM_PROBLEMS", "finance_task", "headlines_task", "programs_task"]

PROGRAM_PROBLEMS = 256

_THOUGHTS = (
    "The topic is {topic}. A number makes it concrete, and the best of something makes people curious. "
    "It should be short and clear."
)


def headlines_task(*, eval_size: int | None, answer_format: AnswerFormat, seed: int) -> Task:
    """Return a prompt for a headline on each topic.

    Many headlines are good, so there is no column `answer`. The columns `reference`, one that no other beats by the
    rule behind the clicks, and `reasoning`, thoughts that lead to it, are for checks of rewards to compare with.

    Args:
        eval_size: topics that are held out; None: two.

    Raises:
        DataError: no topic would be left to train on.
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
    return rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="headlines")


def finance_task(*, eval_size: int | None, answer_format: AnswerFormat, seed: int) -> Task:
    """Return every financial question, with a better and a worse answer as columns `chosen` and `rejected`.

    Args:
        eval_size: questions that are held out; None: 32.

    Raises:
        DataError: no question would be left to train on.
    """
    rng = random.Random(derive_seed(seed, "finance"))
    rows: list[Row] = []
    for concept in CONCEPTS:
        for question in QUESTIONS:
            columns = {"chosen": better_answer(concept, rng).text, "rejected": worse_answer(concept, rng).text}
            rows.append(Row(len(rows), question.format(name=concept.name), columns))
    size = 32 if eval_size is None else eval_size
    return rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="finance")


def programs_task(
    *,
    train_size: int | None,
    eval_size: int | None,
    kinds: Sequence[str] | None,
    max_operand: int,
    answer_format: AnswerFormat,
    seed: int,
) -> Task:
    """Return small programming problems with columns `tests` and `answer`, a program that passes them.

    Args:
        train_size: problems to train on; None: `PROGRAM_PROBLEMS`.
        eval_size: further problems that are held out; None: 32.
        kinds, max_operand: see `program_problems`.

    Raises:
        DataError: there are fewer different problems, or no such kind.
    """
    size = 32 if eval_size is None else eval_size
    wanted = (train_size or PROGRAM_PROBLEMS) + size
    problems = program_problems(wanted, derive_seed(seed, "programs"), kinds=kinds, max_operand=max_operand)
    rows = [
        Row(number, problem["prompt"], {name: value for name, value in problem.items() if name != "prompt"})
        for number, problem in enumerate(problems)
    ]
    task = rows_task(rows, None, eval_size=size, answer_format=answer_format, seed=seed, name="programs")
    return replace(task, verifier=ProgramVerifier(answer_format))
