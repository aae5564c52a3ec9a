"""Curves for Weights & Biases; a resumed run continues under the id in its directory."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grpo.errors import ConfigError
from grpo.storage import write_atomically
from grpo.tracking.metrics import answer_counts, flatten_evaluation, flatten_step

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

__all__ = ["WandbTracker"]

_RUN_ID = "wandb_run_id.txt"


class WandbTracker:
    """Tracker that logs `train/…`, `rewards/…` and `eval/…` over `step`, and a table of each evaluation's answers.

    Args:
        directory: the run directory; W&B keeps its own files in `wandb/` of it.
        name: the run's name on the site; None for the directory's name.
        mode: None leaves it to the environment (`WANDB_MODE`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        project: str = "grpo",
        name: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        self.directory = directory
        self.project = project
        self.name = name or directory.name
        self.mode = mode
        self._run: Run | None = None

    def start(self, config: Mapping[str, Any], *, step: int = 0) -> None:
        """Begin a run, or continue the one that this directory began; points logged again replace the earlier ones.

        Raises:
            ConfigError: the package is missing, or no user is logged in.
        """
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("tracking with wandb needs a package that is missing: pip install wandb") from error
        try:
            self._run = wandb.init(
                project=self.project,
                name=self.name,
                id=self._run_id(),
                resume="allow",
                dir=str(self.directory.absolute()),
                config=dict(config),
                mode=self.mode,
                # Our live display would be noise in a log of the terminal, and their output would break the display.
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases refused to start ({' '.join(str(error).split())}): "
                f"run `wandb login`, or set WANDB_MODE=offline"
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._run.config.update({"resumed_after_step": step}, allow_val_change=True)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of step number `step`."""
        self._open().log({"step": step, **flatten_step(metrics)})

    def log_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""
        import wandb

        row: dict[str, Any] = {"step": step, **flatten_evaluation(metrics)}
        if counts := answer_counts(metrics):
            row["eval/answers"] = wandb.Table(columns=["answer", "times"], data=[list(item) for item in counts.items()])
        self._open().log(row)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the summary and wait until all is written."""
        run = self._open()
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        run.finish()
        self._run = None

    def _run_id(self) -> str:
        path = self.directory / _RUN_ID
        if not path.exists():
            write_atomically(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _open(self) -> Run:
        assert self._run is not None, "start() comes first"
        return self._run
