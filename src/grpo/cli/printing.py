"""What the commands print: help, the table of an evaluation, answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from grpo.config import GRPOConfig

__all__ = ["evaluation_table", "help_text", "overview", "show_remarks", "write_answers"]


def overview(summaries: Mapping[str, str]) -> str:
    """Return what `grpo --help` prints, with a line for each command."""
    width = max(map(len, summaries))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in summaries.items())
    return (
        "grpo: reinforcement fine-tuning of language models\n\n"
        "usage: grpo COMMAND …\n\n"
        f"{commands}\n\n"
        "`grpo train` by itself trains a small model that is part of the package: nothing to download.\n"
        "`grpo COMMAND --help` says more; --version prints the version, --debug shows tracebacks."
    )


def help_text(usage: str, *, lists_options: bool) -> str:
    """Return what `grpo COMMAND --help` prints: its usage, and every option of a configuration if wanted."""
    if not lists_options:
        return f"usage: {usage}"
    from grpo.config import option_reference

    return f"usage: {usage}\n\n{option_reference()}"


def show_remarks(config: GRPOConfig) -> None:
    """Print what is to be said of a configuration before it is used."""
    for remark in config.remarks():
        print(f"note: {remark}", file=sys.stderr)


_MEASURES = (
    ("strict", "accuracy", "right and in the format asked for"),
    ("lenient", "accuracy_lenient", "right in any format"),
    ("greedy", "accuracy_greedy", "strict, at temperature 0"),
    ("format", "format_rate", "in the format, right or not"),
    ("reward", "reward", "mean"),
)


def evaluation_table(model: str, metrics: Mapping[str, Any]) -> str:
    """Return the accuracies that `assembly.evaluate` gives, with intervals and what each means."""
    from grpo.tracking.formatting import interval

    head = f"{model}: {metrics['prompts']} prompts × {metrics['samples_per_prompt']} completions"
    rows = [
        f"  {label:<8}{interval(metrics, name):<21}{meaning}"
        for label, name, meaning in _MEASURES
        if metrics.get(name) is not None
    ]
    rows += [
        f"  {'pass@' + k:<8}{share:<21.2f}one of {k} is right"
        for k, share in metrics.get("pass_at_k", {}).items()
        if k != "1"
    ]
    means = {name: mean for name, mean in metrics.get("rewards", {}).items() if mean is not None}
    width = max(map(len, means), default=0) + 2
    rows += [f"    {name:<{width}}{mean:.3f}" for name, mean in means.items()]
    return "\n".join([head, *rows])


def write_answers(answers: Iterable[Mapping[str, Any]], stream: TextIO, *, as_json: bool, alone: bool = False) -> None:
    """Write each answer as soon as it is there: as a JSON line, or its completions under its prompt.

    Args:
        alone: there is one prompt with one completion, which is written by itself.
    """
    for answer in answers:
        if as_json:
            print(json.dumps(dict(answer), ensure_ascii=False), file=stream, flush=True)
        elif alone:
            print(answer["completions"][0], file=stream)
        else:
            print(f"> {_last_words(answer['prompt'])}", *answer["completions"], "", sep="\n", file=stream, flush=True)


def _last_words(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
