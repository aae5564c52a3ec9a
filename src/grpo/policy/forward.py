"""The forward pass that gives log-probabilities, in the fastest form that the architecture allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo.packing import PackedBatch
from grpo.policy.attention import Attend, causal_lm, only_logits, placeholder_mask
from grpo.policy.padded import pad_rows
from grpo.policy.products import LENGTH_MULTIPLE
from grpo.policy.shared_prefix import SharedPrefixLayout
from grpo.policy.token_logprobs import (
    DEFAULT_CHUNK_BYTES,
    TokenLogprobs,
    chunked_logprobs,
    logits_logprobs,
    output_head,
)

__all__ = ["LogprobForward"]


@dataclass(frozen=True, slots=True)
class LogprobForward:
    """Computes the log-probabilities of a batch's completions with a model.

    Attributes:
        packed: completions share one copy of their prompt; otherwise each is a padded row with its own.
        chunked: the output head runs on a few tokens at a time; otherwise the model makes all its logits itself.
        pad_token_id: fills padded rows.
        chunk_bytes: see `chunked_logprobs`.
    """

    packed: bool
    chunked: bool
    pad_token_id: int
    chunk_bytes: int = DEFAULT_CHUNK_BYTES

    def __call__(
        self,
        model: nn.Module,
        batch: PackedBatch,
        *,
        temperature: float,
        entropy: bool = False,
        attend: Attend | None = None,
    ) -> TokenLogprobs:
        """Return the log-probabilities, and on request entropies, of `batch.targets`: [B, T] float32.

        Both are 0 where `batch.mask` is False.

        Args:
            model: a causal language model that `use_attention` has seen, PEFT-wrapped or not.
            temperature: divides the logits; 0 (greedy sampling) counts as 1.
            attend: in place of the batch's own `SharedPrefixLayout`.
        """
        inputs, predicted_by = self._inputs(batch, attend)
        places, targets = predicted_by[batch.mask], batch.targets[batch.mask]
        inner = causal_lm(model)
        if self.chunked:
            head = output_head(model)
            assert head is not None
            hidden = _call(inner.base_model, inputs).last_hidden_state.flatten(0, 1).index_select(0, places)
            tokens = chunked_logprobs(
                head, hidden, targets, temperature=temperature, entropy=entropy, chunk_bytes=self.chunk_bytes
            )
        else:
            logits = _call(inner, inputs).logits.flatten(0, 1).index_select(0, places)
            tokens = TokenLogprobs(*logits_logprobs(logits, targets, temperature=temperature, entropy=entropy))
        return TokenLogprobs(
            logprobs=_scatter(tokens.logprobs, batch.mask),
            entropy=None if tokens.entropy is None else _scatter(tokens.entropy, batch.mask),
        )

    def _inputs(self, batch: PackedBatch, attend: Attend | None) -> tuple[dict[str, Any], Tensor]:
        """Return the model's inputs and, as [B, T], which of its flattened outputs predicts each token."""
        if not self.packed:
            rows = pad_rows(batch, self.pad_token_id)
            # Without positions: the architecture knows where it begins to count.
            inputs = {"input_ids": rows.token_ids, "attention_mask": rows.mask}
            return inputs, rows.predicted_by
        device = batch.token_ids.device
        # Tokens that no other token sees and no target needs; a given `attend` knows the row without them.
        filling = 0 if attend is not None else -len(batch.token_ids) % LENGTH_MULTIPLE
        packed_inputs: dict[str, Any] = {
            "input_ids": F.pad(batch.token_ids, (0, filling))[None],
            "position_ids": F.pad(batch.positions, (0, filling))[None],
            "attention_mask": placeholder_mask(device),
            "attend": attend or SharedPrefixLayout(batch.segments, len(batch.token_ids) + filling, device),
        }
        return packed_inputs, batch.predicted_by


def _call(module: Any, inputs: dict[str, Any]) -> Any:
    return module(**inputs, **only_logits(module), use_cache=False, return_dict=True)


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T] with `values` where `mask` is True and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
