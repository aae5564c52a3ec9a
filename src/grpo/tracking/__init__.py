"""Records of a run for its observers: run directory, terminal (`console`), TensorBoard, Weights & Biases."""

from grpo.tracking.completions import completion_lines
from grpo.tracking.journal import Journal
from grpo.tracking.metrics import answer_counts, flatten_evaluation, flatten_step
from grpo.tracking.run_directory import (
    Failure,
    RunDirectory,
    find_run,
    is_in_use,
    newest_run,
    read_failure,
    require_empty,
)
from grpo.tracking.tensorboard import TensorBoardTracker
from grpo.tracking.tracker import Tracker
from grpo.tracking.wandb_tracker import WandbTracker

__all__ = [
    "Failure",
    "Journal",
    "RunDirectory",
    "TensorBoardTracker",
    "Tracker",
    "WandbTracker",
    "answer_counts",
    "completion_lines",
    "find_run",
    "flatten_evaluation",
    "flatten_step",
    "is_in_use",
    "newest_run",
    "read_failure",
    "require_empty",
]
