"""Our attention function against the formula, and how a layer's options reach it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.policy.attention import Scoring, attention, masked_attention

LENGTH, WIDTH = 5, 8


def inputs(heads: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, LENGTH, WIDTH), (2, kv_heads, LENGTH, WIDTH), (2, kv_heads, LENGTH, WIDTH))
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes)
    return query, key, value


def by_formula(
    scaling: float, *, mask: Tensor | None = None, softcap: float | None = None, sinks: Tensor | None = None
) -> Tensor:
    """Return softmax(softcap · tanh(q k^T · scaling / softcap) + mask, with a sink a head) v, [B, H, L, D]."""
    query, key, value = inputs()
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = torch.einsum("bhld,bhsd->bhls", query, key) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    weights = scores.exp()
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().view(1, -1, 1, 1)
    return (weights / total) @ value


CAUSAL = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0])


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sinks", [None, SINKS], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("form", ["none", "causal", "bool", "float"])
def test_every_kind_of_attention_is_that_of_the_formula(form: str, sinks: Tensor | None, softcap: float | None) -> None:
    scoring = Scoring(0.3, softcap=softcap, sinks=sinks)
    mask = {"bool": CAUSAL == 0, "float": CAUSAL}.get(form)
    found = masked_attention(*inputs(), scoring, mask=mask, is_causal=form == "causal")
    expected = by_formula(0.3, mask=None if form == "none" else CAUSAL, softcap=softcap, sinks=sinks)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"softcap": 0.7}, {"s_aux": SINKS}], ids=["plain", "soft cap", "sinks"])
def test_without_a_scaling_scores_are_divided_by_the_root_of_the_width(options: dict[str, Any]) -> None:
    module = nn.Module()
    module.num_key_value_groups = 2
    module.is_causal = True
    found, weights = attention(module, *inputs(), None, **options)
    expected = by_formula(WIDTH**-0.5, mask=CAUSAL, softcap=options.get("softcap"), sinks=options.get("s_aux"))
    assert weights is None
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_layer_s_options_are_handed_to_the_one_who_attends() -> None:
    seen: list[Any] = []

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        seen.append((module, query, key, value, scoring))
        return query

    module, (query, key, value) = nn.Module(), inputs()
    output, _ = attention(
        module, query, key, value, None, scaling=0.25, sliding_window=3, softcap=2.0, s_aux=SINKS, attend=attend
    )
    assert output is query
    assert all(one is other for one, other in zip(seen[0], (module, query, key, value), strict=False))
    assert seen[0][4] == Scoring(0.25, 3, 2.0, SINKS)
    attention(module, query, key, value, None, attend=attend)
    assert seen[1][4] == Scoring(WIDTH**-0.5, None, None, None)
