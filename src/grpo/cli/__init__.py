"""The command `grpo`: parse, call, print. Heavy packages are imported inside the command that needs them."""

from __future__ import annotations

from grpo.cli.commands import app
from grpo.cli.entry import main, script

__all__ = ["app", "main", "script"]
