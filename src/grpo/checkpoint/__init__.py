"""State of a run on disk, for resume: `checkpoint-{step}/` and `final_model/`, complete or absent."""

from grpo.checkpoint.state import Progress, Stateful, TrainingState, require_saveable
from grpo.checkpoint.store import (
    Checkpoint,
    CheckpointStore,
    checkpoint_steps,
    clear_leftovers,
    find_checkpoint,
    find_model,
    model_step,
    reopen,
    save_checkpoint,
    save_final,
)

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "Progress",
    "Stateful",
    "TrainingState",
    "checkpoint_steps",
    "clear_leftovers",
    "find_checkpoint",
    "find_model",
    "model_step",
    "reopen",
    "require_saveable",
    "save_checkpoint",
    "save_final",
]
