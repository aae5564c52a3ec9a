"""LoRA through PEFT (arXiv:2106.09685): small float32 matrices are trained, the base is frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import CheckpointError, ModelError

__all__ = [
    "TRAINED",
    "LoraSettings",
    "adapter_weights",
    "add_adapter",
    "frozen_adapter",
    "keep_adapter_copy",
    "keep_embeddings",
    "load_adapter",
    "load_adapter_weights",
    "refuse_virtual_tokens",
    "save_adapter",
]

WEIGHTS_FILE = "adapter_model.safetensors"

TRAINED = "default"
"""PEFT's name for the adapter that is trained."""

_EMBEDDINGS = re.compile(
    r"base_model\.model\.(?P<module>.+?)(\.token_adapter)?(\.(base_layer|modules_to_save|original_module))?\.weight"
)
"""Names of whole weights in an adapter's file: of a resized layer, or of one that is trained beside the adapters."""

FROZEN = "reference"
"""Our name for the copy of an adapter that was trained before this run began."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Shape of the adapters.

    Attributes:
        rank: r, columns of the small matrices.
        alpha: their product is scaled by alpha / rank.
        dropout: share of inputs dropped in training.
        target_modules: "all-linear" (all but the output head), or names as `q_proj`.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


def add_adapter(model: nn.Module, settings: LoraSettings, *, seed: int, excluded: Sequence[str] = ()) -> nn.Module:
    """Return `model` wrapped by PEFT with fresh adapters that change no output yet; only they are trainable.

    Args:
        excluded: names of modules that get none.

    Raises:
        ModelError: a target names no linear module.
    """
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    if targets != "all-linear":
        targets = (targets,) if isinstance(targets, str) else targets
        _require_targets(model, targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=[
            name for part in excluded for name in _linear_modules(model) if f"{name}.".startswith(f"{part}.")
        ]
        or None,
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, nn.Module)
    return wrapped


def refuse_virtual_tokens(config: Any) -> None:
    """Check that an adapter changes weights; one of virtual tokens would have to take part in sampling.

    Raises:
        ModelError: it is one of prompt, prefix or p-tuning.
    """
    if config.is_prompt_learning:
        raise ModelError(
            f"the adapter is of type {config.peft_type.value}, whose virtual tokens are not sampled with: "
            f"use LoRA or another adapter of weights"
        )


def load_adapter(model: nn.Module, directory: Path, *, trainable: bool) -> nn.Module:
    """Return `model` wrapped by PEFT with the adapter of `directory`.

    Raises:
        ModelError: its weights are missing, not in safetensors format, or do not fit the model.
    """
    from peft import PeftConfig, PeftModel

    if not (directory / WEIGHTS_FILE).is_file():
        raise ModelError(f"{directory} has no {WEIGHTS_FILE}: only adapters saved as safetensors are loaded")
    try:
        config = PeftConfig.from_pretrained(str(directory))
        refuse_virtual_tokens(config)
        has_embeddings = _fit_embeddings(model, config, directory)
        wrapped = PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)
    except ModelError:
        raise
    except (ValueError, RuntimeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the adapter in {directory} does not load: {reason}") from error
    assert isinstance(wrapped, nn.Module)
    if has_embeddings:
        keep_embeddings(wrapped)
    return wrapped


def keep_embeddings(model: Any) -> None:
    """Save the embeddings with the adapter of `model`: they differ from those of the base on disk."""
    model._saves_embeddings = True


def _fit_embeddings(model: Any, config: Any, directory: Path) -> bool:
    """Give `model` as many embeddings as the adapter was trained with; return whether the adapter brings its own.

    Training with added tokens changes the number of embeddings (`resize_token_embeddings`).

    Raises:
        ModelError: the adapter has embeddings beyond the base's, but not their values.
    """
    from safetensors import safe_open

    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    found = {id(module): name for name, module in model.named_modules()}
    names = [found[id(table)] for table in tables if table is not None]
    tied = tables[1] is not None and tables[0].weight is tables[1].weight
    brought: dict[str, int] = {}
    trained = _trained_tokens(config)
    needed = 1 + max(trained, default=-1)
    with safe_open(directory / WEIGHTS_FILE, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            whole = _EMBEDDINGS.fullmatch(key)
            if whole and whole["module"] in names:
                brought[whole["module"]] = file.get_slice(key).get_shape()[0]
            elif key.endswith(".lora_embedding_A"):
                needed = max(needed, file.get_slice(key).get_shape()[1])
    present = len(tables[0].weight)
    wanted = max(brought.values(), default=max(needed, present))
    if wanted == present:
        return bool(brought)
    missing = set(names) - set(brought) - ({names[0]} if trained else set())
    if missing and not (tied and len(missing) < len(names)):
        raise ModelError(
            f"the adapter in {directory} was trained with {wanted} embeddings, the base has {present}, and the adapter "
            f"does not bring the weights of {', '.join(sorted(missing))}: save it again with them "
            f"(save_embedding_layers=True, modules_to_save)"
        )
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(wanted, mean_resizing=False)
    return True


def _trained_tokens(config: Any) -> list[int]:
    """Return the ids of the tokens whose embeddings an adapter trains one by one (`trainable_token_indices`)."""
    indices = getattr(config, "trainable_token_indices", None) or []
    lists = indices.values() if isinstance(indices, dict) else [indices]
    return [index for each in lists for index in each]


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Return the weights of the adapter that is trained, by the names in its file."""
    from peft import get_peft_model_state_dict

    embeddings = getattr(model, "_saves_embeddings", False)
    weights: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=TRAINED, save_embedding_layers=embeddings
    )
    return weights


