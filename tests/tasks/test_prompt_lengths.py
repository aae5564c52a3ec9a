"""Prompts far above the limit are recognised by their beginning, and texts that are cut keep the tokens they had."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from grpo.policy.tiny import TINY_DIRECTORY
from grpo.tasks import Row, enough_of, without_overlong


class CountingTokenizer:
    """The embedded tokenizer, which notes how many characters it was given at once, at most."""

    def __init__(self):
        self.inner = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
        self.longest = 0

    def __call__(self, text, **options):
        self.longest = max(self.longest, len(text))
        return self.inner(text, **options)


@pytest.fixture
def counting():
    return CountingTokenizer()


@pytest.mark.parametrize(
    "text", ["What is 7 + 5? " * 200_000, "x" * 3_000_000, "日本語" * 1_000_000, " \n" * 1_000_000]
)
def test_a_prompt_of_megabytes_is_left_out_without_being_tokenised_whole(counting, text):
    rows = [Row(0, "What is 1 + 1?", {}), Row(1, text, {}), Row(2, ({"role": "user", "content": text},), {})]
    assert [row.number for row in without_overlong(rows, counting, 512)] == [0]
    assert counting.longest <= 100_000


def test_a_prompt_near_the_limit_is_left_to_the_tokenizer(counting):
    text = "What is 7 + 5? " * 100
    count = len(counting.inner(text)["input_ids"])
    rows = [Row(0, text, {})]
    assert without_overlong(rows, counting, count) == rows
    assert without_overlong(rows, counting, None) == rows


@pytest.mark.parametrize("text", ["What is 7 + 5? " * 20_000, "3 + 4 = 7\n" * 30_000])
def test_the_tokens_that_are_used_are_those_of_the_whole_text(counting, text):
    def ids(part):
        return counting.inner(part, add_special_tokens=False)["input_ids"]

    begin, end = enough_of(text, counting, 64), enough_of(text, counting, 64, end=True)
    assert max(len(begin), len(end)) < len(text) / 10
    assert ids(begin)[:64] == ids(text)[:64]
    assert ids(end)[-64:] == ids(text)[-64:]


def test_a_short_text_stays_whole(counting):
    assert enough_of("What is 7 + 5?", counting, 2) == "What is 7 + 5?"
    assert counting.longest == 0
