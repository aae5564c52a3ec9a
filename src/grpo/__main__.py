"""`python -m grpo` is the command `grpo`."""

from __future__ import annotations

import sys

from grpo.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
