from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import main

QUICK = ("steps=1", "prompts_per_step=2", "group_size=2", "max_completion_length=8", "eval_prompts=4", "eval_samples=1")
"""Options that make a run as short as it can be."""


@dataclass(frozen=True)
class Shown:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty working directory; nothing on the way to the Hub."""
    place = tmp_path / "workplace"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def command(capsys) -> Callable[..., Shown]:
    """Run `grpo` with words, as the shell would, in this process."""

    def run(*words: object) -> Shown:
        capsys.readouterr()
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return Shown(code, shown.out, shown.err)

    return run


@pytest.fixture
def train(command) -> Callable[..., Path]:
    """Train shortly, with `options` on top, and return the run directory; the run has to succeed."""

    def run(*options: object, output_dir: str = "run") -> Path:
        shown = command("train", *QUICK, f"output_dir={output_dir}", *options)
        assert shown.code == 0, shown.err
        assert shown.err == ""
        return Path(output_dir)

    return run


@pytest.fixture
def refused(command, workplace) -> Callable[..., str]:
    """Run what has to be refused as bad input, and return the line that says why: nothing else may have happened."""

    def run(*words: object, code: int = 2) -> str:
        before = tree(workplace)
        shown = command(*words)
        assert shown.code == code, shown
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1, shown.err
        assert tree(workplace) == before
        return shown.err.removeprefix("error: ").rstrip("\n")

    return run


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below `folder`, and None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path | str, rows: list[Any]) -> Path:
    path = Path(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return rows as S2 has them."""
    pairs = [(left, right) for left in range(13) for right in range(13)]
    chosen = random.Random(seed).sample(pairs, count)
    return [
        {"prompt": f"What is {left} + {right}? Answer with an integer.", "answer": str(left + right)}
        for left, right in chosen
    ]
