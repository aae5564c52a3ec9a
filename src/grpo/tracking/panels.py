"""What the terminal shows of a run, as rich renderables: pure functions of what has been measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo.tracking.formatting import (
    count,
    decimal,
    duration,
    interval,
    is_finite,
    learning_rate,
    memory,
    millions,
    percent,
    sparkline,
    trend,
)
from grpo.tracking.metrics import reward_means

__all__ = ["RunInfo", "Snapshot", "banner_rows", "dashboard", "evaluation_text", "outcome"]

_NARROW = 110
_ARROWS = {1: ("▲", "+", "green"), 0: (" ", " ", ""), -1: ("▼", "-", "red")}
_OUTCOMES = (
    ("strict", "accuracy"),
    ("lenient", "accuracy_lenient"),
    ("greedy", "accuracy_greedy"),
    ("format", "format_rate"),
    ("reward", "reward"),
)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run before it begins.

    Attributes:
        first_step: steps that an earlier process completed; 0 in a new run.
        rewards: their names, with weights other than 1.
        changed: options that this process goes on with in place of others, each as "steps 150 → 160".
        example_prompt: what to ask the trained model for a start; None for a placeholder.
        command: what `grpo` is called where the user is.
    """

    model: str
    trained_parameters: int
    total_parameters: int
    task: str
    train_rows: int
    eval_rows: int
    method: str
    group_size: int
    prompts_per_step: int
    steps: int
    run_path: Path
    first_step: int = 0
    rewards: Sequence[str] = ()
    changed: Sequence[str] = ()
    device: str = "cpu"
    example_prompt: str | None = None
    command: str = "grpo"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run as it stands.

    Attributes:
        failures: completions with a failed reward since this process began.
        history: of the reward and of each reward, one finite number a step, oldest first.
        evaluations: the first and the latest (one if they are the same), each with the step it came after.
        left_s: seconds that the rest may take; None while unknown.
        doing: what goes on at the moment, when it is not a step.
    """

    info: RunInfo
    step: int
    metrics: Mapping[str, Any]
    failures: float
    history: Mapping[str, Sequence[float]]
    evaluations: Sequence[tuple[int, Mapping[str, Any]]]
    elapsed_s: float
    left_s: float | None
    doing: str
    width: int
    ascii_only: bool


def banner_rows(info: RunInfo) -> Iterator[tuple[str, str]]:
    """Yield what the banner says, as label and text."""
    share = "all trained"
    if info.trained_parameters < info.total_parameters:
        share = f"{millions(info.trained_parameters)} trained"
    yield "model", f"{info.model} · {millions(info.total_parameters)} parameters, {share} · {info.device}"
    held_out = f", {info.eval_rows:,} held out" if info.eval_rows else ", none held out"
    yield "task", f"{info.task} · {info.train_rows:,} rows to train on{held_out}"
    if info.rewards:
        yield "rewards", ", ".join(info.rewards)
    yield "method", f"{info.method} · {info.prompts_per_step} prompts × {info.group_size} completions a step"
    resumed = f", {info.first_step:,} done before" if info.first_step else ""
    yield "steps", f"{info.steps:,}{resumed}"
    if info.changed:
        yield "changed", ", ".join(info.changed)
    yield "run", str(info.run_path)


def dashboard(snapshot: Snapshot) -> RenderableType:
    """Return the live display: progress, rewards with their course, vital signs, the latest evaluation."""
    inner = min(snapshot.width, 120) - 4
    grid = Table.grid(padding=(0, 3, 0, 0), expand=False)
    grid.add_column(vertical="top")
    grid.add_column(vertical="top")
    grid.add_row(_rewards(snapshot, inner - 32), _vital_signs(snapshot))
    parts: list[RenderableType] = [_progress(snapshot)]
    if snapshot.metrics:
        parts += [Text(), grid]
    if snapshot.evaluations:
        wide = snapshot.width >= _NARROW
        parts += [Text(), *(evaluation_text(step, metrics, wide=wide) for step, metrics in snapshot.evaluations)]
    return Panel(
        Group(*parts),
        title=Text(f" {snapshot.info.run_path.name} "),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        width=inner + 4,
    )


def _progress(snapshot: Snapshot) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    steps = snapshot.info.steps
    times = f"{duration(snapshot.elapsed_s)} gone"
    if snapshot.left_s is not None:
        times += f", {duration(snapshot.left_s)} left"
    if snapshot.doing:
        times = f"{snapshot.doing}, {times}"
    row.add_row(
        Text(f"step {snapshot.step}/{steps}", style="bold"),
        ProgressBar(total=max(1, steps), completed=snapshot.step),
        Text(times),
    )
    return row


def _rewards(snapshot: Snapshot, width: int) -> Table:
    """Return one row for the total and one for each reward, in `width` characters."""
    table = Table.grid(padding=(0, 1, 0, 0))
    means = {"reward": snapshot.metrics.get("reward"), **reward_means(snapshot.metrics)}
    label_width = min(max(map(len, snapshot.history), default=0) + 1, 18)
    table.add_column(width=label_width, no_wrap=True)
    table.add_column(width=7, justify="right")
    table.add_column(width=1)
    course = max(4, min(40, width - label_width - 15))
    table.add_column(width=0 if snapshot.ascii_only else course)
    for name, values in snapshot.history.items():
        fine, plain, style = _ARROWS[trend(values)]
        whole = name == "reward"
        table.add_row(
            Text(name if whole else f" {name}", style="bold" if whole else "", overflow="ellipsis"),
            Text(decimal(means.get(name)), style="bold" if whole else ""),
            Text(plain if snapshot.ascii_only else fine, style=style),
            "" if snapshot.ascii_only else Text(sparkline(values, course), style="cyan" if whole else "dim"),
        )
    return table


def _vital_signs(snapshot: Snapshot) -> Table:
    metrics = snapshot.metrics
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=16, no_wrap=True)
    table.add_column(width=11, justify="right", no_wrap=True)
    bad = "bold red" if snapshot.failures else ""
    rows = [
        *([("KL", decimal(metrics["kl"], 4), "")] if "kl" in metrics else []),
        ("length", f"{decimal(metrics.get('completion_length'), 1)} tokens", ""),
        ("cut off", percent(metrics.get("truncated_share")), ""),
        ("zero variance", percent(metrics.get("zero_variance_groups")), ""),
        ("failed so far", count(snapshot.failures), bad),
        ("learning rate", learning_rate(metrics.get("learning_rate")), ""),
        ("tokens/s", count(metrics.get("tokens_per_s")), ""),
        ("peak memory", memory(metrics.get("peak_memory_mb")), ""),
    ]
    for label, value, style in rows:
        table.add_row(Text(label, style=style or "dim"), Text(value, style=style))
    return table


def evaluation_text(step: int, metrics: Mapping[str, Any], *, wide: bool) -> Text:
    """Return the evaluation after `step` on one line of at most 76 characters, or with more when `wide`."""
    parts: list[str] = []
    if "accuracy" in metrics:
        parts += [f"strict {interval(metrics, 'accuracy')}", f"lenient {interval(metrics, 'accuracy_lenient')}"]
        if wide:
            parts += [f"greedy {decimal(metrics.get('accuracy_greedy'), 2)}"]
            parts += [f"format {percent(metrics.get('format_rate'))}"]
    if wide or not parts:
        parts += [f"reward {decimal(metrics.get('reward'))}"]
    if "accuracy" not in metrics and "format_rate" in metrics:
        parts += [f"format {percent(metrics['format_rate'])}"]
    return Text(f"{f'eval at {step}':<14}", style="bold").append("  ".join(parts), style="not bold")


def outcome(info: RunInfo, summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the final words: before → after, how long it took, where the model lies, what to type next."""
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    if before or after:
        yield _before_and_after(before, after)
    unit = "step" if summary.get("steps") == 1 else "steps"
    yield Text(
        f"{count(summary.get('steps'))} {unit} in {duration(summary.get('seconds'))} · "
        f"{count(summary.get('completion_tokens_per_s'))} completion tokens/s · "
        f"{memory(summary.get('peak_memory_mb'))} at most"
    )
    for name, amounts in (summary.get("reward_totals") or {}).items():
        yield Text(
            f"{name}  " + ", ".join(f"{_amount(number)} {what.replace('_', ' ')}" for what, number in amounts.items())
        )
    if summary.get("final_model"):
        yield Text(f"model  {summary['final_model']}")
    run = info.run_path.parent / "latest" if info.run_path.parent.name == "runs" else info.run_path
    place = shlex.quote(str(run))
    yield Text(f"next\n  {info.command} generate --model {place} {_quoted(info.example_prompt)}")
    if info.eval_rows:
        yield Text(f"  {info.command} eval {place}")


