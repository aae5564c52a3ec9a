"""Training rows of scorers, checked one by one: texts with labels, and pairs of a better and a worse answer."""

from __future__ import annotations

import difflib
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from grpo.errors import DataError
from grpo.seeding import derive_seed
from grpo.tasks.messages import read_messages
from grpo.tasks.readers import read_records
from grpo.tasks.rows import read_prompt
from grpo.tasks.shapes import SHAPE_COLUMNS, recognise
from grpo.tasks.values import plain_value
from grpo.types import Message

__all__ = ["ScorerKind", "ScorerRow", "hold_out", "read_scorer_rows", "split_rows"]

ScorerKind: TypeAlias = Literal["ctr", "pair"]

ScorerRow: TypeAlias = dict[str, Any]
"""`{"text": str, "label": 0 | 1}`, or `{"prompt", "chosen", "rejected"}`, some with `"margin"`."""

_log = logging.getLogger(__name__)


def read_scorer_rows(kind: ScorerKind, source: object) -> list[ScorerRow]:
    """Return the rows of a source.

    Args:
        kind: "ctr": rows have the columns `text` and `label`. "pair": rows have the columns `prompt`, `chosen` and
            `rejected`, some also `margin`. A prompt is read as in training: a text, a list of chat messages, or,
            without that column, a conversation or an instruction (`grpo.tasks.shapes`). An answer is a text or, after
            a prompt of messages, a message or a list of messages.
        source: a .jsonl, .json, .csv, .tsv or .parquet file, a Hub data set, a `datasets.Dataset` or a sequence
            of mappings.

    Raises:
        DataError: the source is missing, malformed or empty; a column is missing or unknown; a text is empty; a label
            is neither 0 nor 1, or all labels are equal; both answers of a pair are equal; a margin is negative.
    """
    columns = _COLUMNS[kind]
    rows = []
    for place, found in read_records(source):
        record = _with_prompt(found, place) if kind == "pair" else found
        _check_columns(record, place, columns)
        rows.append(columns.checked(record, place))
    _check_rows(kind, rows, str(source) if isinstance(source, (str, Path)) else "the data set")
    return rows


def hold_out(
    kind: ScorerKind, rows: Sequence[ScorerRow], holdout: float, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows); the same rows and seed give the same split.

    No text is in both. No prompt is in both, or, if all rows have one prompt, no pair.

    Args:
        holdout: share (below 1) or number (from 1) of rows to hold out; a few more if texts repeat.

    Raises:
        DataError: too many rows are asked for, or the labels of one part are all equal.
    """
    wanted = int(holdout) if holdout >= 1 else max(1, round(holdout * len(rows)))
    groups = [_COLUMNS[kind].group(row) for row in rows]
    if kind == "pair" and len(set(groups)) == 1:
        groups = [repr((row["chosen"], row["rejected"])) for row in rows]
    counts = Counter(groups)
    order = list(counts)
    random.Random(derive_seed(seed, "scorer", "holdout")).shuffle(order)
    chosen: set[str] = set()
    taken = 0
    for group in order:
        if taken >= wanted:
            break
        chosen.add(group)
        taken += counts[group]
    if len(chosen) == len(order):
        raise DataError(
            f"{wanted} rows cannot be held out of {len(rows)} with {len(order)} different texts: "
            f"lower scorer_holdout or give more rows"
        )
    train = [row for row, group in zip(rows, groups, strict=True) if group not in chosen]
    held_out = [row for row, group in zip(rows, groups, strict=True) if group in chosen]
    _check_rows(kind, train, "the training part of the rows")
    _check_rows(kind, held_out, "the held-out part of the rows")
    return train, held_out


def split_rows(
    kind: ScorerKind, rows: Sequence[ScorerRow], held_out: Sequence[ScorerRow] | None, holdout: float, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows): `rows` without those in `held_out`; if that is None, as `hold_out`.

    Raises:
        DataError: as `hold_out`, or no row is left to train on.
    """
    if held_out is None:
        return hold_out(kind, rows, holdout, seed)
    identity = _COLUMNS[kind].identity
    kept_apart = set(map(identity, held_out))
    train = [row for row in rows if identity(row) not in kept_apart]
    if not train:
        raise DataError(f"all {len(rows)} training rows are held-out rows as well: give others to evaluate on")
    if len(train) < len(rows):
        message = "%d of %d training rows are held-out rows as well: they are not trained on"
        _log.warning(message, len(rows) - len(train), len(rows))
    _check_rows(kind, train, "the rest of the training rows")
    return train, list(held_out)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of one kind of rows.

    Attributes:
        checked: returns a record as row; raises a DataError that names the record's place.
        group: returns the part of a row that must not be both in the training rows and in the held-out rows.
        identity: equal for two rows of which one is held out and the other must not be trained on.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    checked: Callable[[Mapping[str, Any], str], ScorerRow]
    group: Callable[[ScorerRow], str]
    identity: Callable[[ScorerRow], str]


