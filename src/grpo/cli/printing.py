"""What the commands print: help, the table of an evaluation, answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

__all__ = ["evaluation_table", "help_text", "overview", "write_answers"]


def overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "grpo: reinforcement fine-tuning of language models\n\n"
        "usage: grpo COMMAND …\n\n"
        f"{commands}\n\n"
        "`grpo train` by itself trains a small model that is part of the package: nothing to download.\n"
        "`grpo COMMAND --help` says more; --version prints the version, --debug shows tracebacks."
    )


def _help(command: Command) -> str:
    if not command.lists_options:
        return f"usage: {command.usage}"
    from grpo.config import option_reference

    return f"usage: {command.usage}\n\n{option_reference()}"


_MEASURES = (
    ("strict", "accuracy", "right and in the format asked for"),
    ("lenient", "accuracy_lenient", "right in any format"),
    ("greedy", "accuracy_greedy", "strict, at temperature 0"),
    ("format", "format_rate", "in the format, right or not"),
    ("reward", "reward", "mean"),
)


def evaluation_table(model: str, metrics: Mapping[str, Any]) -> str:
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
    return "\n".join([head, *rows])


def write_answers(answers: Any, stream: TextIO, *, as_json: bool, alone: bool) -> None:
    for answer in answers:
        if as_json:
            print(json.dumps(dict(answer), ensure_ascii=False), file=stream, flush=True)
        elif alone:
            print(answer["completions"][0], file=stream)
        else:
            print(f"> {_last_words(answer['prompt'])}", *answer["completions"], "", sep="\n", file=stream, flush=True)


def _last_words(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
