from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from grpo.tracking.console import Console, RunInfo
from grpo.tracking.formatting import sparkline, trend

INFO = RunInfo(
    model="tiny",
    trained_parameters=1_140_000,
    total_parameters=1_140_000,
    task="arithmetic",
    train_rows=5000,
    eval_rows=200,
    method="dapo",
    group_size=8,
    prompts_per_step=16,
    steps=60,
    run_path=Path("runs/arithmetic-20261121-012100"),
    rewards=("strict_format", "correctness"),
    example_prompt="What is 7 + 5? Answer with an integer.",
)


def step_metrics(step: int, **others: Any) -> dict[str, Any]:
    return {
        "step": step,
        "reward": step / 100,
        "rewards/strict_format/mean": step / 80,
        "rewards/strict_format/std": 0.3,
        "rewards/strict_format/failed": 0,
        "rewards/correctness/mean": 0.25,
        "rewards/failed_completions": 0.0,
        "kl": 0.0123,
        "completion_length": 31.2,
        "truncated_share": 0.02,
        "zero_variance_groups": 0.38,
        "learning_rate": 3e-4,
        "tokens_per_s": 4210.4,
        "peak_memory_mb": 812.0,
        **others,
    }


def evaluation(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05],
        "accuracy_lenient": accuracy + 0.1,
        "accuracy_lenient_ci95": [accuracy + 0.03, accuracy + 0.15],
        "accuracy_greedy": accuracy + 0.02,
        "accuracy_greedy_ci95": [accuracy - 0.03, accuracy + 0.07],
        "format_rate": 0.9,
        "reward": accuracy * 2,
    }


SUMMARY = {
    "eval_before": evaluation(0.31),
    "eval_after": evaluation(0.84),
    "steps": 60,
    "seconds": 83.2,
    "completion_tokens_per_s": 4012.0,
    "peak_memory_mb": 2048.0,
    "final_model": "runs/arithmetic-20261121-012100/final_model",
}


