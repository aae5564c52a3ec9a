"""Runs that go on: with more steps after they were finished, with other options, and from the beginning."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from short_runs import CHARACTERS, WORDS, lines_of, tree

from grpo.checkpoint import CheckpointStore, find_checkpoint, find_model, store
from grpo.cli import main
from grpo.errors import CheckpointError
from grpo.trainer import Trainer

OPTIONS = (CHARACTERS, "group_size=4", "schedule=constant", "learning_rate=1e-3")


@pytest.fixture
def stopped_after(monkeypatch):
    """Let a run hear SIGINT in the step of this number."""

    def stop(number):
        step = Trainer._step

        def interrupted(trainer, now):
            if now == number:
                os.kill(os.getpid(), signal.SIGINT)
            step(trainer, now)

        monkeypatch.setattr(Trainer, "_step", interrupted)

    yield stop
    monkeypatch.undo()


def test_a_finished_run_that_goes_on_and_is_stopped_gives_its_newest_weights(train, command, stopped_after):
    run = train("steps=2", *OPTIONS)
    finished = tree(run / "final_model")
    stopped_after(4)
    shown = command("train", "--resume", run, "steps=9")
    assert shown.code == 130
    assert "saved after step 4; resume with: grpo train --resume run" in shown.out
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoint-2", "checkpoint-4"}
    assert tree(run / "checkpoint-2").items() - finished.items() <= {
        ("manifest.json", (run / "checkpoint-2/manifest.json").read_bytes())
    }
    # What the run came to at first is still known, but not as its end.
    assert not (run / "summary.json").exists()
    assert json.loads((run / "summary-2.json").read_text())["steps"] == 2

    note = "note: run is not finished: these are its weights after step 4\n"
    shown = command("eval", run, "eval_prompts=2", "eval_samples=1")
    assert (shown.code, shown.err) == (0, note)
    assert shown.out.startswith("run (step 4): 2 prompts")
    answers = command("generate", "What is 2 + 3?", "--model", run, "--json")
    assert (answers.code, answers.err) == (0, note)
    newest = command("generate", "What is 2 + 3?", "--model", run / "checkpoint-4", "--json")
    assert (newest.out, newest.err) == (answers.out, "")


def test_a_finished_run_that_goes_on_is_finished_again(train, command):
    run = train("steps=2", *OPTIONS)
    assert command("train", "--resume", run, "steps=3").code == 0
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoint-2", "final_model"}
    shown = command("eval", run, "eval_prompts=2", "eval_samples=1")
    assert (shown.err, shown.out.split(":")[0]) == ("", "run (step 3)")
    assert json.loads((run / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize("save_every", [0, 2])
def test_going_on_after_the_end_is_bit_exact_however_often_it_is_stopped(train, command, stopped_after, save_every):
    options = (*OPTIONS, f"save_every={save_every}", "eval_every=2")
    whole = train("steps=6", *options, output_dir="whole")
    run = train("steps=2", *options)
    stopped_after(3)
    assert command("train", "--resume", run, "steps=6").code == 130
    stopped_after(5)
    assert command("train", "--resume", run).code == 130
    assert command("train", "--resume", run).code == 0
    assert tree(run / "final_model") == tree(whole / "final_model")
    assert (run / "completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()


def go_on_in_a_process_that_dies(at_rename: int) -> int:
    """Resume `run` in a process that is killed before it renames anything in it for the so manieth time."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    calls = itertools.count(1)

    def mortal(verb):
        def act(path, target):
            if path.parts[0] == "run" and next(calls) == at_rename:
                os.kill(os.getpid(), signal.SIGKILL)
            return verb(path, target)

        return act

    Path.rename, Path.replace = mortal(Path.rename), mortal(Path.replace)
    os._exit(main(["train", "--resume", "run", "steps=3"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_while_it_goes_on_loses_nothing(train, command):
    whole = train("steps=3", *OPTIONS, output_dir="whole")
    finished = train("steps=2", "save_every=2", *OPTIONS, output_dir="finished")
    seconds = json.loads((finished / "summary.json").read_text())["seconds"]
    for at_rename in itertools.count(1):
        shutil.copytree(finished, "run")
        ended = go_on_in_a_process_that_dies(at_rename)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        CheckpointStore(Path("run"), 3).newest()  # as the next process does, it sets aright what was left
        checkpoint = find_checkpoint(Path("run"))
        assert find_model(Path("run")) == checkpoint.path
        assert checkpoint.state.progress.step in (2, 3)
        assert checkpoint.state.progress.elapsed_s >= seconds - 1e-3
        assert list(Path("run").glob("summary*.json")) != []
        assert command("train", "--resume", "run", "steps=3").code == 0
        assert tree(Path("run/final_model")) == tree(whole / "final_model")
        shutil.rmtree("run")
    # The configuration, the manifest, the checkpoint of the same step, the final model, the summary, and at the end.
    assert at_rename > 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_before_it_removed_old_checkpoints_removes_them_when_it_goes_on(train, command):
    options = ("steps=3", "save_every=1", "keep_checkpoints=1", "eval_every=0", *OPTIONS)
    whole = train(*options, output_dir="whole")
    process = os.fork()
    if not process:
        remove = store._remove

        def mortal(checkpoint):
            if checkpoint.name == "checkpoint-2":
                os.kill(os.getpid(), signal.SIGKILL)
            remove(checkpoint)

        store._remove = mortal
        try:
            train(*options, output_dir="run")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert {path.name for path in Path("run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert command("train", "--resume", "run").code == 0
    assert {path.name for path in Path("run").iterdir()} == {path.name for path in whole.iterdir()}
    assert tree(Path("run/final_model")) == tree(whole / "final_model")


def test_what_changes_when_a_run_goes_on_is_in_the_header(train, command):
    run = train("steps=2", "learning_rate=5e-4", "rewards=strict_format,correctness")
    words = ("steps=3", "learning_rate=1", "rewards.correctness=3", "log_completions=false")
    shown = command("train", "--resume", run, *words)
    assert shown.code == 0, shown.err
    (line,) = re.findall("^changed .*", shown.out, re.MULTILINE)
    assert line == (
        "changed  rewards strict_format, correctness → strict_format, correctness ×3, learning_rate 5e-4 → 1, "
        "steps 2 → 3, log_completions true → false"
    )
    assert "\nchanged" not in command("train", "--resume", run).out


@pytest.mark.parametrize(
    ("schedule", "noted"),
    [
        ("linear", "the learning rate was 2.5e-4 in step 2 and continues at 3.3e-4, because steps changed"),
        ("cosine", "the learning rate was 2.5e-4 in step 2 and continues at 3.8e-4, because steps changed"),
        ("constant", None),
    ],
)
def test_more_steps_say_at_what_learning_rate_the_run_continues(train, command, schedule, noted):
    run = train("steps=2", "learning_rate=5e-4", f"schedule={schedule}", "warmup_steps=0")
    shown = command("train", "--resume", run, "steps=6")
    assert shown.code == 0, shown.err
    notes = re.findall("^note: (the learning rate.*?):", shown.out, re.MULTILINE)
    assert notes == ([] if noted is None else [noted])
    assert "the learning rate" not in command("train", "--resume", run, "log_completions=false").out


def test_a_run_that_saved_nothing_says_that_it_begins_again(train, command):
    run = train("steps=2", *OPTIONS)
    expected = tree(run / "final_model")
    shutil.rmtree(run / "final_model")
    shown = command("train", "--resume", run)
    assert shown.code == 0
    assert "note: the run had stopped before anything was saved, so it starts from the beginning\n" in shown.out
    assert tree(run / "final_model") == expected
    assert [line["step"] for line in lines_of(run / "metrics.jsonl")] == [1, 2]
    assert "begins again" not in command("train", "--resume", run, "steps=3").out


def test_a_run_without_a_model_is_named_with_the_newest_that_has_one(train, command, refused):
    train(output_dir="runs/older")
    train(output_dir="runs/good")
    Path("mine.py").write_text("def bad(completions):\n    raise RuntimeError('as planned')\n")
    failed = command("train", *WORDS, "rewards=mine.py:bad", "eval_at_start=false", "output_dir=runs/failed")
    assert failed.code == 1, failed
    assert refused("eval", "runs/failed") == (
        "the run runs/failed has saved no model yet: the newest run that has one is runs/good"
    )
    # It began no step, so that runs/latest still is the run before.
    assert command("eval", "runs/latest", "eval_prompts=2", "--json").code == 0
    shutil.rmtree("runs/good/final_model")
    for words in (["eval"], ["generate", "--", "What is 2 + 3?"], ["eval", "runs/good"], ["eval", "runs/latest"]):
        assert refused(*words) == (
            "the run runs/good, which runs/latest means, has saved no model yet: "
            "the newest run that has one is runs/older"
        )
    shutil.rmtree("runs/older")
    assert refused("eval").endswith("has saved no model yet: wait for its first checkpoint, or resume it")


def test_a_run_that_is_not_there_is_no_name_of_the_hub(refused, train):
    train(output_dir="runs/mine")
    for command in (["eval", "runs/mime"], ["generate", "hello", "--model", "runs/mime"]):
        assert refused(*command) == "no directory runs/mime (did you mean runs/mine?): give the directory of a run"


def test_a_run_left_with_an_older_final_model_gives_the_newer_checkpoint(train):
    run = train("steps=2", *OPTIONS)
    longer = train("steps=3", "save_every=3", *OPTIONS, output_dir="longer")
    (longer / "checkpoint-3").rename(run / "checkpoint-3")
    assert find_model(run) == run / "checkpoint-3"
    shutil.rmtree(run / "checkpoint-3")
    assert find_model(run) == run / "final_model"
    with pytest.raises(CheckpointError):
        find_model(Path("nowhere"))


def test_steps_without_spread_are_counted_over_the_whole_run(train, command):
    run = train("steps=3", *OPTIONS)
    shown = command("train", "--resume", run, "steps=4", "rewards=[{name: int, weight: 0}]")
    assert shown.code == 0, shown.err
    assert "nothing was trained" not in shown.out + shown.err


@pytest.mark.parametrize("option", ["program_kinds=add", "train_size=3"])
def test_what_rows_a_run_has_cannot_change(command, refused, option):
    shown = command("train", "code", *WORDS, "steps=1", "eval_every=0", "rewards=strict_format", "output_dir=run")
    assert shown.code == 0, shown.err
    name = option.partition("=")[0]
    assert name in refused("train", "--resume", "run", "steps=2", option)
