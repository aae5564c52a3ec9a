"""A resumed run is the run that began: its options, its files and its logs are compared with what was recorded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from short_runs import CHARACTERS, WORDS, lines_of, questions, write_lines

from grpo.checkpoint import CheckpointStore

RUN = ("steps=4", "save_every=2", CHARACTERS)


@pytest.fixture
def stopped(command, monkeypatch):
    """Return a function that trains until the final save, which fails as in a process that is killed there."""

    def run(*options: object) -> Path:
        def killed(*arguments: object, **more: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointStore, "save_final", killed)
            assert command("train", *WORDS, "output_dir=run", *options).code == 130
        return Path("run")

    return run


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
def test_a_config_that_was_cut_is_refused_and_left_alone(stopped, refused, part):
    run = stopped(*RUN)
    text = (run / "config.yaml").read_text()
    lines = text.splitlines(keepends=True)
    (run / "config.yaml").write_text("".join(lines[: int(part * len(lines))]))
    said = refused("train", "--resume", run)
    assert "config.yaml lacks" in said
    assert said.endswith("it was cut or edited; restore it")
    (run / "config.yaml").write_text(text)


def test_an_option_that_is_missing_is_named(stopped, refused):
    run = stopped(*RUN)
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (run / "config.yaml").write_text("".join(line for line in lines if not line.startswith("  learning_rate:")))
    assert "lacks options that the run began with (learning_rate)" in refused("train", "--resume", run)


def test_a_config_without_a_record_still_needs_its_sections(stopped, refused):
    run = stopped(*RUN)
    (run / ".record.json").unlink()
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index("optimizer:")])
    assert "config.yaml lacks the section optimizer" in refused("train", "--resume", run)


def test_an_edit_of_a_fixed_option_is_refused_and_of_another_one_is_shown(stopped, refused, command):
    run = stopped(*RUN)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("operators: +-", "operators: +"))
    said = refused("train", "--resume", run)
    assert said.startswith("operators was '+-' when the run began, and is '+' in run/config.yaml")
    edited = re.sub(r"(?m)^  learning_rate: .*$", "  learning_rate: 0.002", text)
    assert edited != text
    (run / "config.yaml").write_text(edited)
    shown = command("train", "--resume", run)
    assert shown.code == 0
    assert "changed  learning_rate 5e-4 → 2e-3" in shown.out


def test_a_damaged_record_is_one_clear_line(stopped, refused):
    run = stopped(*RUN)
    (run / ".record.json").write_text('{"options": ')
    assert ".record.json is damaged: remove it" in refused("train", "--resume", run)


def test_a_run_finds_its_rows_and_rewards_from_another_folder(stopped, command, monkeypatch, workplace):
    write_lines("rows.jsonl", [{"prompt": question} for question in questions(6)])
    shutil.copy(CHARACTERS.removeprefix("rewards=").partition(":")[0], "own.py")
    run = stopped("steps=4", "save_every=2", "train_file=rows.jsonl", "rewards=own.py:count_characters")
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    write_lines("rows.jsonl", [{"prompt": "another"}] * 6)
    Path("own.py").write_text("def count_characters(completions, **_):\n    return [9.0] * len(completions)\n")
    shown = command("train", "--resume", workplace / run)
    assert (shown.code, shown.err) == (0, "")
    assert "has been changed" not in shown.out
    rewards = [line["rewards"]["count_characters"] for line in lines_of(workplace / run / "completions.jsonl")]
    assert 9.0 not in rewards


@pytest.mark.parametrize("name", ["rows.jsonl", "own.py"])
def test_a_file_that_was_edited_or_removed_is_reported(stopped, command, workplace, name):
    write_lines("rows.jsonl", [{"prompt": question} for question in questions(6)])
    shutil.copy(CHARACTERS.removeprefix("rewards=").partition(":")[0], "own.py")
    run = stopped("steps=4", "save_every=2", "train_file=rows.jsonl", "rewards=own.py:count_characters")
    with Path(name).open("a", encoding="utf-8") as file:
        file.write("\n")
    shown = command("train", "--resume", run)
    assert shown.code == 0
    assert f"{workplace / name} has been changed since the run began" in " ".join(shown.out.split())


def test_the_last_evaluation_is_logged_once_although_the_final_save_was_cut_off(stopped, command):
    run = stopped("steps=3", "save_every=3", "eval_every=2", CHARACTERS)
    assert [line["step"] for line in lines_of(run / "eval.jsonl")] == [0, 2, 3]
    assert command("train", "--resume", run).code == 0
    assert [line["step"] for line in lines_of(run / "eval.jsonl")] == [0, 2, 3]
    assert [line["step"] for line in lines_of(run / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_log_that_is_shorter_than_the_checkpoint_is_reported(stopped, command, kept):
    run = stopped(*RUN)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:kept]))
    shown = command("train", "--resume", run)
    assert shown.code == 0
    assert f"metrics.jsonl ends at step {kept}, the checkpoint is of step 4" in " ".join(shown.out.split())
    assert json.loads((run / "summary.json").read_text())["steps"] == 4


def test_a_finished_run_that_is_resumed_says_what_to_add(train, command):
    run = train()
    shown = command("train", "--resume", run)
    assert shown.code == 0, shown.err
    assert "the run has done all of its 1 step: to train further, add a larger steps" in shown.out
    assert "--resume run steps=2" in shown.out
