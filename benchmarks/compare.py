"""Run workloads alternately under this project and under a peer, and print both sets of figures with their ratios.

    python benchmarks/compare.py DIR [DIR …] [--peer trl_step.py] [--rounds 5] [--steps 4] [--device cpu|cuda]
        [--dtype float32|bfloat16] [--peer-python PYTHON] [--json FILE] [key=value …]

DIR is a workload for `step.py` (`shapes.py DIR --workload small` writes one). The peer's timer takes the arguments of
`step.py` and prints the same keys; the timer of TRL is `trl_step.py`. Every run is a process of its own, in the order
ours, peer, ours, peer, …; each round begins with a measurement of the machine's matrix-product rate (`gemm.py`). A
ratio is computed in each round; the tables show its median, minimum and maximum over the rounds. Options key=value go
to ours alone. The seed is the number of the round, so that completion lengths differ from round to round. `--json`
saves the answers of all runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import HERE, answer_of, markdown_table, origin, spread

PEER = HERE / "trl_step.py"
PHASES = ("generate", "score", "reference", "update")
RATIOS = {
    "step_ratio": "step, peer ÷ ours",
    "rate_ratio": "tokens/s, ours ÷ peer",
    "memory_ratio": "memory, peer ÷ ours",
}

Round = dict[str, dict[str, Any]]
"""Answers of `gemm.py`, `step.py` and the peer's timer: `gemm`, `ours`, `peer`."""


def run_round(workload: Path, arguments: argparse.Namespace, options: Sequence[str]) -> Round:
    """Return the answers of one round: the matrix-product rate, ours, then the peer."""
    where = ["--device", arguments.device, "--dtype", arguments.dtype]
    timed = [workload, str(arguments.steps), *where]
    return {
        "gemm": answer_of([sys.executable, HERE / "gemm.py", *where]),
        "ours": answer_of([sys.executable, HERE / "step.py", *timed, *options]),
        "peer": answer_of([arguments.peer_python, arguments.peer, *timed]),
    }


def median(rounds: Sequence[Round], side: str, key: str) -> float:
    """Return the median over rounds of one figure."""
    return float(statistics.median(each[side][key] for each in rounds))


def ratios(rounds: Sequence[Round], key: str) -> list[float]:
    """Return peer ÷ ours, round by round."""
    return [each["peer"][key] / each["ours"][key] for each in rounds]


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the figures of a workload."""
    ours = rounds[0]["ours"]
    rates = {library: median(rounds, "gemm", library) for library in rounds[0]["gemm"]}
    phases = [phase for phase in PHASES if f"{phase}_s" in ours]
    keys = ("step_s", "completion_tokens_per_s", "peak_memory_mb", "mean_length")
    return {
        "ours": {key: median(rounds, "ours", key) for key in keys},
        "peer": {key: median(rounds, "peer", key) for key in keys},
        "step_ratio": ratios(rounds, "step_s"),
        "memory_ratio": ratios(rounds, "peak_memory_mb"),
        "rate_ratio": [1 / ratio for ratio in ratios(rounds, "completion_tokens_per_s")],
        "phases_s": {phase: median(rounds, "ours", f"{phase}_s") for phase in phases},
        "gemm_gflop_per_s": rates,
        "useful_gflop": median(rounds, "ours", "useful_gflop"),
        "share_of_limit": {
            library: statistics.median(each["ours"]["useful_gflop_per_s"] / each["gemm"][library] for each in rounds)
            for library in rates
        },
        "share_of_limit_by_phase": {
            phase: {
                library: statistics.median(
                    each["ours"][f"{phase}_gflop"] / each["ours"][f"{phase}_s"] / each["gemm"][library]
                    for each in rounds
                )
                for library in rates
            }
            for phase in phases
            if ours.get(f"{phase}_gflop")
        },
    }


def comparison_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return a table of figures with two rows for each workload, and a table of ratios."""
    rows = []
    for name, of in figures.items():
        for side in ("ours", "peer"):
            found = of[side]
            rows.append([
                name, side, f"{found['step_s']:.3f}", f"{found['completion_tokens_per_s']:,.0f}",
                f"{found['mean_length']:.1f}", f"{found['peak_memory_mb']:,.0f}",
            ])  # fmt: skip
    ratio_rows = [[name, *(spread(of[key]) for key in RATIOS)] for name, of in figures.items()]
    table = markdown_table(("workload", "", "s a step", "tokens/s", "mean length", "peak MiB"), rows)
    return f"{table}\n\n{markdown_table(('workload', *RATIOS.values()), ratio_rows)}"


def phase_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return our seconds by phase; the rest of a step is the weight update of the engine, and logging."""
    rows = []
    for name, of in figures.items():
        known = of["phases_s"]
        rest = of["ours"]["step_s"] - sum(known.values())
        rows.append([name, *(f"{known[phase]:.3f}" if phase in known else "–" for phase in PHASES), f"{rest:.3f}"])
    return markdown_table(("workload, seconds", *PHASES, "rest"), rows)


def limit_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return our useful operations a second as a share of each library's matrix-product rate: step and phases."""
    phases = [phase for phase in PHASES if phase != "score"]
    rows = []
    for name, of in figures.items():
        parts = of["share_of_limit_by_phase"]
        for library, rate in of["gemm_gflop_per_s"].items():
            rows.append(
                [
                    name,
                    f"{of['useful_gflop']:.1f}",
                    f"{library} {rate:,.0f}",
                    f"{of['share_of_limit'][library]:.2f}",
                    *(f"{parts[phase][library]:.2f}" if phase in parts else "–" for phase in phases),
                ]
            )
    return markdown_table(("workload", "GFLOP a step", "limit, GFLOP/s", "share", *phases), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", metavar="DIR")
    parser.add_argument("--peer", type=Path, default=PEER)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_intermixed_args()
    options = [word for word in arguments.dirs if "=" in word]
    workloads = [Path(word) for word in arguments.dirs if "=" not in word]
    if not arguments.peer.is_file():
        parser.error(f"no timer of a peer at {arguments.peer}: give its path with --peer")
    for workload in workloads:
        if not (workload / "workload.json").is_file():
            parser.error(f"{workload} has no workload.json: it is not a workload")

    rounds: dict[str, list[Round]] = {workload.name: [] for workload in workloads}
    for number in range(arguments.rounds):
        for workload in workloads:
            rounds[workload.name].append(run_round(workload, arguments, [f"seed={number}", *options]))
            ratio = ratios(rounds[workload.name], "step_s")[-1]
            print(
                f"round {number + 1} of {arguments.rounds}, {workload.name}: {ratio:.1f} ×", file=sys.stderr, flush=True
            )
    figures = {name: summary(seen) for name, seen in rounds.items()}
    print("\n\n".join(table(figures) for table in (comparison_table, phase_table, limit_table)))
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("rounds", "steps", "device", "dtype")}
        record = {
            "origin": origin(arguments.device),
            **settings,
            "options": options,
            "summary": figures,
            "answers": rounds,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
