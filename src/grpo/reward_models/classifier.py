"""A backbone and a preference head as a Hugging Face sequence classifier with one label."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import ModelError
from grpo.policy import causal_lm
from grpo.policy.adapters import WEIGHTS_FILE, save_adapter
from grpo.policy.files import read_config, without_progress_bars
from grpo.policy.sources import find_source
from grpo.reward_models.backbone import Backbone
from grpo.reward_models.output import replaced_directory

__all__ = ["PreferenceHead", "empty_classifier", "save_adapter_with_head", "save_classifier"]


class PreferenceHead(nn.Module):
    """Last token → Linear without bias: the head of Hugging Face's decoder classifiers with one label."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)
        # With small initial weights the first gradients depend on the backbone's features, not on the random head.
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return rewards [B] for hidden states [B, T, H] of rows with `lengths` [B] tokens."""
        rows = torch.arange(len(hidden), device=hidden.device)
        rewards: Tensor = self.score(hidden[rows, (lengths - 1).clamp(min=0)])
        return rewards.squeeze(-1)


def empty_classifier(backbone: Backbone) -> Any:
    """Return the sequence classifier of the backbone's architecture, without memory for its weights.

    Raises:
        ModelError: the architecture has no classifier, or not one that is the causal LM's decoder with a linear layer.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = read_config(find_source(backbone.name, revision=backbone.revision).directory)
    config.num_labels = 1
    config.get_text_config().pad_token_id = backbone.pad_token_id
    config.get_text_config().use_cache = False
    dtype = next(value.dtype for value in backbone.decoder.parameters() if value.is_floating_point())
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(config, dtype=dtype)
        try:
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
        except ValueError as error:
            raise ModelError(
                f"transformers has no sequence classifier for {config.model_type}: train the pair scorer on another "
                f"model"
            ) from error
    score = getattr(classifier, "score", None)
    has_score = isinstance(score, nn.Linear) and score.bias is None and score.in_features == backbone.hidden_size
    if not has_score or _shapes(classifier.base_model) != _shapes(causal.base_model):
        raise ModelError(
            f"the sequence classifier for {config.model_type} is not its causal LM with a linear layer on top: "
            f"train the pair scorer on another model"
        )
    return classifier


def save_classifier(directory: Path, classifier: Any, backbone: Backbone, head: PreferenceHead) -> None:
    """Write the files that `AutoModelForSequenceClassification` and `AutoTokenizer` load, adapters merged.

    Raises:
        StorageError: they could not be written; the former content of `directory` is still there.
    """
    model: Any = backbone.model
    if hasattr(model, "peft_config"):
        model = copy.deepcopy(model).merge_and_unload()
    decoder = causal_lm(model).base_model.state_dict()  # type: ignore[union-attr]
    state = {f"{classifier.base_model_prefix}.{name}": value for name, value in decoder.items()}
    state["score.weight"] = head.score.weight.detach().to(next(iter(state.values())).dtype)
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    with replaced_directory(directory) as partial, without_progress_bars():
        classifier.save_pretrained(partial, state_dict=state)
        backbone.tokenizer.save_pretrained(partial)


def save_adapter_with_head(directory: Path, classifier: Any, backbone: Backbone, head: PreferenceHead) -> None:
    """Write adapter and head as PEFT does for a sequence classifier, and the tokenizer; the base is only named.

    Raises:
        StorageError: they could not be written; the former content of `directory` is still there.
    """
    from peft import TaskType
    from safetensors.torch import load_file, save_file

    model: Any = backbone.model
    with replaced_directory(directory) as partial:
        save_adapter(model, partial, base=find_source(backbone.name, revision=backbone.revision).loadable_name)
        weights = load_file(partial / WEIGHTS_FILE)
        # The decoder's attribute has another name in some classifiers than in the causal LM.
        ours = f"base_model.model.{causal_lm(model).base_model_prefix}."
        theirs = f"base_model.model.{classifier.base_model_prefix}."
        state = {f"{theirs}{name.removeprefix(ours)}": value for name, value in weights.items()}
        state["base_model.model.score.weight"] = head.score.weight.detach().cpu().contiguous()
        save_file(state, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        file = partial / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"task_type": TaskType.SEQ_CLS.value, "modules_to_save": ["score"], "revision": backbone.revision}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        backbone.tokenizer.save_pretrained(partial)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}
