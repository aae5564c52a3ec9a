"""Output directory of a scorer's training: `unfinished/` until the end, then `best_model/`, replaced in one swap.

All files of a scorer lie in one directory, so that two renames replace an earlier scorer. After a kill between the
renames the earlier scorer is still set aside, where `standing` finds it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from grpo.errors import StorageError
from grpo.storage import disk_error

__all__ = ["BEST_MODEL", "PICTURE", "REPORT", "ScorerOutput", "replaced_directory", "scorer_storage", "standing"]

BEST_MODEL = "best_model"
REPORT = "report.json"
PICTURE = "reliability.svg"

_log = logging.getLogger(__name__)


class ScorerOutput:
    """The files of one training.

    Attributes:
        best_model: final directory of the scorer.
        unfinished: directory of the training until its end.
        candidate: directory of the best weights so far.
    """

    def __init__(self, directory: str | Path, beside: Mapping[str, str] | None = None) -> None:
        """Remember the paths; nothing is written.

        Args:
            beside: texts to write beside the weights, by file name.
        """
        self._directory = Path(directory)
        self.best_model = self._directory / BEST_MODEL
        self.unfinished = self._directory / "unfinished"
        self.candidate = self.unfinished / BEST_MODEL
        self._beside = dict(beside or {})
        self._is_new = not self._directory.exists()

    def begin(self) -> None:
        """Make an empty `unfinished/`, after recovery from a killed training.

        Raises:
            StorageError: the directory may not be written.
        """
        with scorer_storage(self._directory):
            _recover(self.best_model)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self.unfinished.mkdir(parents=True)

    def publish(self, report: str) -> None:
        """Replace an earlier scorer by the best weights, the report and the texts beside them.

        Raises:
            StorageError: they could not be written; the earlier scorer is still there.
        """
        with scorer_storage(self._directory):
            for name, text in {**self._beside, REPORT: report}.items():
                (self.candidate / name).write_text(text, encoding="utf-8")
            _swap(self.candidate, self.best_model)
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def abandon(self) -> None:
        """Keep the best weights of a training that failed and log their place; without any, remove the directories."""
        if standing(self.candidate) is not None:
            _log.warning("the training did not finish: its best weights so far are in %s", self.unfinished)
            return
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self._is_new and self._directory.is_dir() and not any(self._directory.iterdir()):
            self._directory.rmdir()


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory to write to, which replaces `directory` if no exception was raised.

    Raises:
        StorageError: it could not be written; the former content is still there.
    """
    partial = directory.parent / f".{directory.name}.partial"
    with scorer_storage(directory):
        _recover(directory)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _swap(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scorer_storage(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while a scorer is written into a StorageError, whatever wraps it.

    Raises:
        StorageError: the disk is full, or the place may not be written.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        refusal = disk_error(error)
        if refusal is None:
            raise
        raise StorageError(
            f"cannot write {path}: {refusal.strerror or refusal}; free some space or choose another directory "
            f"(scorer_dir), and train again"
        ) from error


def standing(directory: Path) -> Path | None:
    """Return `directory`, or the place where a killed swap has set it aside; None if neither exists."""
    return next((place for place in (directory, _former(directory)) if place.is_dir()), None)


def _swap(new: Path, place: Path) -> None:
    """Move the directory `new` to `place` and remove the former one; if that fails, the former one stays."""
    _recover(place)
    try:
        if place.exists():
            place.rename(_former(place))
        new.rename(place)
    except BaseException:
        _recover(place)
        raise
    shutil.rmtree(_former(place), ignore_errors=True)


def _recover(place: Path) -> None:
    """Undo a swap that was killed between its renames; remove the leftovers of one that was killed after them."""
    former = _former(place)
    if former.exists() and not place.exists():
        former.rename(place)
    shutil.rmtree(former, ignore_errors=True)


def _former(place: Path) -> Path:
    """Return the path where a swap sets aside the former directory at `place`."""
    return place.parent / f".{place.name}.former-scorer"
