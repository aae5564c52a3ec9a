"""The command line prefix of this installation, for commands to copy."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["own_command"]

_NAME = "grpo"


def own_command() -> str:
    """Return the start of a command line for this installation: `grpo` if the shell finds it, else with its path.

    A console script keeps the path that it was called by, as `.venv/bin/grpo`; from Python it is the script beside
    the interpreter, or `python -m grpo` where there is none.
    """
    called = Path(sys.argv[0])
    script = called if called.stem == _NAME else Path(sys.executable).with_name(_NAME)
    found = shutil.which(_NAME)
    if found is not None and (not script.exists() or Path(found).samefile(script)):
        return _NAME
    if script.is_file():
        return shlex.quote(_from_here(script))
    return f"{shlex.quote(_from_here(Path(sys.executable)))} -m {_NAME}"


def _from_here(path: Path) -> str:
    """Return a path as one would type it: without the working directory where it lies below that."""
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
