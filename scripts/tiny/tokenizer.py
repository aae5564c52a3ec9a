"""The embedded model's tokenizer: byte-level BPE in which a digit is always one token."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "VOCABULARY_SIZE", "train_tokenizer"]

VOCABULARY_SIZE = 1024
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", "<think>", "</think>")

# An operator includes the spaces around it, so that "7 + 5" is three tokens. A space belongs to the word after it; the
# rest of a longer run of white space is one piece.
PIECES = r" [-+*=] | ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s"

# The roles `developer` and `tool` are rendered as `system` and `user`, the only other roles that the model knows.
CHAT_TEMPLATE = (
    "{% set known = {'system': 'system', 'developer': 'system', 'user': 'user', 'tool': 'user',"
    " 'assistant': 'assistant'} %}"
    "{% for message in messages %}"
    "{% if message['role'] not in known %}"
    "{{ raise_exception('unknown role ' ~ message['role'] ~ ': use system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' ~ known[message['role']] ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of `VOCABULARY_SIZE` tokens with merges learned from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    marks = re.compile("|".join(re.escape(mark) for mark in SPECIAL + TAGS))
    tokenizer.train_from_iterator((marks.sub("", text) for text in texts), trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
