"""Options of a scorer's training, as one frozen object for both kinds."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.policy import LoraSettings

__all__ = ["ScorerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """Options of a scorer's training; `grpo.assembly.scorers.scorer_settings` makes them from a configuration.

    Types, ranges, defaults and descriptions stand in the configuration's section `scorer`, where each name below
    begins with `scorer_`. Not from that section are:

    Attributes:
        lora: shape of the adapters on the backbone; None: all of the backbone's weights are trained.
        device: "auto", "cpu" or "cuda".
        seed: of the held-out rows, the order of training rows, dropout and fresh weights.
        tokenizer: directory or Hub id; None: the model's own.
        revision: branch, tag or commit of a model on the Hub.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        warmup_ratio: share of all steps over which the learning rate rises.
        weight_decay: decoupled, applied to matrices only.
        max_grad_norm: larger gradients are scaled down to this norm; 0: never.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    head_dropout: float
    dtype: str
    max_length: int
    holdout: float
    margin: float
    tokens_per_micro_batch: int
    merge: bool
    lora: LoraSettings | None
    device: str
    seed: int
    tokenizer: str | None
    revision: str | None
    gradient_checkpointing: bool
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
