"""Models behind rewards, each loaded once.

Two rewards with one directory share one module, and several heads on one base share one copy of its weights. Where the
policy trains adapters, its base never changes and is that copy.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from grpo.errors import ConfigError, ModelError
from grpo.storage import expanded

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Backbones", "find_device"]

_Key: TypeAlias = tuple[str, str, str | None, str, str]
"""Kind, name, revision, dtype, device."""

_HEADS = ("score", "classifier")
"""Names that PEFT takes for a classification head."""


class Backbones:
    """Models by name; those of one name, revision, dtype and device are in memory once."""

    def __init__(self) -> None:
        self._loaded: dict[_Key, nn.Module] = {}
        self._offered: dict[tuple[str, str | None], Callable[[], nn.Module]] = {}

    def offer(self, name: str, make: Callable[[], nn.Module], *, revision: str | None = None) -> None:
        """Offer a model whose weights all language models of that name share.

        Args:
            name: "tiny", a directory or a Hub id.
            make: called at the first request for that name. The weights must never change; adapters on them may
                change, and are left out.
        """
        self._offered[_identity(name, revision)] = functools.cache(make)

    def language_model(
        self,
        name: str,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
    ) -> nn.Module:
        """Return the causal LM of that name in evaluation mode: new modules around weights that all requests share.

        Args:
            dtype: None: that of the offered model, else bfloat16 on a GPU and float32 on a CPU.
            device: None: that of the offered model, else the GPU if there is one.

        Raises:
            ConfigError: there is no such device.
            ModelError: the model cannot be loaded.
        """
        import torch

        from grpo.policy.files import load_model
        from grpo.policy.fused import use_fused_layers
        from grpo.policy.products import use_fast_products
        from grpo.policy.sharing import shared_copy
        from grpo.policy.sources import find_source

        identity = _identity(name, revision)
        if identity in self._offered:
            offered = shared_copy(self._offered[identity]())
            if _fits(offered, dtype, device):
                return offered
        place = find_device(device)
        if dtype is None:
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        key = ("language model", *identity, str(dtype), str(place))
        if key not in self._loaded:
            source = find_source(name, revision=revision)
            if source.base is not None:
                raise ModelError(f"{name} is an adapter on {source.base}: merge them, or give the base as backbone")
            module = load_model(source, dtype=dtype).to(place).requires_grad_(False).eval()
            use_fast_products(module)
            use_fused_layers(module)
            self._loaded[key] = module
        return shared_copy(self._loaded[key])

    def classifier(self, name: str, *, revision: str | None = None, device: str | None = None) -> nn.Module:
        """Return the sequence classifier of that name in evaluation mode; a second request returns the same object.

        For a directory with an adapter and its head, the base is a `language_model` if it is a causal LM.

        Raises:
            ConfigError: the classifier has no trained head, or there is no such device.
            ModelError: the classifier cannot be loaded.
        """
        from grpo.policy.sources import is_hub_name

        place = find_device(device)
        directory = expanded(name)
        if not directory.is_dir() and not is_hub_name(name):
            raise ModelError(
                f"no directory {name}: give a reward model's directory or Hub id; the recipes' own is trained by: "
                f"grpo reward train finance-preferences"
            )
        where = str(directory.resolve()) if directory.is_dir() else name
        key = ("classifier", where, revision, "", str(place))
        if key not in self._loaded:
            base = _causal_base(directory)
            if base is None:
                module = _load_classifier(name, revision).to(place)
            else:
                module = _with_head(self.language_model(base, device=str(place)), directory)
            self._loaded[key] = module.requires_grad_(False).eval()
        return self._loaded[key]


def find_device(name: str | None) -> torch.device:
    """Return the device of that name; None or "auto": the GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r} for a reward: use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type != "cuda":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} was asked for a reward, and PyTorch sees {torch.cuda.device_count()} GPUs: "
            f"use 'cpu' or an available one"
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _identity(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return an identity that all names of one model share: its resolved directory, or Hub id and revision."""
    from grpo.policy.sources import find_source

    path = expanded(name)
    if name == "tiny" or path.is_absolute() or path.is_dir():
        return find_source(name).loadable_name, None
    return name, revision


def _fits(module: nn.Module, dtype: torch.dtype | None, device: str | None) -> bool:
    parameter = next(module.parameters())
    return dtype in (None, parameter.dtype) and (device is None or find_device(device) == parameter.device)


def _load_classifier(name: str, revision: str | None) -> nn.Module:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.peft_utils import find_adapter_config_file

    from grpo.policy.files import read_config, without_progress_bars

    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        adapter = find_adapter_config_file(name, revision=revision)
        if adapter is None:
            options["config"] = read_config(name, revision=revision, local=False)
        else:
            read_config(json.loads(Path(adapter).read_bytes())["base_model_name_or_path"], local=False)
        with without_progress_bars():
            model, info = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True, **options)
    except (OSError, ValueError, ModelError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot load reward model {name!r} as a sequence classifier: {reason}") from error
    missing = sorted(info["missing_keys"])
    if missing and not getattr(model, "_hf_peft_config_loaded", False):
        raise _no_head(name, missing[0])
    module: nn.Module = model
    return module


def _causal_base(directory: Path) -> str | None:
    """Return the base of the adapter in `directory` if that is a causal LM, else None."""
    from grpo.policy.files import read_config
    from grpo.policy.sources import find_source

    if not (directory / "adapter_config.json").is_file():
        return None
    base = find_source(directory).base
    assert base is not None
    source = find_source(base)
    if source.base is not None:
        raise ModelError(f"{directory} is an adapter on {base}, which is an adapter itself: merge that one first")
    kinds = read_config(source.directory).architectures or []
    return base if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds) else None


def _with_head(language_model: Any, directory: Path) -> nn.Module:
    """Return a classifier: the layers of a language model with the adapter and the head in `directory`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from grpo.policy.adapters import load_adapter

    layers = language_model.base_model
    config = copy.deepcopy(language_model.config)
    config.num_labels = _num_labels(directory)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, model.base_model_prefix, layers)
    weight = next(layers.parameters())
    for name in _HEADS:
        if hasattr(model, name):
            getattr(model, name).to_empty(device=weight.device).to(weight.dtype)
    return load_adapter(model, directory, trainable=False)


def _num_labels(directory: Path) -> int:
    """Return the number of rows of the head that was saved with an adapter.

    Raises:
        ConfigError: there is no head.
    """
    from safetensors import safe_open

    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(f"{directory} has no {file.name}: only adapters saved as safetensors are loaded")
    with safe_open(file, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is a file, not a mapping
            parts = name.split(".")
            if parts[-1] == "weight" and set(parts) & set(_HEADS) and "lora_" not in name:
                return int(weights.get_slice(name).get_shape()[0])
    raise _no_head(str(directory), "score.weight")


def _no_head(name: str, missing: str) -> ConfigError:
    return ConfigError(
        f"reward model {name!r} has no trained classification head ({missing} is missing): "
        f"give a model trained for sequence classification"
    )
