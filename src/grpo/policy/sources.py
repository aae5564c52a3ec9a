"""Location of a model's files: `tiny`, a directory, a run's directory, or the Hub."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from grpo.checkpoint import checkpoint_steps, find_model
from grpo.errors import CheckpointError, ModelError
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.storage import expanded, require_plain_entries

__all__ = ["ModelSource", "find_source", "is_hub_name"]

_RUNS = "runs"
"""Folder that runs are written to; a name that begins with it is never looked up on the Hub."""

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

HUB_TIMEOUT_S = 10.0

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Patterns of the files that are fetched from the Hub, none of which can hold code."""

OTHER_FILES = ["*/*", "consolidated*"]
"""Weights in other formats, which some repositories carry beside the ordinary ones."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's files on this machine.

    Attributes:
        name: what to load it by again: `tiny`, a Hub id or an absolute path.
        directory: where its files are.
        base: name of the base model if `directory` holds an adapter; None otherwise.
    """

    name: str
    directory: Path
    base: str | None = None

    @property
    def loadable_name(self) -> str:
        """The name as transformers and PEFT understand it, which do not know `tiny`."""
        return str(self.directory) if self.name == "tiny" else self.name


def find_source(model: str | Path, *, revision: str | None = None) -> ModelSource:
    """Return the location of `model`, after fetching it from the Hub if necessary.

    Args:
        model: "tiny", a model's or adapter's directory, a run's directory (its `final_model`, else its newest
            checkpoint), or a Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        ModelError: there is no such model, all of a run's are damaged, or the Hub cannot be reached and it is
            not in the cache.
    """
    name = str(model)
    if name == "tiny":
        return ModelSource("tiny", TINY_DIRECTORY)
    path = expanded(name)
    if path.is_dir():
        return _local(path)
    if path.exists():
        raise ModelError(f"{name} is a file: give the directory that holds config.json")
    # An adapter of the embedded model that was saved on another machine, or under another version of Python.
    if path.parts[-3:] == TINY_DIRECTORY.parts[-3:]:
        return ModelSource("tiny", TINY_DIRECTORY)
    if path.parent.name == _RUNS:
        raise ModelError(f"no directory {name}{_did_you_mean(path)}: give the directory of a run")
    if not is_hub_name(name):
        raise ModelError(f"no directory {name}{_did_you_mean(path)}: give a model's directory, a Hub id or 'tiny'")
    return _from_hub(name, revision)


def is_hub_name(name: str) -> bool:
    """Return whether the Hub could have a model of that name; the folder `runs` is none of its organisations."""
    return bool(HUB_NAME.fullmatch(name)) and not name.startswith(".") and Path(name).parent.name != _RUNS


def _local(place: Path) -> ModelSource:
    directory = place.resolve()
    if directory == TINY_DIRECTORY.resolve():
        return ModelSource("tiny", TINY_DIRECTORY)
    if not _holds_model(directory):
        try:
            directory = find_model(directory).resolve()
        except CheckpointError as error:
            if _saved_models(directory):
                raise ModelError(str(error)) from error
            raise ModelError(_nothing_saved(place)) from error
    require_plain_entries(directory, ModelError)
    return ModelSource(str(directory), directory, _adapter_base(directory))


def _saved_models(run: Path) -> list[Path]:
    """Return the folders in which a run has saved a model, damaged or not."""
    found = [run / f"checkpoint-{step}" for step in checkpoint_steps(run)] if run.is_dir() else []
    return [*found, *(final for final in [run / "final_model"] if final.is_dir())]


def _nothing_saved(place: Path) -> str:
    """Return the error message for a directory without a model; for a run, name another run that has one."""
    if not (place / "config.yaml").is_file():
        return f"{place} holds no model: no config.json, adapter_config.json, final_model/ or checkpoint-*/"
    directory = place.resolve()
    folder = place.parent if place.name not in ("", "..") else directory.parent
    latest = directory.parent / "latest"
    meant = latest.read_text(encoding="utf-8").strip() if latest.is_file() else latest.resolve().name
    also = ", which runs/latest means," if folder.name == _RUNS and meant == directory.name else ""
    others = {
        run.name: max(model.stat().st_mtime for model in found)
        for run in directory.parent.iterdir()
        if not run.is_symlink() and (run / "config.yaml").is_file() and (found := _saved_models(run))
    }
    advice = "wait for its first checkpoint, or resume it"
    if others:
        advice = f"the newest run that has one is {folder / max(others, key=others.__getitem__)}"
    return f"the run {folder / directory.name}{also} has saved no model yet: {advice}"


def _holds_model(directory: Path) -> bool:
    return (directory / "config.json").is_file() or (directory / "adapter_config.json").is_file()


def _adapter_base(directory: Path) -> str | None:
    """Return the base that the adapter in `directory` names; None if it holds no adapter."""
    file = directory / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not base:
        raise ModelError(f"{file} names no base model: set base_model_name_or_path in it")
    return str(base)


def _from_hub(name: str, revision: str | None) -> ModelSource:
    """Return the model's newest files, or those in the cache when the Hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    online = True
    try:
        # One request first: a download would retry for minutes.
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError as error:
        raise ModelError(
            f"the model {name} is gated: accept its terms on the Hub and log in with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{name!r} is neither a directory nor a Hub id{_did_you_mean(Path(name))}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            at = f" at revision {revision!r}" if revision else ""
            raise ModelError(
                f"no model {name!r}{at}: it is neither a directory nor on the Hub{_did_you_mean(Path(name))}"
            ) from error
        online = False
    # The exceptions of the HTTP client without a network.
    except Exception:
        online = False
    try:
        directory = snapshot_download(
            name, revision=revision, allow_patterns=FILES, ignore_patterns=OTHER_FILES, local_files_only=not online
        )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"no model {name!r}: it is no directory, not in the cache, and the Hub cannot be reached"
            f"{_did_you_mean(Path(name))}; use 'tiny', a directory, or go online once"
        ) from error
    if not _holds_model(Path(directory)):
        raise ModelError(f"the Hub's {name} holds no model: it has neither config.json nor adapter_config.json")
    return ModelSource(name, Path(directory), _adapter_base(Path(directory)))


def _did_you_mean(path: Path) -> str:
    """Return " (did you mean …?)" with the nearest directory names beside `path`; empty if none is near."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        siblings = []
    if str(path.parent) == ".":
        siblings.append("tiny")
    near = difflib.get_close_matches(path.name, siblings, n=3)
    names = [name if name == "tiny" else str(path.parent / name) for name in near]
    return f" (did you mean {' or '.join(names)}?)" if names else ""
