"""Rows that scorers learn from, checked one by one: (text, label), and pairs of a better and a worse answer."""

from __future__ import annotations

import difflib
import logging
import math
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from grpo.errors import DataError
from grpo.reward_models.settings import in_configuration
from grpo.seeding import derive_seed
from grpo.tasks.readers import read_records

__all__ = [
    "ScorerRow",
    "hold_out_clicks",
    "hold_out_pairs",
    "read_click_rows",
    "read_pair_rows",
    "split_clicks",
    "split_pairs",
]

ScorerRow: TypeAlias = dict[str, Any]
"""`{"text", "label"}`, or `{"prompt", "chosen", "rejected"}` and perhaps `"margin"`."""

_log = logging.getLogger(__name__)

_CLICK_COLUMNS = ("text", "label")
_PAIR_COLUMNS = ("prompt", "chosen", "rejected")
_LABELS: Mapping[object, int] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


def read_click_rows(source: object) -> list[ScorerRow]:
    """Return rows `{"text": str, "label": 0 | 1}`.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, a Hub data set, a `datasets.Dataset` or a sequence
            of mappings, with the columns `text` and `label`.

    Raises:
        DataError: the source is missing or malformed, a column is missing or unknown, a text is empty, a label is
            neither 0 nor 1, or there are not both.
    """
    rows = []
    for place, record in read_records(source):
        _check_columns(record, place, _CLICK_COLUMNS, ())
        text, label = record["text"], record["label"]
        _check_text(text, "text", place)
        if not isinstance(label, Hashable) or label not in _LABELS:
            raise DataError(f"{place}: the label is {_shown(label)}: use 1 for clicked and 0 for not")
        rows.append({"text": text, "label": _LABELS[label]})
    _require_both_classes(rows, _name(source))
    return rows


def read_pair_rows(source: object) -> list[ScorerRow]:
    """Return rows `{"prompt", "chosen", "rejected"}`, with `"margin"` where the source has one.

    Args:
        source: as for `read_click_rows`. A prompt is a text or a list of chat messages; an answer is a text, or,
            after a prompt of messages, a text or a list of messages.

    Raises:
        DataError: the source is missing, malformed or empty, a column is missing or unknown, a prompt or an answer
            is empty, both answers are equal, or a margin is no number from 0 on.
    """
    rows = []
    for place, record in read_records(source):
        _check_columns(record, place, _PAIR_COLUMNS, ("margin",))
        row = {name: record[name] for name in _PAIR_COLUMNS}
        is_chat = not isinstance(row["prompt"], str)
        for name, value in row.items():
            if is_chat and not isinstance(value, str):
                _check_messages(value, name, place)
            else:
                _check_text(value, name, place)
        if _conversation(row["chosen"]) == _conversation(row["rejected"]):
            raise DataError(f"{place}: chosen and rejected are equal: a pair needs a better and a worse answer")
        if record.get("margin") not in (None, ""):
            row["margin"] = _margin(record["margin"], place)
        rows.append(row)
    if not rows:
        raise DataError(f"{_name(source)} is empty: it needs rows with {_listed(_PAIR_COLUMNS)}")
    return rows


def hold_out_clicks(
    rows: Sequence[ScorerRow], holdout: float | int, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows), no text in both; the same rows and seed give the same split.

    Raises:
        DataError: too many are asked for, or one of the two has one class only.
    """
    train, held_out = _hold_out(rows, lambda row: str(row["text"]), holdout, seed)
    _require_both_classes(train, "the part of the rows that is trained on")
    _require_both_classes(held_out, "the held-out part of the rows")
    return train, held_out


def hold_out_pairs(
    rows: Sequence[ScorerRow], holdout: float | int, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows), no prompt in both, unless all rows have one prompt: then no pair in both.

    Raises:
        DataError: too many are asked for.
    """
    if len({repr(row["prompt"]) for row in rows}) > 1:
        return _hold_out(rows, lambda row: repr(row["prompt"]), holdout, seed)
    return _hold_out(rows, lambda row: repr((row["chosen"], row["rejected"])), holdout, seed)


