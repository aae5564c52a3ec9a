"""Put measured figures into a page of the documentation.

    python benchmarks/document.py [PAGE]

A table of the page (docs/performance.md) is enclosed by two comments. The first names a record, which another script
wrote beside the page, and one of its tables:

    <!-- figures: performance/compare.json comparison -->
    <!-- end -->

The script replaces the text between them by the table, with the date and the machine of the record below it. Without a
record the text stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare import comparison_table, limit_table, phase_table
from engine import engine_table
from growth import growth_table
from processes import HERE
from startup import startup_table

__all__ = ["filled", "records_of"]

PAGE = HERE.parent / "docs" / "performance.md"
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "comparison": lambda record: comparison_table(record["summary"]),
    "phases": lambda record: phase_table(record["summary"]),
    "limits": lambda record: limit_table(record["summary"]),
    "engines": lambda record: engine_table(record["tokens_per_s"], record["failed"]),
    "growth": lambda record: growth_table(record["sweeps"]),
    "startup": lambda record: startup_table(record["seconds"]),
}
PLACE = re.compile(r"(<!-- figures: (\S+) (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def filled(page: str, folder: Path) -> str:
    """Return the page with each table replaced by that of its record in `folder`."""

    def table(match: re.Match[str]) -> str:
        record_file = folder / match[2]
        if not record_file.exists():
            return match[0]
        record = json.loads(record_file.read_text())
        return f"{match[1]}{TABLES[match[3]](record)}\n\n{described(record['origin'])}\n{match[4]}"

    return PLACE.sub(table, page)


def records_of(page: str) -> set[str]:
    """Return the names of the records that a page refers to."""
    return {match[2] for match in PLACE.finditer(page)}


def described(origin: dict[str, Any]) -> str:
    """Return the line with the date, machine and versions of a record."""
    versions = ", ".join(f"{name} {origin[name]}" for name in ("torch", "transformers", "trl") if name in origin)
    return f"*{origin['date']}, {origin['processor']}, {origin['cores']} cores, {versions}.*"


def main() -> None:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    text = page.read_text()
    page.write_text(filled(text, page.parent))
    for record in sorted(records_of(text)):
        if not (page.parent / record).exists():
            print(f"{record} does not exist: its tables stay unchanged", file=sys.stderr)


if __name__ == "__main__":
    main()
