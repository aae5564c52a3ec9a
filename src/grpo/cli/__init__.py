"""The command `grpo`: parse, call, print. Heavy packages are imported inside the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main", "script"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see `grpo.cli.entry`."""
    from grpo.cli.entry import main as run

    return run(arguments)


def script() -> NoReturn:
    """Run `main` as a program. Ctrl-C during the imports ends it in one line as well."""
    try:
        from grpo.cli.entry import script as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    run()