def keep_adapter_copy(model: Any) -> None:
    """Keep a frozen copy of the present adapter: the reference of a run that trains it further."""
    from peft import set_peft_model_state_dict

    weights = adapter_weights(model)
    model.add_adapter(FROZEN, model.peft_config[TRAINED])
    set_peft_model_state_dict(model, {name: value.clone() for name, value in weights.items()}, adapter_name=FROZEN)
    model.set_adapter(TRAINED)


@contextmanager
def frozen_adapter(model: Any) -> Iterator[None]:
    """Run the reference: the base without adapters, or with the copy that `keep_adapter_copy` made."""
    # PEFT's own context manager counts parameters each time it is entered.
    if FROZEN in model.peft_config:
        model.set_adapter(FROZEN, inference_mode=True)
    else:
        model.base_model.disable_adapter_layers()
    try:
        yield
    finally:
        if FROZEN in model.peft_config:
            model.set_adapter(TRAINED)
        else:
            model.base_model.enable_adapter_layers()


def save_adapter(model: Any, directory: Path, *, base: str) -> None:
    """Write adapter weights and configuration; the same adapter gives the same bytes.

    Args:
        base: name or directory from which `AutoModelForCausalLM` and PEFT load the base.
    """
    import json

    from safetensors.torch import save_file

    weights = adapter_weights(model)
    # Copies: the file holds no tensor twice, but tied embeddings are one.
    tensors = {name: weights[name].detach().cpu().clone().contiguous() for name in sorted(weights)}
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    config = model.peft_config[TRAINED].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    # The order of a set differs between processes.
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    text = json.dumps(config, indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def load_adapter_weights(model: Any, directory: Path) -> None:
    """Put the weights that `save_adapter` wrote into the adapter that is trained.

    Raises:
        CheckpointError: the weights are missing, or of another model.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    file = directory / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"{directory} has no {WEIGHTS_FILE}: it is not a checkpoint of a run with LoRA")
    weights = load_file(file)
    expected = adapter_weights(model)
    if {name: value.shape for name, value in weights.items()} != {n: value.shape for n, value in expected.items()}:
        raise CheckpointError(f"the adapter in {directory} is of another model or rank than the one being trained")
    set_peft_model_state_dict(model, weights, adapter_name=TRAINED)


def _require_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    linear = _linear_modules(model)
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown or not targets:
        names = sorted({name.rpartition(".")[2] for name in linear})
        given = ", ".join(map(repr, unknown)) or "an empty list"
        raise ModelError(f"no linear module named {given}: use 'all-linear' or some of {', '.join(names)}")


def _linear_modules(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
