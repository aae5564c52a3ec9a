import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from grpo.errors import CheckpointError, ConfigError, ModelError
from grpo.policy import LoraSettings, Policy, load_policy


def lora_policy(directory: Path, **settings: Any) -> Policy:
    return load_policy(directory, device="cpu", lora=LoraSettings(rank=4, alpha=8.0), reference="start", **settings)


def train_a_little(policy: Policy, batch: Any, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        policy.token_logprobs(batch, temperature=1.0).logprobs.mean().backward()
        optimizer.step()


def logprobs(policy: Policy, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy.token_logprobs(batch, temperature=1.0).logprobs


def test_only_adapters_are_trained_and_they_are_float32(model_directory: Path) -> None:
    policy = load_policy(model_directory, device="cpu", dtype="bfloat16", lora=LoraSettings(rank=4))
    trainable = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    assert all(parameter.dtype == torch.float32 for parameter in policy.trainable_parameters())
    frozen = {parameter.dtype for parameter in policy.model.parameters() if not parameter.requires_grad}
    assert frozen == {torch.bfloat16}
    assert policy.num_trainable_parameters < policy.num_parameters / 2


def test_all_linear_leaves_out_the_output_head(model_directory: Path) -> None:
    policy = lora_policy(model_directory)
    names = [name for name, _ in policy.model.named_parameters() if "lora_A" in name]
    assert len(names) == 2 * 7
    assert not any("lm_head" in name for name in names)


def test_reference_equals_the_policy_exactly_until_it_is_trained(model_directory: Path, make_batch: Any) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    reference = policy.reference_logprobs(batch, temperature=1.0)
    assert torch.equal(reference, logprobs(policy, batch))
    train_a_little(policy, batch)
    assert (logprobs(policy, batch) - reference).abs().max() > 1e-3
    assert torch.equal(policy.reference_logprobs(batch, temperature=1.0), reference)


def test_adapter_off_is_the_base_exactly(model_directory: Path, make_batch: Any) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    train_a_little(policy, batch)
    base = load_policy(model_directory, device="cpu", dtype="float32")
    assert torch.equal(policy.reference_logprobs(batch, temperature=0.7), base_logprobs(base, batch))


def base_logprobs(base: Policy, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return base.token_logprobs(batch, temperature=0.7).logprobs


def test_the_reference_may_be_asked_for_between_two_backward_passes(model_directory: Path, make_batch: Any) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    policy.token_logprobs(batch, temperature=1.0).logprobs.sum().backward()
    once = [parameter.grad.clone() for parameter in policy.trainable_parameters() if parameter.grad is not None]
    policy.reference_logprobs(batch, temperature=1.0)
    policy.token_logprobs(batch, temperature=1.0).logprobs.sum().backward()
    twice = [parameter.grad for parameter in policy.trainable_parameters()]
    assert len(once) == len(twice) > 0
    torch.testing.assert_close(twice, [2 * gradient for gradient in once])


@pytest.mark.parametrize("targets", ["all-linear", ("lm_head",)], ids=["layers", "head"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_equals_padded_under_lora(
    family: str, targets: str | tuple[str, ...], make_model: Any, make_tokenizer: Any, make_batch: Any
) -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    policy = load_policy(
        make_model(family, **(sizes if family == "gpt2" else {})),
        tokenizer=make_tokenizer(),
        device="cpu",
        lora=LoraSettings(rank=4, target_modules=targets),
    )
    batch = make_batch()
    base = logprobs(policy, batch)
    train_a_little(policy, batch)
    assert (logprobs(policy, batch) - base).abs().max() > 1e-3
    assert policy.forward.packed
    results = []
    for packed in (True, False):
        policy.forward = type(policy.forward)(packed=packed, chunked=packed, pad_token_id=0)
        policy.model.zero_grad()
        values = policy.token_logprobs(batch, temperature=1.0).logprobs
        values.sum().backward()
        results.append([values.detach(), *(parameter.grad for parameter in policy.trainable_parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-5)


def test_fresh_adapters_depend_on_the_seed_only(model_directory: Path) -> None:
    torch.manual_seed(1)
    first = lora_policy(model_directory, seed=7).fingerprint()
    torch.manual_seed(2)
    assert lora_policy(model_directory, seed=7).fingerprint() == first
    assert lora_policy(model_directory, seed=8).fingerprint() != first


def test_lora_dropout_is_on_with_gradients_and_off_without(model_directory: Path, make_batch: Any) -> None:
    policy = load_policy(model_directory, device="cpu", lora=LoraSettings(rank=4, dropout=0.5))
    batch = make_batch()
    train_a_little(policy, batch)
    assert torch.equal(logprobs(policy, batch), logprobs(policy, batch))
    torch.manual_seed(0)
    first = policy.token_logprobs(batch, temperature=1.0).logprobs
    assert not torch.equal(first, policy.token_logprobs(batch, temperature=1.0).logprobs)
    torch.manual_seed(0)
    assert torch.equal(first, policy.token_logprobs(batch, temperature=1.0).logprobs)


def test_dropout_of_the_base_is_off_for_the_reference(make_model: Any, make_tokenizer: Any, make_batch: Any) -> None:
    model = make_model("gpt2", n_embd=16, n_layer=2, n_head=4, resid_pdrop=0.5)
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu", lora=LoraSettings(rank=2), reference="start")
    batch = make_batch()
    expected = logprobs(policy, batch)
    policy.token_logprobs(batch, temperature=1.0)
    assert policy.model.training
    assert torch.equal(policy.reference_logprobs(batch, temperature=1.0), expected)


def test_a_nameless_base_in_memory_is_warned_about(
    make_model: Any, make_tokenizer: Any, warnings_of_policy: Any, tmp_path: Path
) -> None:
    policy = load_policy(make_model(), tokenizer=make_tokenizer(), device="cpu", lora=LoraSettings(rank=2))
    assert "has no name" in warnings_of_policy()[0]
    policy.save(tmp_path / "saved")
    with pytest.raises(ModelError, match="names no base model"):
        load_policy(tmp_path / "saved", device="cpu")


def test_unknown_target_modules_are_an_error_that_lists_the_known_ones(model_directory: Path) -> None:
    settings = LoraSettings(target_modules=("q_proj", "query"))
    with pytest.raises(ModelError, match=r"no linear module named 'query': .* down_proj, gate_proj, k_proj"):
        load_policy(model_directory, device="cpu", lora=settings)


def test_chosen_target_modules_only_are_adapted(model_directory: Path) -> None:
    policy = load_policy(model_directory, device="cpu", lora=LoraSettings(target_modules=("q_proj", "lm_head")))
    names = {name.split(".lora_A")[0].split(".")[-1] for name, _ in policy.model.named_parameters() if "lora_A" in name}
    assert names == {"q_proj", "lm_head"}


def test_a_saved_adapter_loads_in_transformers_and_here(model_directory: Path, tmp_path: Path, make_batch: Any) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    train_a_little(policy, batch)
    policy.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/adapter_config.json").read_text())["base_model_name_or_path"] == str(
        model_directory
    )
    assert not (tmp_path / "saved/model.safetensors").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = batch.token_ids[None, :5]
    policy.model.eval()
    torch.testing.assert_close(plain(ids).logits, policy.model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    again = load_policy(tmp_path / "saved", device="cpu", reference="start")
    assert torch.equal(logprobs(again, batch), logprobs(policy, batch))
    assert again.num_trainable_parameters == policy.num_trainable_parameters


def test_saving_twice_gives_the_same_bytes(model_directory: Path, tmp_path: Path) -> None:
    policy = lora_policy(model_directory)
    for name in ("one", "two"):
        policy.save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    targets = json.loads((tmp_path / "one/adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


def test_an_adapter_that_was_trained_before_is_its_own_reference(
    model_directory: Path, tmp_path: Path, make_batch: Any
) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    train_a_little(policy, batch)
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", device="cpu", reference="start")
    start = logprobs(again, batch)
    assert torch.equal(again.reference_logprobs(batch, temperature=1.0), start)
    assert again.num_trainable_parameters == policy.num_trainable_parameters
    train_a_little(again, batch)
    assert torch.equal(again.reference_logprobs(batch, temperature=1.0), start)
    assert not torch.equal(logprobs(again, batch), start)
    again.save(tmp_path / "again")
    assert torch.equal(logprobs(load_policy(tmp_path / "again", device="cpu"), batch), logprobs(again, batch))


def test_adapter_weights_come_back_bit_for_bit(model_directory: Path, tmp_path: Path, make_batch: Any) -> None:
    policy, batch = lora_policy(model_directory), make_batch()
    train_a_little(policy, batch)
    policy.save(tmp_path / "saved")
    resumed = lora_policy(model_directory, seed=5)
    parameters = resumed.trainable_parameters()
    resumed.load_weights(tmp_path / "saved")
    assert resumed.fingerprint() == policy.fingerprint()
    assert all(a is b for a, b in zip(parameters, resumed.trainable_parameters(), strict=True))
    assert torch.equal(
        resumed.reference_logprobs(batch, temperature=1.0), policy.reference_logprobs(batch, temperature=1.0)
    )


def test_an_adapter_of_another_rank_is_refused(model_directory: Path, tmp_path: Path) -> None:
    lora_policy(model_directory).save(tmp_path / "saved")
    other = load_policy(model_directory, device="cpu", lora=LoraSettings(rank=2))
    with pytest.raises(CheckpointError, match="another model or rank"):
        other.load_weights(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="LoRA"):
        other.load_weights(model_directory)


def test_a_model_object_whose_adapter_was_frozen_is_trained(model_directory: Path) -> None:
    model = load_policy(model_directory, device="cpu", lora=LoraSettings(rank=2, alpha=4)).model
    expected = {name for name, value in model.named_parameters() if value.requires_grad}
    model.requires_grad_(False)
    policy = load_policy(model, tokenizer=load_policy(model_directory, device="cpu").tokenizer, device="cpu")
    assert {name for name, value in policy.model.named_parameters() if value.requires_grad} == expected


@pytest.mark.parametrize(("reference", "expected"), [("none", False), ("start", True), ("tiny", True)])
def test_a_policy_with_adapters_has_the_reference_that_was_asked_for(reference: str, expected: bool) -> None:
    policy = load_policy("tiny", device="cpu", lora=LoraSettings(rank=2, alpha=4), reference=reference)
    assert policy.has_reference == expected


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_adapters_of_virtual_tokens_are_refused_in_memory_and_from_files(
    model_directory: Path, tmp_path: Path, make_model: Any, make_tokenizer: Any, config: Any
) -> None:
    model = get_peft_model(make_model(), config)
    kind = f"the adapter is of type {config.peft_type.value}, whose virtual tokens"
    with pytest.raises(ModelError, match=kind):
        load_policy(model, tokenizer=make_tokenizer(), device="cpu")
    model.peft_config["default"].base_model_name_or_path = str(model_directory)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=kind):
        load_policy(tmp_path / "adapter", device="cpu")


def test_an_adapter_that_trains_biases_has_no_base_for_a_reference(make_model: Any, make_tokenizer: Any) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], bias="all", task_type="CAUSAL_LM")
    model, tokenizer = get_peft_model(make_model(attention_bias=True), config), make_tokenizer()
    with pytest.raises(ModelError, match=r"trains biases of its base \(bias='all'\).*set beta=0, give a reference"):
        load_policy(model, tokenizer=tokenizer, device="cpu", reference="start")
    policy = load_policy(model, tokenizer=tokenizer, device="cpu")
    trained = {name.rpartition(".")[2] for name, value in policy.model.named_parameters() if value.requires_grad}
    assert trained == {"weight", "bias"}


def test_lora_on_top_of_an_adapter_is_refused(model_directory: Path, tmp_path: Path) -> None:
    lora_policy(model_directory).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="adapter already"):
        lora_policy(tmp_path / "saved")


def test_an_adapter_that_is_not_safetensors_is_refused(model_directory: Path, tmp_path: Path) -> None:
    lora_policy(model_directory).save(tmp_path / "saved")
    weights = tmp_path / "saved/adapter_model.safetensors"
    torch.save({}, weights.with_name("adapter_model.bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="only adapters saved as safetensors"):
        load_policy(tmp_path / "saved", device="cpu")


def test_an_adapter_of_the_embedded_model_loads_in_transformers_and_here(tmp_path: Path, make_batch: Any) -> None:
    policy, batch = load_policy("tiny", device="cpu", lora=LoraSettings(rank=2), reference="start"), make_batch()
    train_a_little(policy, batch)
    policy.save(tmp_path / "saved")
    ids = batch.token_ids[None, :5]
    policy.model.eval()
    expected = policy.model(input_ids=ids).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(ids).logits, expected)
    file = tmp_path / "saved/adapter_config.json"
    elsewhere = {**json.loads(file.read_text()), "base_model_name_or_path": "/elsewhere/grpo/policy/tiny"}
    file.write_text(json.dumps(elsewhere))
    again = load_policy(tmp_path / "saved", device="cpu")
    assert torch.equal(logprobs(again, batch), logprobs(policy, batch))
