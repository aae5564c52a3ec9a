"""GSM8K (arXiv:2110.14168): grade-school word problems whose solutions end with `#### ` and a number."""

from __future__ import annotations

from grpo.errors import DataError
from grpo.tasks.answers import AnswerFormat, gsm8k_reference
from grpo.tasks.rows import Row, read_rows
from grpo.tasks.task import Task, rows_task

__all__ = ["GSM8K_CONFIG", "GSM8K_HUB_NAME", "gsm8k_rows", "gsm8k_task"]

GSM8K_HUB_NAME = "openai/gsm8k"
GSM8K_CONFIG = "main"


def gsm8k_task(
    *,
    train_file: object | None,
    eval_file: object | None,
    train_split: str = "train",
    eval_split: str = "test",
    eval_size: int | None,
    answer_format: AnswerFormat,
    seed: int,
    system_prompt: str | None = None,
) -> Task:
    """Return GSM8K as system and user messages with columns `answer`, `question` and `solution`.

    Args:
        train_file: rows with `question` and `answer`, in a file or in memory (any source that `read_rows` takes);
            None takes `train_split` from the Hub.
        eval_file: the same to evaluate on. None holds out `eval_size` train rows when there is a
            `train_file`, and takes `eval_split` from the Hub when there is none.
        eval_size: evaluate on this many rows; None: on all there are.
        system_prompt: asks for the format; the format's own when None.

    Raises:
        DataError: a file or the Hub data set cannot be read, or an answer has no reference number.
    """
    system_prompt = system_prompt or answer_format.system_prompt
    train = gsm8k_rows(train_file, split=train_split, system_prompt=system_prompt)
    evaluation = None
    if train_file is None or eval_file is not None:
        evaluation = gsm8k_rows(eval_file, split=eval_split, system_prompt=system_prompt)
    return rows_task(train, evaluation, eval_size=eval_size, answer_format=answer_format, seed=seed, name="gsm8k")


def gsm8k_rows(source: object | None, *, split: str, system_prompt: str | None) -> list[Row]:
    """Return GSM8K rows of a source that `read_rows` takes, from the Hub when it is None.

    Raises:
        DataError: the source cannot be read, or an answer has no reference number.
    """
    rows = read_rows(
        GSM8K_HUB_NAME if source is None else source,
        split=split,
        config_name=GSM8K_CONFIG if source is None else None,
        prompt_column="question",
    )
    return [_gsm8k_row(row, system_prompt) for row in rows]


def _gsm8k_row(row: Row, system_prompt: str | None) -> Row:
    solution = row.columns.get("answer")
    if not isinstance(row.prompt, str) or not isinstance(solution, str):
        raise DataError(f"{row.place}: a GSM8K row has the texts 'question' and 'answer'")
    try:
        reference = gsm8k_reference(solution)
    except DataError as error:
        raise DataError(f"{row.place}: {error}") from error
    system = ({"role": "system", "content": system_prompt},) if system_prompt else ()
    columns = {**row.columns, "answer": reference, "question": row.prompt, "solution": solution}
    return Row(row.number, (*system, {"role": "user", "content": row.prompt}), columns, row.place)
