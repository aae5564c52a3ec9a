"""One attention function for everything that runs the model.

Training (packed rows), the engine (its own cache) and plain calls all run the same Hugging Face module. The
module calls the function that is registered here, and the keyword argument `attend` of its `forward` replaces it:

    model(input_ids=…, position_ids=…, attention_mask=placeholder_mask(device), attend=layout, use_cache=False)

`attend` is any object with the verb of the protocol `Attend`; the same object is handed to every layer.
Without it the call is an ordinary one, cache and mask included, and gives the output of eager attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ATTENTION_NAME",
    "Attend",
    "Scoring",
    "attention",
    "causal_lm",
    "masked_attention",
    "only_logits",
    "placeholder_mask",
    "register_attention",
    "use_attention",
]

ATTENTION_NAME = "grpo"
"""The name under which `attention` is registered with transformers."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """Transformation of the dot products of queries and keys into scores.

    Attributes:
        scaling: factor on the dot products.
        sliding_window: a query sees keys at distance 0 … window - 1; None: no limit.
        softcap: scores s become softcap · tanh(s / softcap); None: as they are.
        sinks: [H] logits of a key without a value that every query sees; None: there is none.
    """

    scaling: float
    sliding_window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class Attend(Protocol):
    """Attention among the tokens of one forward pass."""

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return [B, N, H, D_v]: the values each query gathers.

        Args:
            module: the layer's attention module; `module.layer_idx` tells layers apart.
            query: [B, H, N, D], rotary positions applied.
            key: [B, H_kv, N, D]; H is a multiple of H_kv.
            value: [B, H_kv, N, D_v].
        """
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return `attend`'s output [B, N, H, D_v] where the caller gave one, plain attention otherwise; and no weights.

    transformers calls this with the layer's own keyword arguments and those handed to `forward`.
    """
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    if attend is not None:
        assert dropout == 0, "load_policy switches the model's own dropout off"
        return attend(module, query, key, value, scoring), None
    if softcap is None and s_aux is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    # SDPA has no arguments for a soft cap or sinks, and transformers would drop them silently.
    output = masked_attention(
        query,
        key,
        value,
        scoring,
        mask=attention_mask,
        is_causal=attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True),
        dropout=dropout,
    )
    return output.transpose(1, 2).contiguous(), None


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scoring: Scoring,
    *,
    mask: Tensor | None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Return attention's output [B, H, L, D_v]: through SDPA where it can, step by step with a soft cap or sinks.

    Args:
        query: [B, H, L, D].
        key: [B, H_kv, S, D]; H is a multiple of H_kv.
        value: [B, H_kv, S, D_v].
        scoring: its sliding window is not applied here; the caller puts it into `mask`.
        mask: broadcastable to [B, H, L, S]; bool (True: is seen) or a float that is added to the scores.
        is_causal: query i sees keys 0 … i; only without a mask.
    """
    repeats = query.shape[1] // key.shape[1]
    softcap, sinks = scoring.softcap, scoring.sinks
    by_sdpa = softcap is None and sinks is None
    # On a GPU no fused kernel takes grouped keys with a mask or in float32: SDPA would hold all scores instead.
    grouped = by_sdpa and query.device.type == "cpu" and repeats > 1
    if repeats > 1 and not grouped:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if by_sdpa:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=is_causal,
            scale=scoring.scaling,
            enable_gqa=grouped,
        )
    scores = query @ key.transpose(2, 3) * scoring.scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        sink_scores = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat((scores, sink_scores), dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)[..., : key.shape[2]]
    return F.dropout(weights, p=dropout) @ value


def placeholder_mask(device: torch.device | str) -> Tensor:
    """Return a [1, 1, 1, 1] mask: transformers hands a 4-D mask on as it is instead of building its own."""
    return torch.zeros(1, 1, 1, 1, device=device)


def register_attention() -> None:
    """Make `ATTENTION_NAME` known to transformers; a second call has no effect."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION_NAME, attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def causal_lm(model: nn.Module) -> nn.Module:
    """Return the Hugging Face causal language model itself, out of a PEFT wrapper if there is one.

    Adapters live inside its layers, so that calling it runs them too.
    """
    get_base_model = getattr(model, "get_base_model", None)
    inner = model if get_base_model is None else get_base_model()
    assert isinstance(inner, nn.Module)
    return inner


def only_logits(model: nn.Module) -> dict[str, bool]:
    """Return the arguments of `model` that leave out outputs for an auxiliary loss, which need every token's mask.

    Configurations of models with experts may ask for their router's logits.
    """
    config = getattr(causal_lm(model), "config", None)
    return {"output_router_logits": False} if getattr(config, "output_router_logits", False) else {}


def use_attention(model: nn.Module) -> bool:
    """Make `model` (PEFT-wrapped or not) call `attention`; return whether its architecture allows it.

    If it does not, the model is left as it was: it runs, but `attend` never reaches its layers.
    """
    register_attention()
    inner: Any = causal_lm(model)
    # transformers would only log a warning for these.
    if not getattr(inner, "_can_set_attn_implementation", lambda: False)():
        return False
    before = inner.config._attn_implementation
    try:
        inner.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, ImportError):
        inner.set_attn_implementation(before)
        return False
    return bool(inner.config._attn_implementation == ATTENTION_NAME)
