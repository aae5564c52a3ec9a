"""Checks that our attention can serve an architecture: its configuration, and the arguments that its layers pass.

A comparison of outputs does not suffice: a trial of a few tokens does not reach beyond a sliding window or an attention
chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from grpo.policy.attention import Attend, Scoring

__all__ = ["WindowRecorder", "modules_beside_text", "why_not_its_layers", "why_not_its_windows"]


class WindowRecorder:
    """Calls `attend` and records the sliding window that each layer passes.

    Attributes:
        windows: one for each call, in order; None: no limit.
    """

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.windows: list[int | None] = []

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        self.windows.append(scoring.sliding_window)
        return self.attend(module, query, key, value, scoring)


def modules_beside_text(model: Any) -> list[str]:
    """Return the names of the outermost modules that text never reaches, as those that read images.

    Args:
        model: a causal language model, not PEFT-wrapped.
    """
    if model.config.get_text_config() is model.config:
        return []
    of_text = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    inside = {id(module) for part in of_text if part is not None for module in part.modules()}
    if id(model) in inside or id(model.base_model) in inside:
        return []
    around = {id(module) for module in model.modules() if inside & {id(part) for part in module.modules()}}
    outside = [name for name, module in model.named_modules() if id(module) not in inside | around]
    return [name for name in outside if name.rpartition(".")[0] not in outside]


def why_not_its_layers(config: Any) -> str | None:
    """Return the reason why our attention cannot serve a kind of layer, None if it serves all.

    Args:
        config: the text model's, as `get_text_config()` returns it.
    """
    others = sorted({str(kind) for kind in _layer_types(config)} - {"full_attention", "sliding_attention"})
    if others:
        return f"it has layers of type {', '.join(others)}"
    if getattr(config, "attention_chunk_size", None) is not None:
        return "its layers attend in chunks"
    return None


def why_not_its_windows(config: Any, windows: Sequence[int | None]) -> str | None:
    """Return the reason why our attention does not know the layers' windows, None if it does.

    Args:
        config: the text model's, as `get_text_config()` returns it.
        windows: recorded by a `WindowRecorder` in one forward pass.
    """
    if len(windows) != config.num_hidden_layers:
        return f"{len(windows)} of its {config.num_hidden_layers} layers use exchangeable attention"
    types = _layer_types(config)
    num_windowed = types.count("sliding_attention") if types else config.num_hidden_layers
    if not getattr(config, "sliding_window", None):
        num_windowed = 0
    if sum(window is not None for window in windows) != num_windowed:
        return "its layers do not pass their sliding window"
    return None


def _layer_types(config: Any) -> list[str]:
    return list(getattr(config, "layer_types", None) or [])
