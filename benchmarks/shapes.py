"""Write a random model and workload of any shape, from fixed seeds, in the layout that `step.py` reads.

    python benchmarks/shapes.py DIR [--hidden 256] [--layers 4] … [--prompt-length 200] [--group-size 8] …

The end token is never sampled, so every completion has exactly `max_completion_length` tokens and a step's cost depends
on its shape alone. It works by one dimension of the residual stream that no layer writes to: each embedding has a
1 there, and the end token's row of the head a large negative number.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["ModelSpec", "WorkSpec", "random_prompts", "write_model", "write_workload"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of a Qwen3 model with tied embeddings."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 704
    vocabulary: int = 4000
    max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class WorkSpec:
    """Shape of a step; lengths in tokens."""

    prompt_length: int = 200
    max_completion_length: int = 32
    group_size: int = 8
    prompts_per_step: int = 2
    beta: float = 0.04
    learning_rate: float = 1e-5
    temperature: float = 1.0
    epochs_per_step: int = 1


def write_model(directory: Path, spec: ModelSpec, *, seed: int = 0) -> int:
    """Write the model with a word-level tokenizer of the words t1, t2, … and return its number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    end = spec.vocabulary - 1
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=spec.vocabulary,
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.hidden // spec.heads,
        max_position_embeddings=spec.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=end,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[end, 0] = -100
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
    model.save_pretrained(directory)

    words = {"<pad>": 0, **{f"t{token}": token for token in range(1, end)}, "<end>": end}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    tokenizer.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def random_prompts(count: int, length: int, vocabulary: int, *, seed: int) -> list[list[int]]:
    """Return the token ids of prompts, neither padding nor end token among them."""
    numbers = random.Random(seed)
    return [[numbers.randint(1, vocabulary - 2) for _ in range(length)] for _ in range(count)]


def write_workload(directory: Path, model: ModelSpec, work: WorkSpec, *, num_prompts: int = 64, seed: int = 0) -> int:
    """Write model, `prompts.jsonl` and `workload.json`, and return the model's number of parameters."""
    num_parameters = write_model(directory, model, seed=seed)
    with (directory / "prompts.jsonl").open("w") as file:
        for ids in random_prompts(num_prompts, work.prompt_length, model.vocabulary, seed=seed):
            file.write(json.dumps({"prompt": " ".join(f"t{token}" for token in ids)}) + "\n")
    settings = {name: value for name, value in asdict(work).items() if name != "prompt_length"}
    (directory / "workload.json").write_text(json.dumps(settings, indent=1))
    return num_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    for option in (*fields(ModelSpec), *fields(WorkSpec)):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=type(option.default), default=option.default)
    given = vars(parser.parse_args())
    model = ModelSpec(**{option.name: given[option.name] for option in fields(ModelSpec)})
    work = WorkSpec(**{option.name: given[option.name] for option in fields(WorkSpec)})
    print(f"{write_workload(given['dir'], model, work) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
