"""Prompts with and without chat template, in tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grpo.errors import DataError, ModelError
from grpo.tasks.chat import render, render_chat
from grpo.tasks.rows import read_rows

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking is defined %}<think>{% endif %}{% endif %}"
)
STRICT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('No tools') }}{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}[model]{% endif %}"
)

TokenizerMaker = Callable[[str | None], PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def make_tokenizer() -> TokenizerMaker:
    """A tokenizer of single bytes that puts <s> in front of plain text."""

    def make(template: str | None) -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        special = ["<s>", "<|im_start|>", "<|im_end|>"]
        vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="<|im_end|>",
            additional_special_tokens=["<|im_start|>"],
            chat_template=template,
        )

    return make


def test_a_text_is_one_user_message_where_there_is_a_template(make_tokenizer: TokenizerMaker) -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    (prompt,) = render(read_rows(["2 + 3?"]), tokenizer, system_prompt="Be brief.").prompts
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(prompt.token_ids) == prompt.text
    assert prompt.token_ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert tokenizer.bos_token_id not in prompt.token_ids


def test_a_text_is_plain_where_there_is_no_template(make_tokenizer: TokenizerMaker) -> None:
    tokenizer = make_tokenizer(None)
    (prompt,) = render(read_rows(["2 + 3?"]), tokenizer).prompts
    assert prompt.text == "2 + 3?"
    assert prompt.token_ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(prompt.token_ids[1:]) == "2 + 3?"


def test_plain_text_can_be_asked_for(make_tokenizer: TokenizerMaker) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    rows = read_rows(["2 + 3?", messages])
    prompts = render(rows, make_tokenizer(TEMPLATE), chat=False, system_prompt="Think.").prompts
    assert [prompt.text for prompt in prompts] == ["Think.\n\n2 + 3?", "Be brief.\n\n2 + 3?"]


def test_reward_functions_see_the_kind_of_prompt_that_the_row_has(make_tokenizer: TokenizerMaker) -> None:
    user = {"role": "user", "content": "2 + 3?"}
    own_system = ({"role": "system", "content": "Own."}, user)
    rows = read_rows(["2 + 3?", [user], list(own_system)])
    prompts = render(rows, make_tokenizer(TEMPLATE), system_prompt="Be brief.").prompts
    assert prompts[0].raw == "2 + 3?"
    assert prompts[1].raw == ({"role": "system", "content": "Be brief."}, user)
    assert prompts[2].raw == own_system
    assert "Be brief." not in prompts[2].text


def test_rows_and_columns_travel_with_the_prompt(make_tokenizer: TokenizerMaker) -> None:
    rows = read_rows([{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}])
    prompts = render(rows, make_tokenizer(None)).prompts
    assert [(prompt.row, prompt.columns) for prompt in prompts] == [(0, {"answer": "1"}), (1, {"answer": "2"})]


def test_prompts_that_are_too_long_are_dropped_and_counted_never_cut(make_tokenizer: TokenizerMaker) -> None:
    rows = read_rows(["abc", "a" * 50, "abcd", "abcde"])
    rendered = render(rows, make_tokenizer(None), max_prompt_length=5)
    assert [(prompt.row, prompt.text, len(prompt.token_ids)) for prompt in rendered.prompts] == [
        (0, "abc", 4),
        (2, "abcd", 5),
    ]
    assert rendered.dropped == 2


def test_only_too_long_prompts_are_refused(make_tokenizer: TokenizerMaker) -> None:
    with pytest.raises(DataError, match="no prompt left of 2: the shortest has 6 tokens and max_prompt_length is 5"):
        render(read_rows(["abcde", "abcdef"]), make_tokenizer(None), max_prompt_length=5)


def test_no_rows_are_refused(make_tokenizer: TokenizerMaker) -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        render([], make_tokenizer(None))


@pytest.mark.parametrize(
    ("prompt", "chat"),
    [([{"role": "user", "content": "a"}], None), ([{"role": "user", "content": "a"}], True), ("a", True)],
)
def test_chat_without_a_template_is_refused(make_tokenizer: TokenizerMaker, prompt: object, chat: bool | None) -> None:
    with pytest.raises(ModelError, match="has no chat template: set chat=false for plain text"):
        render(read_rows([prompt]), make_tokenizer(None), chat=chat)


def test_a_prompt_without_tokens_is_refused() -> None:
    only_a = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))  # without an unknown token, others vanish
    with pytest.raises(DataError, match="prompt 'b' has no tokens"):
        render(read_rows(["a", "b"]), PreTrainedTokenizerFast(tokenizer_object=only_a))


def test_a_prompt_that_ends_with_the_assistant_is_continued(make_tokenizer: TokenizerMaker) -> None:
    chats = [
        [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "It is"}],
        [{"role": "user", "content": "3 + 4?"}],
    ]
    first, second = render(read_rows(chats), make_tokenizer(TEMPLATE)).prompts
    assert first.text == "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\nIt is"
    assert second.text == "<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n"


def test_template_options_reach_the_template(make_tokenizer: TokenizerMaker) -> None:
    (prompt,) = render(read_rows(["a"]), make_tokenizer(TEMPLATE), template_options={"thinking": True}).prompts
    assert prompt.text.endswith("assistant\n<think>")


def test_a_template_without_system_messages_gets_them_in_the_user_message(make_tokenizer: TokenizerMaker) -> None:
    (prompt,) = render(read_rows(["a"]), make_tokenizer(STRICT_TEMPLATE), system_prompt="Be brief.").prompts
    assert prompt.text == "[user]Be brief.\n\na[model]"


def test_messages_that_a_template_refuses_are_one_clear_line(make_tokenizer: TokenizerMaker) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(ModelError, match="refuses the messages: No tools: change the roles"):
        render_chat(make_tokenizer(STRICT_TEMPLATE), [chat])


def test_the_text_of_a_prompt_gives_its_tokens_when_tokenised_once_more(make_tokenizer: TokenizerMaker) -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    rows = read_rows([f"Wie groß ist {number}? 数 🙂" for number in range(300)])
    for prompt in render(rows, tokenizer, system_prompt="Be brief.").prompts:
        assert tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]) == prompt.token_ids
