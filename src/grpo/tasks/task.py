"""Tasks: training rows, evaluation rows, and a verifier of answers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from grpo.errors import DataError
from grpo.seeding import derive_seed
from grpo.tasks.answers import AnswerFormat, verify
from grpo.tasks.arithmetic import Problem, all_problems, split_problems
from grpo.tasks.rows import Row
from grpo.tasks.values import reference_texts
from grpo.types import Verdict

__all__ = ["AnswerVerifier", "Task", "Verifier", "arithmetic_task", "rows_task"]


class Verifier(Protocol):
    """Verifies completions."""

    def verdicts(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Return a verdict for each text, from the columns of its row."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """The rows of a run and the verifier of their answers.

    Attributes:
        train: rows to train on.
        evaluation: rows to evaluate on, none with the question of a training row; may be empty.
        verifier: verifies completions; None if the rows have no answers that texts can be compared with.
        removed: number of rows that are left out of training, and not evaluated on either, because evaluation rows have
            the same question.
        eval_size_wanted: number of rows that should have been held out, if there are too few rows; else None.
    """

    name: str
    train: list[Row]
    evaluation: list[Row]
    answer_format: AnswerFormat
    verifier: Verifier | None
    removed: int = 0
    eval_size_wanted: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerVerifier:
    """Compares completions with the column `answer` by `answers.verify`; of several answers, any is right."""

    answer_format: AnswerFormat

    def verdicts(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Return a verdict for each text, from the columns of its row."""
        return [self._verdict(text, columns) for text, columns in zip(texts, rows, strict=True)]

    def _verdict(self, text: str, columns: Mapping[str, Any]) -> Verdict:
        references = reference_texts(columns["answer"])
        assert references, "rows_task gives a verifier only to rows with usable answers"
        verdicts = [verify(text, reference, answer_format=self.answer_format) for reference in references]
        return max(verdicts, key=lambda verdict: (verdict.strict, verdict.lenient))


def arithmetic_task(
    *,
    train_size: int | None,
    eval_size: int,
    max_operand: int,
    operators: str,
    answer_format: AnswerFormat,
    seed: int,
    spares_train_rows: bool = False,
) -> Task:
    """Return generated sums such as "What is 2 + 3? Answer with an integer.", with column `answer`.

    Args:
        spares_train_rows: as in `rows_task`.

    Raises:
        DataError: there are fewer problems than the sum of `train_size` (None: all that are left) and `eval_size`.
    """
    held_out = eval_size
    if spares_train_rows:
        held_out = min(eval_size, _most_to_hold_out(len(all_problems(max_operand, operators))))
    train, evaluation = split_problems(
        train_size, held_out, max_operand=max_operand, operators=operators, seed=derive_seed(seed, "arithmetic")
    )
    task = rows_task(
        _problem_rows(train),
        _problem_rows(evaluation),
        eval_size=held_out,
        answer_format=answer_format,
        seed=seed,
        name="arithmetic",
    )
    return replace(task, eval_size_wanted=eval_size if held_out < eval_size else None)


def rows_task(
    train: Sequence[Row],
    evaluation: Sequence[Row] | None,
    *,
    eval_size: int | None,
    answer_format: AnswerFormat,
    seed: int,
    name: str = "rows",
    spares_train_rows: bool = False,
) -> Task:
    """Return a task made of rows.

    Two rows have the same question if their prompts are equal, system messages and white space aside; their position
    and their other columns do not matter.

    Args:
        evaluation: rows to evaluate on; training rows with the same question are removed and counted. None:
            `eval_size` training rows are held out, drawn by `seed`, and rows with the same question are removed
            and counted.
        eval_size: number of rows to evaluate on, drawn by `seed`; None: all of `evaluation`, or none without it.
            The training rows do not depend on it if `evaluation` is given.
        spares_train_rows: hold out a fifth of the training rows at most, even if `eval_size` is greater.

    Raises:
        DataError: there are fewer rows than `eval_size`, or no row is left to train on.
    """
    if eval_size is not None and eval_size < 0:
        raise DataError(f"eval_size {eval_size}: use 0 or more")
    wanted = None
    if evaluation is None:
        most = _most_to_hold_out(len(_distinct(train)))
        if spares_train_rows and eval_size is not None and eval_size > most:
            eval_size, wanted = most, eval_size
        held_out = _hold_out(train, eval_size or 0, seed)
        kept = _without(train, held_out)
        removed = len(train) - len(kept) - len(held_out)
    else:
        held_out = _sample(evaluation, eval_size, seed)
        kept = _without(train, evaluation)
        removed = len(train) - len(kept)
    if not kept:
        raise DataError(
            f"no training row of {len(train)} is left, because evaluation rows ask the same: give other rows"
        )
    answered = all(_has_reference(row.columns.get("answer")) for row in held_out or kept)
    verifier = AnswerVerifier(answer_format) if answered else None
    return Task(name, kept, held_out, answer_format, verifier, removed, wanted)


def _problem_rows(problems: Sequence[Problem]) -> list[Row]:
    return [Row(number, problem.question, {"answer": problem.answer}) for number, problem in enumerate(problems)]


def _most_to_hold_out(num_prompts: int) -> int:
    """Return a fifth of the number, but at least 1 if another prompt is left to train on."""
    return max(num_prompts // 5, min(num_prompts - 1, 1))


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each question."""
    return list({row.question: row for row in reversed(rows)}.values())[::-1]


def _hold_out(rows: Sequence[Row], size: int, seed: int) -> list[Row]:
    distinct = _distinct(rows)
    if size and size >= len(distinct):
        raise DataError(
            f"eval_size {size}, but there are {len(distinct)} different prompts: lower it so that some are left "
            f"to train on, or give an eval_file"
        )
    return _sample(distinct, size, seed)


def _sample(rows: Sequence[Row], size: int | None, seed: int) -> list[Row]:
    if size is None or size >= len(rows):
        return list(rows)
    chosen = random.Random(derive_seed(seed, "evaluation rows")).sample(range(len(rows)), size)
    return [rows[place] for place in sorted(chosen)]


def _without(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    questions = {row.question for row in others}
    return [row for row in rows if row.question not in questions]


def _has_reference(answer: Any) -> bool:
    """Return whether there is an answer that texts can be compared with."""
    try:
        return bool(reference_texts(answer))
    except DataError:
        return False
