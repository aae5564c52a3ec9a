"""Log-probabilities of given completions, token by token through the cache, as sampling would compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from grpo.engines.native.runner import Runner
from grpo.engines.native.sampling import token_logprobs

__all__ = ["score_completions"]


def score_completions(
    new_runner: Callable[[], Runner],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_sequences: int,
    max_prefill_tokens: int,
    device: torch.device,
) -> list[tuple[float, ...]]:
    """Return the log-probability of every token of each completion; at most `max_sequences` are run at a time.

    A lockstep runner, which reads all prompts of a batch in one pass, gets no more than `max_prefill_tokens` of them.
    """
    scored: list[tuple[float, ...]] = [()] * len(prompts)
    most_at_once = max_prefill_tokens if new_runner().lockstep else None
    for batch in _batches(prompts, completions, max_sequences, most_at_once):
        rows = _score(
            new_runner(), [tuple(prompts[i]) for i in batch], [completions[i] for i in batch], temperature, device
        )
        for i, row in zip(batch, rows, strict=True):
            scored[i] = row
    return scored


def _batches(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], size: int, max_tokens: int | None
) -> Iterator[list[int]]:
    """Yield which completions to score together, longest first; empty ones have nothing to score.

    Args:
        size: completions in a batch.
        max_tokens: prompt tokens in a batch, whose prompts are then of one length; None: any, of any lengths.
    """
    order = sorted((i for i, completion in enumerate(completions) if completion), key=lambda i: -len(completions[i]))
    if max_tokens is None:
        yield from _pieces(order, size)
        return
    for length in dict.fromkeys(len(prompts[i]) for i in order):
        alike = [i for i in order if len(prompts[i]) == length]
        yield from _pieces(alike, max(1, min(size, max_tokens // length)))


def _pieces(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _score(
    runner: Runner,
    prompts: Sequence[tuple[int, ...]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    device: torch.device,
) -> list[tuple[float, ...]]:
    """Score one batch; its completions come longest first, so that those that end are the last rows."""
    distinct = list(dict.fromkeys(prompts))
    slot_of = {prompt: slot for slot, prompt in enumerate(distinct)}
    slots = np.array([slot_of[prompt] for prompt in prompts], dtype=np.int64)
    lengths = np.array([len(completion) for completion in completions])
    logits = runner.prefill(distinct).index_select(0, torch.from_numpy(slots).to(device))
    runner.join(slots)
    tokens = _column(completions, 0, device)
    columns = [token_logprobs(logits, tokens, temperature).tolist()]
    for index in range(1, int(lengths.max())):
        running = int((lengths > index).sum())
        runner.leave(np.arange(running, len(logits)))
        logits = runner.decode(tokens[:running])
        tokens = _column(completions[:running], index, device)
        columns.append(token_logprobs(logits, tokens, temperature).tolist())
    return [tuple(columns[index][row] for index in range(length)) for row, length in enumerate(lengths)]


def _column(completions: Sequence[Sequence[int]], index: int, device: torch.device) -> Tensor:
    return torch.tensor([completion[index] for completion in completions], device=device)
