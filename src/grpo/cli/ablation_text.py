"""The table that an ablation of rewards prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo.cli.printing import aligned
from grpo.tracking.formatting import evaluation_measures, number

if TYPE_CHECKING:
    from grpo.assembly.ablation import Ablation

__all__ = ["ablation_table"]


def ablation_table(ablation: Ablation) -> str:
    """Return one line a run: the reward left out, accuracies on held-out prompts, and the mean of every reward."""
    names = list(ablation.runs[0].rewards)
    evaluations = [run.evaluation for run in ablation.runs if run.evaluation]
    measures = {label: key for label, key, _ in evaluation_measures(*evaluations) if key != "reward"}
    rows = [["left out", *measures, *names]]
    for run in ablation.runs:
        means = {name: number(run.rewards.get(name)) for name in names}
        shown = [f"({mean})" if name == run.left_out else mean for name, mean in means.items()]
        rows.append(
            [run.left_out or "nothing", *(number((run.evaluation or {}).get(key)) for key in measures.values()), *shown]
        )
    lines = aligned(rows, right=True)
    lines += [f"without {run.left_out} the run failed: {run.error}" for run in ablation.runs if run.error is not None]
    if measures:
        lines.append(f"{', '.join(measures)}: on held-out prompts after training")
    lines.append("rewards: mean over the last fifth of the steps, before weighting; in brackets where it did not count")
    lines.append(f"runs are in {ablation.path}")
    return "\n".join(lines)
