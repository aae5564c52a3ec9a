"""Groups → packed micro-batches under a token budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PackedBatch", "Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one prompt and (some of) its completions lie in a packed row.

    The row holds `[prompt | completion 1 | … | completion n]` from `start` on, without padding.
    """

    start: int
    prompt_length: int
    completion_lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Several segments laid end to end in one row of N tokens; B completions of at most T tokens.

    Attributes:
        token_ids: [N] long.
        positions: [N] long; count from 0 at each prompt and from the prompt's length at each of its completions.
        segments: in row order; their completions, in order, are rows 0 … B-1 of the [B, T] tensors.
        predicted_by: [B, T] long; index in the row of the token whose hidden state predicts token
            (b, t): the prompt's last token for t = 0. 0 where there is no token.
        targets: [B, T] long; the completion's token ids, 0 where there is none.
        mask: [B, T] bool; True where the policy sampled the token and the loss counts it.
        sampling_logprobs: [B, T] float32; the engine's, 0 where there is none.
        advantages: [B, T] float32; 0 where there is no token.
        rollout_index: [B] long; p * G + g of the completion among the step's.
    """

    token_ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    predicted_by: Tensor
    targets: Tensor
    mask: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    rollout_index: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its tensors on `device`."""
        raise NotImplementedError
