"""A trained CTR scorer on disk: `scorer.json`, `scorer.safetensors` and its tokenizer, whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import CheckpointError
from grpo.policy import LoraSettings
from grpo.storage import storage_errors

__all__ = ["Description", "find_scorer", "load_weights", "read_description", "replaced_directory", "save_scorer"]

DESCRIPTION_FILE = "scorer.json"
WEIGHTS_FILE = "scorer.safetensors"


@dataclass(frozen=True, slots=True)
class Description:
    """What `scorer.json` says.

    Attributes:
        kind: "ctr".
        backbone: its name: "tiny", a Hub id or an absolute path.
        sizes: of the backbone: hidden_size, num_layers, vocabulary_size.
        lora: rank, alpha and target_modules of the adapters; None: the weights hold the whole backbone.
        head_sizes: widths of the head's hidden layers.
        max_length: most tokens of a text that are read.
        logit_shift: added to the logit before the sigmoid; takes the class weights of the training out again.
        metrics: of the held-out rows.
    """

    kind: str
    backbone: str
    sizes: dict[str, int]
    lora: dict[str, Any] | None
    head_sizes: tuple[int, ...]
    max_length: int
    logit_shift: float
    metrics: dict[str, Any]

    @property
    def lora_settings(self) -> LoraSettings | None:
        """The shape of the adapters, as `add_adapter` takes it."""
        if self.lora is None:
            return None
        targets = self.lora["target_modules"]
        return LoraSettings(
            rank=int(self.lora["rank"]),
            alpha=float(self.lora["alpha"]),
            target_modules=targets if isinstance(targets, str) else tuple(targets),
        )

    def require_backbone(self, sizes: Mapping[str, int], name: str, directory: Path) -> None:
        """Raise a CheckpointError unless a backbone of these sizes is what the scorer was trained on."""
        if dict(sizes) != self.sizes:
            raise CheckpointError(
                f"the scorer in {directory} was trained on {self.backbone} ({_listed(self.sizes)}) and cannot be "
                f"put on {name} ({_listed(sizes)}): use its own backbone, or train a scorer on this one"
            )


def find_scorer(path: str | Path) -> Path:
    """Return the directory with `scorer.json`: `path`, or `best_model` in it.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(path).expanduser()
    for directory in (given, given / "best_model"):
        if (directory / DESCRIPTION_FILE).is_file():
            return directory.resolve()
    raise CheckpointError(
        f"no scorer in {path}: there is no {DESCRIPTION_FILE} (train one first: grpo reward train ctr-headlines)"
    )


def save_scorer(directory: Path, description: Description, tensors: Mapping[str, Tensor], tokenizer: Any) -> None:
    """Put a scorer into `directory`, in place of what is there.

    Raises:
        StorageError: it could not be written; what was there is still there.
    """
    from safetensors.torch import save_file

    with replaced_directory(directory) as partial:
        weights = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        tokenizer.save_pretrained(partial)
        text = json.dumps(asdict(description), indent=1)
        (partial / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")


def read_description(directory: Path) -> Description:
    """Return what the scorer's description says.

    Raises:
        CheckpointError: it is missing, damaged, or of something else.
    """
    file = directory / DESCRIPTION_FILE
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        description = Description(**{**value, "head_sizes": tuple(value["head_sizes"])})
        sizes = {name: int(size) for name, size in description.sizes.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read ({_first_line(error)}): train the scorer again") from error
    if description.kind != "ctr" or not sizes:
        raise CheckpointError(f"{file} describes a scorer of kind {description.kind!r}: 'ctr' is needed")
    return description


@torch.no_grad()
def load_weights(directory: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the scorer's weights into `parameters`, all or none.

    Raises:
        CheckpointError: they are missing, damaged, or of other names or shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = directory / WEIGHTS_FILE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({_first_line(error)}): train the scorer again") from error
    if {name: value.shape for name, value in tensors.items()} != {n: value.shape for n, value in parameters.items()}:
        different = sorted(set(tensors) ^ set(parameters)) or [
            name for name, value in tensors.items() if value.shape != parameters[name].shape
        ]
        raise CheckpointError(
            f"the weights in {file} are not those that {DESCRIPTION_FILE} describes ({different[0]} differs): "
            f"train the scorer again"
        )
    for name, value in tensors.items():
        parameters[name].copy_(value)


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Give an empty directory to write to, which takes the place of `directory` if all went well.

    Raises:
        StorageError: it could not be written; what was there is still there.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    former = directory.with_name(f".{directory.name}.former")
    with storage_errors(directory):
        for leftover in (partial, former):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if directory.exists():
                directory.rename(former)
            partial.rename(directory)
        finally:
            for leftover in (partial, former):
                shutil.rmtree(leftover, ignore_errors=True)


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in sizes.items())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
