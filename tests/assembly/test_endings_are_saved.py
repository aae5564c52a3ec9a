"""Every ending that can save does, and names the command that continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import CHARACTERS, WORDS, lines_of, quick, tree

from grpo import GRPOTrainer
from grpo import trainer as trainer_module
from grpo.checkpoint import CheckpointStore
from grpo.errors import RewardError, RunError, StaleWeightsError, remedies_of
from grpo.rewards import RewardSuite
from grpo.tracking import read_failure
from grpo.update import Learner

OPTIONS = ("steps=4", "group_size=3", CHARACTERS)


def fails_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int, error: Exception) -> None:
    """Let a method raise in its call of this number."""
    calls: list[int] = []
    method = getattr(owner, name)

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise error
        return method(self, *arguments, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (RewardSuite, "conclude", RewardError("the judge is lost")),
        (Learner, "_epoch", RunError("the loss is not a number")),
        (Learner, "_epoch", StaleWeightsError("the sampler has other weights")),
        (Learner, "advantages", ZeroDivisionError("a fault of the program")),
    ],
)
def test_a_failure_saves_the_steps_before_it_and_the_resumed_run_ends_the_same(train, command, owner, name, error):
    whole = train(*OPTIONS, output_dir="whole")
    with pytest.MonkeyPatch.context() as patch:
        # Evaluation before the run is the first call of `conclude`.
        fails_at(patch, owner, name, 4 if name == "conclude" else 3, error)
        shown = command("train", *WORDS, *OPTIONS, "output_dir=run")
    assert shown.code == 1
    # The reason and the way to continue are the last line.
    assert shown.err.count("\n") == 1
    assert str(error) in shown.err
    assert shown.err.endswith("; saved after step 2; resume with: grpo train --resume run\n")
    assert "saved after" not in shown.out
    assert read_failure(Path("run")).step == 2
    assert str(error) in read_failure(Path("run")).error
    assert Path("run/checkpoint-2").is_dir()
    assert command("train", "--resume", "run").code == 0
    assert read_failure(Path("run")) is None
    assert tree(Path("run/final_model")) == tree(whole / "final_model")
    assert Path("run/completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()
    assert [line["step"] for line in lines_of("run/metrics.jsonl")] == [1, 2, 3, 4]


def test_the_state_of_a_reward_is_that_of_the_finished_step(train, command, monkeypatch):
    options = ("steps=4", "group_size=3", "rewards=[{name: own.py:characters, normalise: running}]")
    Path("own.py").write_text(
        "def characters(completions, **_):\n    return [float(len(text)) for text in completions]\n"
    )
    whole = train(*options, output_dir="whole")
    with monkeypatch.context() as patch:
        fails_at(patch, Learner, "pack", 3, RunError("after the rewards"))
        assert command("train", *WORDS, *options, "output_dir=run").code == 1
    assert command("train", "--resume", "run").code == 0
    assert tree(Path("run/final_model")) == tree(whole / "final_model")


def test_weights_that_have_moved_since_the_last_step_are_not_saved_as_its_own(command, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at(patch, Learner, "_epoch", 6, RunError("in the second epoch of the third step"))
        shown = command("train", *WORDS, *OPTIONS, "epochs_per_step=2", "output_dir=run")
    assert shown.code == 1
    assert "saved after" not in shown.out + shown.err
    assert not list(Path("run").glob("checkpoint-*"))


def test_a_failure_before_the_first_step_saves_nothing(command, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at(patch, Learner, "pack", 1, RunError("at once"))
        shown = command("train", *WORDS, *OPTIONS, "output_dir=runs/failed")
    assert (shown.code, shown.err) == (1, "error: at once\n")
    assert read_failure(Path("runs/failed")).remedy == "nothing is saved: correct the cause and start again"
    assert not Path("runs/latest").exists()


def test_a_rescue_that_fails_shows_the_first_error(command, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at(patch, CheckpointStore, "save", 1, OSError("no space"))
        fails_at(patch, Learner, "pack", 3, RunError("the first error"))
        shown = command("train", *WORDS, *OPTIONS, "output_dir=run")
    assert shown.code == 1
    assert "the first error" in shown.err
    assert "no space" not in shown.err


def test_a_run_that_has_saved_nothing_for_long_saves_a_checkpoint(train, monkeypatch):
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    run = train(*OPTIONS)
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3", "checkpoint-4"}


def test_a_run_from_python_is_told_how_to_resume_it_there(monkeypatch):
    def length(completions, **_):
        return [float(len(text)) for text in completions]

    rows = [{"prompt": f"What is {number} + 1?"} for number in range(6)]
    trainer = GRPOTrainer("tiny", quick(steps=4), train_dataset=rows, rewards=length)
    with monkeypatch.context() as patch:
        fails_at(patch, Learner, "pack", 3, RunError("in the third step"))
        with pytest.raises(RunError, match="in the third step") as caught:
            trainer.train()
    # A traceback ends with it.
    assert remedies_of(caught.value) == [
        "saved after step 2; resume with: GRPOTrainer(train_dataset=…, rewards=…).train(resume_from='run')"
    ]