def split_clicks(
    rows: Sequence[ScorerRow], held_out: Sequence[ScorerRow] | None, holdout: float | int, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows): as given, but without training texts that are held out, or by `holdout`.

    Raises:
        DataError: as `hold_out_clicks`, or nothing is left to train on.
    """
    if held_out is None:
        return hold_out_clicks(rows, holdout, seed)
    train = _without(rows, held_out, lambda row: str(row["text"]).strip())
    _require_both_classes(train, "what is left to train on")
    return train, list(held_out)


def split_pairs(
    rows: Sequence[ScorerRow], held_out: Sequence[ScorerRow] | None, holdout: float | int, seed: int = 0
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Return (training rows, held-out rows): as given, but without training pairs that are held out, or by `holdout`.

    Raises:
        DataError: as `hold_out_pairs`, or nothing is left to train on.
    """
    if held_out is None:
        return hold_out_pairs(rows, holdout, seed)
    return _without(rows, held_out, lambda row: repr([row[name] for name in _PAIR_COLUMNS])), list(held_out)


def _without(
    rows: Sequence[ScorerRow], held_out: Sequence[ScorerRow], key: Callable[[ScorerRow], str]
) -> list[ScorerRow]:
    """Return the rows that are not held out; if some are, say how many."""
    kept_apart = set(map(key, held_out))
    train = [row for row in rows if key(row) not in kept_apart]
    if not train:
        raise DataError(f"all {len(rows)} training rows are held-out rows as well: give others to evaluate on")
    if len(train) < len(rows):
        _log.warning(
            "%d of %d training rows are held-out rows as well: they are not trained on",
            len(rows) - len(train),
            len(rows),
        )
    return train


def _require_both_classes(rows: Sequence[ScorerRow], name: str) -> None:
    """Raise a DataError unless some labels are 0 and some are 1."""
    labels = {row["label"] for row in rows}
    if not labels:
        raise DataError(f"{name} is empty: it needs rows with {_listed(_CLICK_COLUMNS)}")
    if len(labels) == 1:
        raise DataError(
            f"{name} has one class only, all {len(rows)} labels are {labels.pop()}: both 0 and 1 are needed"
        )


def _hold_out(
    rows: Sequence[ScorerRow], key: Callable[[ScorerRow], str], holdout: float | int, seed: int
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    wanted = int(holdout) if holdout >= 1 else max(1, round(holdout * len(rows)))
    counts: dict[str, int] = {}
    for row in rows:
        counts[key(row)] = counts.get(key(row), 0) + 1
    keys = list(counts)
    random.Random(derive_seed(seed, "scorer", "holdout")).shuffle(keys)
    chosen: set[str] = set()
    taken = 0
    for each in keys:
        if taken >= wanted:
            break
        chosen.add(each)
        taken += counts[each]
    if len(chosen) == len(keys):
        raise DataError(
            f"{wanted} rows cannot be held out of {len(rows)} with {len(keys)} different texts: "
            f"lower {in_configuration('holdout')} or give more"
        )
    return [row for row in rows if key(row) not in chosen], [row for row in rows if key(row) in chosen]


def _check_columns(record: Any, place: str, needed: Sequence[str], optional: Sequence[str]) -> None:
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: {_shown(record)} where an object with {_listed(needed)} is needed")
    there = sorted(map(str, record))
    for name in needed:
        if name not in record:
            raise DataError(f"{place}: no column {name!r}, there are {there}: name the columns {_listed(needed)}")
    allowed = (*needed, *optional)
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


def _check_messages(value: Any, name: str, place: str) -> None:
    messages = list(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else []
    if not messages or not all(
        isinstance(each, Mapping) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in messages
    ):
        raise DataError(f'{place}: the {name} is {_shown(value)}: use a text or a list of {{"role", "content"}}')
    _check_text(messages[-1]["content"], name, place)


def _margin(value: Any, place: str) -> float:
    try:
        margin = float(value)
    except (TypeError, ValueError):
        margin = math.nan
    if isinstance(value, bool) or not 0 <= margin < math.inf:
        raise DataError(f"{place}: the margin is {_shown(value)}: use a number from 0 on")
    return margin


def _conversation(answer: Any) -> list[tuple[str, str]]:
    """Return what an answer comes to, however it is written: who says what, without blanks around it."""
    if isinstance(answer, str):
        return [("assistant", answer.strip())]
    return [(message["role"], message["content"].strip()) for message in answer]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"


def _name(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else "the data set"
