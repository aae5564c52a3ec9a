"""Tokenizers that behave as published kinds do, with their templates, over an alphabet of bytes."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["KINDS", "make_tokenizer"]

QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
THINKING = (
    "{{ bos_token }}{% for message in messages %}<|User|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)

KINDS: dict[str, tuple[str, str | None, str, tuple[str, ...], str | None]] = {
    "qwen": (QWEN, None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>"), None),
    "llama": (
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        "<|begin_of_text|> $A",
    ),
    "gemma": (GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "<bos> $A"),
    "mistral": (MISTRAL, "<s>", "</s>", (), "<s> $A"),
    "thinking": (THINKING, "<s>", "</s>", ("<|User|>", "<|Assistant|>", "<think>", "</think>"), "<s> $A"),
    "appending": (LLAMA, "<s>", "</s>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<s> $A </s>"),
}
"""By name: chat template, start token, end token, other special tokens, what the tokenizer puts around a text."""


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a kind."""
    template, start, end, others, around = KINDS[kind]
    special = [token for token in (start, end, *others) if token is not None]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if around is not None:
        used = [(token, vocabulary[token]) for token in around.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        additional_special_tokens=list(others),
        chat_template=template,
    )
