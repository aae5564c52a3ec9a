"""The options and files that a run began with, kept beside its `config.yaml`: a resumed run is compared with them."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grpo.config import OPTIONS, SECTIONS, GRPOConfig, parse_options, read_settings
from grpo.errors import CheckpointError, ConfigError
from grpo.storage import expanded, read_text, sha256_of, write_atomically

__all__ = ["RunRecord", "read_run_config", "with_absolute_paths"]

_FILE = ".record.json"
_PATHS = ("train_file", "eval_file", "dataset", "tokenizer", "reference_model", "scorer_train_file")
"""Options that may name a file or folder of this machine; `model` is resolved when it is loaded."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Options and content of files at the last start or resume of a run.

    Attributes:
        options: all options by name, as `GRPOConfig.flat` has them.
        files: SHA-256 by absolute path, of data files and of files with rewards or environments.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: GRPOConfig) -> RunRecord:
        """Return the record of a configuration and of the files that it names now."""
        return cls(config.flat(), {str(file): sha256_of(file) for file in _files(config)})

    @classmethod
    def read(cls, run: Path) -> RunRecord:
        """Return the record of a run; an empty one for a run of an older version.

        Raises:
            CheckpointError: the record is damaged.
        """
        file = run / _FILE
        if not file.is_file():
            return cls()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(dict(content["options"]), dict(content["files"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(
                f"{file} is damaged: remove it to resume the run without comparing its options and files"
            ) from None

    def write(self, run: Path) -> None:
        """Write the record into a run directory."""
        write_atomically(run / _FILE, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    def changed_files(self) -> list[str]:
        """Return a line for each file whose content is no longer that of the record, or that is gone."""
        lines = []
        for name, digest in self.files.items():
            file = Path(name)
            if not file.is_file():
                lines.append(f"{name} was there when the run began, and is gone: put it back if the run still needs it")
            elif sha256_of(file) != digest:
                lines.append(
                    f"{name} has been changed since the run began: the resumed run uses it as it is now; put the old "
                    f"one back for the same run"
                )
        return lines

    def differences(self, config: GRPOConfig) -> dict[str, tuple[Any, Any]]:
        """Return the options whose values differ, as (recorded, present); a run's directory may have been moved."""
        present = config.flat()
        return {
            name: (value, present[name])
            for name, value in self.options.items()
            if name in present and present[name] != value and name != "output_dir"
        }


def read_run_config(run: Path, record: RunRecord) -> GRPOConfig:
    """Return the configuration in a run's `config.yaml`, after checking that it is whole.

    Raises:
        ConfigError: options are missing, or one that cannot change in the middle of a run is not what it was.
    """
    file = run / "config.yaml"
    nested = parse_options(read_text(file), str(file))
    if gone := [name for name in SECTIONS if name not in nested]:
        raise ConfigError(f"{file} lacks the section {gone[0]}: it was cut or edited; restore it")
    present = read_settings(nested, str(file))
    if missing := [name for name in record.options if name in OPTIONS and name not in present]:
        raise ConfigError(
            f"{file} lacks options that the run began with ({_listed(missing)}): it was cut or edited; restore it"
        )
    config = GRPOConfig(**present)
    for name, (was, now) in record.differences(config).items():
        if OPTIONS[name].known("fixed"):
            raise ConfigError(
                f"{name} was {was!r} when the run began, and is {now!r} in {file}: put it back, or start a new run"
            )
    return config


def with_absolute_paths(config: GRPOConfig) -> GRPOConfig:
    """Return the config with absolute paths of files and folders, so that the run can be resumed from anywhere."""
    values = config.flat()
    changes: dict[str, Any] = {}
    for name in _PATHS:
        if values[name] is not None and (path := expanded(values[name])).exists():
            changes[name] = _absolute(path)
    if values["environment"] != (place := _absolute_place(values["environment"])):
        changes["environment"] = place
    functions = [_with_absolute_places(_as_mapping(spec)) for spec in values["rewards"]]
    if functions != list(map(_as_mapping, values["rewards"])):
        changes["rewards"] = functions
    changes = {name: value for name, value in changes.items() if value != values[name]}
    return config.rewritten(**changes) if changes else config


def _absolute_place(name: str) -> str:
    """Return `file.py:name` and the folder of a classifier with an absolute path; any other name as it is."""
    place, separator, attribute = name.rpartition(":")
    if separator and (place.endswith(".py") or "/" in place):
        return f"{_absolute(file)}:{attribute}" if (file := expanded(place)).exists() else name
    path = expanded(name)
    return _absolute(path) if "/" in name and path.is_dir() else name


def _absolute(path: Path) -> str:
    """Return the absolute path; a link keeps its name, whose ending says how to read the file."""
    return os.path.abspath(path)  # noqa: PTH100


def _with_absolute_places(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**spec, **{key: _absolute_place(spec[key]) for key in ("name", "gate") if spec.get(key)}}


def _as_mapping(spec: Any) -> dict[str, Any]:
    return dict(spec) if isinstance(spec, Mapping) else {"name": spec}


def _files(config: GRPOConfig) -> Iterator[Path]:
    values = config.flat()
    for name in ("train_file", "eval_file"):
        if values[name] is not None and Path(values[name]).is_file():
            yield Path(values[name])
    for name in (values["environment"], *(_as_mapping(spec)["name"] for spec in values["rewards"])):
        if (file := _code_file(name)) is not None:
            yield file


def _code_file(name: str) -> Path | None:
    """Return the file that defines `file.py:name` or `package.module:name`."""
    place, separator, _ = name.rpartition(":")
    if not separator:
        return None
    if place.endswith(".py") or "/" in place:
        return Path(place) if Path(place).is_file() else None
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
