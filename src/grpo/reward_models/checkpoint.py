"""A trained CTR scorer on disk: `scorer.json`, `scorer.safetensors` and the tokenizer, all written in one swap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from grpo.errors import CheckpointError
from grpo.policy import LoraSettings
from grpo.reward_models.output import BEST_MODEL, replaced_directory, standing
from grpo.storage import expanded

__all__ = [
    "DESCRIPTION_FILE",
    "AdapterShape",
    "Description",
    "best_model_of",
    "find_scorer",
    "load_weights",
    "read_description",
    "save_scorer",
]

DESCRIPTION_FILE = "scorer.json"
WEIGHTS_FILE = "scorer.safetensors"

_LOADABLE_FILES = (DESCRIPTION_FILE, "config.json", "adapter_config.json")
"""A loadable directory has one of these: the description of a CTR scorer, of a classifier, or of adapters with head."""

_TRAIN_AGAIN = "train the scorer again"
_SIZES = {"hidden_size", "num_layers", "vocabulary_size"}
_Size: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Shape of a scorer's adapters on its backbone, as in `LoraSettings`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    rank: _Size
    alpha: Annotated[float, Field(gt=0)]
    target_modules: str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """The content of `scorer.json`.

    Attributes:
        kind: "ctr".
        backbone: name of the backbone: "tiny", a Hub id or an absolute path.
        sizes: hidden_size, num_layers and vocabulary_size of the backbone.
        lora: the adapters; None: the weights hold the whole backbone.
        head_sizes: widths of the head's hidden layers.
        max_length: number of tokens of a text that are used.
        logit_shift: added to the logit before the sigmoid; undoes the class weights of the training.
        metrics: evaluation on the held-out rows.
        revision: branch, tag or commit of a backbone on the Hub.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    backbone: Annotated[str, Field(min_length=1)]
    sizes: dict[str, _Size]
    lora: AdapterShape | None
    head_sizes: tuple[_Size, ...]
    max_length: _Size
    logit_shift: float
    metrics: dict[str, Any]
    revision: str | None = None

    @property
    def lora_settings(self) -> LoraSettings | None:
        """The shape of the adapters, as `add_adapter` takes it."""
        return None if self.lora is None else LoraSettings(**asdict(self.lora))

    def require_backbone(self, sizes: Mapping[str, int], name: str, directory: Path) -> None:
        """Raise a CheckpointError unless `sizes` are those of the backbone that the scorer was trained on."""
        if dict(sizes) != self.sizes:
            ours, theirs = (
                ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in each.items())
                for each in (self.sizes, sizes)
            )
            raise CheckpointError(
                f"the scorer in {directory} was trained on {self.backbone} ({ours}) and cannot be "
                f"put on {name} ({theirs}): use its own backbone, or train a scorer on this one"
            )


def find_scorer(path: str | Path) -> Path:
    """Return the directory with `scorer.json`: `best_model` in `path`, or `path` itself.

    Raises:
        CheckpointError: there is none.
    """
    directory = best_model_of(path)
    if directory is None or not (directory / DESCRIPTION_FILE).is_file():
        raise CheckpointError(
            f"no scorer in {path}: there is no {DESCRIPTION_FILE} (train one first: grpo reward train ctr-headlines)"
        )
    return directory


def best_model_of(path: str | Path) -> Path | None:
    """Return the directory of a trained scorer of either kind: `best_model` in `path`, or `path`; None if neither.

    If a training was killed while it replaced an earlier scorer, this is the earlier one.
    """
    place = expanded(path)
    for directory in (standing(place / BEST_MODEL), standing(place)):
        if directory is not None and any((directory / name).is_file() for name in _LOADABLE_FILES):
            return directory.resolve()
    return None


def save_scorer(directory: Path, description: Description, tensors: Mapping[str, Tensor], tokenizer: Any) -> None:
    """Write a scorer into `directory`, in place of its former content.

    Raises:
        StorageError: it could not be written; the former content is still there.
    """
    from safetensors.torch import save_file

    with replaced_directory(directory) as partial:
        weights = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        tokenizer.save_pretrained(partial)
        text = json.dumps(asdict(description), indent=1)
        (partial / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")


def read_description(directory: Path) -> Description:
    """Return the content of a scorer's `scorer.json`.

    Raises:
        CheckpointError: it is missing, damaged, or describes something else.
    """
    file = directory / DESCRIPTION_FILE
    try:
        description = TypeAdapter(Description).validate_json(file.read_bytes())
    except ValidationError as error:
        found = error.errors()[0]
        reason = ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"])))
        raise CheckpointError(f"{file} cannot be read ({reason}): {_TRAIN_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): {_TRAIN_AGAIN}") from error
    if description.kind != "ctr":
        raise CheckpointError(f"{file} describes a scorer of kind {description.kind!r}: 'ctr' is needed")
    if set(description.sizes) != _SIZES:
        raise CheckpointError(f"{file} cannot be read (sizes should be {sorted(_SIZES)}): {_TRAIN_AGAIN}")
    return description


@torch.no_grad()
def load_weights(directory: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copy the scorer's weights into `parameters`, all or none.

    Raises:
        CheckpointError: they are missing, damaged, or have other names or shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = directory / WEIGHTS_FILE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} cannot be read ({reason}): {_TRAIN_AGAIN}") from error
    saved, needed = ({name: value.shape for name, value in each.items()} for each in (tensors, parameters))
    if saved != needed:
        different = min(name for name in {*saved, *needed} if saved.get(name) != needed.get(name))
        raise CheckpointError(
            f"the weights in {file} are not those that {DESCRIPTION_FILE} describes ({different} differs): "
            f"{_TRAIN_AGAIN}"
        )
    for name, value in tensors.items():
        parameters[name].copy_(value)