def _amount(number: float) -> str:
    return count(number) if number == int(number) else decimal(number, 4)


def _before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "change" else "left")
    verified = "accuracy" in {**before, **after}
    for label, name in _OUTCOMES:
        _add_change(table, label, before, after, name)
    # Where there are right answers, these say how good the policy is; elsewhere only the rewards do.
    before_each, after_each = before.get("rewards") or {}, after.get("rewards") or {}
    if not verified and len(names := {**before_each, **after_each}) > 1:
        for name in names:
            _add_change(table, f" {name}", before_each, after_each, name)
    legend = "strict: right and in the format asked for; lenient: right in any format;\ngreedy: strict at temperature 0"
    return Group(table, Text(legend, style="dim"), Text()) if verified else table


def _add_change(table: Table, label: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> None:
    """Add a row for a measure, unless it was never taken."""
    if before.get(name) is None and after.get(name) is None:
        return
    change = Text("")
    if is_finite(before.get(name)) and is_finite(after.get(name)):
        gain = after[name] - before[name]
        change = Text(f"{gain:+.2f}", style="green" if gain > 0 else "red" if gain < 0 else "")
    table.add_row(label, interval(before, name), Text(interval(after, name), style="bold"), change)


def _quoted(prompt: str | None) -> str:
    if prompt is None or len(prompt) > 100 or "\n" in prompt:
        return '"Your question"'
    return shlex.quote(prompt) if set(prompt) & set('"$`\\!') else f'"{prompt}"'
