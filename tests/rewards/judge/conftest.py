"""No key, no address of a judge and no proxy but those that a test sets; retries without long waits."""

from __future__ import annotations

import openai  # noqa: F401 - imported here, so that no request waits for the import
import pytest


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Saves time only: the tests pass with the openai client's own waits as well.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
