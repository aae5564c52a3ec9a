"""Where a training writes: into `unfinished/` until it is done, then in the place of an earlier scorer, all at once.

All that belongs to a scorer lies in one directory, so that two renames put a new one in place of an earlier one. A kill
between them leaves the earlier one put aside, where `standing` finds it.
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
    """One training's files.

    Attributes:
        directory: where they are in the end.
        unfinished: where they are until then.
    """

    def __init__(self, directory: str | Path, beside: Mapping[str, str] | None = None) -> None:
        """Remember the place; nothing is written.

        Args:
            beside: texts to write beside the weights, by the names of their files.
        """
        self.directory = Path(directory)
        self.unfinished = self.directory / "unfinished"
        self._beside = dict(beside or {})
        self._is_new = not self.directory.exists()

    @property
    def best_model(self) -> Path:
        """Where the scorer is in the end."""
        return self.directory / BEST_MODEL

    @property
    def candidate(self) -> Path:
        """Where the best weights so far go."""
        return self.unfinished / BEST_MODEL

    def begin(self) -> None:
        """Make an empty `unfinished/`; what a killed training left is put right or removed.

        Raises:
            StorageError: the directory may not be written.
        """
        with scorer_storage(self.directory):
            _recover(self.best_model)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self.unfinished.mkdir(parents=True)

    def publish(self, report: str) -> None:
        """Put the best weights, the report and the rest in the place of an earlier training's.

        Raises:
            StorageError: they could not be written; the earlier ones are still there.
        """
        with scorer_storage(self.directory):
            for name, text in {**self._beside, REPORT: report}.items():
                (self.candidate / name).write_text(text, encoding="utf-8")
            _swap(self.candidate, self.best_model)
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def abandon(self) -> None:
        """Say where the best weights of a training are that did not come to its end; without any, leave nothing."""
        if standing(self.candidate) is not None:
            _log.warning("the training did not come to its end: its best weights so far are in %s", self.unfinished)
            return
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self._is_new and self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Give an empty directory to write to, which takes the place of `directory` if all went well.

    Raises:
        StorageError: it could not be written; what was there is still there.
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
    """Turn the operating system's refusal to write a scorer, whoever passes it on, into a StorageError.

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
    """Return where that is which belongs at `directory`: there, or where a swap that was killed has put it aside; None:
    nowhere."""
    return next((place for place in (directory, _former(directory)) if place.is_dir()), None)


def _swap(new: Path, place: Path) -> None:
    """Move the directory `new` to `place`, and remove what was there; if that fails, what was there stays."""
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
    """Undo a swap that was stopped between its renames; forget what one has put aside that was stopped after them."""
    former = _former(place)
    if former.exists() and not place.exists():
        former.rename(place)
    shutil.rmtree(former, ignore_errors=True)


def _former(place: Path) -> Path:
    """Return where what is at `place` is put aside for the moment of a swap."""
    return place.parent / f".{place.name}.former-scorer"
