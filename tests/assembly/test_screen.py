"""The output of a run on a terminal and in a file, and the records of the trackers."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys

import pytest
from short_runs import WORDS, lines_of, sums, write_lines

LORA = ("lora_rank=2", "gradient_checkpointing=true", "beta=0.1", "dtype=bfloat16")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "TERM": "xterm-256color", "COLUMNS": "120"}


def plain(text):
    """Return a terminal's output without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


def run_on_a_terminal(*words):
    """Run `grpo` in a pseudo-terminal; return its exit code and its output."""
    pty = pytest.importorskip("pty")
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "grpo", *words])
    written = b""
    while True:
        try:
            if select.select([terminal], [], [], 120)[0]:
                written += os.read(terminal, 1 << 16)
            else:
                raise AssertionError(f"it hangs after {written[-500:]!r}")
        except OSError:
            break
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), plain(written.decode())


OURS = re.compile(
    r"\s*$|(model|task|rewards|method|steps|run)  |next$|eval at |  step  reward|  ( ?\d+)/\d+ |note: |warning: "
    r"|  *before +after +change| ─+|  *(strict|accuracy|lenient|greedy|format|reward)  |strict: right|greedy: strict"
    r"|\d+ steps? in |  *grpo (eval|generate) "
)
"""Beginnings of the lines that a run writes where there is no terminal."""


def test_without_a_terminal_nothing_is_written_but_our_own_lines():
    write_lines("rows.jsonl", sums(8))
    words = ["train_file=rows.jsonl", "eval_size=2", "tensorboard=true", "wandb=true", "save_every=1", "steps=2", *LORA]
    done = subprocess.run(
        [sys.executable, "-m", "grpo", "train", *WORDS, *words, "output_dir=run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **ENVIRONMENT},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    strange = [line for line in done.stdout.splitlines() if not OURS.match(line)]
    assert strange == []
    assert done.stdout.count("  step  reward") <= 2


def test_on_a_terminal_the_display_ends_with_the_final_words():
    code, shown = run_on_a_terminal("train", *WORDS, *LORA, "wandb=true", "steps=3", "output_dir=run")
    assert code == 0
    assert "step 3/3" in shown
    end = shown[shown.rindex("╰") :]
    assert "before" in end
    assert "model  run/final_model" in end
    assert 'next\n  grpo generate run "What is ' in end
    assert "wandb:" not in shown
    assert "Loading" not in shown
    assert "Traceback" not in shown


def test_the_words_after_next_can_be_typed(train, command):
    shown = command("train", *WORDS, "output_dir=runs/mine")
    lines = re.findall(r"grpo (?:generate|eval) .*", shown.out)
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)[1:]
        done = command(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.strip()


def test_what_has_no_effect_is_noted(command):
    shown = command("train", *WORDS, "lora_alpha=4", "output_dir=run")
    assert shown.code == 0
    assert shown.err == "note: lora_alpha has no effect: lora_rank is 0\n"


def test_lines_come_every_log_every_steps(command):
    shown = command("train", *WORDS, "steps=5", "log_every=2", "output_dir=run")
    assert [line.split("/")[0].strip() for line in shown.out.splitlines() if re.match(r"   \d/5", line)] == [
        "2",
        "4",
        "5",
    ]


def test_tensorboard_gets_the_curves_and_the_answers(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("tensorboard=true", "steps=2")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {
        "train/reward",
        "train/loss",
        "train/completion_length",
        "eval/accuracy",
        "rewards/correctness/mean",
    } <= set(tags["scalars"])
    logged = {event.step: event.value for event in events.Scalars("train/reward")}
    assert logged == pytest.approx({line["step"]: line["reward"] for line in lines_of(run / "metrics.jsonl")})
    assert [event.step for event in events.Scalars("eval/accuracy")] == [0, 2]


def test_weights_and_biases_gets_the_run_offline(train, command, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train("wandb=true", "wandb_project=mine", "steps=1")
    assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 1
    number = (run / "wandb_run_id.txt").read_text()
    assert command("train", "--resume", run, "steps=2").code == 0
    assert (run / "wandb_run_id.txt").read_text() == number
    assert all(number.strip() in path.name for path in run.glob("wandb/offline-run-*"))
