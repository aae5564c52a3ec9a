"""No key and no address of a judge but those that a test sets."""

from __future__ import annotations

import openai  # noqa: F401 - imported here, its time is no endpoint's
import pytest


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
