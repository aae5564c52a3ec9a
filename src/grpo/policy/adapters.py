"""LoRA through PEFT (arXiv:2106.09685): small float32 matrices are trained, the base is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grpo.errors import CheckpointError, ModelError, first_line

__all__ = [
    "TRAINED",
    "LoraSettings",
    "add_adapter",
    "frozen_adapter",
    "keep_adapter_copy",
    "load_adapter",
    "load_adapter_weights",
    "refuse_virtual_tokens",
    "save_adapter",
]

WEIGHTS_FILE = "adapter_model.safetensors"

TRAINED = "default"
"""PEFT's name for the adapter that is trained."""

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


def add_adapter(model: nn.Module, settings: LoraSettings, *, seed: int) -> nn.Module:
    """Return `model` wrapped by PEFT with fresh adapters that change no output yet; only they are trainable.

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
        refuse_virtual_tokens(PeftConfig.from_pretrained(str(directory)))
        wrapped = PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)
    except ModelError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"the adapter in {directory} does not load: {first_line(error)}") from error
    assert isinstance(wrapped, nn.Module)
    return wrapped


def keep_adapter_copy(model: Any) -> None:
    """Keep a frozen copy of the present adapter: the reference of a run that trains it further."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = get_peft_model_state_dict(model, adapter_name=TRAINED, save_embedding_layers=False)
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

    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = get_peft_model_state_dict(model, adapter_name=TRAINED, save_embedding_layers=False)
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
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
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    file = directory / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"{directory} has no {WEIGHTS_FILE}: it is not a checkpoint of a run with LoRA")
    weights = load_file(file)
    expected = get_peft_model_state_dict(model, adapter_name=TRAINED, save_embedding_layers=False)
    if {name: value.shape for name, value in weights.items()} != {n: value.shape for n, value in expected.items()}:
        raise CheckpointError(f"the adapter in {directory} is of another model or rank than the one being trained")
    set_peft_model_state_dict(model, weights, adapter_name=TRAINED)


def _require_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown or not targets:
        names = sorted({name.rpartition(".")[2] for name in linear})
        given = ", ".join(map(repr, unknown)) or "an empty list"
        raise ModelError(f"no linear module named {given}: use 'all-linear' or some of {', '.join(names)}")
