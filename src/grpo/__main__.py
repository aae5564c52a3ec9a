"""`python -m grpo` is the command `grpo`."""

from __future__ import annotations

from grpo.cli import script

__all__: list[str] = []

if __name__ == "__main__":
    script()
