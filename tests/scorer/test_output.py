"""What a training leaves on the disk: all of it, or what was there before."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from grpo.errors import StorageError
from grpo.scorer import CTRScorer, ScorerSettings, train_ctr_scorer
from grpo.scorer.output import ScorerOutput, replaced_directory

QUICK = {"epochs": 1, "device": "cpu", "dtype": "float32", "lora_rank": 4}


def quick(rows, directory, *, on_epoch=None, beside=None, **options):
    settings = ScorerSettings(**{**QUICK, **options})
    return train_ctr_scorer(rows, output_dir=directory, settings=settings, on_epoch=on_epoch, beside=beside)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def place(tmp_path) -> Path:
    """A directory with something good in it."""
    directory = tmp_path / "best_model"
    directory.mkdir()
    (directory / "weights").write_text("good")
    return directory


def write_into(place: Path, text: str = "new") -> None:
    with replaced_directory(place) as partial:
        (partial / "weights").write_text(text)


def test_a_directory_is_replaced_and_nothing_else_remains(place):
    write_into(place)
    assert contents(place.parent) == {"best_model/weights": b"new"}


def failing(name: str):
    """Return a `rename` that refuses to put anything at a path of that name the first time."""
    rename, failed = os.rename, []

    def refuse(path, target):
        if Path(target).name == name and not failed:
            failed.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(path, target)

    return refuse


def test_if_the_new_one_cannot_be_put_in_place_the_old_one_is_put_back(place, monkeypatch):
    monkeypatch.setattr(Path, "rename", failing("best_model"))
    with pytest.raises(StorageError, match=r"No space left on device; free some space .*, and train again"):
        write_into(place)
    assert contents(place.parent) == {"best_model/weights": b"good"}


def test_what_a_kill_between_the_two_renames_left_is_put_back_first(place):
    place.rename(place.parent / ".best_model.former-scorer")
    with pytest.raises(ZeroDivisionError), replaced_directory(place):
        raise ZeroDivisionError
    assert contents(place.parent) == {"best_model/weights": b"good"}


def test_a_full_disk_that_another_package_reports_is_a_storage_error(place):
    with pytest.raises(StorageError, match="No space left"), replaced_directory(place):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert contents(place.parent) == {"best_model/weights": b"good"}


@pytest.fixture
def earlier(clicks, tmp_path) -> Path:
    """The directory of a finished training."""
    quick(clicks[:100], tmp_path / "scorer", beside={"rows.jsonl": "old"})
    return tmp_path / "scorer"


def stop(_):
    raise KeyboardInterrupt


def test_a_training_that_is_stopped_leaves_the_earlier_scorer_with_its_report(clicks, earlier, caplog):
    before = contents(earlier)
    with pytest.raises(KeyboardInterrupt):
        quick(clicks[:100], earlier, seed=3, on_epoch=stop)
    unfinished = {name: value for name, value in contents(earlier).items() if name.startswith("unfinished/")}
    assert contents(earlier) == before | unfinished
    assert "did not come to its end: its best weights so far are in" in caplog.text
    CTRScorer(None, earlier / "unfinished")
    quick(clicks[:100], earlier)
    assert not (earlier / "unfinished").exists()


def test_the_first_training_that_is_stopped_leaves_its_best_weights_and_no_scorer(clicks, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quick(clicks[:100], tmp_path / "scorer", on_epoch=stop)
    assert [path.name for path in (tmp_path / "scorer").iterdir()] == ["unfinished"]
    assert 0 <= CTRScorer(None, tmp_path / "scorer" / "unfinished").predict("Robots are back") <= 1


def test_a_finished_training_takes_a_stale_picture_away(clicks, earlier, monkeypatch):
    (earlier / "reliability.svg").write_text("of other probabilities")
    monkeypatch.setattr("grpo.scorer.training.draw_reliability", lambda bins, path: None)
    report = quick(clicks[:100], earlier, seed=3, beside={"rows.jsonl": "new"})
    assert report.reliability is None
    assert sorted(path.name for path in earlier.iterdir()) == ["best_model", "report.json", "rows.jsonl"]
    assert (earlier / "rows.jsonl").read_text() == "new"
    assert json.loads((earlier / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))


@pytest.mark.parametrize("name", ["best_model", "report.json", "rows.jsonl"])
def test_a_swap_that_fails_midway_is_undone_as_a_whole(clicks, earlier, monkeypatch, name):
    before = contents(earlier)
    output = ScorerOutput(earlier, {"rows.jsonl": "new"})
    output.begin()
    (output.candidate).mkdir()
    (output.candidate / "weights").write_text("new")
    monkeypatch.setattr(Path, "rename", failing(name))
    with pytest.raises(StorageError):
        output.publish("{}")
    assert {name: value for name, value in contents(earlier).items() if "unfinished" not in name} == before
    output.publish("{}")
    assert contents(earlier) == {"best_model/weights": b"new", "report.json": b"{}", "rows.jsonl": b"new"}


def test_a_place_that_cannot_be_written_is_said_before_the_training(clicks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="scorer_dir"):
        quick(clicks[:100], tmp_path / "file" / "scorer")
