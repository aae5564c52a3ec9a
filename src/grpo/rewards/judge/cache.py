"""A cache of judges' answers on disk, so that each question is paid for once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo.errors import ConfigError

__all__ = ["AnswerCache", "content_key"]

_logger = logging.getLogger(__name__)
_FILE = "answers.sqlite3"
_BUSY_S = 30.0
# SQLite limits the number of variables in a statement.
_KEYS_PER_QUERY = 500


def content_key(content: Mapping[str, Any]) -> str:
    """Return a hash of JSON content that does not depend on the order of its keys.

    Example:
        >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """Texts by key in one SQLite file; several threads and processes may use it at once.

    A failure after the start (a full disk, a damaged file) is logged once as a warning. It loses cached answers
    and fails no reward.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open or create `answers.sqlite3` in the directory.

        Raises:
            ConfigError: the file cannot be created, or is not a cache.
        """
        self.path = Path(directory).expanduser() / _FILE
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str]] = deque()
        self._has_warned = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT)")
                connection.execute("SELECT count(*) FROM answers").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot use {str(self.path)!r} for a judge's answers: {error}: delete the file, "
                f"or set cache_dir to a directory that you may write to, or to null for no cache"
            ) from error

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the texts of the keys that have one."""
        wanted = list(keys)
        found: dict[str, str] = {}
        try:
            with self._open() as connection:
                for start in range(0, len(wanted), _KEYS_PER_QUERY):
                    part = wanted[start : start + _KEYS_PER_QUERY]
                    marks = ",".join("?" * len(part))
                    found.update(connection.execute(f"SELECT key, text FROM answers WHERE key IN ({marks})", part))
        except Exception as error:
            self._warn(error)
        return found

    def put(self, key: str, text: str) -> None:
        """Store a text in place of an older one under its key.

        Threads that wait for each other share a transaction: the disk takes many texts in the time of one.
        """
        self._waiting.append((key, text))
        try:
            with self._lock:
                rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if rows:
                    with self._open() as connection:
                        connection.executemany("INSERT OR REPLACE INTO answers (key, text) VALUES (?, ?)", rows)
        except Exception as error:
            self._warn(error)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a new connection, because none may be carried into a forked process; commit at the end."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as connection, connection:
            yield connection

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("a judge's answers are not kept in %s: %s (logged once)", self.path, error)
