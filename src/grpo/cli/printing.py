"""Text that commands print: aligned tables, remarks, the table of an evaluation, answers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from grpo.cli.streams import is_utf8

if TYPE_CHECKING:
    from grpo.config import GRPOConfig

__all__ = ["aligned", "evaluation_table", "json_line", "show_note", "show_remarks", "write_answers"]


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Return one line a row, its cells in columns; the first column is flush left, the others left or right.

    Example:
        >>> aligned([("reward", "mean"), ("format", "0.5")], right=True)
        ['reward  mean', 'format   0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    side = "><"[not right]
    return [
        "  ".join(
            f"{cell:{side if column else '<'}{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def json_line(value: Any, stream: TextIO | None = None) -> str:
    """Return JSON on one line, with escapes for what `stream` (None: standard output) cannot write."""
    return json.dumps(value, ensure_ascii=not is_utf8(sys.stdout if stream is None else stream))


def show_remarks(config: GRPOConfig) -> None:
    """Print the remarks on a configuration, as options without effect, before it is used."""
    for remark in config.remarks():
        show_note(remark)


def show_note(text: str) -> None:
    """Print a note on standard error, which may be closed or full."""
    with contextlib.suppress(OSError):
        print(f"note: {text}", file=sys.stderr, flush=True)


def evaluation_table(model: str, metrics: Mapping[str, Any]) -> str:
    """Return the accuracies of `assembly.evaluate`, with intervals and meanings, and the mean of each reward."""
    from grpo.plurals import counted
    from grpo.tracking.formatting import evaluation_measures, interval
    from grpo.tracking.metrics import each_reward

    rows = [(f"  {label}", interval(metrics, name), meaning) for label, name, meaning in evaluation_measures(metrics)]
    rows += [
        (f"  pass@{k}", f"{share:.2f}", f"one of {k} is right")
        for k, share in metrics.get("pass_at_k", {}).items()
        if k != "1"
    ]
    each = each_reward(metrics)
    rows += [
        (f"    {name}", interval(each, name), "")
        for name, mean in metrics.get("rewards", {}).items()
        if mean is not None
    ]
    prompts, completions = counted(metrics["prompts"], "prompt"), counted(metrics["samples_per_prompt"], "completion")
    head = f"{model}: {prompts} × {completions}"
    return "\n".join([head, *aligned(rows)])


def write_answers(answers: Iterable[Mapping[str, Any]], stream: TextIO, *, as_json: bool, alone: bool = False) -> None:
    """Write each answer as soon as it is complete: as a JSON line, or its completions under its prompt.

    Args:
        alone: there is one prompt with one completion, which is written by itself.
    """
    for answer in answers:
        if as_json:
            print(json_line(dict(answer), stream), file=stream, flush=True)
        elif alone:
            print(answer["completions"][0], file=stream)
        else:
            print(f"> {_last_message(answer['prompt'])}", *answer["completions"], "", sep="\n", file=stream, flush=True)


def _last_message(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
