"""Where a training writes: into `unfinished/` until it is done, then in the place of an earlier scorer, all at once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from grpo.errors import StorageError
from grpo.storage import disk_error

__all__ = ["BEST_MODEL", "PICTURE", "REPORT", "ScorerOutput", "replaced_directory", "scorer_storage"]

BEST_MODEL = "best_model"
REPORT = "report.json"
PICTURE = "reliability.svg"

_FORMER = ".{}.former-scorer"
"""What is called so has been put aside for the moment of a swap."""

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
            beside: texts to write beside the scorer, by the names of their files.
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
            _recover(self.directory)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self.unfinished.mkdir(parents=True)

    def publish(self, report: str) -> None:
        """Put the best weights, the report and the rest in the place of an earlier training's.

        Raises:
            StorageError: they could not be written; the earlier ones are still there.
        """
        with scorer_storage(self.directory):
            for name, text in {**self._beside, REPORT: report}.items():
                (self.unfinished / name).write_text(text, encoding="utf-8")
            new = sorted(path.name for path in self.unfinished.iterdir() if path.name != BEST_MODEL)
            # A picture of earlier probabilities says nothing of these.
            _swap(self.unfinished, self.directory, [BEST_MODEL, *new], stale=[PICTURE])
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def abandon(self) -> None:
        """Say where the best weights of a training are that did not come to its end; without any, leave nothing."""
        if self.candidate.is_dir():
            _log.warning("the training did not come to its end: its best weights so far are in %s", self.candidate)
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
    parent, name = directory.parent, directory.name
    partial = parent / f".{name}.partial"
    with scorer_storage(directory):
        _recover(parent, name)
        shutil.rmtree(partial, ignore_errors=True)
        (partial / name).mkdir(parents=True)
        try:
            yield partial / name
            _swap(partial, parent, [name])
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


def _swap(source: Path, place: Path, names: Sequence[str], stale: Sequence[str] = ()) -> None:
    """Move `names` from `source` to `place`, in place of those and of `stale` ones there: all, or none.

    The first name is the one by which `_recover` sees whether a killed swap had happened.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for name in dict.fromkeys((*names, *stale)):
            if (place / name).exists():
                _move(place / name, _former(place, name), moved)
        for name in names:
            _move(source / name, place / name, moved)
    except BaseException:
        for before, now in reversed(moved):
            now.rename(before)
        raise
    _remove_formers(place)


def _move(path: Path, to: Path, moved: list[tuple[Path, Path]]) -> None:
    path.rename(to)
    moved.append((path, to))


def _recover(place: Path, first: str = BEST_MODEL) -> None:
    """Undo a swap that was killed before the first name was in place; forget what any other has put aside."""
    if not place.is_dir():
        return
    if not (place / first).exists() and _former(place, first).exists():
        for former in place.glob(_FORMER.format("*")):
            former.rename(place / former.name.removeprefix(".").removesuffix(".former-scorer"))
    _remove_formers(place)


def _remove_formers(place: Path) -> None:
    for former in place.glob(_FORMER.format("*")):
        if former.is_dir():
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.unlink(missing_ok=True)


def _former(place: Path, name: str) -> Path:
    return place / _FORMER.format(name)
