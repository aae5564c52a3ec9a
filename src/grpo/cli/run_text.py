"""The text about a run that `grpo doctor` prints."""

from __future__ import annotations

from grpo.cli.printing import aligned
from grpo.config import GRPOConfig
from grpo.config.load import LATEST_RUN
from grpo.diagnosis import Monitor
from grpo.errors import CheckpointError
from grpo.plurals import counted
from grpo.tracking import RunDirectory, find_run, is_in_use, newest_run, read_failure
from grpo.tracking.formatting import number

__all__ = ["run_report"]

_MEASURES = (("reward", "reward", ".3f"), ("cut off", "truncated_share", ".0%"), ("length", "completion_length", ".1f"))


def run_report(path: str | None) -> tuple[list[str], bool]:
    """Return lines about the run at `path`, and whether something is wrong with it; reads only.

    Args:
        path: None: the run below `runs/` that was started last. A run that failed before its first step is no
            `runs/latest`.

    Raises:
        CheckpointError: no run is there.
    """
    try:
        directory = find_run(path or newest_run() or LATEST_RUN)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; grpo doctor --sandbox tests the sandbox") from None
    steps = RunDirectory(directory, None).metrics()
    failure = read_failure(directory)
    state = "stopped before its end"
    if (directory / "summary.json").is_file():
        state = "finished"
    elif failure is not None:
        state = "failed"
    elif is_in_use(directory):
        state = "running"
    lines = [f"{directory}: {counted(len(steps), 'step')}, {state}"]
    if steps:
        rows = [["", "first", "last"]]
        rows += [
            [label, *(number(each.get(name), form) for each in (steps[0], steps[-1]))]
            for label, name, form in _MEASURES
        ]
        lines += aligned(rows, right=True)
    problems = Monitor(GRPOConfig.from_file(directory / "config.yaml").flat(), steps).conclusions()
    if failure is not None:
        problems.append(f"the run failed after {counted(failure.step, 'step')}: {failure.error}; {failure.remedy}")
    lines += [f"problem: {problem}" for problem in problems] or ["nothing was found to be wrong"]
    return lines, bool(problems)
