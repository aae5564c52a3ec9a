"""Train the embedded model `tiny` from scratch, on text from this project's generators only.

    python scripts/build_tiny.py [DIRECTORY] [--steps N] [--seed N]

The functions stand in the order of their calls: tokenizer, model, training, saving, measuring. The same seed on the
same machine with the same number of threads gives the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tiny.card import model_card
from tiny.measure import measure
from tiny.text import Document, document
from tiny.tokenizer import train_tokenizer
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROW_LENGTH = 192
ROWS_PER_STEP = 32
LEARNING_RATE = 4e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.05
ERROR_RATE = 0.45
CLEAN_SHARE = 0.7
"""Share of the training steps, at the start, in which all results are right: the model learns the table first."""

SAMPLES, STORIES = 4, 300


@dataclass(frozen=True)
class Rows:
    """Packed documents, all tensors [rows, ROW_LENGTH].

    `documents` numbers the documents of a row from 1 (0: padding), `positions` restart in each document, and `learned`
    is True for tokens that the model learns to write.
    """

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    learned: Tensor

    @property
    def attention_mask(self) -> Tensor:
        """[rows, 1, T, T] bool: a token attends to itself and to earlier tokens of its document."""
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        return same & torch.ones(ROW_LENGTH, ROW_LENGTH, dtype=torch.bool).tril()


def main() -> None:
    arguments = parse_arguments()
    rng = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)

    tokenizer = train_tokenizer("".join(part.text for part in document(rng, ERROR_RATE)) for _ in range(20_000))
    model = new_model(tokenizer)
    train(model, tokenizer, arguments.steps, rng)
    save(model, tokenizer, arguments.directory)

    statistics = measure(arguments.directory, samples=SAMPLES, stories=STORIES)
    print(json.dumps(statistics, indent=2))
    card = model_card(
        model,
        statistics,
        steps=arguments.steps,
        seed=arguments.seed,
        row_length=ROW_LENGTH,
        clean_share=CLEAN_SHARE,
        error_rate=ERROR_RATE,
        samples=SAMPLES,
        stories=STORIES,
    )
    (arguments.directory / "README.md").write_text(card, encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the embedded model `tiny`.")
    target = Path(__file__).parent.parent / "src" / "grpo" / "policy" / "tiny"
    parser.add_argument("directory", nargs="?", type=Path, default=target)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"]),
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, rng: random.Random) -> None:
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    rest = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARM_UP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    started = time.monotonic()
    model.train()
    for step in range(steps):
        error_rate = 0.0 if step < CLEAN_SHARE * steps else ERROR_RATE
        rows = pack(tokenizer, error_rate, rng)
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:.0f} s", flush=True)


def loss_of(model: Qwen3ForCausalLM, rows: Rows) -> Tensor:
    """Return the mean cross-entropy over the tokens that the model learns to write."""
    # The head stays in float32: bfloat16 logits are too coarse to learn probabilities of a few per cent.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=rows.tokens, attention_mask=rows.attention_mask, position_ids=rows.positions, use_cache=False
        ).last_hidden_state
    wanted = rows.learned[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted].float())
    return F.cross_entropy(logits, rows.tokens[:, 1:][wanted])


def pack(tokenizer: PreTrainedTokenizerFast, error_rate: float, rng: random.Random) -> Rows:
    """Return `ROWS_PER_STEP` rows of new documents; each document goes into the first row with room."""
    rows: list[list[tuple[list[int], list[bool]]]] = [[] for _ in range(ROWS_PER_STEP)]
    room = [ROW_LENGTH] * ROWS_PER_STEP
    for tokens, learned in encoded_documents(tokenizer, error_rate, rng):
        row = next((index for index, left in enumerate(room) if left >= len(tokens)), None)
        if row is None:
            break
        rows[row].append((tokens, learned))
        room[row] -= len(tokens)
    packed = torch.zeros(4, ROWS_PER_STEP, ROW_LENGTH, dtype=torch.long)
    for index, row_documents in enumerate(rows):
        start = 0
        for number, (tokens, learned) in enumerate(row_documents, 1):
            columns = (tokens, [number] * len(tokens), range(len(tokens)), learned)
            for plane, values in enumerate(columns):
                packed[plane, index, start : start + len(tokens)] = torch.tensor(list(values))
            start += len(tokens)
    return Rows(packed[0], packed[1], packed[2], packed[3].bool())


def encoded_documents(
    tokenizer: PreTrainedTokenizerFast, error_rate: float, rng: random.Random
) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield pairs (token ids, whether each is learned) of new documents, endlessly."""
    backend = tokenizer.backend_tokenizer
    while True:
        documents: list[Document] = [document(rng, error_rate) for _ in range(64)]
        parts = [part for one in documents for part in one]
        encodings = iter(backend.encode_batch_fast([part.text for part in parts], add_special_tokens=False))
        for one in documents:
            tokens: list[int] = []
            learned: list[bool] = []
            for part, encoding in zip(one, itertools.islice(encodings, len(one)), strict=True):
                tokens += encoding.ids
                learned += [part.learned] * len(encoding.ids)
            yield tokens, learned


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main()
