"""Models that read images besides text: their text part is trained, everything else is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from grpo.assembly import GRPOTrainer
from grpo.config import GRPOConfig
from grpo.errors import ModelError
from grpo.policy import LoraSettings, load_policy

SMALL = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.25, "eos_token_id": 1,
         "bos_token_id": None, "pad_token_id": None}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN_VISION = {"hidden_size": 16, "intermediate_size": 24, "depth": 1, "num_heads": 2, "out_hidden_size": 16,
               "fullatt_block_indexes": [0]}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}

CONFIGS: dict[str, dict[str, Any]] = {
    "llava": {"text_config": {"model_type": "llama", **SMALL}, "vision_config": {"model_type": "clip_vision_model",
              **VISION}, "image_token_index": 3},
    "qwen2_5_vl": {"text_config": {**SMALL, "rope_parameters": ROPE}, "vision_config": QWEN_VISION},
    "gemma3": {"text_config": {**SMALL, "head_dim": 4}, "vision_config": {"model_type": "siglip_vision_model",
               **VISION}, "mm_tokens_per_image": 4},
}  # fmt: skip
BESIDE_TEXT = {"vision", "visual", "projector"}


@pytest.fixture(params=CONFIGS)
def directory(request: pytest.FixtureRequest, tmp_path: Path, make_tokenizer: Any) -> Path:
    """A small random model with images, its tokenizer and the settings of its image processor."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **CONFIGS[request.param])
    place = tmp_path / "model"
    AutoModelForImageTextToText.from_config(config).save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps({"size": 28}), encoding="utf-8")
    return place


def reads_images(name: str) -> bool:
    return any(part in name for part in BESIDE_TEXT)


def test_the_text_part_is_trained_and_the_rest_is_saved_as_it_was(directory: Path, tmp_path: Path) -> None:
    config = GRPOConfig(
        output_dir=tmp_path / "run", steps=2, prompts_per_step=2, group_size=4, max_completion_length=6,
        learning_rate=1e-2, live=False, device="cpu",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=directory,
        config=config,
        train_dataset=["4 5 6", "7 8"],
        rewards=lambda completions, **_: [float(len(set(text))) for text in completions],
    )
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable and not any(map(reads_images, trainable))
    trainer.train()
    final = tmp_path / "run/final_model"
    before, after = load_file(directory / "model.safetensors"), load_file(final / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(map(reads_images, changed))
    assert sum(map(reads_images, before)) > 3
    assert json.loads((final / "preprocessor_config.json").read_text()) == {"size": 28}
    model = AutoModelForImageTextToText.from_pretrained(final).eval()
    with torch.no_grad():
        ids = torch.tensor([[4, 5, 6]])
        expected = trainer.model.eval()(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_put_on_the_text_part_only(directory: Path, tmp_path: Path) -> None:
    policy = load_policy(directory, device="cpu", lora=LoraSettings(rank=2, alpha=4.0))
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert names and not any(map(reads_images, names))
    policy.save(tmp_path / "adapter")
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        again = load_policy(tmp_path / "adapter", device="cpu")
        assert torch.equal(again.model.eval()(input_ids=ids).logits, policy.model.eval()(input_ids=ids).logits)


def test_a_kind_of_model_that_writes_no_text_is_one_clear_line(tmp_path: Path, make_tokenizer: Any) -> None:
    config = AutoConfig.for_model("vit", **VISION)
    config.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not load") as error:
        load_policy(tmp_path, device="cpu")
    assert "\n" not in str(error.value)


def test_a_model_that_needs_an_image_is_one_clear_line(tmp_path: Path, make_tokenizer: Any) -> None:
    torch.manual_seed(0)
    vision = {**VISION, "model_type": "kosmos_2_vision_model"}
    text = {"vocab_size": 61, "embed_dim": 16, "layers": 1, "ffn_dim": 24, "attention_heads": 2, "eos_token_id": 1}
    config = AutoConfig.for_model("kosmos-2", text_config=text, vision_config=vision)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"does not run on text alone.*pixel_values") as error:
        load_policy(tmp_path, device="cpu")
    assert "\n" not in str(error.value)
