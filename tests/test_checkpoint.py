from __future__ import annotations

import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo.checkpoint import (
    CheckpointStore,
    Progress,
    TrainingState,
    checkpoint_steps,
    clear_leftovers,
    find_checkpoint,
    find_model,
    save_checkpoint,
    save_final,
)
from grpo.errors import CheckpointError, StorageError
from grpo.storage import verify_manifest


class Learner:
    """A linear model under AdamW, whose k-th update depends on k alone."""

    def __init__(self, size: int = 8) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(size, size)
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.model.weight]}, {"params": [self.model.bias], "weight_decay": 0.0}], lr=0.1
        )
        self.step = 0

    def learn(self, steps: int) -> Learner:
        for _ in range(steps):
            self.step += 1
            generator = torch.Generator().manual_seed(self.step)
            inputs = torch.randn(4, self.model.in_features, generator=generator)
            self.optimizer.zero_grad()
            self.model(inputs).square().mean().backward()
            self.optimizer.step()
        return self

    def save(self, folder: Path) -> None:
        save_file(self.model.state_dict(), folder / "model.safetensors")
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")

    def state(self, *, seconds: float = 0.0) -> TrainingState:
        progress = Progress(
            step=self.step,
            prompts_consumed=4 * self.step,
            completion_tokens=100 * self.step,
            elapsed_s=seconds,
            training_s=seconds / 2,
            evaluations=((0, {"accuracy": 0.25, "accuracy_ci95": [0.1, 0.4]}),),
            best=(0.25, 0),
        )
        return TrainingState(progress, {"learner": {"optimizer": self.optimizer.state_dict()}})

    @classmethod
    def resumed(cls, run: Path) -> Learner:
        checkpoint = find_checkpoint(run)
        learner = cls()
        learner.model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
        learner.optimizer.load_state_dict(dict(checkpoint.state.parts["learner"]["optimizer"]))
        learner.step = checkpoint.state.progress.step
        return learner


def save(run: Path, learner: Learner, *, keep_last: int = 3, is_best: bool = False) -> Path:
    return save_checkpoint(run, learner.state(), save_model=learner.save, keep_last=keep_last, is_best=is_best)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(run: Path) -> list[str]:
    return [entry.name for entry in run.iterdir() if entry.name.startswith(".")]


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    learner = Learner().learn(2)
    path = save_checkpoint(
        tmp_path,
        learner.state(seconds=1.5),
        save_model=learner.save,
        keep_last=1,
    )

    checkpoint = find_checkpoint(tmp_path)

    assert checkpoint.path == path == tmp_path / "checkpoint-2"
    state = checkpoint.state
    assert state.progress == learner.state(seconds=1.5).progress
    saved, expected = state.parts["learner"]["optimizer"], learner.optimizer.state_dict()
    assert saved["param_groups"] == expected["param_groups"]
    assert saved["state"].keys() == expected["state"].keys() == {0, 1}
    for number, moments in expected["state"].items():
        for name, value in moments.items():
            assert torch.equal(saved["state"][number][name], value)


def test_the_manifest_lists_every_file_with_size_and_checksum(tmp_path: Path) -> None:
    path = save(tmp_path, Learner().learn(1))
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert files.keys() == {"model.safetensors", "tokenizer/vocab.json", "training_state.pt"}
    assert all(files[name]["size"] == (path / name).stat().st_size for name in files)
    assert all(len(entry["sha256"]) == 64 for entry in files.values())
    assert hidden(tmp_path) == []


def test_resumed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    straight = Learner().learn(6)
    whole = save_final(tmp_path / "whole", straight.state(seconds=10.0), save_model=straight.save)

    run = tmp_path / "parts"
    run.mkdir()
    save(run, Learner().learn(3))
    second = Learner.resumed(run).learn(1)
    save(run, second)
    third = Learner.resumed(run).learn(2)
    parts = save_final(run, third.state(seconds=20.0), save_model=third.save)

    assert contents(whole) == contents(parts)
    assert contents(whole).keys() >= {"training_state.pt", "model.safetensors", "manifest.json"}


def test_only_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    learner = Learner()
    kept = []
    for step in range(1, 7):
        learner.learn(1)
        save(tmp_path, learner, keep_last=2, is_best=step in (1, 3))
        kept.append(checkpoint_steps(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6]]


