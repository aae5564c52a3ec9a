"""The causal language model under a scorer's head: loaded from files, or sharing the weights of a model in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.errors import ModelError
from grpo.policy import LoraSettings, causal_lm, load_policy, shared_copy
from grpo.policy.adapters import add_adapter
from grpo.policy.products import use_fast_products
from grpo.policy.sources import ModelSource, find_source
from grpo.policy.tokens import choose_pad_token

__all__ = ["Backbone", "backbone_sizes", "find_backbone", "load_backbone", "share_backbone"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A causal language model, of which the last hidden layer is used.

    Attributes:
        name: "tiny", a Hub id or an absolute path; `find_backbone` finds the same model by it.
        model: the Hugging Face module, PEFT-wrapped under LoRA, in evaluation mode; it has no dropout.
        tokenizer: the Hugging Face tokenizer; its padding token is `pad_token_id`.
        compute_dtype: dtype of matrix products: float32, or bfloat16 through autocast.
        revision: branch, tag or commit of a Hub id.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    pad_token_id: int
    compute_dtype: torch.dtype
    revision: str | None = None

    @property
    def config(self) -> Any:
        """The Hugging Face configuration of the causal LM."""
        return causal_lm(self.model).config

    @property
    def decoder(self) -> nn.Module:
        """The model without its output layer, with adapters."""
        decoder = causal_lm(self.model).base_model
        assert isinstance(decoder, nn.Module)
        return decoder

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that must match a scorer's weights, as `backbone_sizes` returns them."""
        return backbone_sizes(self.config)

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden layer."""
        return self.sizes["hidden_size"]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    def max_tokens(self, max_length: int) -> int:
        """Return the number of tokens of a text that are used: `max_length`, or fewer if the model is limited."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        limits = (max_length, self.tokenizer.model_max_length, positions)
        return int(min(limit for limit in limits if limit))

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the decoder's trained parameters by name: the adapters under LoRA, otherwise all."""
        return {name: value for name, value in self.decoder.named_parameters() if value.requires_grad}

    def last_hidden(self, token_ids: Tensor) -> Tensor:
        """Return the last hidden layer [B, T, H] in float32.

        Args:
            token_ids: [B, T], padded on the right. No mask is needed, because in a causal model no token attends to
                the padding after it.
        """
        with self._autocast():
            output = self.decoder(input_ids=token_ids, use_cache=False, return_dict=True)
        hidden: Tensor = output.last_hidden_state
        return hidden.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)


def backbone_sizes(config: Any) -> dict[str, int]:
    """Return hidden_size, num_layers and vocabulary_size of a Hugging Face configuration (of its text part)."""
    text = config.get_text_config()
    return {
        "hidden_size": int(text.hidden_size),
        "num_layers": int(text.num_hidden_layers),
        "vocabulary_size": int(text.vocab_size),
    }


def find_backbone(model: str | Path, revision: str | None = None) -> ModelSource:
    """Return the source of `model`: "tiny", a Hub id (perhaps at a revision), or the directory of a model or run.

    Raises:
        ModelError: there is no such model, or it is an adapter.
    """
    source = find_source(model, revision=revision)
    if source.base is not None:
        raise ModelError(f"{source.name} is an adapter on {source.base}: merge them, or give the base as backbone")
    return source


def load_backbone(
    source: ModelSource,
    *,
    lora: LoraSettings | None,
    dtype: str,
    device: str,
    tokenizer: str | None = None,
    revision: str | None = None,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> Backbone:
    """Return the model; its adapters are trainable, or all of its weights without adapters.

    Args:
        revision: kept in the backbone; the source was found with it.
        lora, dtype, device, tokenizer, gradient_checkpointing, seed: as in `load_policy`.

    Raises:
        ModelError: the model or its tokenizer is missing or does not load.
        ConfigError: dtype or device is not available.
    """
    policy = load_policy(
        source.directory,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        lora=lora,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    model = policy.model.eval()
    return Backbone(source.name, model, policy.tokenizer, policy.pad_token_id, policy.compute_dtype, revision)


def share_backbone(base: nn.Module, *, tokenizer: Any, lora: LoraSettings | None) -> Backbone:
    """Return a backbone over the weights of `base`, a causal language model in memory, which is not changed.

    Args:
        lora: shape of the adapters on the backbone; adapters on `base` are left out.

    Raises:
        ModelError: `base` is no causal language model, or has adapters merged into it.
    """
    twin: Any = shared_copy(base)
    if getattr(twin, "get_output_embeddings", lambda: None)() is None:
        raise ModelError(f"a shared backbone is a Hugging Face causal LM in memory, not {type(twin).__name__}")
    name = str(getattr(twin.config, "_name_or_path", "")) or type(twin).__name__
    pad_token_id = choose_pad_token(twin, tokenizer, (0,))
    dtype = next(parameter.dtype for parameter in twin.parameters() if parameter.is_floating_point())
    if lora is not None:
        twin = add_adapter(twin, lora, seed=0)
        use_fast_products(twin)
    compute_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
    return Backbone(name, twin.eval(), tokenizer, pad_token_id, compute_dtype)
