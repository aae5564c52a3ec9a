"""Choice of the forward for an architecture, by its configuration and by trial.

On a handful of random tokens, packed rows and the chunked head must give the log-probabilities of the plain
padded forward, and every attention layer must have asked for its attention with the window it is configured for.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from grpo.errors import ModelError
from grpo.machine import is_out_of_memory
from grpo.packing import PackedBatch, pack
from grpo.policy.architecture import WindowRecorder, why_not_its_layers, why_not_its_windows
from grpo.policy.attention import Attend, causal_lm
from grpo.policy.forward import LogprobForward
from grpo.policy.shared_prefix import SharedPrefixLayout
from grpo.policy.token_logprobs import output_head
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

__all__ = ["choose_forward"]

logger = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-4
"""Largest mean difference between log-probabilities that counts as rounding in float32."""

HALF_TOLERANCE = 0.15
"""The same for 16-bit weights; their logits are rounded to about 2^-8 of their size."""

GROUPS = ((5, (3, 4)), (3, (2, 1)))
"""Prompt length and completion lengths of each group of random tokens."""


def choose_forward(model: nn.Module, pad_token_id: int, *, can_attend: bool) -> LogprobForward:
    """Return the fastest forward that gives this model's own log-probabilities; logs a warning for each slower path.

    Raises:
        ModelError: its own forward pass fails.

    Args:
        model: a causal language model, PEFT-wrapped or not.
        pad_token_id: fills padded rows.
        can_attend: what `use_attention(model)` returned.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        batch, expected = _expected(model, pad_token_id)
        no_chunks = _why_not_chunked(model, batch, expected, pad_token_id)
        forward = LogprobForward(packed=True, chunked=no_chunks is None, pad_token_id=pad_token_id)
        no_packing = (
            "it has no exchangeable attention" if not can_attend else _why_not_packed(model, batch, expected, forward)
        )
    model.train(was_training)
    name = type(causal_lm(model)).__name__
    if no_packing is not None:
        logger.warning("%s cannot share a prompt between completions (%s): each gets its own copy", name, no_packing)
    if no_chunks is not None:
        logger.warning("%s cannot make its logits in chunks (%s): all are made at once", name, no_chunks)
    return LogprobForward(packed=no_packing is None, chunked=no_chunks is None, pad_token_id=pad_token_id)


def _expected(model: nn.Module, pad_token_id: int) -> tuple[PackedBatch, Tensor]:
    """Return random tokens and their log-probabilities by the model's own forward pass.

    Raises:
        ModelError: it has none for text alone.
    """
    try:
        batch = _random_batch(causal_lm(model))
        plain = LogprobForward(packed=False, chunked=False, pad_token_id=pad_token_id)
        return batch, plain(model, batch, temperature=1.0).logprobs
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"{type(causal_lm(model)).__name__} does not run on text alone ({reason})") from error


def _why_not_chunked(model: nn.Module, batch: PackedBatch, expected: Tensor, pad_token_id: int) -> str | None:
    """Return the reason why the hidden states cannot go through the output head alone, None if they can."""
    if output_head(model) is None:
        return "it names no output layer"
    forward = LogprobForward(packed=False, chunked=True, pad_token_id=pad_token_id)
    return _difference(forward, model, batch, expected)


def _why_not_packed(model: nn.Module, batch: PackedBatch, expected: Tensor, forward: LogprobForward) -> str | None:
    """Return the reason why completions cannot share a prompt, None if they can."""
    config = causal_lm(model).config.get_text_config()  # type: ignore[operator,union-attr]
    recorder = WindowRecorder(SharedPrefixLayout(batch.segments, len(batch.token_ids), batch.token_ids.device))
    return (
        why_not_its_layers(config)
        or _difference(forward, model, batch, expected, recorder)
        or why_not_its_windows(config, recorder.windows)
    )


def _difference(
    forward: LogprobForward, model: nn.Module, batch: PackedBatch, expected: Tensor, attend: Attend | None = None
) -> str | None:
    """Return the reason why `forward` does not give the `expected` log-probabilities, None if it does."""
    try:
        logprobs = forward(model, batch, temperature=1.0, attend=attend).logprobs
    # After any failure the plain forward is used.
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    exact = all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.is_floating_point())
    difference = (logprobs - expected)[batch.mask].abs().mean().item()
    tolerance = FLOAT32_TOLERANCE if exact else HALF_TOLERANCE
    return None if difference < tolerance else f"log-probabilities would be off by {difference:.2g}"


def _random_batch(model: nn.Module) -> PackedBatch:
    """Return a packed batch of random tokens; the same every time."""
    vocabulary_size = model.config.get_text_config().vocab_size  # type: ignore[operator,union-attr]
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary_size, (length,), generator=generator).tolist())

    def completion(length: int) -> ScoredRollout:
        rollout = Rollout(tokens(length), (True,) * length, (0.0,) * length, "length", 0)
        return ScoredRollout(rollout, "", Score({}, {}, None))

    groups = [
        ScoredGroup(Prompt(row, "", "", tokens(prompt_length), {}), tuple(map(completion, lengths)))
        for row, (prompt_length, lengths) in enumerate(GROUPS)
    ]
    (batch,) = pack(groups, torch.zeros(2, 2, 4), max_tokens=None)
    return batch.to(next(model.parameters()).device)
