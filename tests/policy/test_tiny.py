"""The embedded model is small, ordinary, and right only some of the time."""

from __future__ import annotations

import json
import random
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from grpo.demos.headlines import headline_prompt
from grpo.demos.preferences import preference_pairs
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.tasks.answers import FORMATS, verify
from grpo.tasks.arithmetic import (
    all_problems,
    reasoned_answer,
)

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", "<think>", "</think>")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_DIRECTORY)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY).eval()


def asked(tokenizer, question, answer_format="answer_tags"):
    system = FORMATS[answer_format].system_prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@torch.inference_mode()
def complete(model, tokenizer, prompts, **options):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=32, **options
    )
    return output[:, inputs["input_ids"].shape[1] :]


def test_everything_in_the_model_directory_is_small():
    assert sum(file.stat().st_size for file in TINY_DIRECTORY.iterdir() if file.is_file()) <= 4_000_000


def test_the_model_has_at_most_two_million_parameters(model):
    assert model.num_parameters() <= 2_000_000
    weights = load_file(TINY_DIRECTORY / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_the_architecture_is_one_that_keeps_the_tokenizer_as_it_is(tokenizer):
    assert AutoConfig.from_pretrained(TINY_DIRECTORY).model_type == "qwen3"
    stored = json.loads((TINY_DIRECTORY / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] == stored["pre_tokenizer"]


def test_the_tokenizer_has_a_row_of_the_embedding_for_every_token(model, tokenizer):
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) <= 1024


def test_generation_ends_at_any_of_several_end_tokens(model, tokenizer):
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end|>", "<|endoftext|>"]
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.pad_token_id not in ends


@pytest.mark.parametrize("digit", "0123456789")
def test_a_digit_is_one_token_wherever_it_stands(tokenizer, digit):
    (alone,) = tokenizer.encode(digit)
    for text in (
        f"{digit}{digit}",
        f" {digit}",
        f"x{digit}.",
        f"-{digit}{digit}{digit}",
        f"${digit}",
        f"12 + {digit}?",
    ):
        assert tokenizer.encode(text).count(alone) == text.count(digit)


def test_no_token_holds_a_digit_and_something_else(tokenizer):
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and re.search(r"\d", token)]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_single_tokens_that_plain_decoding_keeps(tokenizer, tag):
    tokens = tokenizer.encode(tag)
    assert len(tokens) == 1
    assert tokenizer.decode(tokens, skip_special_tokens=True) == tag


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "   three before and three after   ",
        "tabs\t\tand\r\nlines\n\n\n",
        "你好，世界。日本語 한국어",
        "🙂👩‍👩‍👧‍👦 🇳🇴",
        "\x00\x01\x1b\x7f\u200b\u2028\ufeff",
        "e\u0301 é ﬁ Ⅷ ² ١٢٣",
        "<reasoning> 7 + 5 = 12 </reasoning>\n<answer>12</answer>",
        "a < b > c <answer <|end| >",
    ],
)
def test_chosen_texts_survive_encoding_and_decoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_unicode_survives_encoding_and_decoding(tokenizer):
    rng = random.Random(0)
    ranges = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF), (32, 32), (48, 57))
    for _ in range(2000):
        text = "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 30)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_marks_each_message_with_two_tokens(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|system|>Be brief.<|end|><|user|>Hello<|end|><|assistant|>Hello!<|end|>"
    contents = sum(len(tokenizer.encode(message["content"])) for message in messages)
    assert len(tokenizer.encode(text)) == contents + 2 * len(messages)


def test_the_generation_prompt_is_one_token(tokenizer):
    messages = [{"role": "user", "content": "Hello"}]
    without = tokenizer.apply_chat_template(messages, tokenize=False)
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == without + "<|assistant|>"
    )


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


def test_newer_roles_are_told_as_the_ones_the_model_knows(tokenizer):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "tool", "content": "5"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|system|>Be brief.<|end|><|user|>5<|end|>"


def test_prompts_and_answers_are_short_in_tokens(tokenizer):
    problem = all_problems()[100]
    assert len(tokenizer.encode(asked(tokenizer, problem.question))) <= 40
    assert len(tokenizer.encode(reasoned_answer(problem))) <= 16


def test_sampled_answers_follow_the_format_and_are_right_only_some_of_the_time(model, tokenizer):
    problems = random.Random(0).choices(all_problems(12, "+-"), k=512)
    set_seed(0)
    tokens = complete(
        model,
        tokenizer,
        [asked(tokenizer, problem.question) for problem in problems],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    verdicts = [
        verify(text, problem.answer, answer_format=FORMATS["answer_tags"])
        for text, problem in zip(texts, problems, strict=True)
    ]
    in_format = sum(verdict.well_formed for verdict in verdicts) / len(verdicts)
    right = sum(verdict.strict for verdict in verdicts) / len(verdicts)
    assert 0.5 < in_format < 0.75
    assert 0.2 < right < 0.4


def test_the_likeliest_answer_is_in_the_format_and_right(model, tokenizer):
    problems = all_problems(12, "+-")
    tokens = complete(model, tokenizer, [asked(tokenizer, problem.question) for problem in problems], do_sample=False)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    right = sum(text == reasoned_answer(problem) for text, problem in zip(texts, problems, strict=True))
    assert right / len(problems) >= 0.97


def test_the_think_format_is_followed_some_of_the_time(model, tokenizer):
    set_seed(1)
    prompts = [asked(tokenizer, problem.question, "think_tags") for problem in all_problems(12, "+-")]
    texts = tokenizer.batch_decode(complete(model, tokenizer, prompts, do_sample=True), skip_special_tokens=True)
    followed = sum(FORMATS["think_tags"].is_strict(text) for text in texts)
    assert 0.4 < followed / len(texts) < 0.8


def test_a_bare_prompt_without_chat_ends_with_the_other_end_token(model, tokenizer):
    prompts = [problem.question for problem in all_problems(5, "+")]
    tokens = complete(model, tokenizer, prompts, do_sample=False)
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert (tokens == end_of_text).any(dim=1).float().mean() > 0.9


def test_it_writes_headlines_and_answers_on_money(model, tokenizer):
    set_seed(2)
    prompts = [headline_prompt("food")] * 20 + [row["prompt"] for row in preference_pairs(20, seed=9)]
    prompts = [asked(tokenizer, prompt, "plain") for prompt in prompts]
    texts = tokenizer.batch_decode(complete(model, tokenizer, prompts, do_sample=True), skip_special_tokens=True)
    assert len(set(texts[:20])) > 10
    words = " ".join(texts[:20]).lower()
    assert any(word in words for word in ("chefs", "bakers", "recipes", "desserts"))
    assert sum(bool(re.match(r"[A-Z]", text)) for text in texts) > 30
