"""Resume of a run from its newest checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.assembly.assembly import Parts, assemble
from grpo.assembly.invocation import own_command
from grpo.assembly.objects import require_objects
from grpo.assembly.parts import number_of_steps
from grpo.assembly.run_record import RunRecord, read_run_config, with_absolute_paths
from grpo.assembly.runs import run_parts
from grpo.checkpoint import CheckpointStore, Progress
from grpo.config import OPTIONS, GRPOConfig, parse_overrides
from grpo.errors import CheckpointError, ConfigError
from grpo.plurals import counted
from grpo.tracking import RunDirectory, find_run
from grpo.trainer import Outcome

__all__ = ["resume", "resume_with"]


def resume(path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Outcome:
    """Resume a run from its newest intact checkpoint, or from its beginning when there is none.

    Args:
        overrides: options that change from here on, as `steps=200`.

    Raises:
        CheckpointError: no run is there, or all its checkpoints are damaged.
        ConfigError: an option cannot change in the middle of a run, or objects are needed that only Python can give.
    """
    return resume_with(path, assemble, overrides)[0]


def resume_with(
    path: str | Path,
    make_parts: Callable[[GRPOConfig], Parts],
    overrides: Sequence[str] | Mapping[str, Any],
    objects: Collection[str] = (),
) -> tuple[Outcome, Parts]:
    """Resume a run, as `resume`, with the parts that `make_parts` makes of its configuration; return both.

    Args:
        objects: names of what is given from Python.
    """
    directory = find_run(path)
    require_objects(directory, objects)
    record = RunRecord.read(directory)
    before = read_run_config(directory, record)
    config = _changed(before, overrides)
    with RunDirectory.open(path) as run:
        store = CheckpointStore(run.path, config.output.keep_checkpoints)
        checkpoint = store.newest()
        progress = Progress() if checkpoint is None else checkpoint.state.progress
        if checkpoint is None and "model" in objects:
            raise CheckpointError(
                f"{directory} has no checkpoint, and its model is in memory, perhaps trained since: start a new run"
            )
        parts = make_parts(config)
        steps = number_of_steps(config, len(parts.prompts.train))
        if steps < progress.step:
            raise ConfigError(f"{directory} has done {counted(progress.step, 'step')} already: give more, as steps=N")
        changes = {**record.differences(before), **before.differences(config)}
        notes = record.changed_files()
        run.write_config(parts.config.to_yaml())
        RunRecord.of(parts.config).write(run.path)
        run.clear_failure()
        if checkpoint is None:
            run.rewind(-1)
            notes.append("the run had stopped before anything was saved, so it starts from the beginning")
            return run_parts(parts, run, progress, changes=changes, notes=notes), parts
        if steps > progress.step:
            # The run is unfinished again: its former end must not be taken for a result.
            checkpoint = store.reopen(checkpoint)
            run.set_summary_aside()
        elif steps == progress.step:
            option = "num_epochs" if config.optimizer.steps is None else "steps"
            more = 2 * (config.optimizer.num_epochs or 1) if option == "num_epochs" else 2 * steps
            notes.append(
                f"the run has done all of its {counted(steps, 'step')}: to train further, add a larger {option}, "
                f"as in: {own_command()} train --resume {shlex.quote(str(path))} {option}={more:g}"
            )
        parts.policy.load_weights(checkpoint.path)
        store.prune(progress.step)
        run.rewind(progress.step, evaluated=progress.evaluated_at(progress.step))
        if (logged := run.last_step()) < progress.step:
            notes.append(
                f"metrics.jsonl ends at step {logged}, the checkpoint is of step {progress.step}: the lines between "
                f"were lost, and the run continues from the checkpoint"
            )
        return run_parts(parts, run, progress, checkpoint.state, changes=changes, notes=notes), parts


def _changed(config: GRPOConfig, overrides: Sequence[str] | Mapping[str, Any]) -> GRPOConfig:
    changed = with_absolute_paths(config.replace(**parse_overrides(overrides))) if overrides else config
    for name, (was, wanted) in config.differences(changed).items():
        if OPTIONS[name].known("fixed"):
            raise ConfigError(
                f"{name} is {was!r} in this run and cannot become {wanted!r} in the middle of it: start a new run"
            )
    return changed
