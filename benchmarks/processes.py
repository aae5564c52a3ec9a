"""Benchmarks in processes of their own: answers, medians, tables, and the origin of figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["HERE", "answer_of", "markdown_table", "origin", "spread"]

HERE = Path(__file__).parent


def answer_of(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the last JSON object that a command prints on a line; exit with its error if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=env)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not answers:
        sys.exit(f"{' '.join(map(str, command))} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(answers[-1])
    return answer


def origin(device: str = "cpu") -> dict[str, Any]:
    """Return the origin of figures measured now: date, processor, cores and versions."""
    versions = {}
    for package in ("torch", "transformers", "trl"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(device),
        "cores": os.cpu_count(),
        **versions,
    }


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median with minimum and maximum.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        '2.0 (1.0–3.0)'
    """
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table.

    Example:
        >>> print(markdown_table(["engine", "tokens/s"], [["native", 12]]))
        | engine | tokens/s |
        |---|---|
        | native | 12 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else "---" for cell in line) + "|" for line in lines)
