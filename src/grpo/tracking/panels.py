"""Renderables for the terminal of a run: pure functions of its measurements."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from grpo.plurals import counted
from grpo.tracking.formatting import (
    duration,
    evaluation_measures,
    in_units,
    interval,
    memory,
    number,
    sparkline,
    trend,
)
from grpo.tracking.metrics import each_reward, is_finite, reward_means

__all__ = ["VITAL_SIGNS", "RunInfo", "RunState", "banner", "dashboard", "evaluation_text", "outcome"]

_ARROWS = {1: ("▲", "+", "green"), 0: (" ", " ", ""), -1: ("▼", "-", "red")}

VITAL_SIGNS: tuple[tuple[str | None, str | None, str, Callable[[Any], str]], ...] = (
    ("KL", "kl", "kl", partial(number, spec=".4f")),
    ("length", "length", "completion_length", partial(number, spec=".1f")),
    ("cut off", "cut", "truncated_share", partial(number, spec=".0%")),
    ("zero variance", "zero-var", "zero_variance_groups", partial(number, spec=".0%")),
    ("failed so far", None, "failed_so_far", partial(number, spec=",.0f")),
    (None, "failed", "rewards/failed_completions", partial(number, spec=",.0f")),
    ("learning rate", "lr", "learning_rate", partial(number, spec=".1e")),
    ("tokens/s", "tokens/s", "tokens_per_s", partial(number, spec=",.0f")),
    ("peak memory", None, "peak_memory_mb", memory),
)
"""Label in the live display, heading in plain lines, name among the metrics and form of each number of a step."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Facts about a run that are known before it begins.

    Attributes:
        first_step: steps that an earlier process completed; 0 in a new run.
        rewards: their names, with weights other than 1.
        changed: options that a resumed run has in place of others, each as "steps 150 → 160".
        example_prompt: a first question for the trained model; None for a placeholder.
        command: the name that calls `grpo` in the user's shell.
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


class _Times(ProgressColumn):
    """The present work when that is not a step, the time since the start and an estimate of the time to the end."""

    def render(self, task: Task) -> Text:
        left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
        return Text(f"{task.description and f'{task.description}, '}{duration(task.elapsed)} gone{left}")


class RunState:
    """Measurements of a run so far.

    Attributes:
        metrics: those of the latest step, and `failed_so_far`, completions with a failed reward in this process.
        history: of the reward and of each reward, one finite number a step, oldest first.
        evaluations: the first and the latest (one if they are the same), each with the number of steps before it.
    """

    def __init__(self, info: RunInfo, clock: Callable[[], float]) -> None:
        self.info = info
        self.metrics: dict[str, Any] = {}
        self.history: dict[str, list[float]] = {}
        self.evaluations: list[tuple[int, Mapping[str, Any]]] = []
        columns = (TextColumn("step {task.completed}/{task.total}", style="bold"), BarColumn(None), _Times())
        # Pace is that of all steps: a window in seconds would hold no two steps where steps are long.
        self.progress = Progress(*columns, get_time=clock, speed_estimate_period=math.inf, expand=True)
        self.progress.advance(self.progress.add_task("", total=info.steps, completed=info.first_step), 0)
        self.task = self.progress.tasks[0]

    def add_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of a step."""
        failed = metrics.get("rewards/failed_completions")
        failed_so_far = self.metrics.get("failed_so_far", 0) + (failed if is_finite(failed) else 0)
        self.metrics = {**metrics, "failed_so_far": failed_so_far}
        self.progress.advance(self.task.id, step - self.task.completed)
        self.activity("")
        for name, value in self.rewards().items():
            self.history.setdefault(name, []).extend([float(value)] if is_finite(value) else [])

    def add_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of an evaluation after `step` completed steps."""
        self.evaluations = [*self.evaluations[:1], (step, metrics)]
        self.activity("")

    def activity(self, activity: str) -> None:
        """Set the work until the next step or evaluation."""
        self.progress.update(self.task.id, description=activity)

    def rewards(self) -> dict[str, float | None]:
        """Return the mean of the total and of each reward in the latest step."""
        return {"reward": self.metrics.get("reward"), **reward_means(self.metrics)}


