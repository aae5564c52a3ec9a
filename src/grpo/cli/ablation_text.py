"""The table that an ablation of rewards prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo.assembly.ablation import Ablation, AblationRun

__all__ = ["ablation_table"]

_MEASURES = (
    ("strict", "accuracy"),
    ("lenient", "accuracy_lenient"),
    ("greedy", "accuracy_greedy"),
    ("format", "format_rate"),
)

_NONE = "–"


def ablation_table(ablation: Ablation) -> str:
    """Return one line a run: what was left out, accuracies on held-out prompts, and the mean of every reward."""
    names = list(ablation.runs[0].rewards)
    measures = [(label, key) for label, key in _MEASURES if any(key in (run.evaluation or {}) for run in ablation.runs)]
    rows = [["left out", *(label for label, _ in measures), *names]]
    rows += [_row(run, [key for _, key in measures], names) for run in ablation.runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines += [f"without {run.left_out} the run failed: {run.error}" for run in ablation.runs if run.error is not None]
    if measures:
        lines.append(f"{', '.join(label for label, _ in measures)}: on held-out prompts after training")
    lines.append("rewards: mean over the last fifth of the steps, before weighting; in brackets where it did not count")
    lines.append(f"runs are in {ablation.path}")
    return "\n".join(lines)


def _row(run: AblationRun, keys: list[str], names: list[str]) -> list[str]:
    evaluation: Mapping[str, Any] = run.evaluation or {}
    cells = [_number(evaluation.get(key)) for key in keys]
    for name in names:
        shown = _number(run.rewards.get(name))
        cells.append(f"({shown})" if name == run.left_out else shown)
    return ["nothing" if run.left_out is None else run.left_out, *cells]


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