_LABELS: Mapping[object, int] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


def _click_row(record: Mapping[str, Any], place: str) -> ScorerRow:
    text, label = record["text"], record["label"]
    _check_text(text, "text", place)
    if not isinstance(label, Hashable) or label not in _LABELS:
        raise DataError(f"{place}: the label is {_shown(label)}: use 1 for clicked and 0 for not clicked")
    return {"text": text, "label": _LABELS[label]}


def _pair_row(record: Mapping[str, Any], place: str) -> ScorerRow:
    prompt = read_prompt(plain_value(record["prompt"]), place)
    is_chat = not isinstance(prompt, str)
    row: ScorerRow = {"prompt": list(prompt) if is_chat else prompt}
    for name in ("chosen", "rejected"):
        answer = plain_value(record[name])
        if is_chat and isinstance(answer, (list, Mapping)):
            row[name] = _answer_messages(answer, name, place)
        else:
            _check_text(answer, name, place)
            row[name] = answer
    if _conversation(row["chosen"]) == _conversation(row["rejected"]):
        raise DataError(f"{place}: chosen and rejected are equal: a pair needs a better and a worse answer")
    if record.get("margin") not in (None, ""):
        row["margin"] = _margin(record["margin"], place)
    return row


_COLUMNS: Mapping[ScorerKind, _Columns] = MappingProxyType(
    {
        "ctr": _Columns(
            needed=("text", "label"),
            optional=(),
            checked=_click_row,
            group=lambda row: str(row["text"]),
            identity=lambda row: str(row["text"]).strip(),
        ),
        "pair": _Columns(
            needed=("prompt", "chosen", "rejected"),
            optional=("margin",),
            checked=_pair_row,
            group=lambda row: repr(row["prompt"]),
            identity=lambda row: repr([row["prompt"], row["chosen"], row["rejected"]]),
        ),
    }
)


def _check_rows(kind: ScorerKind, rows: Sequence[ScorerRow], name: str) -> None:
    """Raise a DataError if there are no rows, or all labels are equal."""
    if not rows:
        raise DataError(f"{name} is empty: it needs rows with {_listed(_COLUMNS[kind].needed)}")
    labels = {row["label"] for row in rows} if kind == "ctr" else set()
    if len(labels) == 1:
        raise DataError(f"{name} has one class only, all {len(rows)} labels are {labels.pop()}: give both 0 and 1")


def _check_columns(record: Any, place: str, columns: _Columns) -> None:
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: {_shown(record)} where an object with {_listed(columns.needed)} is needed")
    there = sorted(map(str, record))
    for name in columns.needed:
        if name not in record:
            raise DataError(
                f"{place}: no column {name!r}, there are {there}: name the columns {_listed(columns.needed)}"
            )
    allowed = (*columns.needed, *columns.optional)
    for name in there:
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "leave it out"
            raise DataError(f"{place}: unknown column {name!r}, a row has {_listed(allowed)}: {hint}")


def _check_text(value: Any, name: str, place: str) -> None:
    if not isinstance(value, str):
        raise DataError(f"{place}: the {name} is {_shown(value)}: use a text")
    if not value.strip():
        raise DataError(f"{place}: the {name} is empty: fill it in, or leave the row out")


def _with_prompt(record: Any, place: str) -> Any:
    """Return a record of another shape with a column `prompt` in place of those of its shape; any other as it is."""
    if not isinstance(record, Mapping) or "prompt" in record:
        return record
    asked = recognise({name: plain_value(record[name]) for name in record if name in SHAPE_COLUMNS}, place)
    if asked is None:
        return record
    return {"prompt": asked.prompt, **{name: value for name, value in record.items() if name not in SHAPE_COLUMNS}}


def _answer_messages(value: Any, name: str, place: str) -> list[Message]:
    messages = list(read_messages([value] if isinstance(value, Mapping) else value, f"{place}, {name}"))
    if not messages or not messages[-1].get("tool_calls"):
        _check_text(messages[-1]["content"] if messages else "", name, place)
    return messages


def _margin(value: Any, place: str) -> float:
    try:
        margin = float(value)
    except (TypeError, ValueError, OverflowError):
        margin = math.nan
    if isinstance(value, bool) or not 0 <= margin < math.inf:
        raise DataError(f"{place}: the margin is {_shown(value)}: use a number from 0 on")
    return margin


def _conversation(answer: Any) -> list[tuple[str, str, Any]]:
    """Return an answer as (role, text without blanks around it, calls), equal for a text and its only message."""
    if isinstance(answer, str):
        return [("assistant", answer.strip(), None)]
    return [(message["role"], message["content"].strip(), message.get("tool_calls")) for message in answer]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
