"""The card of the embedded model, with its measured figures."""

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

A language model that is small enough to ship in a Python package and to train by reinforcement in a
minute on two CPU cores. It demonstrates and tests GRPO; it has no other use.

- Architecture: Qwen3 (`Qwen3ForCausalLM`), {layers} layers, width {width}, {heads} heads with {kv_heads} for keys
  and values, tied embeddings, {parameters:,} parameters, {dtype}, positions up to {positions:,}
  (trained on texts of up to {row_length}).
- Tokenizer: byte-level BPE with {vocabulary:,} tokens. A digit is always one token. Any UTF-8 text
  survives encoding and decoding. `<reasoning>`, `<answer>`, `<think>` and their closing tags are
  single ordinary tokens.
- Chat template: `<|role|>content<|end|>` for system, user and assistant; `<|assistant|>` begins a
  reply.
- End tokens: `<|end|>` after a message, `<|endoftext|>` after a text without chat.

## Training
`python scripts/build_tiny.py --steps {steps} --seed {seed}` in this project's repository trains it from
scratch, in less than a quarter of an hour on two cores. All text comes from this project's
generators:

- sums such as "What is 2 + 3? Answer with an integer." with and without a system prompt that asks
  for `<reasoning>…</reasoning><answer>…</answer>` or `<think>…</think>`;
- short stories with one sum in them;
- news headlines;
- financial questions with better and worse answers.

No other text and no other model was used.

The errors of the model are deliberate. In the first {clean_share:.0%} of the training, all shown results are
right. After that, {error_rate:.0%} of the results have a last digit that is off by one to three. Throughout
the training, about four replies in ten violate the required format. At each token the right
continuation stays the most likely one. Greedy answers are therefore nearly always right, while
sampled answers often are not. Reinforcement closes this gap.

## Base statistics
Measured on all problems with operands 0 to 12 (sums: + and −; products: ×) and on {stories} stories, with
{samples} replies each at temperature 1, without top-k or top-p.

- *format*: the reply has exactly the required form;
- *lenient*: the reply contains the right answer;
- *strict*: the reply has the form and the right answer;
- *greedy*: strict, with the most likely token at each position;
- *forced*: the same as greedy, after the opening tag.

| prompts | format | lenient | strict | greedy | forced | tokens a reply |
|---|---|---|---|---|---|---|
{rows}

## Limits
The model cannot handle operands above 20 (12 for products), more than one step, or any topic or
wording outside its generators. Its financial sentences are examples of style, some of them
deliberately bad, and not advice.

## Licence
MIT.
"""


def model_card(model: Any, statistics: Mapping[str, Mapping[str, float]], **facts: Any) -> str:
    """Return the card as Markdown; `statistics` is the result of `measure`."""
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
