"""The modules of a common decoder: Llama, Mistral, Qwen2, Qwen3, SmolLM2 and similar ones.

Recognised by the modules that are there, not by names of architectures; `probe` then compares numbers. A model with
anything else (other norms, experts, hooks, quantized layers) runs through its own modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from grpo.policy.attention import Scoring, causal_lm

__all__ = ["Decoder", "DecoderLayer", "Linear", "Norm", "UnrecognisedError", "recognise"]

_STATIC_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles depend on the position alone, not on how long the sequence has become."""


class UnrecognisedError(Exception):
    """The model is made of something else; the message says of what."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear module, with or without LoRA adapters around it."""

    module: Any

    @property
    def base(self) -> nn.Linear:
        base = getattr(self.module, "base_layer", self.module)
        assert isinstance(base, nn.Linear)
        return base

    @property
    def state(self) -> tuple[object, ...]:
        """State besides parameters that decides the output: active, disabled and merged adapters."""
        module = self.module
        if not hasattr(module, "base_layer"):
            return ()
        return tuple(module.active_adapters), module.disable_adapters, module.merged

    def adapters(self) -> list[tuple[Tensor, Tensor]]:
        """Return A [r, K] and B [N, r], scaled, of each adapter that is on and not in the weight already."""
        module = self.module
        if not hasattr(module, "base_layer") or module.disable_adapters or module.merged:
            return []
        return [
            (module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach() * module.scaling[name])
            for name in module.active_adapters
            if name in module.lora_A
        ]


@dataclass(frozen=True, slots=True)
class Norm:
    """Root-mean-square norm over the last dimension."""

    weight: nn.Parameter
    epsilon: float


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer; `query_norm` and `key_norm` are over each head's dimensions."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    feed_forward_norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    activation: nn.Module
    scoring: Scoring


@dataclass(frozen=True, slots=True)
class Decoder:
    """The whole model."""

    embedding: nn.Embedding
    layers: tuple[DecoderLayer, ...]
    norm: Norm
    head: Linear
    rotary: nn.Module
    head_width: int

    def linears(self) -> Iterator[Linear]:
        """Yield every linear module."""
        for layer in self.layers:
            yield from (layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down)
        yield self.head


def recognise(model: nn.Module, windows: Sequence[int | None]) -> Decoder:
    """Return the structure of `model`, PEFT-wrapped or not.

    Args:
        windows: sliding window of each layer.

    Raises:
        UnrecognisedError: it is not of this kind.
    """
    inner: Any = causal_lm(model)
    for module in inner.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnrecognisedError(f"hooks on {type(module).__name__}")
    _require_children(inner, {"model", "lm_head"})
    body = inner.model
    _require_children(body, {"embed_tokens", "layers", "norm", "rotary_emb"})
    if not isinstance(body.embed_tokens, nn.Embedding) or body.embed_tokens.max_norm is not None:
        raise UnrecognisedError(f"an embedding of type {type(body.embed_tokens).__name__}")
    if getattr(body.rotary_emb, "rope_type", None) not in _STATIC_ROTARY:
        raise UnrecognisedError(f"rotary embeddings of type {getattr(body.rotary_emb, 'rope_type', 'unknown')}")
    layers = tuple(_layer(layer, window) for layer, window in zip(body.layers, windows, strict=True))
    decoder = Decoder(
        embedding=body.embed_tokens,
        layers=layers,
        norm=_norm(body.norm),
        head=_linear(inner.lm_head),
        rotary=body.rotary_emb,
        head_width=int(body.layers[0].self_attn.head_dim),
    )
    types = {linear.base.weight.dtype for linear in decoder.linears()} | {decoder.embedding.weight.dtype}
    if len(types) > 1 or not next(iter(types)).is_floating_point:
        raise UnrecognisedError(f"parameters of types {', '.join(sorted(map(str, types)))}")
    return decoder


def _layer(layer: Any, window: int | None) -> DecoderLayer:
    _require_children(layer, {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
    attention, mlp = layer.self_attn, layer.mlp
    _require_children(attention, {"q_proj", "k_proj", "v_proj", "o_proj"}, optional={"q_norm", "k_norm"})
    _require_children(mlp, {"gate_proj", "up_proj", "down_proj", "act_fn"})
    if any(True for _ in mlp.act_fn.parameters()):
        raise UnrecognisedError("an activation with parameters")
    width = int(attention.head_dim)
    norms = [_norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")]
    shapes = {None if norm is None else (tuple(norm.weight.shape), norm.epsilon) for norm in norms}
    if len(shapes) > 1 or any(norm is not None and norm.weight.shape != (width,) for norm in norms):
        raise UnrecognisedError("norms of queries and keys that are not over each head")
    return DecoderLayer(
        attention_norm=_norm(layer.input_layernorm),
        query=_linear(attention.q_proj),
        key=_linear(attention.k_proj),
        value=_linear(attention.v_proj),
        output=_linear(attention.o_proj),
        query_norm=norms[0],
        key_norm=norms[1],
        feed_forward_norm=_norm(layer.post_attention_layernorm),
        gate=_linear(mlp.gate_proj),
        up=_linear(mlp.up_proj),
        down=_linear(mlp.down_proj),
        activation=mlp.act_fn,
        scoring=Scoring(float(getattr(attention, "scaling", width**-0.5)), window),
    )


def _norm(module: Any) -> Norm:
    parameters = dict(module.named_parameters())
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(parameters) != {"weight"} or parameters["weight"].ndim != 1 or not isinstance(epsilon, float):
        raise UnrecognisedError(f"a norm of type {type(module).__name__}")
    return Norm(parameters["weight"], epsilon)


def _linear(module: Any) -> Linear:
    base = module
    if hasattr(module, "base_layer"):
        if type(module).__name__ != "Linear" or not hasattr(module, "lora_A"):
            raise UnrecognisedError(f"an adapter of type {type(module).__name__}")
        if module.lora_variant or any(module.lora_bias.values()) or module.fan_in_fan_out:
            raise UnrecognisedError("an adapter that is more than a product of two matrices")
        base = module.base_layer
    plain = isinstance(base, nn.Linear) and base.weight.shape == (base.out_features, base.in_features)
    if not plain or not base.weight.dtype.is_floating_point or base.weight.dtype.itemsize < 2:
        raise UnrecognisedError(f"a linear layer of type {type(base).__name__}")
    return Linear(module)


def _require_children(module: nn.Module, expected: set[str], optional: frozenset[str] | set[str] = frozenset()) -> None:
    found = {name for name, _ in module.named_children()}
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if not expected <= found or found - expected - optional or own:
        odd = sorted((found ^ expected) - optional) + own
        raise UnrecognisedError(f"{type(module).__name__} differs in {', '.join(odd)}")
