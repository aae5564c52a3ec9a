"""A trained CTR scorer on disk: `scorer.json`, `scorer.safetensors` and its tokenizer, whole or not there."""

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

_DESCRIPTIONS = (DESCRIPTION_FILE, "config.json", "adapter_config.json")
"""One of these is in a directory that can be loaded: of a scorer of clicks, a classifier, or adapters and head."""

_Size: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]
_SIZES = {"hidden_size", "num_layers", "vocabulary_size"}


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Shape of the adapters that a scorer has on its backbone."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    rank: _Size
    alpha: Annotated[float, Field(gt=0)]
    target_modules: str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """What `scorer.json` says.

    Attributes:
        kind: "ctr".
        backbone: its name: "tiny", a Hub id or an absolute path.
        sizes: of the backbone: hidden_size, num_layers, vocabulary_size.
        lora: the adapters; None: the weights hold the whole backbone.
        head_sizes: widths of the head's hidden layers.
        max_length: most tokens of a text that are read.
        logit_shift: added to the logit before the sigmoid; takes the class weights of the training out again.
        metrics: of the held-out rows.
        revision: branch, tag or commit of a backbone on the Hub.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

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
        if self.lora is None:
            return None
        return LoraSettings(rank=self.lora.rank, alpha=self.lora.alpha, target_modules=self.lora.target_modules)

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
    directory = best_model_of(path)
    if directory is None or not (directory / DESCRIPTION_FILE).is_file():
        raise CheckpointError(
            f"no scorer in {path}: there is no {DESCRIPTION_FILE} (train one first: grpo reward train ctr-headlines)"
        )
    return directory


def best_model_of(path: str | Path) -> Path | None:
    """Return the directory with what a training of either kind has saved: `best_model` in `path`, or `path` itself;
    None if neither holds anything that could be loaded.

    Where a training was killed as it put its scorer in the place of an earlier one, it is the earlier one's.
    """
    given = Path(path).expanduser()
    for directory in (standing(given / BEST_MODEL), standing(given)):
        if directory is not None and any((directory / name).is_file() for name in _DESCRIPTIONS):
            return directory.resolve()
    return None


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
        description = TypeAdapter(Description).validate_json(file.read_bytes())
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        said = f"{where}: {found['msg']}" if where else found["msg"]
        raise CheckpointError(f"{file} cannot be read ({said}): train the scorer again") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): train the scorer again") from error
    if description.kind != "ctr":
        raise CheckpointError(f"{file} describes a scorer of kind {description.kind!r}: 'ctr' is needed")
    if set(description.sizes) != _SIZES:
        raise CheckpointError(f"{file} cannot be read (sizes should be {sorted(_SIZES)}): train the scorer again")
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


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in sizes.items())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
