"""The special tokens of a policy: those that end a completion, and the one that pads; texts without these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grpo.errors import ModelError

__all__ = ["choose_pad_token", "decode_texts", "find_end_tokens"]

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|end_of_turn|>", "<|return|>")
"""Tokens with which chat templates in use end an assistant's turn."""

PADDINGS = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""Tokens that serve as padding in tokenizers without a declared padding token."""


def find_end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the sorted ids that end a completion.

    They are those of the generation configuration (one or a list), the tokenizer's, and the one with which the
    chat template ends a turn.

    Raises:
        ModelError: there is none.
    """
    ids = set(_listed(getattr(getattr(model, "generation_config", None), "eos_token_id", None)))
    ids |= set(_listed(tokenizer.eos_token_id))
    template = str(tokenizer.chat_template or "")
    vocabulary = tokenizer.get_vocab()
    ids |= {vocabulary[token] for token in TURN_ENDS if token in template and token in vocabulary}
    ids = {token for token in ids if 0 <= token < _num_embeddings(model)}
    if not ids:
        raise ModelError(
            "neither the tokenizer nor generation_config.json names an end token, so no completion would ever end: "
            "set tokenizer.eos_token or eos_token_id in generation_config.json"
        )
    return tuple(sorted(ids))


def choose_pad_token(model: Any, tokenizer: Any, end_token_ids: tuple[int, ...]) -> int:
    """Return the padding token's id, and declare it in the tokenizer if it had none.

    The embeddings are never resized: a declared padding token without an embedding is replaced. Padding is
    always masked, so even an end token may serve.
    """
    vocabulary = tokenizer.get_vocab()
    candidates = (
        tokenizer.pad_token_id,
        *_listed(getattr(getattr(model, "generation_config", None), "pad_token_id", None)),
        *(vocabulary.get(token) for token in PADDINGS),
        end_token_ids[0],
    )
    chosen: int = next(token for token in candidates if token is not None and 0 <= token < _num_embeddings(model))
    if tokenizer.pad_token_id != chosen:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)
    return chosen


def decode_texts(tokenizer: Any, sequences: Iterable[Sequence[int]], *, end_token_ids: Iterable[int] = ()) -> list[str]:
    """Return the text of each sequence without end, padding and start tokens.

    Other special tokens stay: in many models `<think>` or `<answer>` is one, and rewards read them.

    Args:
        end_token_ids: besides the tokenizer's own.
    """
    hidden = {*end_token_ids, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}
    shown = [[token for token in ids if token not in hidden] for ids in sequences]
    return list(tokenizer.batch_decode(shown, skip_special_tokens=False))


def _listed(ids: int | Iterable[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _num_embeddings(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
