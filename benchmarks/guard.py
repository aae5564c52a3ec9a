"""Time two commits alternately on the same workloads, and print the ratios of the second to the first.

    python benchmarks/guard.py BEFORE [AFTER] [--workloads tiny small chat long-prompt 135m] [--rounds 8] [--steps 4]
        [--threads 2] [--device cpu|cuda] [--dtype float32|bfloat16] [--repository DIR] [--json FILE]

BEFORE and AFTER (HEAD by default) are commits, or folders with a working tree: `.` is the tree as it lies there, with
changes that are not committed. A commit is checked out into a temporary git worktree. Each run is a process of its own:
the commit's `benchmarks/step.py DIR STEPS`, in this virtual environment, with PYTHONPATH at the commit's `src`. Rounds
run in the order before, after, after, before, …, so that neither commit profits from a machine that warms up or slows
down. A workload is a name of `shapes.py`, written here with fixed seeds, or a folder that `step.py` reads.

A ratio is the median over rounds of after ÷ before, with its bootstrap 95% interval (with fewer than 6 rounds: the
least and the greatest). Nothing else should run on the machine. All runs have the same number of threads, by default
one for each core: a run that chooses takes only the cores that are idle at its start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import HERE, answer_of, markdown_table, origin
from shapes import WORKLOADS

__all__ = ["guard_table", "median_interval"]

GUARDED = ("tiny", "small", "chat", "long-prompt", "135m")
FIGURES = {"step_s": "step", "completion_tokens_per_s": "tokens/s", "peak_memory_mb": "memory"}
SIDES = ("before", "after")
ALLOWED = 1.03
"""A step may take this much of what it took before."""

BOOTSTRAP_ROUNDS = 6
BOOTSTRAP_SAMPLES = 2000

Round = dict[str, dict[str, Any]]
"""Answers of `step.py`: `before`, `after`."""


@contextmanager
def tree_of(commit: str, repository: Path) -> Iterator[Path]:
    """Yield a folder with the commit's files: a temporary worktree, or the folder itself if one is given."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    git = ["git", "-C", str(repository), "worktree"]
    with tempfile.TemporaryDirectory() as root:
        tree = Path(root) / "tree"
        added = subprocess.run([*git, "add", "--detach", tree, commit], capture_output=True, text=True, check=False)
        if added.returncode != 0:
            sys.exit(f"error: {commit} cannot be checked out: {added.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", tree], capture_output=True, check=False)


def commit_of(tree: Path) -> str:
    """Return the hash of the commit that a tree has checked out; the path where git knows of none."""
    asked = subprocess.run(["git", "-C", tree, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else str(tree)


def workload_folder(name: str, root: Path) -> Path:
    """Return the folder of a workload, writing it below `root` if it is a name of `shapes.py`."""
    if (Path(name) / "workload.json").is_file():
        return Path(name).resolve()
    if name not in WORKLOADS:
        sys.exit(f"error: no workload {name}: use {', '.join(sorted(WORKLOADS))}, or a folder with a workload.json")
    folder = root / name
    # In a process of its own: what this one holds in memory would count as the peak of those that it starts.
    subprocess.run([sys.executable, HERE / "shapes.py", folder, "--workload", name], check=True, capture_output=True)
    return folder


def run_round(number: int, workload: Path, trees: dict[str, Path], arguments: argparse.Namespace) -> Round:
    """Run both sides, the one that ran last first."""
    answers: Round = {}
    for side in SIDES if number % 2 == 0 else SIDES[::-1]:
        tree = trees[side]
        command = [sys.executable, tree / "benchmarks" / "step.py", workload, str(arguments.steps)]
        where = [f"--{name}={value}" for name in ("device", "dtype") if (value := getattr(arguments, name))]
        threads = f"threads={arguments.threads}"
        answers[side] = answer_of([*command, *where, threads], {**os.environ, "PYTHONPATH": str(tree / "src")})
    return answers


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its bootstrap 95% interval; with few values, the least and the greatest.

    Example:
        >>> median_interval([1.0, 3.0, 2.0])
        (2.0, 1.0, 3.0)
    """
    middle = statistics.median(values)
    if len(values) < BOOTSTRAP_ROUNDS:
        return middle, min(values), max(values)
    numbers = random.Random(0)
    medians = sorted(statistics.median(numbers.choices(values, k=len(values))) for _ in range(BOOTSTRAP_SAMPLES))
    outside = round(0.025 * BOOTSTRAP_SAMPLES)
    return middle, medians[outside], medians[-1 - outside]


def ratios(rounds: Sequence[Round], key: str) -> list[float]:
    """Return after ÷ before, round by round."""
    return [each["after"][key] / each["before"][key] for each in rounds]


def guard_table(answers: dict[str, list[Round]]) -> str:
    """Return a row for each workload: medians of both sides, and the ratios with their intervals."""
    head = ["workload"]
    for key, name in FIGURES.items():
        head += [f"{name}, before" if key != "step_s" else "s a step, before", "after", f"{name}, after ÷ before"]
    rows = []
    for workload, rounds in answers.items():
        row = [workload]
        for key in FIGURES:
            digits = 3 if key == "step_s" else 0
            row += [f"{statistics.median(each[side][key] for each in rounds):,.{digits}f}" for side in SIDES]
            row.append("{:.3f} ({:.3f}–{:.3f})".format(*median_interval(ratios(rounds, key))))
        rows.append(row)
    return markdown_table(head, rows)


def verdict(answers: dict[str, list[Round]]) -> str:
    """Return the line that names the workloads whose step became slower by more than is allowed."""
    slower = [name for name, rounds in answers.items() if statistics.median(ratios(rounds, "step_s")) > ALLOWED]
    return f"slower by more than {ALLOWED - 1:.0%}: {', '.join(slower) if slower else 'none'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--workloads", nargs="+", default=list(GUARDED))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--repository", type=Path, default=HERE.parent)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    answers: dict[str, list[Round]] = {}
    with (
        tree_of(arguments.before, arguments.repository) as before,
        tree_of(arguments.after, arguments.repository) as after,
        tempfile.TemporaryDirectory() as root,
    ):
        trees = {"before": before, "after": after}
        commits = {side: commit_of(tree) for side, tree in trees.items()}
        for tree in trees.values():
            if not (tree / "benchmarks" / "step.py").is_file():
                sys.exit(f"error: {tree} has no benchmarks/step.py: give a commit that has one")
        folders = [workload_folder(name, Path(root)) for name in arguments.workloads]
        for number in range(arguments.rounds):
            for folder in folders:
                rounds = answers.setdefault(folder.name, [])
                rounds.append(run_round(number, folder, trees, arguments))
                ratio = ratios(rounds, "step_s")[-1]
                place = f"round {number + 1} of {arguments.rounds}, {folder.name}"
                print(f"{place}: {ratio:.3f} ×", file=sys.stderr, flush=True)
    print(guard_table(answers))
    print(f"\n{verdict(answers)}")
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("rounds", "steps", "threads", "device", "dtype")}
        record = {"origin": origin(arguments.device or "cpu"), "commits": commits, **settings, "answers": answers}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
