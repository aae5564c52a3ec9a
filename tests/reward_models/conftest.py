"""One small scorer, trained once, and small random backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from short_trainings import settings
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo.demos.clicks import click_rows
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.reward_models import ScorerReport, train_scorer

SMALL: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "eos_token_id": 5,
    "bos_token_id": None,
    "pad_token_id": 1,
}


@pytest.fixture(scope="session")
def clicks() -> list[dict[str, Any]]:
    return click_rows(1500, junk_share=0.0)


@pytest.fixture(scope="session")
def trained(clicks: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> ScorerReport:
    directory = tmp_path_factory.mktemp("scorer")
    three_epochs = settings(epochs=3, device="cpu", dtype="float32")
    return train_scorer("ctr", clicks, model="tiny", output_dir=directory, settings=three_epochs)


@pytest.fixture
def small_backbone(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a random model with the tokenizer of `tiny` and returns its directory."""

    def make(family: str = "llama", **overrides: Any) -> Path:
        torch.manual_seed(0)
        directory = tmp_path / f"small-{family}"
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SMALL, **overrides})).save_pretrained(
            directory
        )
        AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained(directory)
        return directory

    return make
