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
    dataset: str = GSM8K_HUB_NAME,
    dataset_config: str | None = GSM8K_CONFIG,
    train_split: str = "train",
    eval_split: str | None = "test",
    prompt_column: str = "question",
    eval_size: int | None,
    answer_format: AnswerFormat,
    seed: int,
    system_prompt: str | None = None,
    spares_train_rows: bool = False,
) -> Task:
    """Return GSM8K as system and user messages with columns `answer`, `question` and `solution`.

    Args:
        train_file: rows with `question` and `answer`, in a file or in memory (any source that `read_rows` takes);
            None: `train_split` of `dataset`.
        eval_file: the same for evaluation. None: `eval_split` of `dataset`; with a `train_file` or without an
            `eval_split`, `eval_size` training rows are held out.
        dataset: name on the Hub, or a folder; `dataset_config` is its configuration.
        prompt_column: the column with the question.
        eval_size: number of rows to evaluate on; None: all.
        system_prompt: the prompt that asks for the format; None: the format's own.
        spares_train_rows: as in `rows_task`.

    Raises:
        DataError: a file or the Hub data set cannot be read, or an answer has no reference number.
    """
    system_prompt = system_prompt or answer_format.system_prompt

    def rows(file: object | None, split: str | None) -> list[Row]:
        return gsm8k_rows(
            dataset if file is None else file,
            split=split,
            config_name=dataset_config if file is None else None,
            system_prompt=system_prompt,
            prompt_column=prompt_column,
        )

    train = rows(train_file, train_split)
    evaluation = None
    if eval_file is not None or (train_file is None and eval_split is not None):
        evaluation = rows(eval_file, eval_split)
    return rows_task(
        train,
        evaluation,
        eval_size=eval_size,
        answer_format=answer_format,
        seed=seed,
        name="gsm8k",
        spares_train_rows=spares_train_rows,
    )


def gsm8k_rows(
    source: object,
    *,
    split: str | None,
    system_prompt: str | None,
    config_name: str | None = None,
    prompt_column: str = "question",
) -> list[Row]:
    """Return GSM8K rows of a source that `read_rows` takes.

    Raises:
        DataError: the source cannot be read, or an answer has no reference number.
    """
    rows = read_rows(source, split=split, config_name=config_name, prompt_column=prompt_column)
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
