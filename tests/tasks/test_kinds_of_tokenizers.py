"""The tokens of a prompt are those of the chat template, once, with tokenizers of every kind."""

from __future__ import annotations

import pytest
from tokenizer_kinds import KINDS, make_tokenizer

from grpo.tasks.chat import render
from grpo.tasks.rows import read_rows

MESSAGES = {
    "one question": [{"role": "user", "content": "What is 2 + 3?"}],
    "with a system message": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 3?"},
    ],
    "several turns": [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "And twice that?"},
    ],
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name in MESSAGES
    if name != "with a system message" or kind not in ("gemma", "mistral")
]


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("chat", [None, True, False])
@pytest.mark.parametrize("start", ["as rendered", "without", "twice"])
def test_a_prompt_that_is_rendered_already_has_the_tokens_of_its_messages(
    kind: str, name: str, chat: bool | None, start: str
) -> None:
    tokenizer = make_tokenizer(kind)
    messages = MESSAGES[name]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token is not None and start != "as rendered":
        text = text.removeprefix(tokenizer.bos_token) if start == "without" else tokenizer.bos_token + text
    (prompt,) = render(read_rows([text]), tokenizer, chat=chat).prompts
    assert list(prompt.token_ids) == wanted
    assert prompt.raw == text
    (of_messages,) = render(read_rows([messages]), tokenizer).prompts
    assert of_messages.token_ids == prompt.token_ids
    assert of_messages.text == prompt.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["What is 2 + 3?", "[a] Compare <b> and user:", "user\nassistant", "Explain <|im_start|>user, please."]
)
def test_a_prompt_that_is_not_rendered_is_rendered_once(kind: str, text: str) -> None:
    tokenizer = make_tokenizer(kind)
    (prompt,) = render(read_rows([text]), tokenizer).prompts
    messages = [{"role": "user", "content": text}]
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.text == wanted
    assert list(prompt.token_ids) == tokenizer(wanted, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_has_its_start_token_once_and_no_end_token(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    bare = tokenizer("2 + 3 =", add_special_tokens=False)["input_ids"]
    texts = ["2 + 3 =", (tokenizer.bos_token or "") + "2 + 3 ="]
    for order in (texts, texts[::-1]):
        for prompt in render(read_rows(order), tokenizer, chat=False).prompts:
            assert list(prompt.token_ids) == start + bare
            assert tokenizer.eos_token_id not in prompt.token_ids


def test_rendered_and_plain_prompts_may_be_mixed() -> None:
    tokenizer = make_tokenizer("qwen")
    message = [{"role": "user", "content": "2 + 3?"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    texts = [prompt.text for prompt in render(read_rows(["2 + 3?", text, message]), tokenizer).prompts]
    assert texts == [text, text, text]


def test_a_system_prompt_that_rendered_prompts_do_not_have_is_named(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer("qwen")
    message = [{"role": "user", "content": "2 + 3?"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    (prompt,) = render(read_rows([text]), tokenizer, system_prompt="Think first.").prompts
    assert prompt.text == text
    assert "1 of 1 prompts have the chat template applied already" in caplog.text
    assert "'Think first.'" in caplog.text
