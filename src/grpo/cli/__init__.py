"""The command `grpo`: parse, call, print. Nothing heavy is imported before a command is known."""

from __future__ import annotations

from grpo.cli.commands import COMMANDS, Command
from grpo.cli.entry import main, script

__all__ = ["COMMANDS", "Command", "main", "script"]
