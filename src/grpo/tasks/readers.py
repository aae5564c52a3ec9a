"""Records of a source, each with its place for error messages."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from grpo.errors import DataError
from grpo.storage import expanded, require_regular_file
from grpo.tasks.hub import load_folder, load_hub
from grpo.tasks.values import is_missing, plain_value

__all__ = ["Record", "read_records"]

Record: TypeAlias = tuple[str, Any]
"""The place of a record ("questions.jsonl:12", "row 3") and the record as it was read."""

_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_LONGEST_CELL = 2**31 - 1
"""In characters; Python's own limit is 131,072."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def read_records(source: object, *, split: str | None = None, config_name: str | None = None) -> Iterator[Record]:
    """Yield the records of a file, a folder, a Hub data set, a `datasets` object or a sequence.

    Args:
        source: a path or a Hub name as text, a `Path`, a `datasets.Dataset` or `DatasetDict`, a sequence,
            a torch `Dataset` with a length, or a `pandas.DataFrame`.
        split: split of a data set that has several; None: "train". Files and sequences have no splits.
        config_name: configuration of a Hub data set that has several.

    Raises:
        DataError: the source is missing, malformed or of an unsupported type.
    """
    if isinstance(source, (str, Path)):
        path = expanded(source)
        if path.is_dir():
            source = load_folder(path, config_name=config_name, split=split or "train")
        elif path.exists() or _looks_like_a_path(source):
            return _read_file(path)
        else:
            source = load_hub(str(source), config_name=config_name, split=split or "train")
    if hasattr(source, "column_names"):
        return _read_dataset(source, split)
    if isinstance(source, (bytes, bytearray)):
        raise DataError(f"data of type {type(source).__name__}: decode it, or give a file")
    if isinstance(source, Sequence):
        return _enumerate(source)
    if hasattr(source, "iterrows") and hasattr(source, "to_dict"):  # a pandas.DataFrame
        _refuse_repeated(list(getattr(source, "columns", ())), "the DataFrame")
        return _enumerate(_without_nan(record) for record in source.to_dict("records"))
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
        return _enumerate(source[number] for number in range(len(source)))  # a torch Dataset
    raise DataError(
        f"data of type {type(source).__name__}: give a file, a Hub name, a datasets.Dataset "
        f"or a list of strings or of dictionaries"
    )


def _looks_like_a_path(source: str | Path) -> bool:
    text = str(source)
    return isinstance(source, Path) or Path(text).suffix.lower() in _SUFFIXES or not _HUB_NAME.fullmatch(text)


def _read_file(path: Path) -> Iterator[Record]:
    if not path.exists():
        raise DataError(_not_found(path))
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"file {path}: its name must end with one of {', '.join(_SUFFIXES)}")
    require_regular_file(path, DataError)
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            yield from _read_csv(path, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".json" and _first_character(path) == "[":
            yield from _read_json_array(path)
        else:
            yield from _read_json_lines(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"file {path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(
            f"file {path} cannot be read: {error.strerror or error}: check its permissions, or copy it elsewhere"
        ) from error


def _not_found(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"no file {path}: there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"no file {path}: " + (f"did you mean {folder / nearest[0]}?" if nearest else "check the path")


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        return next((line.lstrip()[0] for line in file if line.strip()), "")


def _read_json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse_json(line, f"{path}:{number}")


def _read_json_array(path: Path) -> Iterator[Record]:
    records = _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    for number, record in enumerate(records):
        yield f"{path}, row {number}", record


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"{where}: not valid JSON: {error.msg} ({line}column {error.colno}): correct it") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not usable JSON: {str(error).partition(';')[0]}: correct it") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, which json.loads would give the last of the values under a repeated key."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError(f"the key {_repeated([key for key, _ in pairs])!r} is there twice")
    return members


def _repeated(names: Sequence[Any]) -> Any:
    """Return the first name that occurs twice; None if there is none."""
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _read_csv(path: Path, delimiter: str) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(_LONGEST_CELL)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            header = list(reader.fieldnames or ())
            _refuse_repeated(header, f"{path}:1")
            for record in reader:
                where = f"{path}:{reader.line_num}"
                if None in record or None in record.values():
                    raise DataError(
                        f"{where}: the row does not have the {len(header)} fields of the header {header}: "
                        f"correct it, or quote commas"
                    )
                yield where, record
        except csv.Error as error:
            raise DataError(f"{path}:{reader.reader.line_num}: not valid CSV: {error}: correct the line") from error


def _refuse_repeated(columns: Sequence[Any], where: str) -> None:
    if (repeated := _repeated(columns)) is not None:
        raise DataError(f"{where}: column {repeated!r} occurs twice: give the columns different names")


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        _refuse_repeated(parquet.read_schema(path).names, str(path))
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"file {path}: not a Parquet file: {str(error).splitlines()[0]}: write it again, or use .jsonl"
        ) from error
    for number, record in enumerate(table.to_pylist()):
        yield f"{path}, row {number}", record


def _read_dataset(dataset: Any, split: str | None) -> Iterator[Record]:
    if isinstance(dataset, Mapping):
        split = split or "train"
        if split not in dataset:
            raise DataError(f"no split {split!r} in the data set: use one of {sorted(dataset)}")
        dataset = dataset[split]
    if not hasattr(dataset, "__len__"):
        raise DataError("a streamed data set may be endless: take a part of it as a list, list(dataset.take(10000))")
    records = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    return _enumerate(records)


def _without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a data frame, in which NaN and NA stand for null, with Python's own types."""
    plain = {column: plain_value(value) for column, value in record.items()}
    return {
        column: None if is_missing(value) and not isinstance(value, (str, list)) else value
        for column, value in plain.items()
    }


def _enumerate(records: Iterable[Any]) -> Iterator[Record]:
    return ((f"row {number}", record) for number, record in enumerate(records))
