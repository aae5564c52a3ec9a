"""Texts of completions keep every token that carries meaning."""

from __future__ import annotations

import pytest
from tokenizer_kinds import KINDS, make_tokenizer

from grpo.policy.tokens import decode_texts


def test_tags_that_are_special_tokens_stay_in_the_text():
    tokenizer = make_tokenizer("thinking")
    written = "<think>2 + 3 is 5</think>5"
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<think>") in ids
    assert decode_texts(tokenizer, [[*ids, tokenizer.eos_token_id]]) == [written]


@pytest.mark.parametrize("kind", KINDS)
def test_end_padding_and_start_tokens_are_left_out_and_no_others(kind):
    tokenizer = make_tokenizer(kind)
    ids = tokenizer("five", add_special_tokens=False)["input_ids"]
    others = [token for token in KINDS[kind][3] if token not in ("<end_of_turn>", "<|eot_id|>", "<|endoftext|>")]
    special = tokenizer.convert_tokens_to_ids(others)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    sequence = [*start, *special, *ids, tokenizer.eos_token_id]
    assert decode_texts(tokenizer, [sequence, [], ids]) == ["".join(others) + "five", "", "five"]


def test_a_model_s_further_end_tokens_are_left_out():
    tokenizer = make_tokenizer("gemma")
    tokenizer.pad_token = "<end_of_turn>"
    turn_end, start_of_turn = tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<start_of_turn>"])
    ids = tokenizer("five", add_special_tokens=False)["input_ids"]
    assert decode_texts(tokenizer, [[*ids, turn_end]]) == ["five"]
    assert decode_texts(tokenizer, [[*ids, start_of_turn]], end_token_ids=[start_of_turn]) == ["five"]
