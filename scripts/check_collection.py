"""Fail unless README's test command collects every test file and every doctest of the repository.

    python scripts/check_collection.py [pytest option …]

pytest must collect at least one test from every `test_*.py` in the repository and from every module of the package with
a doctest prompt. Options go to pytest, so that a missing folder can be simulated: `--ignore=tests/assembly`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Collected:
    """A pytest plug-in that records the files of all collected tests."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.num_tests = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the file of each test."""
        self.files = {item.path.resolve() for item in session.items}
        self.num_tests = len(session.items)


def files_with_tests() -> set[Path]:
    """Return the files that must be collected: test modules, and modules of the package with doctests."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [ROOT / name for name in listed if (ROOT / name).is_file()]
    tests = {file for file in files if file.name.startswith("test_")}
    source = [file for file in files if file.is_relative_to(ROOT / "src")]
    return tests | {file for file in source if ">>> " in file.read_text(encoding="utf-8")}


def main() -> None:
    collected = Collected()
    code = pytest.main(["--collect-only", "-qqq", "--no-summary", "-p", "no:cacheprovider", *sys.argv[1:]], [collected])
    if code != pytest.ExitCode.OK:
        sys.exit(f"collecting failed: {code!r}")
    missing = sorted(str(file.relative_to(ROOT)) for file in files_with_tests() - collected.files)
    if missing:
        sys.exit(f"{len(missing)} files with tests are not collected: {', '.join(missing)}")
    print(f"{collected.num_tests} tests collected from {len(collected.files)} files, none left out")


if __name__ == "__main__":
    main()
