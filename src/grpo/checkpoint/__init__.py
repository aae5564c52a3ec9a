"""What a run needs to go on, on disk: `checkpoint-{step}/` and `final_model/`, whole or not there."""

from grpo.checkpoint.state import Progress, Stateful, TrainingState
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
    "save_checkpoint",
    "save_final",
]
