"""Curves for TensorBoard, in `tensorboard/` of the run directory."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.errors import ConfigError
from grpo.storage import storage_errors
from grpo.tracking.jsonl import encode
from grpo.tracking.metrics import answer_counts, flatten_evaluation, flatten_step

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Tracker that writes `train/…`, `rewards/…` and `eval/…` as scalars.

    The answers of each evaluation are a table of their frequencies and, as far as they are numbers, a histogram.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tensorboard"
        self._writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, Any], *, step: int = 0) -> None:
        """Begin, or continue after `step` completed steps; later points of an earlier process are hidden.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tracking with tensorboard needs a package that is missing: pip install tensorboard"
            ) from error
        with storage_errors(self.directory):
            self._writer = SummaryWriter(str(self.directory), purge_step=step + 1 if step else None)
        self._writer.add_text("config", _code(config), step)

    def log(self, step: int, metrics: Mapping[str, Any], completions: Sequence[Mapping[str, Any]] = ()) -> None:  # noqa: ARG002
        """Record the metrics of step number `step`."""
        self._scalars(step, flatten_step(metrics))

    def log_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""
        self._scalars(step, flatten_evaluation(metrics))
        counts = answer_counts(metrics)
        if not counts:
            return
        writer = self._open()
        rows = "\n".join(f"| {_cell(answer)} | {count} |" for answer, count in counts.items())
        writer.add_text("eval/answers", f"| answer | times |\n|---|---|\n{rows}", step)
        numbers = [number for answer, count in counts.items() for number in [_number(answer)] * count]
        finite = [number for number in numbers if number is not None]
        if finite:
            import numpy

            writer.add_histogram("eval/answers", numpy.asarray(finite), step)
        writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> str:
        """Record the summary, wait until all is written and return the command that shows it."""
        writer = self._open()
        writer.add_text("summary", _code(summary), int(summary.get("steps", 0)))
        writer.close()
        self._writer = None
        return f"curves: tensorboard --logdir {shlex.quote(str(self.directory))}"

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        writer = self._open()
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def _open(self) -> SummaryWriter:
        assert self._writer is not None, "start() comes first"
        return self._writer


def _code(content: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(encode(content)), indent=2, ensure_ascii=False)
    return "\n".join(f"    {line}" for line in text.splitlines())


def _cell(answer: str) -> str:
    return " ".join(answer.split()).replace("|", "\\|")


def _number(answer: str) -> float | None:
    try:
        value = float(answer.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
