"""What the tests of whole runs share: the shortest options, rows, and ways to look at files."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo import GRPOConfig

QUICK = {
    "steps": 1,
    "prompts_per_step": 2,
    "group_size": 2,
    "max_completion_length": 8,
    "eval_prompts": 4,
    "eval_samples": 1,
}
"""Options that make a run as short as it can be."""

CHARACTERS = f"rewards={Path(__file__)}:count_characters"
"""The reward `count_characters`, as a command line names it: with it, hardly any group is without spread."""

WORDS = [f"{name}={value}" for name, value in QUICK.items()]


@dataclass(frozen=True)
class Shown:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def quick(**options: Any) -> GRPOConfig:
    """Return the configuration of a short run from Python, in the directory `run`."""
    return GRPOConfig(**{**QUICK, "output_dir": "run", **options})


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below `folder`, and None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def lines_of(path: Path | str) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path | str, rows: list[Any]) -> Path:
    """Write a JSONL file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return different rows as S2 has them."""
    pairs = [(left, right) for left in range(13) for right in range(13)]
    return [
        {"prompt": f"What is {left} + {right}? Answer with an integer.", "answer": str(left + right)}
        for left, right in random.Random(seed).sample(pairs, count)
    ]


def questions(count: int) -> list[str]:
    """Return prompts without answers."""
    return [row["prompt"] for row in sums(count)]


def count_characters(completions: list[Any], **_: Any) -> list[float]:
    """Return a reward that needs nothing and nearly always differs within a group."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(sum(map(ord, text)) % 97) for text in texts]
