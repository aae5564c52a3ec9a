"""Signals to a real process: the step is finished, all is saved, and the resumed run equals an undisturbed one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from short_runs import WORDS, lines_of, sums, tree, write_lines

from grpo.interruption import Interruption

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="signals are those of POSIX")

# Slow steps leave time to send a signal in the middle of one.
REWARD = """\
import pathlib, time

def slow(completions, trainer_state, **_):
    pathlib.Path("scoring").write_text(str(trainer_state.global_step))
    time.sleep({seconds})
    return [float(len(completion)) for completion in completions]
"""


@pytest.fixture
def started():
    """Start `grpo train` and return its process; all are ended with the test."""
    processes = []

    def start(*words, seconds=0.3):
        Path("slow.py").write_text(REWARD.format(seconds=seconds))
        write_lines("rows.jsonl", sums(12))
        process = subprocess.Popen(
            [sys.executable, "-m", "grpo", "train", *WORDS, "train_file=rows.jsonl", "rewards=slow.py:slow", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition, process, seconds=120):
    """Wait until `condition` holds while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def scoring(step):
    return lambda: Path("scoring").exists() and Path("scoring").read_text() == str(step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(started, command, number):
    process = started("steps=1000", "output_dir=run")
    wait_for(scoring(2), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == ""
    assert f"warning: {number.name}: finishing this step and saving it" in out
    step = lines_of("run/metrics.jsonl")[-1]["step"]
    assert out.rstrip().endswith(f"note: saved after step {step}; resume with: grpo train --resume run")
    assert {path.name for path in Path("run").iterdir() if path.is_dir()} == {f"checkpoint-{step}"}
    assert not Path("run/summary.json").exists()

    # It goes on, and ends with the bytes of a run that was left alone.
    assert command("train", "--resume", "run", f"steps={step + 2}").code == 0
    whole = command(
        "train", *WORDS, "train_file=rows.jsonl", "rewards=slow.py:slow", f"steps={step + 2}", "output_dir=whole"
    )
    assert whole.code == 0
    assert tree(Path("run/final_model")) == tree(Path("whole/final_model"))


def test_a_second_signal_leaves_at_once(started):
    process = started("steps=1000", "output_dir=run", "save_every=1", seconds=60)
    wait_for(scoring(0), process)
    process.send_signal(signal.SIGINT)
    while "once more to leave at once" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted\n"
    # Nothing was trained.
    assert not Path("run").exists()


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")])
def test_a_signal_before_the_first_step_ends_the_run_at_once_and_leaves_nothing(started, number, said):
    # The first call of the reward is that of the evaluation before training.
    process = started("steps=2", "run_name=stopped", "eval_size=4", seconds=60)
    wait_for(scoring(0), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, said)
    assert not Path("runs").exists()


def test_a_signal_in_the_last_step_lets_the_run_end(started):
    process = started("steps=1", "output_dir=run", seconds=1.0)
    wait_for(scoring(0), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert Path("run/final_model").is_dir()
    assert "next\n  grpo generate" in out


def test_a_signal_in_the_middle_of_a_write_is_heard_all_the_same():
    def refuse(text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    before = signal.getsignal(signal.SIGTERM)
    with Interruption(refuse) as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_is_killed_goes_on(started, command):
    process = started("steps=1000", "output_dir=run", "save_every=2")
    wait_for(scoring(5), process)
    process.kill()
    process.communicate()
    # Another process may have it at once, and what was written after the last checkpoint is written again.
    assert command("train", "--resume", "run", "steps=7").code == 0
    assert [line["step"] for line in lines_of("run/metrics.jsonl")] == list(range(1, 8))


def test_a_run_goes_on_when_the_reader_of_its_output_leaves(started):
    process = started("steps=3", "output_dir=run", seconds=0.05)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert process.stderr.read() == ""
    assert len(lines_of("run/metrics.jsonl")) == 3 and Path("run/final_model").is_dir()
