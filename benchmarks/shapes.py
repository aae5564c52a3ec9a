"""Write a random model and workload of any shape, from fixed seeds, in the layout that `step.py` reads.

    python benchmarks/shapes.py DIR [--workload tiny|small|long-prompt|chat|135m]
        [--hidden 256] [--layers 4] … [--prompt-length 200] [--group-size 8] …

The end token is never sampled, so every completion has exactly `max_completion_length` tokens and a step's cost depends
on its shape alone. To that end, no layer writes to one dimension of the residual stream. Each embedding is 1 in this
dimension, and the end token's row of the head is a large negative number. With `--mean-length N` one token in N is an
end token instead, so that lengths vary as those of real models do.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

__all__ = ["ModelSpec", "WorkSpec", "random_prompts", "write_model", "write_workload"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of a Qwen3 model with tied embeddings. If `mean_length` is N > 0, one token in N ends a completion."""

    @property
    def first_end(self) -> int:
        """The lowest end token; all tokens above it are end tokens too."""
        return self.vocabulary - (max(1, round(self.vocabulary / self.mean_length)) if self.mean_length else 1)

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 704
    vocabulary: int = 4000
    max_positions: int = 8192
    mean_length: int = 0


@dataclass(frozen=True, slots=True)
class WorkSpec:
    """Shape of a step, lengths in tokens. Prompts have `shortest_prompt` (0: all equal) to `prompt_length` tokens."""

    prompt_length: int = 200
    shortest_prompt: int = 0
    max_completion_length: int = 32
    group_size: int = 8
    prompts_per_step: int = 2
    beta: float = 0.04
    learning_rate: float = 1e-5
    temperature: float = 1.0
    epochs_per_step: int = 1


WORKLOADS = {
    "tiny": (
        ModelSpec(hidden=128, layers=4, heads=4, ffn=384, vocabulary=128, mean_length=32),
        WorkSpec(prompt_length=56, shortest_prompt=40, max_completion_length=96, group_size=8, prompts_per_step=8),
    ),
    "small": (
        ModelSpec(hidden=384, layers=6, heads=6, ffn=1024, vocabulary=16_000, mean_length=48),
        WorkSpec(prompt_length=200, shortest_prompt=100, max_completion_length=160, group_size=8, prompts_per_step=4),
    ),
    "long-prompt": (
        ModelSpec(hidden=256, layers=4, heads=4, ffn=704, vocabulary=4000, mean_length=24),
        WorkSpec(prompt_length=600, shortest_prompt=400, max_completion_length=64, group_size=16, prompts_per_step=2),
    ),
    "chat": (
        ModelSpec(hidden=256, layers=6, heads=4, ffn=768, vocabulary=20_000, mean_length=64),
        WorkSpec(prompt_length=300, shortest_prompt=120, max_completion_length=192, group_size=8, prompts_per_step=4),
    ),
    "135m": (
        ModelSpec(hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, vocabulary=49_152, mean_length=48),
        WorkSpec(prompt_length=200, shortest_prompt=80, max_completion_length=128, group_size=4, prompts_per_step=2),
    ),
}
"""The workloads of docs/performance.md."""


def write_model(directory: Path, spec: ModelSpec, *, seed: int = 0) -> int:
    """Write a model with a word-level tokenizer (t1, t2, …) and return its number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    end = spec.vocabulary - 1
    ends = list(range(spec.first_end, spec.vocabulary))
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
        eos_token_id=ends,
    )
    model = Qwen3ForCausalLM(config)
    if not spec.mean_length:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[0] = 0
                layer.mlp.down_proj.weight[0] = 0
            model.model.embed_tokens.weight[:, 0] = 1
            model.model.embed_tokens.weight[end, 0] = -100
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(directory)

    words = {"<pad>": 0, **{f"t{token}": token for token in range(1, end)}, "<end>": end}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    tokenizer.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def random_prompts(
    count: int, length: int, vocabulary: int, *, seed: int, shortest: int = 0, ends: int = 1
) -> list[list[int]]:
    """Return token ids of random prompts, without the padding token and the last `ends` tokens."""
    numbers = random.Random(seed)
    lengths = [numbers.randint(shortest or length, length) for _ in range(count)]
    return [[numbers.randint(1, vocabulary - ends - 1) for _ in range(each)] for each in lengths]


def write_workload(directory: Path, model: ModelSpec, work: WorkSpec, *, num_prompts: int = 64, seed: int = 0) -> int:
    """Write model, `prompts.jsonl` and `workload.json`; return the model's number of parameters."""
    num_parameters = write_model(directory, model, seed=seed)
    with (directory / "prompts.jsonl").open("w") as file:
        for ids in random_prompts(
            num_prompts,
            work.prompt_length,
            model.vocabulary,
            seed=seed,
            shortest=work.shortest_prompt,
            ends=model.vocabulary - model.first_end,
        ):
            file.write(json.dumps({"prompt": " ".join(f"t{token}" for token in ids)}) + "\n")
    settings = {
        name: value for name, value in asdict(work).items() if "prompt" not in name or name == "prompts_per_step"
    }
    (directory / "workload.json").write_text(json.dumps(settings, indent=1))
    return num_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), help="one of those that figures are given for")
    for option in (*fields(ModelSpec), *fields(WorkSpec)):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=type(option.default))
    arguments = vars(parser.parse_args())
    given = {name: value for name, value in arguments.items() if value is not None}
    model, work = WORKLOADS.get(given.get("workload", ""), (ModelSpec(), WorkSpec()))
    model = replace(model, **{option.name: given[option.name] for option in fields(ModelSpec) if option.name in given})
    work = replace(work, **{option.name: given[option.name] for option in fields(WorkSpec) if option.name in given})
    if model.hidden % model.heads or (model.hidden // model.heads) % 2 or model.heads % model.kv_heads:
        parser.error("hidden has to be heads times an even number, and heads a multiple of kv-heads")
    print(f"{write_workload(given['dir'], model, work) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
