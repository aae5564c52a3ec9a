"""A template that ends with `<think>` puts the completion inside the block that rewards look for."""

from __future__ import annotations

import pytest
from tokenizer_kinds import make_tokenizer

from grpo.tasks.answers import find_format
from grpo.tasks.chat import render
from grpo.tasks.opened_tags import has_closed_tag, opened_tag, with_opened_tag
from grpo.tasks.rows import read_rows
from grpo.types import Prompt


def prompt_of(raw: object, kind: str = "thinking") -> Prompt:
    (prompt,) = render(read_rows([raw]), make_tokenizer(kind)).prompts
    return prompt


@pytest.mark.parametrize("raw", ["2 + 3?", [{"role": "user", "content": "2 + 3?"}]])
def test_the_tag_at_the_end_of_a_prompt_is_opened(raw: object) -> None:
    assert opened_tag(prompt_of(raw)) == "<think>"
    assert opened_tag(prompt_of(raw, "qwen")) == ""


def test_a_tag_that_the_question_only_mentions_is_not_opened() -> None:
    assert opened_tag(prompt_of("Begin with <think>", "qwen")) == ""
    assert opened_tag(prompt_of("Use <think>...</think>, then answer.", "qwen")) == ""


@pytest.mark.parametrize(
    ("begun", "opened"),
    [
        ("<think>", "<think>"),
        ("<think>\nOkay, so", "<think>"),
        ("<think>5</think>", ""),
        ("<reasoning>", "<reasoning>"),
    ],
)
def test_an_assistant_message_that_is_continued_may_have_opened_a_tag(begun: str, opened: str) -> None:
    messages = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": begun}]
    assert opened_tag(prompt_of(messages, "qwen")) == opened


@pytest.mark.parametrize(
    ("end", "format_name", "closed"),
    [
        ("<think>\n\n</think>\n\n", "think_tags", True),
        ("<think>\n", "think_tags", False),
        ("<think></think>", "answer_tags", False),
        ("</think>", "plain", False),
        ("?", "think_tags", False),
    ],
)
def test_a_block_that_the_prompt_closes_is_missing_in_completions(end: str, format_name: str, closed: bool) -> None:
    prompt = Prompt(0, "2 + 3?", f"user: 2 + 3?{end}", (1,), {})
    assert has_closed_tag(prompt, find_format(format_name)) is closed


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("2 + 3</think>5", "<think>2 + 3</think>5"),
        ("<think>2 + 3</think>5", "<think>2 + 3</think>5"),
        ("2 + 3</think><think>4</think>5", "<think>2 + 3</think><think>4</think>5"),
        ("2 + 3 is", "2 + 3 is"),
        ("", ""),
    ],
)
def test_the_opened_tag_is_put_before_a_completion_that_closes_it(text: str, whole: str) -> None:
    assert with_opened_tag(text, "<think>") == whole
    assert with_opened_tag(text, "") == text
