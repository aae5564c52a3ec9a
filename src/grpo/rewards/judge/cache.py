"""Answers of judges on disk, so that the same question is paid for once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpo.errors import ConfigError

__all__ = ["AnswerCache", "content_key"]

_logger = logging.getLogger(__name__)
_FILE = "answers.sqlite3"
_BUSY_S = 30.0
# SQLite takes a limited number of variables in a statement.
_KEYS_A_QUERY = 500


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

    Whatever goes wrong after the start (a full disk, a file that was damaged meanwhile) is said once as a warning
    and costs the answers that are not kept: it fails no reward.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open or make `answers.sqlite3` in the directory.

        Raises:
            ConfigError: it cannot be made there, or is no such file.
        """
        self.path = Path(directory).expanduser() / _FILE
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._has_warned = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._connected().execute("SELECT count(*) FROM answers").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot use {str(self.path)!r} for a judge's answers: {error}: "
                f"delete the file, or set cache_dir to a directory that you may write to, or to null for none"
            ) from error

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the texts of those keys that are known."""
        wanted = list(keys)
        found: dict[str, str] = {}
        try:
            with self._lock:
                for start in range(0, len(wanted), _KEYS_A_QUERY):
                    some = wanted[start : start + _KEYS_A_QUERY]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT key, text FROM answers WHERE key IN ({marks})"
                    found.update(self._connected().execute(query, some).fetchall())
        except Exception as error:
            self._warn(error)
        return found

    def put(self, key: str, text: str) -> None:
        """Take a text to be written at the next `flush`; the newest of several under one key counts."""
        self._waiting.append((key, text))

    def flush(self) -> None:
        """Write what is waiting, all of it at once: a disk takes many texts in the time of one."""
        try:
            with self._lock:
                rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if rows:
                    with self._connected() as connection:
                        connection.executemany("INSERT OR REPLACE INTO answers (key, text) VALUES (?, ?)", rows)
        except Exception as error:
            self._warn(error)

    def _connected(self) -> sqlite3.Connection:
        """Return this process's connection to a file that has its table.

        Raises:
            sqlite3.Error: the file cannot be used.
        """
        # A connection must not be carried into a forked process.
        if self._connection is None or self._process != os.getpid():
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
            try:
                with connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT)")
            except sqlite3.Error:
                connection.close()
                raise
            self._connection, self._process = connection, os.getpid()
        return self._connection

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("a judge's answers are not kept in %s: %s (said once)", self.path, error)
