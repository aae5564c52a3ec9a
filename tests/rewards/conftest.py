"""Groups of completions with made-up token ids, and a tokenizer that lives in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo.types import Group, Prompt, Rollout

WORDS = ["<pad>", "<end>", "<unk>", "user", "assistant", *"abcdefghijklmnopqrstuvwxyz0123456789+=?.: "]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}<end>{% endfor %}"


def make_group(
    raw: str | Sequence[Mapping[str, str]],
    lengths: Sequence[int],
    columns: Mapping[str, Any] | None = None,
) -> Group:
    """Return a group whose completions have these lengths in tokens."""
    rollouts = tuple(
        Rollout(
            token_ids=tuple(range(10, 10 + length)),
            sampled=(True,) * length,
            logprobs=(0.0,) * length,
            finish_reason="stop",
            policy_version=0,
        )
        for length in lengths
    )
    return Group(Prompt(row=0, raw=raw, text=str(raw), token_ids=(1, 2), columns=columns or {}), rollouts)


@pytest.fixture
def group() -> Callable[..., Group]:
    return make_group


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one token a character, with a chat template."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("user|assistant|."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )
