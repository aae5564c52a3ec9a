"""Packed batches as ordinary padded rows, for architectures that cannot share a prompt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpo.packing import PackedBatch

__all__ = ["PaddedRows", "pad_rows"]


class PaddedRows(NamedTuple):
    """One row `[prompt | completion]` for each completion, padded on the right.

    Attributes:
        token_ids: [B, S] long.
        mask: [B, S] long; 1 where there is a token.
        predicted_by: [B, T] long; index into the flattened [B * S] of the token whose hidden state predicts
            completion token (b, t). 0 where there is no token.
    """

    token_ids: Tensor
    mask: Tensor
    predicted_by: Tensor


def pad_rows(batch: PackedBatch, pad_token_id: int) -> PaddedRows:
    """Return the batch's completions, each with its prompt before it, in the order of its [B, T] tensors."""
    device = batch.token_ids.device
    rows, prompt_lengths, completion_lengths = [], [], []
    for segment in batch.segments:
        prompt_end = segment.start + segment.prompt_length
        prompt, start = batch.token_ids[segment.start : prompt_end], prompt_end
        for length in segment.completion_lengths:
            rows.append(torch.cat((prompt, batch.token_ids[start : start + length])))
            prompt_lengths.append(segment.prompt_length)
            completion_lengths.append(length)
            start += length
    token_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token_id)
    num_rows, width = token_ids.shape
    positions = torch.arange(width, device=device)
    prompts = torch.tensor(prompt_lengths, device=device)[:, None]
    completions = torch.tensor(completion_lengths, device=device)[:, None]
    step = torch.arange(batch.targets.shape[1], device=device)
    predicted_by = torch.arange(num_rows, device=device)[:, None] * width + prompts - 1 + step
    return PaddedRows(
        token_ids=token_ids,
        mask=(positions < prompts + completions).long(),
        predicted_by=torch.where(step < completions, predicted_by, 0),
    )
