"""The model that is trained: its log-probabilities, its reference's, and its weights on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grpo.packing import PackedBatch
from grpo.policy.adapters import frozen_adapter, load_adapter_weights, save_adapter
from grpo.policy.attention import causal_lm
from grpo.policy.export import ExportedWeights, tensor_checksum
from grpo.policy.files import load_saved_weights, without_progress_bars
from grpo.policy.forward import LogprobForward
from grpo.policy.token_logprobs import TokenLogprobs

__all__ = ["Policy", "Reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A frozen model beside the policy, with its forward."""

    model: nn.Module
    forward: LogprobForward


class Policy:
    """A causal language model that is trained, its tokenizer, and the reference of the KL term.

    Attributes:
        model: the Hugging Face module, PEFT-wrapped under LoRA; the engine runs the same one. It is in training
            mode (dropout on) after `token_logprobs` with gradients and in evaluation mode after any other call.
        tokenizer: the Hugging Face tokenizer; its padding token is `pad_token_id`.
        end_token_ids: sorted ids that end a completion.
        device: where the weights are.
        compute_dtype: of matrix products: float32, or bfloat16 through autocast over float32 master weights.
        base_name: name by which the base of adapters is loaded; "" for an object without a name.
        forward: computes log-probabilities; `forward.packed` is True if completions share their prompt.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        end_token_ids: tuple[int, ...],
        pad_token_id: int,
        forward: LogprobForward,
        compute_dtype: torch.dtype,
        base_name: str,
        reference: Reference | None = None,
        reference_is_adapter: bool = False,
        processor_files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end_token_ids = end_token_ids
        self.pad_token_id = pad_token_id
        self.forward = forward
        self.compute_dtype = compute_dtype
        self.base_name = base_name
        self.device = next(model.parameters()).device
        self._reference = reference
        self._reference_is_adapter = reference_is_adapter
        self._processor_files = processor_files or {}

    @property
    def has_adapter(self) -> bool:
        """True if adapters are trained instead of the model's own weights."""
        return hasattr(self.model, "peft_config")

    @property
    def has_dropout(self) -> bool:
        """True if log-probabilities with gradients are noisy: adapters with dropout."""
        return any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.model.modules())

    @property
    def has_reference(self) -> bool:
        """True if `reference_logprobs` may be called."""
        return self._reference is not None or self._reference_is_adapter

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and completion together for which the architecture has positions; None: no limit."""
        config: Any = causal_lm(self.model).config
        return getattr(config.get_text_config(), "max_position_embeddings", None)

    @property
    def num_parameters(self) -> int:
        """All weights, frozen ones included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def num_trainable_parameters(self) -> int:
        """Weights that the optimizer moves."""
        return sum(parameter.numel() for parameter in self.trainable_parameters())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters to optimize, all float32, in a fixed order."""
        return [parameter for _, parameter in self._trainable()]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes in `compute_dtype`."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)

    def token_logprobs(self, batch: PackedBatch, *, temperature: float, entropy: bool = False) -> TokenLogprobs:
        """Return log-probabilities [B, T] of the batch's completions and, on request, entropies (without gradient).

        With gradients enabled, they flow into `trainable_parameters` and dropout is on; under `torch.no_grad`
        dropout is off.
        """
        self._set_training(torch.is_grad_enabled())
        with self.autocast():
            return self.forward(self.model, batch.to(self.device), temperature=temperature, entropy=entropy)

    @torch.no_grad()
    def reference_logprobs(self, batch: PackedBatch, *, temperature: float) -> Tensor:
        """Return the reference's log-probabilities [B, T], without gradient."""
        assert self.has_reference, "load_policy(reference=…) decides whether there is one"
        batch = batch.to(self.device)
        if self._reference is not None:
            with self.autocast():
                return self._reference.forward(self._reference.model, batch, temperature=temperature).logprobs
        self._set_training(False)
        with frozen_adapter(self.model), self.autocast():
            return self.forward(self.model, batch, temperature=temperature).logprobs

    def save(self, directory: Path) -> None:
        """Write files that the Auto classes load: tokenizer and model, or the adapter with the name of its base."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.has_adapter:
            save_adapter(self.model, directory, base=self.base_name)
        else:
            with without_progress_bars():
                causal_lm(self.model).save_pretrained(directory)  # type: ignore[operator]
        self.tokenizer.save_pretrained(directory)
        for name, content in self._processor_files.items():
            (directory / name).write_bytes(content)

    def load_weights(self, directory: Path) -> None:
        """Put the weights that `save` wrote in place of the present ones, bit for bit.

        Parameters stay the same objects, so optimizer and engine still refer to them. The reference stays as it is.

        Raises:
            CheckpointError: they are missing, damaged or of another model.
        """
        if self.has_adapter:
            load_adapter_weights(self.model, directory)
        else:
            load_saved_weights(causal_lm(self.model), directory)

    def export_weights(self) -> ExportedWeights:
        """Return the present weights for a sampler."""
        return ExportedWeights(self.model)

    def fingerprint(self) -> str:
        """Return a digest of all parameters' names and shapes and of the trainable ones' bits."""
        digest = hashlib.blake2b(digest_size=16)
        for name, parameter in self.model.named_parameters():
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for _, parameter in self._trainable():
            digest.update(tensor_checksum(parameter).encode())
        return digest.hexdigest()

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def _set_training(self, training: bool) -> None:
        if self.model.training != training:
            self.model.train(training)
