"""Rows by prompt and back."""

from __future__ import annotations

import numpy as np
import torch

from grpo.engines.native.membership import Membership


def test_what_is_laid_out_by_prompt_comes_back_by_row() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        prompts, kv_heads = int(generator.integers(1, 5)), int(generator.integers(1, 4))
        slots = generator.integers(0, prompts, int(generator.integers(1, 12)))
        lengths = generator.integers(1, 9, prompts)
        members = Membership(slots, lengths, torch.device("cpu"))
        places = members.places(kv_heads)
        rows = torch.arange(len(slots) * kv_heads)
        by_prompt = rows[places.rows_of_groups].view(prompts, kv_heads, -1)
        assert torch.equal(by_prompt.view(-1)[places.groups_of_rows], rows)
        for number in range(prompts):
            mine = set(np.flatnonzero(slots == number).tolist())
            for head in range(kv_heads):
                assert mine <= {int(row) // kv_heads for row in by_prompt[number, head]}
                assert {int(row) % kv_heads for row in by_prompt[number, head]} <= {head, 0}
        assert members.prompt_lengths.tolist() == lengths[slots].tolist()
        mask = members.prompt_mask(torch.float32)
        if mask is None:
            assert len(set(lengths.tolist())) == 1
        else:
            assert (mask == 0).sum(dim=-1).view(-1).tolist() == lengths.tolist()
