"""How a scorer is trained: one frozen object for both kinds."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.errors import ConfigError
from grpo.policy import LoraSettings

__all__ = ["ScorerSettings", "in_configuration"]

_NOT_IN_CONFIGURATION = ("warmup_ratio", "weight_decay", "max_grad_norm")


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """Options of a scorer's training. The defaults suit `tiny`; billions of parameters want a tenth of the rate.

    In a configuration their names begin with `scorer_`, but for `lora_targets`, `device`, `seed`, `tokenizer`,
    `revision` and `gradient_checkpointing`, which are the policy's, and for `warmup_ratio`, `weight_decay` and
    `max_grad_norm`, which it does not have.

    Attributes:
        epochs: passes over the training rows at most.
        batch_size: rows (texts, or pairs) of an optimizer step.
        learning_rate: peak of AdamW's, which then falls linearly to 0.
        warmup_ratio: share of all steps over which it rises.
        weight_decay: decoupled, of matrices only.
        max_grad_norm: gradients are scaled down to this norm; 0: never.
        patience: evaluations without gain after which training stops; 0: never.
        lora_rank: of adapters on the backbone; 0: all of the backbone's weights are trained.
        lora_alpha: adapters are scaled by alpha / rank; None: the rank.
        lora_targets: "all-linear", or names as `q_proj`.
        head_dropout: share of the hidden units of the CTR head that are dropped in training.
        dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU. What is trained is float32
            in any case.
        device: "auto", "cpu" or "cuda".
        max_length: most tokens of a text that are read; fewer where the model has fewer positions.
        seed: of the held-out rows, the order, dropout and fresh weights.
        holdout: share (below 1) or number (from 1) of rows that are kept for evaluation.
        tokens_per_micro_batch: most tokens, padding included, in one forward and backward pass of a batch.
        merge: the pair scorer is saved as a whole model, adapters added; False: adapters and head alone, which
            share a backbone that is in memory already.
        tokenizer: directory or Hub id; None: the model's own.
        revision: branch, tag or commit of a model on the Hub.
        gradient_checkpointing: compute activations again in the backward pass to save memory.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    patience: int = 2
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_targets: str | tuple[str, ...] = "all-linear"
    head_dropout: float = 0.1
    dtype: str = "auto"
    device: str = "auto"
    max_length: int = 512
    seed: int = 0
    holdout: float | int = 0.2
    tokens_per_micro_batch: int = 8192
    merge: bool = True
    tokenizer: str | None = None
    revision: str | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raise a ConfigError that names the first option out of its range."""
        counts = ("epochs", "batch_size", "max_length", "tokens_per_micro_batch")
        for name, least in (*((name, 1) for name in counts), ("lora_rank", 0), ("patience", 0)):
            _require(name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        for name in ("weight_decay", "max_grad_norm"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("warmup_ratio", "head_dropout"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "a share from 0 to below 1")
        _require("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "a number above 0 and below 1")
        _require("lora_alpha", self.lora_alpha, self.lora_alpha is None or self.lora_alpha > 0, "a number above 0")
        is_count = self.holdout >= 1 and self.holdout == int(self.holdout)
        _require(
            "holdout", self.holdout, 0 < self.holdout < 1 or is_count, "a share below 1, or a number of rows from 1 on"
        )

    @property
    def lora(self) -> LoraSettings | None:
        """The shape of the adapters; None: all weights are trained."""
        if self.lora_rank == 0:
            return None
        alpha = float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha
        return LoraSettings(rank=self.lora_rank, alpha=alpha, target_modules=self.lora_targets)


def _require(name: str, value: object, allowed: bool, use: str) -> None:
    if not allowed:
        where = "" if name in _NOT_IN_CONFIGURATION else f" (in a configuration: scorer_{name})"
        raise ConfigError(f"{name} of the scorer is {value}: use {use}{where}")


def in_configuration(name: str) -> str:
    """Return an option's name for messages, in Python and in a configuration."""
    return f"{name} (in a configuration: scorer_{name})"
