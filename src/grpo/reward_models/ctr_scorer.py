"""A trained CTR scorer: probabilities that headlines are clicked."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grpo.errors import ConfigError
from grpo.policy.files import load_tokenizer, read_config
from grpo.reward_models.backbone import (
    Backbone,
    backbone_sizes,
    find_backbone,
    load_backbone,
    share_backbone,
)
from grpo.reward_models.checkpoint import Description, find_scorer, load_weights, read_description
from grpo.reward_models.clicks import ClickHead, click_token_ids, scorer_parameters
from grpo.reward_models.loop import score_rows

__all__ = ["CTRScorer"]

_log = logging.getLogger(__name__)


class CTRScorer:
    """Predicts the probability that a headline is clicked.

        scorer = CTRScorer(model_path="tiny", ckpt_path="runs/ctr/best_model", device="cpu")
        scorer.predict("The best robots of 2027")

    Attributes:
        directory: the directory that the scorer was loaded from.
        backbone_name: the backbone that it was trained on.
        metrics: evaluation on its held-out rows, as in `scorer.json`.
    """

    def __init__(
        self,
        model_path: str | Path | None,
        ckpt_path: str | Path,
        device: str = "cpu",
        *,
        backbone: nn.Module | None = None,
        batch_size: int = 32,
        dtype: str = "auto",
    ) -> None:
        """Load the scorer.

        Args:
            model_path: the backbone: "tiny", a Hub id or a directory; None: the one that the scorer was trained on.
            ckpt_path: the directory `best_model` of a training, or the directory above it.
            device: "cpu", "cuda" or "auto".
            backbone: a frozen causal language model in memory whose weights are shared instead of loaded
                (`shared_copy`); `device` and `dtype` are then ignored.
            batch_size: texts in a forward pass.
            dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU.

        Raises:
            CheckpointError: there is no scorer, it is damaged, or it was trained on another backbone.
            ModelError: the backbone does not load, or cannot be shared.
            ConfigError: device or dtype is not available, or all weights of the backbone were trained, so that
                none can be shared.
        """
        self.directory = find_scorer(ckpt_path)
        description = read_description(self.directory)
        self.backbone_name = description.backbone
        self.metrics = description.metrics
        name = description.backbone if model_path is None else str(model_path)
        if backbone is None:
            loaded = self._load(name, description, device, dtype)
        else:
            loaded = self._share(backbone, description)
        self._head = ClickHead(loaded.hidden_size, description.head_sizes).to(loaded.device).eval()
        load_weights(self.directory, scorer_parameters(loaded, self._head))
        self._backbone = loaded if backbone is not None else _merged(loaded)
        self._max_length = loaded.max_tokens(description.max_length)
        self._logit_shift = description.logit_shift
        self._batch_size = max(1, batch_size)

    def predict(self, text: str) -> float:
        """Return the probability in [0, 1] that `text` is clicked; 0 for a blank text.

        Raises:
            TypeError: the argument is not a text.
            RunError: the scorer's output is not a number.
        """
        if not isinstance(text, str):
            raise TypeError(f"predict takes one text, not {type(text).__name__}: predict_many takes several")
        return self.predict_many([text])[0]

    def predict_many(self, texts: Sequence[str]) -> list[float]:
        """Return the probability of each text, which does not depend on the other texts of the call.

        Raises:
            RunError: the scorer's output is not a number.
        """
        written = [index for index, text in enumerate(texts) if text.strip()]
        rows = click_token_ids(self._backbone.tokenizer, [texts[index] for index in written], self._max_length)
        probabilities = [0.0] * len(texts)
        scores = score_rows(self._backbone, self._head, rows, batch_size=self._batch_size)
        logits = torch.tensor(scores, dtype=torch.float64) + self._logit_shift
        for index, probability in zip(written, logits.sigmoid().tolist(), strict=True):
            probabilities[index] = probability
        return probabilities

    def _load(self, name: str, description: Description, device: str, dtype: str) -> Backbone:
        revision = description.revision if name == description.backbone else None
        source = find_backbone(name, revision)
        if source.name != description.backbone:
            message = "the scorer in %s was trained on %s and is used on %s"
            _log.warning(message, self.directory, self.backbone_name, name)
        # Checked first, because adapters of another shape would fail to load with a less helpful message.
        description.require_backbone(backbone_sizes(read_config(source.directory)), source.name, self.directory)
        loaded = load_backbone(source, lora=description.lora_settings, dtype=dtype, device=device)
        return dataclasses.replace(loaded, tokenizer=load_tokenizer(self.directory, None))

    def _share(self, base: nn.Module, description: Description) -> Backbone:
        if description.lora is None:
            raise ConfigError(
                f"the scorer in {self.directory} has trained all weights of its backbone and can share none: "
                f"train one with scorer_lora_rank=16"
            )
        shared = share_backbone(base, tokenizer=load_tokenizer(self.directory, None), lora=description.lora_settings)
        description.require_backbone(shared.sizes, shared.name, self.directory)
        return shared


def _merged(backbone: Backbone) -> Backbone:
    """Return the backbone with its adapters merged into the weights, if they are float32 and lose no precision."""
    model: Any = backbone.model
    if not hasattr(model, "peft_config") or next(model.parameters()).dtype != torch.float32:
        return backbone
    return dataclasses.replace(backbone, model=model.merge_and_unload().eval())
