"""Plot metrics of a run by step in one picture.

    python benchmarks/curves.py RUN METRIC [METRIC …] --out FILE.svg [--window 5] [--ceiling 0.86]

METRIC is a key of `metrics.jsonl`; for the mean of a reward, its name is enough. Lines are means over `--window` steps.
`--ceiling` adds a dashed line. Needs matplotlib (`pip install -e '.[bench]'`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def series(lines: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """Return the values of a metric, NaN for a step without one; a reward's name is short for its mean."""
    there = {name for line in lines for name in line}
    key = metric if metric in there else f"rewards/{metric}/mean"
    if key not in there:
        raise SystemExit(f"error: no metric {metric!r}: there are {', '.join(sorted(there))}")
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return trailing means over at most `window` values; NaN values are skipped.

    Example:
        >>> smoothed([1.0, 3.0, 5.0], 2)
        [1.0, 2.0, 4.0]
    """
    pieces = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    numbers = [[value for value in piece if not math.isnan(value)] for piece in pieces]
    return [sum(piece) / len(piece) if piece else math.nan for piece in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("metrics", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--ceiling", type=float)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]

    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "curves"
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for metric in arguments.metrics:
        axis.plot([line["step"] for line in lines], smoothed(series(lines, metric), arguments.window), label=metric)
    if arguments.ceiling is not None:
        axis.axhline(arguments.ceiling, color="black", linestyle="--", linewidth=1, label="best attainable")
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
