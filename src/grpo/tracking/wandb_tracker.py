"""Curves for Weights & Biases; a resumed run continues under the id in its directory."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping, Sequence
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
    """Tracker that logs `train/…`, `rewards/…` and `eval/…` over `step`, and tables.

    With each evaluation come tables of its answers and of the completions of the step before it; the completions of the
    last step come at the end.

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
        self._completions: Sequence[Mapping[str, Any]] = ()

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

    def log(self, step: int, metrics: Mapping[str, Any], completions: Sequence[Mapping[str, Any]] = ()) -> None:
        """Record the metrics of step number `step`; its completions are kept for the next table."""
        self._completions = completions
        self._open().log({"step": step, **flatten_step(metrics)})

    def log_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""
        import wandb

        row: dict[str, Any] = {"step": step, **flatten_evaluation(metrics)}
        if counts := answer_counts(metrics):
            row["eval/answers"] = wandb.Table(columns=["answer", "times"], data=[list(item) for item in counts.items()])
        self._open().log(row | self._table_of_completions())

    def finish(self, summary: Mapping[str, Any]) -> str:
        """Record the summary, wait until all is written and return the address, or the command that uploads it."""
        run = self._open()
        if self._completions:
            run.log({"step": self._completions[0]["step"], **self._table_of_completions()})
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        # Offline, W&B would print a warning at the question for the address.
        place = None if run.offline else run.url
        if run.offline:
            files = f"{shlex.quote(str(self.directory.absolute()))}/wandb/offline-run-*"
            place = f"offline, upload with: wandb sync {files}"
        run.finish()
        self._run = None
        return f"Weights & Biases: {place}" if place else ""

    def _table_of_completions(self) -> dict[str, Any]:
        """Return the completions that are not logged yet as an entry for a log, or nothing."""
        import wandb

        lines, self._completions = self._completions, ()
        if not lines:
            return {}
        rewards = list(dict.fromkeys(name for line in lines for name in line["rewards"]))
        facts = ("step", "row", "index", "total", "advantage", "length", "finish_reason")
        rows = [
            [_text(line["prompt"]), line["completion"], *map(line["rewards"].get, rewards), *map(line.get, facts)]
            for line in lines
        ]
        columns = ["prompt", "completion", *(f"rewards/{name}" for name in rewards), *facts]
        return {"completions": wandb.Table(columns=columns, data=rows)}

    def _run_id(self) -> str:
        path = self.directory / _RUN_ID
        if not path.exists():
            write_atomically(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _open(self) -> Run:
        assert self._run is not None, "start() comes first"
        return self._run


def _text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a prompt as text; messages with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message.get('content')}" for message in prompt)
