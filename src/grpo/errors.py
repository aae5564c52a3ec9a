"""Exceptions that this package raises on purpose.

    GrpoError
    ├── InputError(ValueError)          the user can correct it: one line, exit code 2
    │   ├── ConfigError                 an option: unknown, of the wrong type, contradicting another
    │   ├── DataError                   a file or a data set: missing, malformed, empty, a column short
    │   ├── ModelError                  a model or tokenizer: not found, no chat template, no end token
    │   └── CheckpointError             a run directory: taken, damaged, of another model
    └── RunError(RuntimeError)          the run failed after it began: exit code 1
        ├── JudgeError                  a judge gave no usable answer; fails one completion, not the run
        ├── SandboxError                a program could not be run; fails one completion, not the run
        ├── RewardError                 more rewards failed than the run allows
        ├── StorageError                a file could not be written (disk full, no permission)
        └── StaleWeightsError           the sampler has other weights than the policy

Each message is one line: the value given, the values allowed, and the remedy.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GrpoError",
    "InputError",
    "JudgeError",
    "ModelError",
    "RewardError",
    "RunError",
    "SandboxError",
    "StaleWeightsError",
    "StorageError",
    "add_remedy",
    "first_line",
    "remedies_of",
]


class GrpoError(Exception):
    """Root of every error raised on purpose."""


class InputError(GrpoError, ValueError):
    """The input cannot be used as given."""


class ConfigError(InputError):
    """An option is unknown, of the wrong type or contradicts another."""


class DataError(InputError):
    """A file or data set is missing, malformed, empty or lacks a column."""


class ModelError(InputError):
    """A model or tokenizer is missing or lacks what the run needs of it."""


class CheckpointError(InputError):
    """A run directory is taken, damaged or belongs to another model."""


class RunError(GrpoError, RuntimeError):
    """The run failed after it began."""


class JudgeError(RunError):
    """A judge gave no usable answer for a completion."""


class SandboxError(RunError):
    """The sandbox could not run a program.

    Attributes:
        refused: the operation that the system never allows; None for a fault that may be temporary.
    """

    def __init__(self, message: str, *, refused: str | None = None) -> None:
        super().__init__(message)
        self.refused = refused


class RewardError(RunError):
    """A larger share of rewards failed than the run allows."""


class StorageError(RunError, OSError):
    """A file could not be written."""


class StaleWeightsError(RunError):
    """The sampler's weights are not the policy's."""


def add_remedy(error: BaseException, text: str) -> None:
    """Add what to do to an exception, as `add_note` of Python 3.11 does; a traceback ends with it there."""
    vars(error).setdefault("__notes__", []).append(text)


def remedies_of(error: BaseException) -> list[str]:
    """Return the texts that `add_remedy` added."""
    return list(getattr(error, "__notes__", ()))


def first_line(error: BaseException) -> str:
    """Return the first line of the message; the name of the error type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
