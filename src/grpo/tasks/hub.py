"""Loading of data sets from the Hub or from a folder with the `datasets` package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo.errors import DataError, first_line

__all__ = ["load_folder", "load_hub"]

_PROBE_TIMEOUT_S = 5.0


def load_hub(name: str, *, config_name: str | None, split: str) -> Any:
    """Return a split of a Hub data set; without a network, the copy of an earlier download.

    Raises:
        DataError: there is no such data set, configuration or split, or neither a network nor a local copy.
    """
    if _hub_answers():
        return _load(name, config_name, split)
    try:
        with _offline():
            return _load(name, config_name, split)
    except DataError as error:
        wanted = f"split {split!r}" + (f" of configuration {config_name!r}" if config_name else "")
        raise DataError(
            f"data set {name!r}: the Hub cannot be reached and no downloaded copy has {wanted}: "
            f"check the network, or give a local .jsonl, .json, .csv or .parquet file"
        ) from error


def load_folder(folder: Path, *, config_name: str | None, split: str) -> Any:
    """Return a split of a data set in a folder, saved by `save_to_disk` or as data files.

    Raises:
        DataError: the folder holds no data set, or not that split.
    """
    import datasets

    if not any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json")):
        with _offline():
            return _load(str(folder), config_name, split)
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(
            f"data set in {folder}: {first_line(error)}: check its files, or name one of them as train_file"
        ) from error


def _load(name: str, config_name: str | None, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config_name, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"no data set {name!r} on the Hub, or no access to it: check its name (owner/name), "
            f"log in for a private one, or give a local file"
        ) from error
    except Exception as error:  # its own errors and those of the installed HTTP client
        raise DataError(
            f"data set {name!r} (configuration {config_name}, split {split}): {first_line(error)}: "
            f"check dataset_config and train_split"
        ) from error


def _hub_answers() -> bool:
    """Return whether the Hub's address answers.

    Without this probe, the Hub's own client would retry for half a minute before it reports a missing network.
    """
    import datasets
    from huggingface_hub import constants, get_session

    if datasets.config.HF_HUB_OFFLINE or constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except Exception:  # the HTTP client of the Hub's package, and so its errors, depend on the version
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Restrict `datasets` to its cache, without the progress bars of downloads."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
        if had_bars:
            datasets.enable_progress_bars()
