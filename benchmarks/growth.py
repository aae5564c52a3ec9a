"""Measure and plot the growth of a step's seconds and memory with each of its dimensions.

    python benchmarks/growth.py [--out docs/performance] [--rounds 3] [--steps 2] [--device cpu|cuda]
        [--dtype float32|bfloat16] [--only prompt,group,…] [--plot-only] [key=value …]

Each sweep changes one dimension of the same random model and workload (4 M parameters, 2 prompts of 200 tokens, 8
completions of 32 tokens, β = 0.04): prompt length, completion length, group size, vocabulary or parameters. The sweep
`shared` is group size 4 to 32 at a prompt of 1,000 tokens. Points are measured in turn, `--rounds` times, each by
`step.py` in a process of its own. The script writes `growth.json` and `growth.svg` into --out and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processes import HERE, answer_of, markdown_table, origin
from shapes import ModelSpec, WorkSpec, write_workload

MODEL = ModelSpec()
WORK = WorkSpec()
PHASES = ("generate", "reference", "update")
COLOURS = {"generate": "#4878a8", "reference": "#9a9a9a", "update": "#c8703c"}


@dataclass(frozen=True, slots=True)
class Sweep:
    """One dimension with its values; `at` returns the model and the workload for a value."""

    title: str
    values: tuple[int, ...]
    at: Callable[[int], tuple[ModelSpec, WorkSpec]]


def scaled(hidden: int) -> ModelSpec:
    """Return a model whose width, depth and heads grow together."""
    heads = max(2, hidden // 64)
    return replace(MODEL, hidden=hidden, heads=heads, layers=max(2, hidden // 64), ffn=hidden * 11 // 4)


SWEEPS = {
    "prompt": Sweep("prompt length", (64, 256, 1024, 2048), lambda n: (MODEL, replace(WORK, prompt_length=n))),
    "completion": Sweep(
        "completion length", (16, 64, 128, 256), lambda n: (MODEL, replace(WORK, max_completion_length=n))
    ),
    "group": Sweep("group size", (4, 8, 16, 32, 64), lambda n: (MODEL, replace(WORK, group_size=n))),
    "shared": Sweep(
        "group size, prompt 1,000", (4, 8, 16, 32), lambda n: (MODEL, replace(WORK, prompt_length=1000, group_size=n))
    ),
    "vocabulary": Sweep("vocabulary", (1000, 4000, 16000, 64000), lambda n: (replace(MODEL, vocabulary=n), WORK)),
    "parameters": Sweep("parameters", (128, 256, 384, 512), lambda n: (scaled(n), WORK)),
}


def measure(name: str, value: int, root: Path, command: list[str]) -> dict[str, Any]:
    """Return `step.py`'s answer at one point, with the number of parameters."""
    directory = root / f"{name}-{value}"
    record = directory / "parameters"
    if not record.exists():
        parameters = write_workload(directory, *SWEEPS[name].at(value))
        record.write_text(str(parameters))
    answer = answer_of([sys.executable, HERE / "step.py", directory, *command])
    return {**answer, "parameters": int(record.read_text())}


def points(name: str, rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the medians over rounds at each value of a sweep."""
    found = []
    for value in SWEEPS[name].values:
        answers = [each[f"{name}-{value}"] for each in rounds]
        keys = ["step_s", "peak_memory_mb", "useful_gflop", "mean_length"]
        keys += [f"{phase}_s" for phase in PHASES if f"{phase}_s" in answers[0]]
        of = {key: statistics.median(answer[key] for answer in answers) for key in keys}
        found.append({"value": answers[0]["parameters"] if name == "parameters" else value, **of})
    return found


def plot(figures: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Write one column for each sweep: seconds of a step and its phases in the upper row, peak memory in the lower."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "growth"
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    size = (3.1 * len(figures), 5.4)
    figure, axes = plt.subplots(2, len(figures), figsize=size, squeeze=False, sharey="row", layout="constrained")
    for (name, found), (above, below) in zip(figures.items(), axes.T, strict=True):
        values = [point["value"] for point in found]
        above.loglog(values, [point["step_s"] for point in found], "o-", color="black", label="step")
        for phase in PHASES:
            if f"{phase}_s" in found[0]:
                seconds = [point[f"{phase}_s"] for point in found]
                above.loglog(values, seconds, ".--", color=COLOURS[phase], label=phase)
        below.semilogx(values, [point["peak_memory_mb"] for point in found], "o-", color="black")
        below.set_xlabel(SWEEPS[name].title)
        for axis in (above, below):
            axis.set_xticks(values, [short(value) for value in values])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    # Only now: a limit that is set ends the scaling to the points of the other columns, which share the axis.
    highest = max(point["peak_memory_mb"] for found in figures.values() for point in found)
    axes[1][0].set_ylim(0, 1.05 * highest)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak memory, MiB")
    axes[0][0].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def short(value: int) -> str:
    """Return a number as an axis shows it.

    Example:
        >>> short(2048), short(4000), short(3_900_000)
        ('2048', '4000', '3.9M')
    """
    return f"{value / 1e6:.1f}M" if value >= 1_000_000 else f"{value // 1000}k" if value >= 10_000 else str(value)


def growth_table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table of the figures, and one of their growth from the first value of a sweep to the last."""
    rows, growth_rows = [], []
    for name, found in figures.items():
        first, last = found[0], found[-1]
        rows.append([
            SWEEPS[name].title, ", ".join(short(point["value"]) for point in found),
            ", ".join(f"{point['step_s']:.2f}" for point in found),
            ", ".join(f"{point['peak_memory_mb']:.0f}" for point in found),
        ])  # fmt: skip
        growth_rows.append([
            SWEEPS[name].title, f"{last['step_s'] / first['step_s']:.2f} ×",
            f"{last['useful_gflop'] / first['useful_gflop']:.2f} ×",
        ])  # fmt: skip
    table = markdown_table(("dimension", "values", "s a step", "peak MiB"), rows)
    return f"{table}\n\n{markdown_table(('dimension', 'growth of the time', 'growth of the work'), growth_rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default=",".join(SWEEPS), help="sweeps to measure; the others stay as they are")
    parser.add_argument("--plot-only", action="store_true", help="plot growth.json as it is")
    arguments, options = parser.parse_known_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(SWEEPS):
        parser.error(f"no sweep {', '.join(sorted(unknown))}: choose from {', '.join(SWEEPS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = arguments.out / "growth.json"
    figures: dict[str, list[dict[str, Any]]] = json.loads(record.read_text())["sweeps"] if record.exists() else {}

    if not arguments.plot_only:
        command = [str(arguments.steps), "--device", arguments.device, "--dtype", arguments.dtype, *options]
        keys = [(name, value) for name in names for value in SWEEPS[name].values]
        with tempfile.TemporaryDirectory() as root:
            rounds: list[dict[str, dict[str, Any]]] = []
            for number in range(arguments.rounds):
                rounds.append({})
                for name, value in keys:
                    rounds[-1][f"{name}-{value}"] = measure(name, value, Path(root), command)
                    seconds = rounds[-1][f"{name}-{value}"]["step_s"]
                    print(f"round {number + 1}: {name} {value}: {seconds:.2f} s", file=sys.stderr, flush=True)
        figures = {name: points(name, rounds) if name in names else figures[name] for name in SWEEPS
                   if name in names or name in figures}  # fmt: skip
        record.write_text(json.dumps({"origin": origin(arguments.device), "sweeps": figures}, indent=1) + "\n")
    plot(figures, arguments.out / "growth.svg")
    print(growth_table(figures))


if __name__ == "__main__":
    main()
