"""Logs with one JSON object a line, which can be cut back to a step."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpo.storage import storage_errors

__all__ = ["append_lines", "encode", "rewind_lines"]

_STEP_FIRST = re.compile(rb'\{"step": (\d+)[,}]')


def encode(value: Any, *, indent: int | None = None) -> bytes:
    """Return `value` as strict JSON in UTF-8: NaN and infinities as null, values without a JSON form as text.

    Example:
        >>> encode({"kl": float("nan"), "text": "½"}).decode()
        '{"kl": null, "text": "½"}'
    """
    text = json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # A lone surrogate has no UTF-8 form; this handler writes its JSON escape.
    return text.encode("utf-8", errors="backslashreplace")


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if hasattr(value, "tolist"):  # tensors, NumPy arrays and scalars
        return _jsonable(value.tolist())
    return str(value)


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line for each of `rows`, all or none.

    Raises:
        StorageError: the disk is full or may not be written; the file is as it was.
    """
    data = b"".join(encode(row) + b"\n" for row in rows)
    with storage_errors(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(before)
            raise


def rewind_lines(path: Path, step: int) -> None:
    """Cut `path` after the last whole line whose `step` is at most `step`; a missing file is no error.

    Lines are in rising order of steps, so the lines behind it are of later steps, or incomplete because their
    process was killed.

    Raises:
        StorageError: the file may not be written.
    """
    if not path.exists():
        return
    with storage_errors(path), path.open("rb+") as file:
        place = keep = 0
        for line in file:
            place += len(line)
            found = _step_of(line)
            if found is not None and found <= step:
                keep = place
        if keep < place:
            file.truncate(keep)
            os.fsync(file.fileno())


def _step_of(line: bytes) -> int | None:
    """Return the step of a whole line, None for anything else."""
    if not line.endswith(b"}\n"):
        return None
    if found := _STEP_FIRST.match(line):
        return int(found.group(1))
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None
