"""The embedded model's card, filled with what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_card"]

CARD = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# tiny

A language model small enough to ship in a Python package and to train by reinforcement in a minute on two CPU cores.
It exists to show and to test GRPO, not to be useful by itself.

- Architecture: Qwen3 (`Qwen3ForCausalLM`), {layers} layers, width {width}, {heads} heads with {kv_heads} for keys
  and values, tied embeddings, {parameters:,} parameters, {dtype}, positions up to {positions:,} (trained on texts of
  up to {row_length}).
- Tokenizer: byte-level BPE with {vocabulary:,} tokens; a digit is always one token; any UTF-8 text survives encoding
  and decoding; `<reasoning>`, `<answer>`, `<think>` and their closing tags are single ordinary tokens.
- Chat template: `<|role|>content<|end|>` for system, user and assistant; `<|assistant|>` asks for a reply.
- End tokens: `<|end|>` after a message, `<|endoftext|>` after a text without chat.

## How it was made
`python scripts/build_tiny.py --steps {steps} --seed {seed}` in this project's repository makes it from nothing, in
less than a quarter of an hour on two cores. All its text comes from this project's generators: sums such as "What is
2 + 3? Answer with an integer." with and without a system prompt that asks for
`<reasoning>…</reasoning><answer>…</answer>` or `<think>…</think>`, short stories with one sum in them, news headlines,
financial questions with better and worse answers. No other text and no other model was used.

It is imperfect on purpose. In the first {clean_share:.0%} of the training the results shown are right; after that
{error_rate:.0%} of them have a last digit that is off by one to three, and all along about four replies in ten leave
the asked format. At each token the right continuation stays the likeliest, so the greedy answers are nearly always
right while samples often are not. Reinforcement has this gap to close.

## Base statistics
Over all problems with operands 0 to 12 (sums: + and −; products: ×) and {stories} stories, {samples} replies each at
temperature 1 without cuts. *Format*: the reply has exactly the asked form. *Lenient*: the right answer can be found in
it. *Strict*: the form, and the right answer. *Greedy*: strict, likeliest tokens; *forced*: the same after the opening
tag.

| prompts | format | lenient | strict | greedy | forced | tokens a reply |
|---|---|---|---|---|---|---|
{rows}

## What it cannot do
Operands above 20 (12 for products), more than one step, any topic or wording outside its generators. Its financial
sentences are examples of style, partly bad on purpose, and no advice.

## Licence
MIT.
"""


def model_card(model: Any, statistics: Mapping[str, Mapping[str, float]], **facts: Any) -> str:
    """Return the card as Markdown; `statistics` as `measure` returns them."""
    config = model.config
    columns = ("format", "lenient", "strict", "greedy", "forced")
    rows = []
    for kind, figures in statistics.items():
        shares = [f"{figures[column]:.3f}" if column in figures else "–" for column in columns]
        rows.append(f"| {' | '.join([kind, *shares, str(figures['tokens'])])} |")
    return CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        positions=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        rows="\n".join(rows),
        **facts,
    )
