"""Texts of prompts → tokens, each special token once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.errors import DataError

__all__ = ["name_of", "tokenise"]


def tokenise(tokenizer: Any, texts: Sequence[str], is_rendered: Sequence[bool]) -> list[tuple[int, ...]]:
    """Return token ids; texts from a chat template already contain their special tokens, plain texts do not.

    A plain text gets the tokens that the tokenizer puts before texts, but none twice, and none of those after texts:
    an end token would say that the completion is over.
    """
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    token_ids = [tuple(ids) for ids in encoded["input_ids"]]
    leading: tuple[int, ...] = ()
    plain = is_rendered.index(False) if False in is_rendered else None
    if plain is not None:
        leading = _leading_tokens(tokenizer, texts[plain], token_ids[plain])
    for place, (text, ids) in enumerate(zip(texts, token_ids, strict=True)):
        if not ids:
            raise DataError(f"prompt {text[:40]!r} has no tokens in {name_of(tokenizer)}: remove it from the data set")
        if not is_rendered[place]:
            token_ids[place] = leading + _without_leading(ids, leading)
    return token_ids


def _leading_tokens(tokenizer: Any, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text, whose own tokens are `ids`."""
    encoded = tokenizer([text], add_special_tokens=True, return_attention_mask=False, verbose=False)
    complete = tuple(encoded["input_ids"][0])
    number = next(
        (start for start in range(len(complete) - len(ids) + 1) if complete[start : start + len(ids)] == ids), None
    )
    if number is None:
        number = int(complete[:1] == (getattr(tokenizer, "bos_token_id", None),))
    return complete[:number]


def _without_leading(ids: tuple[int, ...], leading: tuple[int, ...]) -> tuple[int, ...]:
    while leading and ids[: len(leading)] == leading:
        ids = ids[len(leading) :]
    return ids


def name_of(tokenizer: Any) -> str:
    """Return what error messages call a tokenizer."""
    name = getattr(tokenizer, "name_or_path", None)
    return f"the tokenizer of {name}" if name else "the tokenizer"
