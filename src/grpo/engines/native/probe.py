"""Probe of a model when an engine is made: its logits through the shared cache must equal those of a plain forward.

Two ways to run it are probed: `fused_decoder` with a copy of its weights, and its own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grpo.engines.native.attention import PrefillAttention
from grpo.engines.native.cache import KeyValueTable
from grpo.engines.native.runner import Runner, SharedPrefixRunner
from grpo.engines.native.structure import Decoder, UnrecognisedError, recognise
from grpo.policy.architecture import WindowRecorder, why_not_its_layers, why_not_its_windows
from grpo.policy.attention import causal_lm, only_logits, placeholder_mask

__all__ = ["decoder_structure", "why_no_cache", "why_not_fused", "why_not_shared"]

MakeRunner = Callable[[], SharedPrefixRunner]

_PROMPTS = ((3, 10, 17, 24, 31), (2, 13, 24))
_EQUAL_PROMPTS = ((3, 10, 17, 24), (2, 13, 24, 5))
_COMPLETIONS = ((0, (5, 9)), (1, (4, 6)), (0, (8, 1)))
"""Number of the prompt, and the two tokens after it."""


def why_not_shared(model: nn.Module, make: MakeRunner) -> str | None:
    """Return why the runners that `make` gives, which call `model`, cannot run it; None if they can."""
    config: Any = causal_lm(model).config
    config = config.get_text_config()
    try:
        return (
            why_not_its_layers(config)
            or why_not_its_windows(config, _windows(model, config.vocab_size))
            or _different_logits(model, make, config.vocab_size)
        )
    except torch.OutOfMemoryError:
        raise
    # Any other failure only means that the plain way has to be taken.
    except Exception as error:
        return _in_one_line(error)


def decoder_structure(model: nn.Module) -> Decoder | str:
    """Return the structure of `model`, or the reason why `fused_decoder` has no forward pass for it."""
    config: Any = causal_lm(model).config
    config = config.get_text_config()
    try:
        windows = _windows(model, config.vocab_size)
        reason = why_not_its_layers(config) or why_not_its_windows(config, windows)
        return recognise(model, windows) if reason is None else reason
    except torch.OutOfMemoryError:
        raise
    except UnrecognisedError as found:
        return f"it has {found}"
    except Exception as error:
        return _in_one_line(error)


def why_not_fused(model: nn.Module, make: MakeRunner) -> str | None:
    """Return why the runners that `make` gives, with a forward pass of their own, cannot stand for `model`."""
    config: Any = causal_lm(model).config
    try:
        return _different_logits(model, make, config.get_text_config().vocab_size)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return _in_one_line(error)


def why_no_cache(model: nn.Module, runner: Runner) -> str | None:
    """Return why `runner`, in lockstep, cannot go on from the model's own cache; None if it can.

    Completions come and go, so the cache's rows must be selectable.
    """
    config: Any = causal_lm(model).config
    try:
        return _difference(model, runner, config.get_text_config().vocab_size, _EQUAL_PROMPTS)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return _in_one_line(error)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _different_logits(model: nn.Module, make: MakeRunner, vocabulary: int) -> str | None:
    """Return by how much logits through the cache are off, prompts shared or copied; None if they are right."""
    shared, copied = make(), make()
    shared.max_copied_bytes = 0
    return _difference(model, shared, vocabulary) or _difference(model, copied, vocabulary)


def _difference(
    model: nn.Module, runner: Runner, vocabulary: int, prompts: Sequence[Sequence[int]] = _PROMPTS
) -> str | None:
    """Return by how much the logits of `runner` are off: a layer with a state of its own shows here."""
    through_cache, plain = _logits_both_ways(model, runner, vocabulary, prompts)
    # Rounding: 1e-5 of the logits' spread in float32, a few hundredths in 16 bits. A missing state: far more.
    tolerance = 2e-3 if through_cache.dtype.itemsize >= 4 else 0.2
    difference, spread = float((through_cache.float() - plain.float()).abs().max()), float(plain.float().std())
    if difference <= spread * tolerance:
        return None
    return f"its logits would be off by {difference:.2g}, their standard deviation being {spread:.2g}"


def _windows(model: nn.Module, vocabulary: int) -> list[int | None]:
    """Return the sliding window of each layer that uses our attention."""
    device = next(model.parameters()).device
    table, length = KeyValueTable(block=1), len(_PROMPTS[0])
    table.reserve(1, length)
    recorder = WindowRecorder(PrefillAttention(table, np.array([0]), np.array([length])))
    model(
        input_ids=torch.tensor(_PROMPTS[:1], device=device) % vocabulary,
        position_ids=torch.arange(length, device=device)[None],
        attention_mask=placeholder_mask(device),
        attend=recorder,
        use_cache=False,
        **only_logits(model),
    )
    return recorder.windows


def _logits_both_ways(
    model: nn.Module, runner: Runner, vocabulary: int, prompts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Return next-token logits [3, 3, V] through prefill and two decodes, and of plain forward passes."""
    device = next(model.parameters()).device
    tails = torch.tensor([tail for _, tail in _COMPLETIONS], device=device) % vocabulary
    slots = np.array([slot for slot, _ in _COMPLETIONS])
    prompts = [[token % vocabulary for token in prompt] for prompt in prompts]
    first = runner.prefill(prompts)[torch.from_numpy(slots).to(device)]
    runner.join(slots)
    through_cache = torch.stack((first, runner.decode(tails[:, 0]), runner.decode(tails[:, 1])), dim=1)
    plain = []
    for (slot, _), tail in zip(_COMPLETIONS, tails.tolist(), strict=True):
        ids = torch.tensor([prompts[slot] + tail], device=device)
        output = model(input_ids=ids, use_cache=False, **only_logits(model))
        plain.append(output.logits[0, -3:])
    return through_cache, torch.stack(plain)
