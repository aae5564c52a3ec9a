"""Records of a run for its observers: run directory, terminal (`console`), TensorBoard, Weights & Biases."""

from grpo.tracking.completions import completion_lines
from grpo.tracking.journal import Journal
from grpo.tracking.metrics import answer_counts, flatten_evaluation, flatten_step
from grpo.tracking.run_directory import RunDirectory, find_run, require_empty
from grpo.tracking.tensorboard import TensorBoardTracker
from grpo.tracking.tracker import Tracker
from grpo.tracking.wandb_tracker import WandbTracker

__all__ = [
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
    "require_empty",
]