class Clock:
    """A clock that stands still until `advance`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def drive(console: Console, clock: Clock, steps: int = 60) -> None:
    """Drive a console through a whole run, as a trainer does."""
    with console:
        console.start(INFO)
        console.doing("evaluating")
        console.evaluation(0, evaluation(0.31))
        for step in range(1, steps + 1):
            clock.advance(2.0)
            console.step(step, step_metrics(step))
            if step == 30:
                console.note("saved runs/[bold]x[/bold]/checkpoint-30 :smile:")
                console.warn("reward failed: ValueError: " + "too long " * 20)
        console.evaluation(steps, evaluation(0.84))
        console.finish(SUMMARY)


def plain(log_every: int = 1, steps: int = 60, **options: Any) -> list[str]:
    file, clock = io.StringIO(), Clock()
    drive(Console(file=file, log_every=log_every, clock=clock, **options), clock, steps)
    return file.getvalue().split("\n")


def last_frame(width: int, before: Callable[[Console], None] | None = None) -> list[str]:
    """Return the live display as it stands after 40 steps, without colours."""
    file, clock = io.StringIO(), Clock()
    with Console(file=file, live=True, width=width, clock=clock) as console:
        console.start(INFO)
        console.evaluation(0, evaluation(0.31))
        for step in range(1, 41):
            clock.advance(2.0)
            console.step(step, step_metrics(step, **{"rewards/failed_completions": 2.0 if step == 7 else 0.0}))
        console.evaluation(40, evaluation(0.62))
        if before is not None:
            before(console)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    return text[text.rindex("╭") :].rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_display_fits_and_shows_what_matters(width: int) -> None:
    frame = last_frame(width)
    assert {cell_len(line) for line in frame} == {width}
    text = "\n".join(frame)
    assert "step 40/60" in text
    assert "1:20 gone, 0:40 left" in text
    assert re.search(r"reward +0\.400 ▲ ▁.*█", text)
    assert re.search(r"strict_format +0\.500 ▲ ▁.*█", text)
    assert re.search(r"correctness +0\.250 +▄+ ", text)
    for label, value in [
        ("KL", "0.0123"),
        ("length", "31.2 tokens"),
        ("cut off", "2%"),
        ("zero variance", "38%"),
        ("failed so far", "2"),
        ("learning rate", "3.0e-4"),
        ("tokens/s", "4,210"),
        ("peak memory", "812 MiB"),
    ]:
        assert re.search(rf"{label} +{value} ", text), label
    assert "eval at 0     strict 0.31 [0.26, 0.36]  lenient 0.41 [0.34, 0.46]" in text
    assert "eval at 40    strict 0.62 [0.57, 0.67]  lenient 0.72 [0.65, 0.77]" in text
    assert ("greedy 0.64" in text) == (width == 120)


def test_the_live_display_says_what_goes_on_between_steps() -> None:
    assert "evaluating, 1:20 gone" in last_frame(80, lambda console: console.doing("evaluating"))[1]


def test_messages_stand_above_the_live_display_as_they_were_written() -> None:
    file = io.StringIO()
    with Console(file=file, live=True, width=80) as console:
        console.start(INFO)
        console.note("saved runs/[bold]x[/bold]/checkpoint-30 :smile:")
        console.step(1, step_metrics(1))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "note: saved runs/[bold]x[/bold]/checkpoint-30 :smile:\n" in text
    assert text.index("checkpoint-30") < text.rindex("╭")


def test_leaving_after_an_error_gives_the_cursor_back() -> None:
    file = io.StringIO()
    with pytest.raises(RuntimeError), Console(file=file, live=True, width=80) as console:
        console.start(INFO)
        raise RuntimeError("out of memory")
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_without_a_terminal_there_are_only_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = "\n".join(plain())
    assert "\x1b" not in text
    assert "\r" not in text
    assert "╭" not in text


def test_the_banner_says_what_is_about_to_happen() -> None:
    assert plain()[:7] == [
        "model    tiny · 1.1 M parameters, all trained · cpu",
        "task     arithmetic · 5,000 rows to train on, 200 held out",
        "rewards  strict_format, correctness",
        "method   dapo · 16 prompts × 8 completions a step",
        "steps    60",
        "run      runs/arithmetic-20261121-012100",
        "",
    ]


def test_plain_lines_stand_in_columns_below_their_headings() -> None:
    lines = plain()
    heading = next(line for line in lines if "tokens/s" in line)
    rows = [line for line in lines if re.match(r" *\d+/60 ", line)]
    assert len(rows) == 60
    assert {len(row) for row in rows} == {len(heading)}
    assert heading.split() == (
        [
            "step",
            "reward",
            "strict_format",
            "correctness",
            "kl",
            "length",
            "cut",
            "zero-var",
            "failed",
            "lr",
            "tokens/s",
            "left",
        ]
    )
    assert rows[29].split() == (
        ["30/60", "0.300", "0.375", "0.250", "0.0123", "31.2", "2%", "38%", "0", "3.0e-4", "4,210", "1:00"]
    )


def test_headings_come_again_in_a_long_log() -> None:
    assert sum("tokens/s" in line and "reward" in line for line in plain()) == 3


def test_log_every_thins_the_lines_and_keeps_the_last() -> None:
    rows = [line.split()[0] for line in plain(log_every=25) if "/60 " in line]
    assert rows == ["25/60", "50/60", "60/60"]
    assert not any("/60 " in line for line in plain(log_every=0))


def test_plain_messages_keep_to_one_line_each() -> None:
    lines = plain()
    assert "note: saved runs/[bold]x[/bold]/checkpoint-30 :smile:" in lines
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert len(warning) > 180
    assert (
        "eval at 0     strict 0.31 [0.26, 0.36]  lenient 0.41 [0.34, 0.46]  greedy 0.33  format 90%  reward 0.620"
        in (lines)
    )


@pytest.mark.parametrize("live", [True, False])
def test_the_final_words_compare_and_say_what_to_type_next(live: bool) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(plain(live=live, width=80)))
    for label, before, after, change in [
        ("strict", "0.31 [0.26, 0.36]", "0.84 [0.79, 0.89]", "+0.53"),
        ("lenient", "0.41 [0.34, 0.46]", "0.94 [0.87, 0.99]", "+0.53"),
        ("greedy", "0.33 [0.28, 0.38]", "0.86 [0.81, 0.91]", "+0.53"),
        ("format", "0.90", "0.90", "+0.00"),
        ("reward", "0.62", "1.68", "+1.06"),
    ]:
        row = " +".join(map(re.escape, (label, before, after, change)))
        assert re.search(rf"\n *{row} *\n", text), label
    assert "60 steps in 1:23 · 4,012 completion tokens/s · 2.0 GiB at most" in text
    assert "model  runs/arithmetic-20261121-012100/final_model\n" in text
    assert 'grpo generate runs/latest "What is 7 + 5? Answer with an integer."\n' in text
    assert "grpo eval runs/latest\n" in text


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ('Say "hi"', "'Say \"hi\"'"),
        ("Cost in $?", "'Cost in $?'"),
        (None, '"Your question"'),
        ("two\nlines", '"Your question"'),
    ],
)
def test_the_command_to_copy_is_quoted_for_the_shell(prompt: str | None, shown: str) -> None:
    file = io.StringIO()
    with Console(file=file) as console:
        console.start(replace(INFO, example_prompt=prompt, run_path=Path("my out"), eval_rows=0))
        console.finish({**SUMMARY, "eval_before": None, "eval_after": None})
    assert f"grpo generate 'my out' {shown}\n" in file.getvalue()
    assert "grpo eval" not in file.getvalue()
    assert "before" not in file.getvalue()


def test_missing_and_unbounded_numbers_are_shown_as_missing() -> None:
    file, clock = io.StringIO(), Clock()
    with Console(file=file, clock=clock) as console:
        console.start(INFO)
        clock.advance(1.0)
        console.step(1, {"step": 1, "reward": math.nan, "rewards/own/failed": 8.0, "kl": math.inf})
        console.evaluation(1, {"reward": 0.5, "completion_length": 3.0})
        console.finish({"steps": 1})
    row = next(line for line in file.getvalue().split("\n") if "1/60" in line)
    assert row.split() == ["1/60", "–", "–", "–", "–", "–", "–", "–", "–", "–", "0:59"]
    assert "eval at 1     reward 0.500" in file.getvalue()


def test_a_reward_keeps_its_column_in_a_step_where_it_gave_no_number() -> None:
    file = io.StringIO()
    with Console(file=file) as console:
        console.start(INFO)
        console.step(1, {"reward": 1.0, "rewards/a/mean": 0.5, "rewards/a/failed": 0.0, "rewards/b/mean": 0.5})
        console.step(2, {"reward": 0.5, "rewards/a/failed": 8.0, "rewards/failed_completions": 8.0})
    heading, first, second = [line.split() for line in file.getvalue().split("\n")[-4:-1]]
    assert heading[:4] == ["step", "reward", "a", "b"]
    assert "kl" not in heading
    assert first[:4] == ["1/60", "1.000", "0.500", "0.500"]
    assert second[:4] == ["2/60", "0.500", "–", "–"]


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_without_unicode_does_not_end_the_run(live: bool) -> None:
    raw = io.BytesIO()
    clock = Clock()
    file = io.TextIOWrapper(raw, encoding="ascii")
    drive(Console(file=file, live=live, width=80, clock=clock), clock, steps=12)
    file.flush()
    assert raw.getvalue().decode("ascii").count("step 12/60" if live else "12/60") >= 1


def test_a_sparkline_of_equal_values_does_not_flicker() -> None:
    assert len(set(sparkline([0.99 + 1e-16 * (step % 2) for step in range(50)], 10))) == 1
    assert sparkline([], 10) == ""
    assert cell_len(sparkline(range(1000), 16)) == 16


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1], 0), (list(range(20)), 1), (list(range(20, 0, -1)), -1), ([0, 1] * 20, 0), ([5.0] * 30, 0)],
)
def test_a_trend_is_up_down_or_neither(values: list[float], expected: int) -> None:
    assert trend(values) == expected