def banner(info: RunInfo) -> Iterator[Text]:
    """Yield the lines that introduce a run."""
    size, trained = (in_units(n, ["", "k", "M", "B"], 1000) for n in (info.total_parameters, info.trained_parameters))
    share = "all" if info.trained_parameters == info.total_parameters else trained
    held_out = f"{info.eval_rows:,}" if info.eval_rows else "none"
    rows = {
        "model": f"{info.model} · {size} parameters, {share} trained · {info.device}",
        "task": f"{info.task} · {counted(info.train_rows, 'row')} to train on, {held_out} held out",
        "rewards": ", ".join(info.rewards),
        "method": f"{info.method} · {counted(info.prompts_per_step, 'prompt')} × {info.group_size} completions a step",
        "steps": f"{info.steps:,}" + (f", {info.first_step:,} done before" if info.first_step else ""),
        "changed": ", ".join(info.changed),
        "run": str(info.run_path),
    }
    for label, text in rows.items():
        if text:
            yield _labelled(label, 9, text)


def dashboard(state: RunState, *, width: int, ascii_only: bool) -> RenderableType:
    """Return the live display: progress, rewards with their course, vital signs, the first and latest evaluation."""
    inner = min(width, 120) - 4
    parts: list[RenderableType] = [state.progress.get_renderable()]
    if state.metrics:
        numbers = Table.grid(padding=(0, 3, 0, 0))
        numbers.add_row(_rewards(state, inner - 32, ascii_only=ascii_only), _vital_signs(state.metrics))
        parts += [Text(), numbers]
    if state.evaluations:
        parts += [Text(), *(evaluation_text(*evaluation, wide=width >= 110) for evaluation in state.evaluations)]
    title = Text(f" {state.info.run_path.name} ")
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim", width=inner + 4)


def _rewards(state: RunState, width: int, *, ascii_only: bool) -> Table:
    """Return one row for the total and one for each reward, in `width` characters."""
    label_width = min(max(map(len, state.history)) + 1, 18)
    course = 0 if ascii_only else max(4, min(40, width - label_width - 15))
    label = Column(width=label_width, no_wrap=True)
    table = Table.grid(
        label, Column(width=7, justify="right"), Column(width=1), Column(width=course), padding=(0, 1, 0, 0)
    )
    means = state.rewards()
    for name, values in state.history.items():
        arrow, ascii_arrow, colour = _ARROWS[trend(values)]
        total = name == "reward"
        table.add_row(
            Text(name if total else f" {name}", overflow="ellipsis"),
            number(means.get(name)),
            Text(ascii_arrow if ascii_only else arrow, style=colour),
            Text(sparkline(values, course) if course else "", style="cyan" if total else "dim"),
            style="bold" if total else "",
        )
    return table


def _vital_signs(metrics: Mapping[str, Any]) -> Table:
    table = Table.grid(
        Column(width=16, no_wrap=True), Column(width=11, justify="right", no_wrap=True), padding=(0, 1, 0, 0)
    )
    for label, _, name, form in VITAL_SIGNS:
        if label is not None and (name != "kl" or name in metrics):
            failures = name == "failed_so_far" and metrics[name] > 0
            value = form(metrics.get(name)) + (" tokens" if label == "length" else "")
            table.add_row(Text(label, style="" if failures else "dim"), value, style="bold red" if failures else "")
    return table


