"""Measure tokens a second of the native engine and of other engines, on the same model, prompts and lengths.

    python benchmarks/engine.py [--vllm-python PYTHON] [--model DIR] [--prompts 4] [--completions 8] [--prompt 150]
        [--tokens 64] [--hidden 512 --layers 8 …] [--rounds 5] [--device cpu|cuda] [--dtype float32] [--json FILE]

Engines: the native one, `generate()`, transformers' continuous batching, and vLLM if --vllm-python names the Python of
an environment that has it. Without --model the model is a random Qwen3 (39 M parameters by default). End tokens are
ignored, so each completion has exactly --tokens tokens. Each engine is loaded once in a process of its own. The engines
then alternate, with new prompts each round; two rounds of warm-up are not counted. The time of a batch is from the call
to the last token, prefill included; weights do not change. Prints median, minimum and maximum over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from processes import HERE, markdown_table, origin, spread
from shapes import ModelSpec, random_prompts, write_model

WARM_UP = 2
DEFAULT = ModelSpec(hidden=512, layers=8, heads=8, kv_heads=2, ffn=1408, vocabulary=32000)
OTHERS = ("generate()", "continuous batching")


class Child:
    """An engine in a process group of its own, stopped between its batches because some engines poll when idle."""

    def __init__(self, python: str, name: str, model: Path, settings: dict[str, Any], log: IO[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(HERE / "engine_child.py"), name, str(model), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        self.error: str | None = self._answer().get("error")
        self._signal(signal.SIGSTOP)

    def run(self, batch: dict[str, Any]) -> float:
        """Return tokens a second. If the engine fails, return 0 and set `error`."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        print(json.dumps(batch), file=self._process.stdin, flush=True)
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        self.error = answer.get("error")
        expected = len(batch["prompts"]) * batch["completions"] * batch["tokens"]
        if self.error is None and answer["tokens"] != expected:
            self.error = f"{answer['tokens']} tokens instead of {expected}"
        return 0.0 if self.error else answer["tokens"] / answer["seconds"]

    def close(self) -> None:
        """End the process and its children."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The group no longer exists if the engine failed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"ended with code {self._process.wait()}"}
        return answer


def take_turns(children: Sequence[Child], batches: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return each engine's tokens a second in every round after the warm-up."""
    rates: dict[str, list[float]] = {child.name: [] for child in children}
    for number, batch in enumerate(batches):
        for child in children:
            if child.error is None:
                rate = child.run(batch)
                if number >= WARM_UP and child.error is None:
                    rates[child.name].append(rate)
    return rates


def engine_table(rates: dict[str, list[float]], failed: dict[str, str]) -> str:
    """Return the printed table; for an engine that failed, the reason replaces the figures."""
    ours = rates["native"]
    rows = []
    for name, found in rates.items():
        if name in failed:
            rows.append([name, failed[name], ""])
            continue
        compared = [mine / theirs for mine, theirs in zip(ours, found, strict=True)] if ours else []
        rows.append([name, spread(found, 0), spread(compared, 2) if compared and name != "native" else ""])
    return markdown_table(("engine", "tokens/s", "native ÷ it"), rows)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="Python of an environment with vLLM")
    parser.add_argument("--vllm-eager", action="store_true", help="vLLM without its compilation")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=150, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    for option in fields(ModelSpec):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=int, default=getattr(DEFAULT, option.name))
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    spec = ModelSpec(**{option.name: getattr(arguments, option.name) for option in fields(ModelSpec)})
    with tempfile.TemporaryDirectory() as root:
        model = arguments.model
        vocabulary = spec.vocabulary
        if model is None:
            model = Path(root) / "model"
            print(f"{write_model(model, spec) / 1e6:.1f} M parameters", file=sys.stderr)
        else:
            vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        settings = {
            **{name: getattr(arguments, name) for name in ("device", "dtype", "prompt", "tokens")},
            "rows": arguments.prompts * arguments.completions,
            "eager": arguments.vllm_eager,
        }
        batches = [
            {
                "prompts": random_prompts(arguments.prompts, arguments.prompt, vocabulary, seed=number),
                "completions": arguments.completions, "tokens": arguments.tokens, "seed": number,
            }
            for number in range(arguments.rounds + WARM_UP)
        ]  # fmt: skip
        pythons = {"native": sys.executable, **dict.fromkeys(OTHERS, sys.executable)}
        if arguments.vllm_python:
            pythons["vLLM"] = arguments.vllm_python
        with (Path(root) / "log").open("w") as log:
            children: list[Child] = []
            try:
                for name, python in pythons.items():
                    children.append(Child(python, name, model, settings, log))
                rates = take_turns(children, batches)
                failed = {child.name: child.error for child in children if child.error}
                print(engine_table(rates, failed))
            finally:
                for child in children:
                    child.close()
        if failed:
            print((Path(root) / "log").read_text()[-3000:], file=sys.stderr)
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    if arguments.json:
        record = {
            "origin": origin(arguments.device),
            "settings": settings,
            "tokens_per_s": rates,
            "medians": medians,
            "failed": failed,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
