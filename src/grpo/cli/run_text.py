"""The text about a run that `grpo doctor` prints."""

from __future__ import annotations

from grpo.cli.printing import aligned
from grpo.diagnosis.zero_variance import ZeroVarianceMonitor
from grpo.errors import CheckpointError
from grpo.plurals import counted
from grpo.tracking import RunDirectory, find_run
from grpo.tracking.formatting import number

__all__ = ["run_report"]

_MEASURES = (("reward", "reward", ".3f"), ("cut off", "truncated_share", ".0%"), ("length", "completion_length", ".1f"))


def run_report(path: str) -> tuple[list[str], bool]:
    """Return lines about the run at `path`, and whether something is wrong with it; reads only.

    Raises:
        CheckpointError: no run is there.
    """
    try:
        directory = find_run(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; grpo doctor --sandbox tests the sandbox") from None
    steps = RunDirectory(directory, None).metrics()
    monitor = ZeroVarianceMonitor()
    for metrics in steps:
        monitor.after_step(metrics)
    state = "finished" if (directory / "summary.json").is_file() else "not finished"
    lines = [f"{directory}: {counted(len(steps), 'step')}, {state}"]
    if steps:
        rows = [["", "first", "last"]]
        rows += [
            [label, *(number(each.get(name), form) for each in (steps[0], steps[-1]))]
            for label, name, form in _MEASURES
        ]
        lines += aligned(rows, right=True)
    problem = monitor.conclusion()
    lines.append(f"problem: {problem}" if problem is not None else "nothing was found to be wrong")
    return lines, problem is not None
