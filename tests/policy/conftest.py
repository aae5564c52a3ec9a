"""Tiny random models, a tokenizer made in memory, and packed batches of random tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from grpo.packing import PackedBatch, pack
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

WORDS = ["<pad>", "<eos>", "<|im_end|>", "<unk>", *(str(number) for number in range(57))]

SMALL: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture
def make_model() -> Callable[..., Any]:
    def make(family: str = "llama", *, seed: int = 0, **overrides: Any) -> Any:
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SMALL, **overrides})).eval()

    return make


@pytest.fixture
def make_tokenizer() -> Callable[..., Any]:
    def make(**special: str | None) -> Any:
        words = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
        backend = Tokenizer(words)
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, **{"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", **special}
        )

    return make


@pytest.fixture
def model_directory(tmp_path: Path, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> Path:
    directory = tmp_path / "small-llama"
    make_model().save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def make_batch() -> Callable[..., PackedBatch]:
    def make(
        groups: tuple[tuple[int, tuple[int, ...]], ...] = ((5, (3, 1, 4)), (2, (6,))), seed: int = 0
    ) -> PackedBatch:
        """The last token but one of each completion of three or more was not sampled."""
        generator = torch.Generator().manual_seed(seed)

        def tokens(length: int) -> tuple[int, ...]:
            return tuple(torch.randint(len(WORDS), (length,), generator=generator).tolist())

        def completion(length: int) -> ScoredRollout:
            sampled = tuple(index != length - 2 or length < 3 for index in range(length))
            return ScoredRollout(
                Rollout(tokens(length), sampled, (0.0,) * length, "length", 0), "", Score({}, {}, None)
            )

        scored = [
            ScoredGroup(Prompt(row, "", "", tokens(length), {}), tuple(map(completion, lengths)))
            for row, (length, lengths) in enumerate(groups)
        ]
        widest = max(len(lengths) for _, lengths in groups)
        longest = max(max(lengths) for _, lengths in groups)
        (batch,) = pack(scored, torch.zeros(len(groups), widest, longest), max_tokens=None)
        return batch

    return make


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.fixture
def largest_tensor() -> LargestTensor:
    return LargestTensor()


@pytest.fixture
def warnings_of_policy(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, logger="grpo.policy"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name.startswith("grpo.policy")]