def evaluation_text(step: int, metrics: Mapping[str, Any], *, wide: bool) -> Text:
    """Return the evaluation after `step` on one line of at most 76 characters, or with more when `wide`."""
    verified = "accuracy" in metrics
    format_rate = f"format {number(metrics.get('format_rate'), '.0%')}"
    parts = []
    labels = {name: label for label, name, _ in evaluation_measures(metrics)}
    if verified:
        shown = [name for name in ("accuracy", "accuracy_lenient") if name in labels]
        parts += [f"{labels[name]} {interval(metrics, name)}" for name in shown]
    if verified and wide:
        parts += [f"greedy {number(metrics.get('accuracy_greedy'), '.2f')}"]
        parts += [format_rate] if "format_rate" in labels else []
    if wide or not verified:
        bounded = not verified and metrics.get("reward_ci95")
        parts += [f"reward {interval(metrics, 'reward') if bounded else number(metrics.get('reward'))}"]
    if not verified and "format_rate" in metrics:
        parts += [format_rate]
    return _labelled(f"eval at {step}", 14, "  ".join(parts))


def _labelled(label: str, width: int, text: str) -> Text:
    return Text(f"{label:<{width}}", style="bold").append(text, style="not bold")


def outcome(info: RunInfo, summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the end of the output: before → after, time, speed and memory, the model's place, commands to type next."""
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    if before or after:
        yield _before_and_after(before, after)
    unit = "step" if summary.get("steps") == 1 else "steps"
    yield Text(
        f"{number(summary.get('steps'), ',.0f')} {unit} in {duration(summary.get('seconds'))} · "
        f"{number(summary.get('completion_tokens_per_s'), ',.0f')} completion tokens/s · "
        f"{memory(summary.get('peak_memory_mb'))} at most"
    )
    for name, amounts in (summary.get("reward_totals") or {}).items():
        shown = [number(amount, ",.0f" if amount == int(amount) else ".4f") for amount in amounts.values()]
        units = [unit.replace("_", " ") for unit in amounts]
        yield Text(f"{name}  " + ", ".join(map(" ".join, zip(shown, units, strict=True))))
    if summary.get("final_model"):
        yield Text(f"model  {summary['final_model']}")
    run = info.run_path.parent / "latest" if info.run_path.parent.name == "runs" else info.run_path
    place = shlex.quote(str(run))
    yield Text(f"next\n  {info.command} generate {place} {_quoted(info.example_prompt)}")
    if info.eval_rows:
        yield Text(f"  {info.command} eval {place}")


def _before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> RenderableType:
    change = Column("change", no_wrap=True, justify="right")
    table = Table(
        *(Column(name, no_wrap=True) for name in ("", "before", "after")), change, box=box.SIMPLE_HEAD, pad_edge=False
    )
    for label, name, _ in evaluation_measures(before, after):
        _add_change(table, label, before, after, name)
    if "accuracy" in {**before, **after}:
        if "format_rate" not in {**before, **after}:
            return Group(table, Text())
        legend = (
            "strict: right and in the format asked for; lenient: right in any format;\ngreedy: strict at temperature 0"
        )
        return Group(table, Text(legend, style="dim"), Text())
    # Without right answers, only the rewards measure the policy.
    before_each, after_each = each_reward(before), each_reward(after)
    names = dict.fromkeys([*(before.get("rewards") or {}), *(after.get("rewards") or {})])
    for name in names if len(names) > 1 else ():
        _add_change(table, f" {name}", before_each, after_each, name)
    return table


def _add_change(table: Table, label: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> None:
    """Add a row for a measure, unless both evaluations lack it."""
    old, new = before.get(name), after.get(name)
    if old is None and new is None:
        return
    gain = new - old if is_finite(old) and is_finite(new) else None
    style = "green" if gain and gain > 0 else "red" if gain else ""
    change = Text("" if gain is None else f"{gain:+.2f}", style=style)
    table.add_row(label, interval(before, name), Text(interval(after, name), style="bold"), change)


def _quoted(prompt: str | None) -> str:
    """Return the prompt for a command to copy, or a placeholder for one that does not fit a line."""
    if prompt is None or len(prompt) > 100 or "\n" in prompt:
        return '"Your question"'
    return shlex.quote(prompt) if set(prompt) & set('"$`\\!') else f'"{prompt}"'
