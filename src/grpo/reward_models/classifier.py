"""A backbone and a preference head as a Hugging Face sequence classifier with one label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import ModelError
from grpo.policy.adapters import WEIGHTS_FILE as ADAPTER_WEIGHTS
from grpo.policy.adapters import save_adapter
from grpo.policy.files import without_progress_bars
from grpo.policy.sources import find_source
from grpo.reward_models.backbone import Backbone, read_config
from grpo.reward_models.heads import PreferenceHead
from grpo.reward_models.output import replaced_directory

ADAPTER_CONFIG = "adapter_config.json"

__all__ = ["empty_classifier", "merged_state", "save_adapter_with_head", "save_classifier"]


def empty_classifier(directory: Path, backbone: Backbone) -> Any:
    """Return the sequence classifier of the backbone's architecture, without memory for its weights.

    Args:
        directory: where the backbone's own configuration is.

    Raises:
        ModelError: the architecture has none, or one that is made otherwise.
    """
    from transformers import AutoModelForSequenceClassification

    config = read_config(directory)
    config.num_labels = 1
    config.get_text_config().pad_token_id = backbone.pad_token_id
    config.get_text_config().use_cache = False
    dtype = next(value.dtype for value in backbone.decoder.parameters() if value.is_floating_point())
    name = config.model_type
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    except ValueError as error:
        raise ModelError(
            f"transformers has no sequence classifier for {name}: train the pair scorer on another model"
        ) from error
    score = getattr(classifier, "score", None)
    fits = isinstance(score, nn.Linear) and score.bias is None and score.in_features == backbone.hidden_size
    expected = {key: value.shape for key, value in classifier.base_model.state_dict().items()}
    if not fits or {key: value.shape for key, value in merged_state(backbone.decoder).items()} != expected:
        raise ModelError(
            f"the sequence classifier for {name} is not its causal LM with a linear layer on top: "
            f"train the pair scorer on another model"
        )
    return classifier


def save_classifier(directory: Path, classifier: Any, backbone: Backbone, head: PreferenceHead) -> None:
    """Write what `AutoModelForSequenceClassification` and `AutoTokenizer` load, adapters merged, in place of what is
    in `directory`.

    Raises:
        StorageError: it could not be written; what was there is still there.
    """
    prefix = classifier.base_model_prefix
    state = {f"{prefix}.{name}": value for name, value in merged_state(backbone.decoder).items()}
    dtype = next(iter(state.values())).dtype
    state["score.weight"] = head.score.weight.detach().to(dtype)
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    with replaced_directory(directory) as partial, without_progress_bars():
        classifier.save_pretrained(partial, state_dict=state)
        backbone.tokenizer.save_pretrained(partial)


def save_adapter_with_head(directory: Path, classifier: Any, backbone: Backbone, head: PreferenceHead) -> None:
    """Write the adapter with its head as PEFT does for a sequence classifier, and the tokenizer, in place of what is
    in `directory`; the base is loaded from where the backbone came from.

    Raises:
        StorageError: it could not be written; what was there is still there.
    """
    from peft import TaskType
    from safetensors.torch import load_file, save_file

    model: Any = backbone.model
    with replaced_directory(directory) as partial:
        save_adapter(model, partial, base=find_source(backbone.name, revision=backbone.revision).loadable_name)
        weights = load_file(partial / ADAPTER_WEIGHTS)
        # A causal LM and a classifier have the same decoder in them, but not always by the same name.
        ours = f"base_model.model.{model.base_model.model.base_model_prefix}."
        theirs = f"base_model.model.{classifier.base_model_prefix}."
        state = {f"{theirs}{name.removeprefix(ours)}": value for name, value in weights.items()}
        state["base_model.model.score.weight"] = head.score.weight.detach().cpu().contiguous()
        save_file(state, partial / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = json.loads((partial / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config |= {"task_type": TaskType.SEQ_CLS.value, "modules_to_save": ["score"], "revision": backbone.revision}
        (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        backbone.tokenizer.save_pretrained(partial)


@torch.no_grad()
def merged_state(decoder: nn.Module) -> dict[str, Tensor]:
    """Return the decoder's weights by the names of a decoder without adapters, adapters added; it stays as it is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in decoder.named_modules() if isinstance(module, BaseTunerLayer)}
    state: dict[str, Tensor] = {}
    for name, value in decoder.state_dict().items():
        owner = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        if owner is None:
            state[name] = value
            continue
        inside = name.removeprefix(f"{owner}.")
        if inside == "base_layer.weight":
            changes = [layers[owner].get_delta_weight(adapter) for adapter in layers[owner].active_adapters]
            state[f"{owner}.weight"] = (value + sum(changes)).to(value.dtype)
        elif inside.startswith("base_layer."):
            state[f"{owner}.{inside.removeprefix('base_layer.')}"] = value
    return state
