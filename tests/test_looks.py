"""Words and pictures of the terminal: singulars, courses of rewards, the end of a display, what to type next."""

from __future__ import annotations

import io
import json
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from grpo.cli import main
from grpo.cli.printing import evaluation_table
from grpo.diagnosis.zero_variance import ZeroVarianceMonitor
from grpo.plurals import counted
from grpo.tracking import Failure, RunDirectory
from grpo.tracking.console import Console
from grpo.tracking.formatting import sparkline
from grpo.tracking.panels import RunInfo, banner, evaluation_text, outcome

INFO = RunInfo("tiny", 1, 1, "rows", 1, 1, "grpo", 2, 1, 9, Path("runs/a"))


def test_one_is_singular_wherever_it_is_counted():
    assert (counted(0, "step"), counted(1, "step"), counted(1000, "step")) == ("0 steps", "1 step", "1,000 steps")
    shown = "\n".join(line.plain for line in banner(INFO))
    assert "1 row to train on" in shown
    assert "1 prompt × 2 completions" in shown
    assert evaluation_table("tiny", {"prompts": 1, "samples_per_prompt": 1}).startswith("tiny: 1 prompt × 1 completion")
    monitor = ZeroVarianceMonitor()
    monitor.after_step({"zero_variance_groups": 1.0})
    assert "in 1 of 1 step:" in str(monitor.conclusion())


def test_noise_stays_in_the_middle_of_a_sparkline_and_a_course_fills_it():
    draw = random.Random(0)
    bars = "▁▂▃▄▅▆▇█"
    noise = [bars.index(bar) for bar in sparkline([0.5 + draw.gauss(0, 0.01) for _ in range(200)], 40)]
    assert max(noise) - min(noise) <= 4
    assert 2 <= sum(noise) / len(noise) <= 5
    course = [bars.index(bar) for bar in sparkline([step / 200 + draw.gauss(0, 0.01) for step in range(200)], 40)]
    assert (course[0], course[-1]) == (0, 7)


def test_an_interrupted_run_leaves_no_panel():
    def end(console, leave):
        console.start(INFO)
        console.step(1, {"reward": 0.5})
        leave(console)

    kept, cleared = io.StringIO(), io.StringIO()
    end(Console(file=kept, width=100, live=True), Console.close)
    end(Console(file=cleared, width=100, live=True), Console.clear)
    # The lines of the panel are erased one by one.
    assert cleared.getvalue().count("\x1b[2K") > kept.getvalue().count("\x1b[2K")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunDirectory.create(name="sums") as run:
        run.write_config("{}")
        yield run


@pytest.mark.parametrize("args", [["doctor"], ["doctor", "runs/latest"]])
def test_the_doctor_looks_at_the_newest_run(run, capsys, args):
    run.append_metrics({"step": 1, "reward": 0.25, "zero_variance_groups": 0.5, "truncated_share": 0.5})
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert ": 1 step, running" in shown
    assert re.search(r"reward +0.250", shown)
    assert "nothing was found to be wrong" in shown


def test_the_doctor_finds_a_run_that_cannot_learn(run, capsys):
    run.append_metrics({"step": 1, "reward": 0.0, "zero_variance_groups": 1.0})
    assert main(["doctor"]) == 3
    assert "problem: no group differed in reward in 1 of 1 step" in capsys.readouterr().out


def test_the_doctor_says_what_a_run_failed_with_and_what_to_do(run, capsys):
    # It failed before its first step, so it is no runs/latest.
    run.write_failure(Failure(0, "the reward raised ValueError: no key", "nothing is saved: start again"))
    assert main(["doctor"]) == 3
    shown = capsys.readouterr().out
    assert ": 0 steps, failed\n" in shown
    assert (
        "problem: the run failed after 0 steps: the reward raised ValueError: no key; nothing is saved: start again"
    ) in shown
    run.clear_failure()
    run.close()
    assert main(["doctor"]) == 0
    assert ": 0 steps, stopped before its end\n" in capsys.readouterr().out


def test_the_doctor_reports_the_findings_of_the_run(run, capsys):
    for step in range(1, 6):
        run.append_metrics({"step": step, "reward": 0.5, "zero_variance_groups": 0.0, "truncated_share": 0.9})
    assert main(["doctor"]) == 3
    assert "problem: 90% of the completions of the last 5 steps were cut off" in capsys.readouterr().out


def test_the_doctor_without_any_run_says_what_it_can_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 2
    assert "no run at runs/latest" in (said := capsys.readouterr().err)
    assert "grpo doctor --sandbox" in said


def test_generated_answers_are_json_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "tiny", "What is 1 + 1?", "What is 2 + 2?", "--json", "max_completion_length=4"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["What is 1 + 1?", "What is 2 + 2?"]
    assert [len(row["completions"]) for row in rows] == [1, 1]


def test_the_axes_of_the_picture_of_growth_show_every_point():
    picture = ET.parse(Path(__file__).parents[1] / "docs/performance/growth.svg")
    svg = "{http://www.w3.org/2000/svg}"
    clips = {
        clip.get("id"): [float(rect.get(key)) for key in ("y", "height")]
        for clip in picture.iter(f"{svg}clipPath")
        for rect in clip.iter(f"{svg}rect")
    }
    seen = 0
    for group in picture.iter(f"{svg}g"):
        if (named := re.fullmatch(r"url\(#(.+)\)", group.get("clip-path") or "")) is None:
            continue
        top, height = clips[named.group(1)]
        for point in group.iter(f"{svg}use"):
            seen += 1
            assert top <= float(point.get("y")) <= top + height
    assert seen > 20


def test_an_evaluation_without_an_answer_format_shows_no_format_and_no_strict_accuracy(capsys):
    metrics = {
        "accuracy": 0.5,
        "accuracy_lenient": 0.5,
        "accuracy_greedy": 0.25,
        "reward": 1.0,
        "prompts": 4,
        "samples_per_prompt": 2,
    }
    labels = [line.split()[0] for line in evaluation_table("m", metrics).splitlines()[1:]]
    assert labels == ["accuracy", "greedy", "reward"]
    assert evaluation_text(3, metrics, wide=True).plain == "eval at 3     accuracy 0.50  greedy 0.25  reward 1.000"
    shown = io.StringIO()
    console = Console(file=shown, width=100, live=False)
    for part in outcome(INFO, {"eval_before": metrics, "eval_after": metrics}):
        console._rich.print(part)
    assert "strict" not in shown.getvalue()
    assert "format" not in shown.getvalue()
    # The answers of rows may be texts: then other text before the answer counts in the lenient accuracy only.
    metrics["accuracy_lenient"] = 0.75
    labels = [line.split()[0] for line in evaluation_table("m", metrics).splitlines()[1:]]
    assert labels == ["accuracy", "lenient", "greedy", "reward"]
