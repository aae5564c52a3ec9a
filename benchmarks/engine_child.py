"""Run one engine in a process of its own; `engine.py` sends it batches on standard input.

    python benchmarks/engine_child.py ENGINE MODEL_DIR SETTINGS

ENGINE is a key of ENGINES. The first line of output is `{"ready": true}`. Each line of input is a batch,
`{"prompts": [[token, …], …], "completions": G, "seed": s}`; the answer is a line `{"seconds": …, "tokens": …}`, or
`{"error": …}` after a failure. Only the standard library is imported at the top, because each engine may be installed
in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Batch = Callable[[list[list[int]], int, int], int]
"""Prompts, completions for each prompt, seed → number of sampled tokens."""


def native(model_dir: str, settings: dict[str, Any]) -> Batch:
    """Return the native engine on the model, loaded as in training."""
    import torch

    from grpo.engines import sample
    from grpo.engines.native import NativeEngine, NativeSampler
    from grpo.machine import keep_freed_memory
    from grpo.policy import load_policy
    from grpo.types import Request, SamplingParams

    keep_freed_memory()
    policy = load_policy(model_dir, dtype="float32", device=settings["device"], reference="none")
    dtype = getattr(torch, settings["dtype"])
    sampler = NativeSampler(NativeEngine(policy.model, end_ids=(), dtype=None if dtype == torch.float32 else dtype))
    sampling = SamplingParams(max_tokens=settings["tokens"])

    def run(prompts: list[list[int]], completions: int, seed: int) -> int:
        firsts = range(1_000_000 * seed, 1_000_000 * (seed + 1), completions)
        requests = [
            Request(number, tuple(ids), tuple(range(first, first + completions)), sampling)
            for number, (ids, first) in enumerate(zip(prompts, firsts, strict=False))
        ]
        return sum(len(completion.token_ids) for group in sample(sampler, requests) for completion in group)

    return run


def hugging_face(model_dir: str, settings: dict[str, Any]) -> Batch:
    """Return `model.generate()` on one batch, in which each prompt is repeated."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=settings["dtype"]).to(settings["device"]).eval()
    model.generation_config = GenerationConfig()

    def run(prompts: list[list[int]], completions: int, seed: int) -> int:
        torch.manual_seed(seed)
        ids = torch.tensor(prompts, device=settings["device"])
        length = settings["tokens"]
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0,
                num_return_sequences=completions, max_new_tokens=length, min_new_tokens=length,
            )  # fmt: skip
        return int(found.shape[0] * (found.shape[1] - ids.shape[1]))

    return run


def continuous_batching(model_dir: str, settings: dict[str, Any]) -> Batch:
    """Return transformers' continuous batching, with one session for all batches."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=settings["dtype"]).to(settings["device"]).eval()
    cache = ContinuousBatchingConfig()
    if settings["device"] == "cpu":
        page = 256
        pages = -(-(settings["prompt"] + settings["tokens"]) // page) + 1
        # The cache sizes itself by the memory of a GPU; on a CPU it needs an explicit size, here the whole batch.
        cache = ContinuousBatchingConfig(page_size=page, num_blocks=4 * settings["rows"] * pages, max_batch_tokens=4096)

    def run(prompts: list[list[int]], completions: int, seed: int) -> int:
        del seed  # This engine has no seed.
        asked = GenerationConfig(
            max_new_tokens=settings["tokens"], do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0,
            num_return_sequences=completions,
        )  # fmt: skip
        outputs = model.generate_batch(
            prompts, generation_config=asked, continuous_batching_config=cache, persistent_manager=True
        )
        return sum(len(output.generated_tokens) for output in outputs.values())

    return run


def vllm(model_dir: str, settings: dict[str, Any]) -> Batch:
    """Return vLLM with prefix caching and its own compilation."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=model_dir, dtype=settings["dtype"], max_model_len=settings["prompt"] + settings["tokens"] + 1,
        max_num_seqs=settings["rows"], enable_prefix_caching=True, enforce_eager=settings["eager"],
        skip_tokenizer_init=True, seed=0, disable_log_stats=True,
    )  # fmt: skip

    def run(prompts: list[list[int]], completions: int, seed: int) -> int:
        asked = SamplingParams(
            n=completions, temperature=1.0, max_tokens=settings["tokens"], ignore_eos=True, detokenize=False, seed=None
        )
        del seed
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    return run


ENGINES = {"native": native, "generate()": hugging_face, "continuous batching": continuous_batching, "vLLM": vllm}


def main() -> None:
    # Engines print on standard output, so answers get a copy of it and everything else goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, model_dir, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    try:
        run = ENGINES[name](model_dir, settings)
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            batch = json.loads(line)
            began = time.perf_counter()
            tokens = run(batch["prompts"], batch["completions"], batch["seed"])
            print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}), file=answers)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}), file=answers)
        raise


if __name__ == "__main__":
    main()
