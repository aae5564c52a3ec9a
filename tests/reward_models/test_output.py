"""The output directory of a training: a whole new scorer, or the earlier one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from short_trainings import QUICK, settings

from grpo.errors import StorageError
from grpo.reward_models import CTRScorer, train_scorer
from grpo.reward_models.checkpoint import best_model_of
from grpo.reward_models.output import ScorerOutput, replaced_directory


def quick(rows, directory, *, on_epoch=None, beside=None, **options):
    quickly = settings(**{**QUICK, **options})
    return train_scorer("ctr", rows, output_dir=directory, settings=quickly, on_epoch=on_epoch, beside=beside)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def place(tmp_path) -> Path:
    """A directory with something good in it."""
    directory = tmp_path / "best_model"
    directory.mkdir()
    (directory / "weights").write_text("good")
    return directory


def write_into(place: Path, text: str = "new", name: str = "weights") -> None:
    with replaced_directory(place) as partial:
        (partial / name).write_text(text)


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
    assert "did not finish: its best weights so far are in" in caplog.text
    CTRScorer(None, earlier / "unfinished")
    quick(clicks[:100], earlier)
    assert not (earlier / "unfinished").exists()


def test_the_first_training_that_is_stopped_leaves_its_best_weights_and_no_scorer(clicks, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quick(clicks[:100], tmp_path / "scorer", on_epoch=stop)
    assert [path.name for path in (tmp_path / "scorer").iterdir()] == ["unfinished"]
    assert 0 <= CTRScorer(None, tmp_path / "scorer" / "unfinished").predict("Robots are back") <= 1


def test_a_finished_training_takes_a_stale_picture_and_stale_rows_away(clicks, earlier, monkeypatch):
    (earlier / "best_model" / "reliability.svg").write_text("of other probabilities")
    monkeypatch.setattr("grpo.reward_models.train.draw_reliability", lambda bins, path: None)
    report = quick(clicks[:100], earlier, seed=3)
    best = earlier / "best_model"
    assert report.reliability is None
    assert list(earlier.iterdir()) == [best]
    assert {path.name for path in best.iterdir()} & {"reliability.svg", "rows.jsonl", "report.json"} == {"report.json"}
    assert json.loads((best / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))


def published(text: str, place: Path) -> None:
    """Publish a scorer as a finished training does, with weights of `text` in the second of two epochs."""
    output = ScorerOutput(place, {"rows.jsonl": text})
    output.begin()
    for weights in ("first", text):
        with replaced_directory(output.candidate) as partial:
            (partial / "scorer.json").write_text(weights)
    output.publish(text)


def whole(text: str) -> dict[str, bytes]:
    return {name: text.encode() for name in ("report.json", "rows.jsonl", "scorer.json")}


def test_a_swap_that_fails_is_undone_as_a_whole(tmp_path, monkeypatch):
    published("old", tmp_path)
    output = ScorerOutput(tmp_path, {"rows.jsonl": "new"})
    output.begin()
    output.candidate.mkdir()
    (output.candidate / "scorer.json").write_text("new")
    monkeypatch.setattr(Path, "rename", failing("best_model"))
    with pytest.raises(StorageError):
        output.publish("new")
    assert contents(tmp_path / "best_model") == whole("old")
    output.publish("new")
    assert contents(tmp_path / "best_model") == whole("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "best_model"]


class Killed(BaseException):
    """Stands for SIGKILL: no operation succeeds after it, not even a recovery."""


def killed_at(point: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Run work that is killed before the rename or removal number `point`; return whether there was such a one."""
    done = []

    def dying(operation):
        def attempt(*given, **named):
            if len(done) >= point:
                raise Killed
            done.append(operation)
            return operation(*given, **named)

        return attempt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr(shutil, "rmtree", dying(shutil.rmtree))
        try:
            work()
        except Killed:
            return True
    return False


def test_a_kill_at_any_point_leaves_one_whole_scorer_which_is_found_and_survives_the_next(tmp_path, monkeypatch):
    found = []
    for point in range(100):
        place = tmp_path / str(point)
        published("old", place)
        if not killed_at(point, monkeypatch, lambda place=place: published("new", place)):
            break
        for path in (place, place / "best_model"):
            best = best_model_of(path)
            assert best is not None
            assert contents(best) in (whole("old"), whole("new"))
        found.append((best / "scorer.json").read_text())
        ScorerOutput(place).begin()
        assert contents(place / "best_model") == contents(best_model_of(place)) == whole(found[-1])
        assert not list(place.glob(".*"))
    assert len(found) > 5
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}


def test_a_kill_as_better_weights_are_put_in_place_leaves_those_before(tmp_path, monkeypatch):
    candidate = ScorerOutput(tmp_path).candidate
    for point in range(100):
        shutil.rmtree(candidate.parent, ignore_errors=True)
        for text in ("good", "better"):
            is_killed = killed_at(
                point if text == "better" else 100,
                monkeypatch,
                lambda text=text: write_into(candidate, text, name="scorer.json"),
            )
        found = best_model_of(tmp_path / "unfinished")
        assert (found / "scorer.json").read_text() in ("good", "better")
        if not is_killed:
            break
    assert point > 3


def test_a_place_that_cannot_be_written_is_said_before_the_training(clicks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="scorer_dir"):
        quick(clicks[:100], tmp_path / "file" / "scorer")
