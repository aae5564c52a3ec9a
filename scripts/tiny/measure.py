"""Measure the embedded model before reinforcement, with `generate()` of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.tasks.answers import FORMATS, AnswerFormat, verify
from grpo.tasks.arithmetic import Problem, WordProblem, all_problems, word_problems

__all__ = ["measure"]

OPENINGS = {"answer_tags": "<reasoning>", "think_tags": "<think>"}
MAX_TOKENS = 32


def measure(directory: Path, *, samples: int, stories: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return shares by kind of prompt: in the format (`format`), right (`lenient`), and both (`strict`).

    Replies are sampled at temperature 1. `greedy` is the strict share with the most likely token at each position;
    `forced` is the same after the opening tag of the format. `tokens` is the mean length of a reply.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    kinds: dict[str, Sequence[Problem | WordProblem]] = {
        "sums": all_problems(12, "+-"),
        "products": all_problems(12, "*"),
        "stories": word_problems(stories, seed=1_000_003),
    }
    figures: dict[str, dict[str, float]] = {}
    for kind, questions in kinds.items():
        repeated = [question for question in questions for _ in range(samples)]
        for name, answer_format in FORMATS.items():
            system = answer_format.system_prompt
            sampled, lengths = complete(model, tokenizer, system, repeated, sample=True)
            greedy, _ = complete(model, tokenizer, system, questions, sample=False)
            row = {
                **shares(sampled, repeated, answer_format),
                "greedy": shares(greedy, questions, answer_format)["strict"],
                "tokens": round(sum(lengths) / len(lengths), 1),
            }
            if opening := OPENINGS.get(name):
                rest, _ = complete(model, tokenizer, system, questions, sample=False, opening=opening)
                row["forced"] = shares([opening + text for text in rest], questions, answer_format)["strict"]
            figures[f"{kind}, {name}"] = row
    return figures


def shares(
    texts: Sequence[str], questions: Sequence[Problem | WordProblem], answer_format: AnswerFormat
) -> dict[str, float]:
    verdicts = [
        verify(text, question.answer, answer_format=answer_format)
        for text, question in zip(texts, questions, strict=True)
    ]
    return {
        "format": round(sum(verdict.well_formed for verdict in verdicts) / len(verdicts), 4),
        "lenient": round(sum(verdict.lenient for verdict in verdicts) / len(verdicts), 4),
        "strict": round(sum(verdict.strict for verdict in verdicts) / len(verdicts), 4),
    }


@torch.inference_mode()
def complete(
    model: Any,
    tokenizer: Any,
    system: str | None,
    questions: Sequence[Problem | WordProblem],
    *,
    sample: bool,
    opening: str = "",
    batch: int = 512,
) -> tuple[list[str], list[int]]:
    """Return the completions' texts (end token left out) and lengths in tokens (end token counted)."""
    ends = torch.tensor(model.generation_config.eos_token_id)
    texts: list[str] = []
    lengths: list[int] = []
    for start in range(0, len(questions), batch):
        prompts = []
        for question in questions[start : start + batch]:
            messages = [] if system is None else [{"role": "system", "content": system}]
            messages.append({"role": "user", "content": question.question})
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompts.append(prompt + opening)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=sample,
            max_new_tokens=MAX_TOKENS,
            **({"temperature": 1.0, "top_p": 1.0, "top_k": 0} if sample else {}),
        )[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(output, skip_special_tokens=True)
        ended = torch.isin(output, ends)
        before_end = (ended.int().cumsum(1) == 0).sum(1)
        lengths += (before_end + ended.any(1)).tolist()
    return texts, lengths