def test_a_file_with_the_name_of_a_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").write_text("notes")
    (tmp_path / "checkpoint-3").mkdir()
    assert checkpoint_steps(tmp_path) == [3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_while_it_removes_old_checkpoints_leaves_no_damaged_one(tmp_path: Path) -> None:
    learner = Learner()
    for _ in range(2):
        save(tmp_path, learner.learn(1), keep_last=2)
    process = os.fork()
    if not process:
        unlink = os.unlink

        def mortal(name: str, **place: object) -> None:
            unlink(name, **place)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

        os.unlink = mortal  # type: ignore[assignment]
        try:
            save(tmp_path, learner.learn(1), keep_last=2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    for step in checkpoint_steps(tmp_path):
        verify_manifest(tmp_path / f"checkpoint-{step}")
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert CheckpointStore(tmp_path, keep_last=2).newest() is not None
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-3"}


def test_keep_last_0_keeps_all(tmp_path: Path) -> None:
    learner = Learner()
    for _ in range(4):
        save(tmp_path, learner.learn(1), keep_last=0)
    assert checkpoint_steps(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_later_checkpoint_does_not_push_out_the_one_just_saved(tmp_path: Path) -> None:
    save(tmp_path, Learner().learn(1))
    later = save(tmp_path, Learner().learn(9))
    (later / "manifest.json").unlink()
    save(tmp_path, Learner().learn(2), keep_last=1)
    assert checkpoint_steps(tmp_path) == [2, 9]
    assert find_checkpoint(tmp_path).state.progress.step == 2


def test_a_step_saved_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    learner = Learner().learn(1)
    path = save(tmp_path, learner)
    (path / "model.safetensors").write_bytes(b"damaged")
    save(tmp_path, learner)
    verify_manifest(path)
    assert hidden(tmp_path) == []


def _flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def _cut_short(path: Path) -> None:
    with (path / "training_state.pt").open("rb+") as file:
        file.truncate(100)


def _point_outside(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"size": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip_a_bit, "the checksum of model.safetensors is wrong"),
        (_cut_short, "training_state.pt has 100 bytes instead of"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json lists no files"),
        (_point_outside, "bad entry '../../secret'"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    learner = Learner()
    save(tmp_path, learner.learn(5))
    newest = save(tmp_path, learner.learn(5))
    damage(newest)
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(tmp_path)
    assert found.state.progress.step == 5
    (record,) = caplog.records
    assert f"{newest} is damaged" in record.getMessage()
    assert reason in record.getMessage()
    assert record.getMessage().endswith("falling back to step 5")


def test_without_a_usable_checkpoint_the_error_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        find_checkpoint(tmp_path)
    _flip_a_bit(save(tmp_path, Learner().learn(1)))
    with pytest.raises(CheckpointError, match=r"checksum of model\.safetensors is wrong"):
        find_checkpoint(tmp_path)


def test_a_store_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    assert store.newest() is None
    learner = Learner().learn(1)
    store.save(learner.state(), learner.save)
    newest = store.newest()
    assert newest is not None
    assert newest.state.progress.step == 1
    _flip_a_bit(newest.path)
    with pytest.raises(CheckpointError):
        store.newest()


class _Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, form: str) -> None:
    sprung = tmp_path / "sprung"

    def save_with_trap(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"")

    run = tmp_path / "run"
    path = save_checkpoint(run, Learner().state(), save_model=save_with_trap, keep_last=1)
    trapped = {"progress": {}, "optimizer": _Trap(sprung)}
    if form == "torch":
        torch.save(trapped, path / "training_state.pt")
    else:
        (path / "training_state.pt").write_bytes(pickle.dumps(trapped, protocol=2))
    _sign_again(path)

    with pytest.raises(CheckpointError, match=r"training_state\.pt cannot be read safely"):
        find_checkpoint(run)
    assert not sprung.exists()


def _sign_again(path: Path) -> None:
    """Make the manifest true, as somebody who wants us to load the file would."""
    from grpo.storage import write_manifest

    (path / "manifest.json").unlink()
    write_manifest(path, {"step": 0, "best": False})
    verify_manifest(path)


@pytest.mark.parametrize("content", [{"step": 3}, [1, 2], {"progress": {"epoch": 1}, "optimizer": {}}])
def test_a_state_of_another_kind_is_refused(tmp_path: Path, content: object) -> None:
    path = save(tmp_path, Learner())
    torch.save(content, path / "training_state.pt")
    _sign_again(path)
    with pytest.raises(CheckpointError, match="not a training state of this version"):
        find_checkpoint(tmp_path)


def test_a_state_of_the_first_format_is_read(tmp_path: Path) -> None:
    learner = Learner().learn(1)
    path = save(tmp_path, learner)
    progress = {**asdict(learner.state().progress), "lowered_budget": 300}
    old = {"progress": progress, "optimizer": learner.optimizer.state_dict(), "rewards": {"functions": {"own": 1}}}
    torch.save(old, path / "training_state.pt")
    _sign_again(path)
    state = find_checkpoint(tmp_path).state
    assert state.progress == learner.state().progress
    assert state.parts["learner"]["lowered_budget"] == 300
    assert state.parts["learner"]["optimizer"].keys() == learner.optimizer.state_dict().keys()
    assert state.parts["rewards"] == {"functions": {"own": 1}}


def test_a_state_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    learner = Learner().learn(1)
    with pytest.raises(TypeError, match="plain values and tensors only"):
        save_checkpoint(
            tmp_path,
            replace(learner.state(), parts={"learner": {"where": tmp_path}}),
            save_model=learner.save,
            keep_last=1,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_model_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, Learner().learn(1))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        save_checkpoint(tmp_path, Learner().learn(2).state(), save_model=fail, keep_last=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]


def test_leftovers_of_a_killed_process_are_removed_and_a_replaced_checkpoint_comes_back(tmp_path: Path) -> None:
    learner = Learner()
    save(tmp_path, learner.learn(1))
    save(tmp_path, learner.learn(1))
    (tmp_path / "checkpoint-2").rename(tmp_path / ".checkpoint-2.previous")
    (tmp_path / ".checkpoint-2.partial").mkdir()
    (tmp_path / ".final_model.partial").mkdir()
    (tmp_path / ".metrics.partial").mkdir()
    clear_leftovers(tmp_path)
    assert hidden(tmp_path) == [".metrics.partial"]
    assert find_checkpoint(tmp_path).state.progress.step == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    learner = Learner(size=300).learn(1)
    save(tmp_path, learner)
    moments = random.Random(0)
    for _ in range(12):
        child = os.fork()
        if child == 0:
            while True:
                save(tmp_path, learner.learn(1) if learner.step < 2 else learner, keep_last=1)
        time.sleep(moments.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        newest = CheckpointStore(tmp_path, keep_last=1).newest()
        assert newest is not None
        assert newest.state.progress.step in (1, 2)
        assert hidden(tmp_path) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [20_000, 100_000], ids=["while writing the model", "while writing the state"])
def test_a_refused_write_leaves_the_checkpoints_before_as_they_were(tmp_path: Path, limit: int) -> None:
    learner = Learner(size=100).learn(1)  # 40 kB of weights, 80 kB of moments
    save(tmp_path, learner, keep_last=1)
    before = contents(tmp_path)
    learner.learn(1)
    if limit == 100_000:
        learner.optimizer.state[learner.model.weight]["more"] = torch.zeros(100, 100)
    with largest_file(limit), pytest.raises(StorageError) as caught:
        save(tmp_path, learner, keep_last=1)
    message = str(caught.value)
    assert "checkpoint-2" in message
    assert "checkpoint-1 is intact: free some space" in message
    assert "\n" not in message
    assert contents(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_in_one_line_and_costs_nothing(small_disk: Path) -> None:
    learner = Learner(size=120).learn(1)  # 175 kB
    save(small_disk, learner, keep_last=1)
    before = contents(small_disk)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        save(small_disk, learner.learn(1), keep_last=1)
    size = sum(len(data) for data in before.values())
    assert f"(about {size / 1000:.1f} kB needed, " in str(caught.value)
    assert " kB free); checkpoint-1 is intact: free some space" in str(caught.value)
    assert contents(small_disk) == before
    with pytest.raises(StorageError, match="final_model"):
        save_final(small_disk, learner.state(), save_model=learner.save)
    assert {name: data for name, data in contents(small_disk).items() if not name.startswith(".")} == before
    assert find_checkpoint(small_disk).state.progress.step == 1


def test_a_first_checkpoint_that_does_not_fit_says_how_much_was_written(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"\(more than [\d.]+ kB needed, .* free\): free some space$"):
        save(small_disk, Learner(size=200).learn(1))
    assert list(small_disk.iterdir()) == []


def test_a_place_that_may_not_be_written_is_told_in_one_line(small_disk: Path) -> None:
    learner = Learner().learn(1)
    save(small_disk, learner)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="Read-only file system"):
        save(small_disk, learner.learn(1))
    assert find_checkpoint(small_disk).state.progress.step == 1


def test_a_finished_run_goes_on_from_its_final_model_with_its_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = Learner().learn(2)
    save(tmp_path, learner)
    learner.learn(1)
    final = save_final(tmp_path, learner.state(seconds=8.0), save_model=learner.save)
    newest = CheckpointStore(tmp_path, keep_last=1).newest()
    assert newest is not None
    assert newest.path == final
    assert newest.state.progress == learner.state(seconds=8.0).progress

    later = save(tmp_path, learner.learn(2))
    assert find_checkpoint(tmp_path).path == later
    (final / "manifest.json").unlink()
    assert find_checkpoint(tmp_path).path == later
    assert "final_model is damaged: manifest.json is missing; falling back to step 5" in caplog.text


@pytest.mark.parametrize(("best_step", "kept"), [(3, [3, 5]), (0, [5])])
def test_a_finished_run_that_continues_keeps_its_end_only_if_it_is_the_best_so_far(
    best_step: int, kept: list[int], tmp_path: Path
) -> None:
    learner = Learner().learn(3)
    state = learner.state(seconds=8.0)
    state = replace(state, progress=replace(state.progress, best=(0.5, best_step)))
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save_final(state, learner.save)
    newest = store.newest()
    assert newest is not None
    reopened = store.reopen(newest)
    assert reopened.path == tmp_path / "checkpoint-3"
    assert reopened.state.progress == state.progress
    assert find_checkpoint(tmp_path).state.progress == state.progress
    for _ in range(2):
        store.save(learner.learn(1).state(), learner.save)
    assert checkpoint_steps(tmp_path) == kept


def test_an_evaluation_that_is_only_as_good_does_not_replace_the_best() -> None:
    progress = Progress().after_evaluation({}, value=0.5, seconds=0.0)
    for value, best in ((0.5, (0.5, 0)), (0.4, (0.5, 0)), (0.6, (0.6, 3)), (0.6, (0.6, 3))):
        progress = progress.after_step(prompts=1, completion_tokens=1, seconds=0.0)
        progress = progress.after_evaluation({}, value=value, seconds=0.0)
        assert progress.best == best


def test_progress_adds_up_and_keeps_the_first_the_latest_and_the_best_evaluation() -> None:
    progress = Progress().after_evaluation({"accuracy": 0.2}, value=0.2, seconds=1.0)
    for accuracy in (0.6, 0.5):
        progress = progress.after_step(prompts=16, completion_tokens=300, seconds=2.0)
        progress = progress.after_evaluation({"accuracy": accuracy}, value=accuracy, seconds=1.0)
    progress = progress.after_evaluation({"reward": None}, value=None, seconds=0.0)
    assert (progress.step, progress.prompts_consumed, progress.completion_tokens) == (2, 32, 600)
    assert (progress.elapsed_s, progress.training_s) == (7.0, 4.0)
    assert progress.best == (0.6, 1)
    assert progress.evaluation_at(0) == {"accuracy": 0.2}
    assert progress.evaluation_at(2) == {"reward": None}
    assert [progress.evaluated_at(step) for step in (0, 1, 2)] == [True, False, True]


def test_the_model_of_a_run_is_the_final_one_or_that_of_the_newest_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckpointError):
        find_model(tmp_path)
    learner = Learner().learn(2)
    checkpoint = save(tmp_path, learner)
    assert find_model(tmp_path) == checkpoint
    final = save_final(tmp_path, learner.state(), save_model=learner.save)
    assert find_model(tmp_path) == final
    _flip_a_bit(final)
    assert find_model(tmp_path) == checkpoint
    assert "falling back to step 2" in caplog.text
