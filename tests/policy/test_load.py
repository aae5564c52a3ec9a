import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grpo.errors import CheckpointError, ConfigError, ModelError
from grpo.policy import LoraSettings, Policy, load_policy
from grpo.policy.sources import find_source


def logprobs(policy: Policy, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy.token_logprobs(batch, temperature=1.0).logprobs


def train_a_little(policy: Policy, batch: Any) -> None:
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        policy.token_logprobs(batch, temperature=1.0).logprobs.mean().backward()
        optimizer.step()


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- what is loaded -------------------------------------------------------------------------------------------------


def test_a_model_directory_gives_a_policy_that_shares_prompts(model_directory: Path) -> None:
    policy = load_policy(model_directory, device="cpu")
    assert policy.forward.packed and policy.forward.chunked
    assert policy.end_token_ids == (1,) and policy.pad_token_id == 0
    assert policy.context_length == 64
    assert policy.compute_dtype == torch.float32
    assert policy.num_parameters == policy.num_trainable_parameters > 1000
    assert not policy.has_reference and not policy.has_adapter


def test_trained_weights_are_float32_even_if_the_files_are_bfloat16(model_directory: Path, make_model: Any) -> None:
    make_model().bfloat16().save_pretrained(model_directory)
    assert load_file(model_directory / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    policy = load_policy(model_directory, device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.trainable_parameters()} == {torch.float32}


def test_weights_that_are_trained_are_read_in_float32_whatever_the_computation(model_directory: Path) -> None:
    policy = load_policy(model_directory, device="cpu", dtype="bfloat16")
    weights = load_file(model_directory / "model.safetensors")
    assert torch.equal(policy.model.state_dict()["lm_head.weight"], weights["lm_head.weight"])
    assert not torch.equal(weights["lm_head.weight"].bfloat16().float(), weights["lm_head.weight"])


def test_bfloat16_computes_in_bfloat16_over_float32_weights(model_directory: Path, make_batch: Any) -> None:
    policy = load_policy(model_directory, device="cpu", dtype="bfloat16", reference="start")
    exact = load_policy(model_directory, device="cpu", dtype="float32")
    batch = make_batch()
    assert policy.forward.packed
    difference = (logprobs(policy, batch) - logprobs(exact, batch)).abs().max()
    assert 1e-5 < difference < 0.5
    assert torch.equal(policy.reference_logprobs(batch, temperature=1.0), logprobs(policy, batch))
    policy.token_logprobs(batch, temperature=1.0).logprobs.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trainable_parameters())


def test_a_model_in_memory_is_trained_in_place(make_model: Any, make_tokenizer: Any, make_batch: Any) -> None:
    model = make_model()
    before = model.lm_head.weight.clone()
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu")
    train_a_little(policy, make_batch())
    assert policy.model is model and not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("with_final", [True, False])
def test_a_run_directory_gives_its_final_model_or_its_newest_checkpoint(
    with_final: bool, tmp_path: Path, model_directory: Path, make_model: Any
) -> None:
    from grpo.checkpoint import Progress, TrainingState, save_checkpoint, save_final

    def save(seed: int) -> Any:
        def write(directory: Path) -> None:
            make_model(seed=seed).save_pretrained(directory)
            load_policy(model_directory, device="cpu").tokenizer.save_pretrained(directory)

        return write

    run = tmp_path / "run"
    for step in (2, 10):
        state = TrainingState(Progress(step=step))
        save_checkpoint(run, state, save_model=save(step), keep_last=0)
    if with_final:
        save_final(run, state, save_model=save(99))
    policy = load_policy(run, device="cpu")
    assert torch.equal(policy.model.lm_head.weight, make_model(seed=99 if with_final else 10).lm_head.weight)


def test_the_dropout_of_the_model_is_off_in_training_too(make_model: Any, make_tokenizer: Any, make_batch: Any) -> None:
    model = make_model("gpt2", n_embd=16, n_layer=2, n_head=4, resid_pdrop=0.5, attn_pdrop=0.5)
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu", reference="start")
    batch = make_batch()
    trained = policy.token_logprobs(batch, temperature=1.0).logprobs
    assert not policy.has_dropout
    assert torch.equal(trained, logprobs(policy, batch))
    assert torch.equal(policy.reference_logprobs(batch, temperature=1.0), trained)
    assert model.config.resid_pdrop == 0.5


@pytest.mark.parametrize(
    ("settings", "dropouts"),
    [
        (
            {"family": "opt", "ffn_dim": 24, "word_embed_proj_dim": 16},
            {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
        ),
        ({"family": "falcon", "parallel_attn": False}, {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
        ({"family": "persimmon"}, {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    ],
    ids=["opt", "falcon", "persimmon"],
)
def test_dropout_that_layers_keep_or_look_up_themselves_is_off_and_saved_as_it_was(
    settings: dict[str, Any], dropouts: dict[str, float], make_model: Any, make_tokenizer: Any, make_batch: Any
) -> None:
    model = make_model(**settings, **dropouts)
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu", reference="start")
    batch = make_batch()
    trained = policy.token_logprobs(batch, temperature=1.0).logprobs
    assert trained.requires_grad and not policy.has_dropout
    assert torch.equal(trained, logprobs(policy, batch))
    assert torch.equal(policy.reference_logprobs(batch, temperature=1.0), trained)
    # What `save` writes config.json from.
    saved = json.loads(policy.model.config.to_json_string())
    assert dropouts.items() <= saved.items()


def test_the_dropout_of_adapters_acts_with_gradients_only(model_directory: Path, make_batch: Any) -> None:
    policy = load_policy(model_directory, device="cpu", lora=LoraSettings(rank=4, dropout=0.5))
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.normal_()
    batch = make_batch()
    assert policy.has_dropout
    assert not torch.equal(policy.token_logprobs(batch, temperature=1.0).logprobs, logprobs(policy, batch))
    assert torch.equal(logprobs(policy, batch), logprobs(policy, batch))


def test_gradient_checkpointing_changes_no_gradient(model_directory: Path, make_batch: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = load_policy(model_directory, device="cpu", gradient_checkpointing=checkpointing)
        policy.token_logprobs(make_batch(), temperature=1.0).logprobs.sum().backward()
        gradients.append([parameter.grad for parameter in policy.trainable_parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)


# --- the reference --------------------------------------------------------------------------------------------------


def test_the_reference_is_the_policy_as_it_was_in_memory(model_directory: Path, make_batch: Any) -> None:
    policy = load_policy(model_directory, device="cpu", reference="start")
    shutil.rmtree(model_directory)
    batch = make_batch()
    reference = policy.reference_logprobs(batch, temperature=0.7)
    assert not reference.requires_grad
    with torch.no_grad():
        assert torch.equal(reference, policy.token_logprobs(batch, temperature=0.7).logprobs)
    train_a_little(policy, batch)
    assert torch.equal(policy.reference_logprobs(batch, temperature=0.7), reference)
    assert not torch.equal(logprobs(policy, batch), reference)


def test_another_model_can_be_the_reference(
    model_directory: Path, make_model: Any, make_tokenizer: Any, make_batch: Any
) -> None:
    other = make_model("gpt2", n_embd=16, n_layer=2, n_head=4, seed=5)
    policy = load_policy(model_directory, device="cpu", reference=other)
    batch = make_batch()
    expected = logprobs(load_policy(other, tokenizer=make_tokenizer(), device="cpu"), batch)
    torch.testing.assert_close(policy.reference_logprobs(batch, temperature=1.0), expected)


def test_a_reference_with_another_vocabulary_is_refused(model_directory: Path, make_model: Any) -> None:
    with pytest.raises(ModelError, match=r"61.*must share a vocabulary"):
        load_policy(model_directory, device="cpu", reference=make_model(vocab_size=62))


# --- saving and resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_reloads_bit_for_bit(
    tied: bool, tmp_path: Path, make_model: Any, make_tokenizer: Any, make_batch: Any
) -> None:
    model = make_model(tie_word_embeddings=tied)
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu", reference="start")
    batch = make_batch()
    start = policy.reference_logprobs(batch, temperature=1.0)
    train_a_little(policy, batch)
    policy.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for (name, parameter), (_, twin) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, twin), name
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("3 4").input_ids == policy.tokenizer("3 4").input_ids
    again = load_policy(tmp_path / "saved", device="cpu")
    assert again.fingerprint() == policy.fingerprint()
    assert torch.equal(logprobs(again, batch), logprobs(policy, batch))

    resumed = load_policy(
        make_model(tie_word_embeddings=tied), tokenizer=make_tokenizer(), device="cpu", reference="start"
    )
    parameters = resumed.trainable_parameters()
    assert resumed.fingerprint() != policy.fingerprint()
    resumed.load_weights(tmp_path / "saved")
    assert resumed.fingerprint() == policy.fingerprint()
    assert all(a is b for a, b in zip(parameters, resumed.trainable_parameters(), strict=True))
    assert torch.equal(resumed.reference_logprobs(batch, temperature=1.0), start)


def test_what_is_saved_does_not_mention_our_attention(model_directory: Path, tmp_path: Path) -> None:
    load_policy(model_directory, device="cpu").save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert "attn_implementation" not in json.dumps(config)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").config._attn_implementation == "sdpa"
    assert (tmp_path / "saved/generation_config.json").exists()


def test_saving_twice_gives_the_same_bytes(model_directory: Path, tmp_path: Path) -> None:
    policy = load_policy(model_directory, device="cpu")
    for name in ("one", "two"):
        policy.save(tmp_path / name)
    assert (tmp_path / "one/model.safetensors").exists()
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_generation_settings_that_transformers_refuses_to_save_do_not_lose_a_model(
    make_model: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    model = make_model()
    model.generation_config = GenerationConfig(eos_token_id=[1, 2])
    model.generation_config.temperature = 0.6
    model.generation_config.do_sample = False
    policy = load_policy(model, tokenizer=make_tokenizer(), device="cpu")
    policy.save(tmp_path / "saved")
    assert load_policy(tmp_path / "saved", device="cpu").end_token_ids == (1, 2)


def test_weights_of_another_model_are_refused(model_directory: Path, tmp_path: Path, make_model: Any) -> None:
    policy = load_policy(model_directory, device="cpu")
    before = policy.fingerprint()
    make_model(hidden_size=32).save_pretrained(tmp_path / "wider")
    make_model(num_hidden_layers=1).save_pretrained(tmp_path / "shallower")
    (tmp_path / "empty").mkdir()
    for name in ("wider", "shallower", "empty"):
        with pytest.raises(CheckpointError, match=name) as error:
            policy.load_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert policy.fingerprint() == before


def test_the_fingerprint_sees_a_change_of_one_bit(model_directory: Path) -> None:
    policy = load_policy(model_directory, device="cpu")
    before = policy.fingerprint()
    assert policy.fingerprint() == before
    with torch.no_grad():
        policy.model.lm_head.weight[3, 4].view(torch.int32).bitwise_xor_(1)
    assert policy.fingerprint() != before


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_end_tokens_are_those_of_model_tokenizer_and_chat_template(make_model: Any, make_tokenizer: Any) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    model.generation_config.eos_token_id = [5, 7]
    assert load_policy(model, tokenizer=tokenizer, device="cpu").end_token_ids == (1, 5, 7)
    tokenizer.chat_template = "{{ messages[0].content }}<|im_end|>"
    assert load_policy(model, tokenizer=tokenizer, device="cpu").end_token_ids == (1, 2, 5, 7)


def test_no_end_token_is_an_error(make_model: Any, make_tokenizer: Any) -> None:
    model = make_model(eos_token_id=None)
    with pytest.raises(ModelError, match="no completion would ever end"):
        load_policy(model, tokenizer=make_tokenizer(eos_token=None), device="cpu")


def test_a_missing_padding_token_is_chosen_without_new_embeddings(make_model: Any, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(pad_token=None)
    policy = load_policy(make_model(), tokenizer=tokenizer, device="cpu")
    assert policy.pad_token_id == tokenizer.pad_token_id == 0
    assert len(tokenizer) == policy.model.get_input_embeddings().weight.shape[0] == 61


def test_a_padding_token_without_an_embedding_is_replaced(make_model: Any, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(pad_token="<new>")
    assert tokenizer.pad_token_id == 61
    assert load_policy(make_model(), tokenizer=tokenizer, device="cpu").pad_token_id == 0


# --- bad input ------------------------------------------------------------------------------------------------------


def assert_one_line(error: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("./small-lama", r"did you mean small-llama"),
        ("./nowhere/at/all", "no directory ./nowhere/at/all"),
        ("small-llama/config.json", "is a file"),
        ("tinny", "did you mean tiny"),
        ("a/b/c", "no directory a/b/c"),
        ("empty", "holds no model"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(
    given: str, message: str, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(model_directory.parent)
    Path("empty").mkdir()
    with pytest.raises(ModelError, match=message) as error:
        load_policy(given, device="cpu")
    assert_one_line(error)


def test_a_hub_id_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the Hub cannot be reached") as error:
        load_policy("some-organisation/some-model", device="cpu")
    assert_one_line(error)


def test_a_hub_id_in_the_cache_loads_without_a_network(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--some-organisation--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    shutil.copytree(model_directory, repository / "snapshots" / ("0" * 40))
    policy = load_policy("some-organisation/some-model", device="cpu", lora=LoraSettings(rank=2))
    assert policy.base_name == "some-organisation/some-model"


def test_pickled_weights_are_not_loaded(model_directory: Path) -> None:
    weights = load_file(model_directory / "model.safetensors")
    torch.save(weights, model_directory / "pytorch_model.bin")
    (model_directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="does not load") as error:
        load_policy(model_directory, device="cpu")
    assert_one_line(error)


def test_code_beside_the_weights_is_not_run(model_directory: Path, tmp_path: Path) -> None:
    (model_directory / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change_json(
        model_directory / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"},
    )
    with pytest.raises(ModelError, match="cannot be read"):
        load_policy(model_directory, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_an_implementation_of_attention_that_is_not_installed_is_not_needed(
    model_directory: Path, make_batch: Any, name: str
) -> None:
    expected = logprobs(load_policy(model_directory, device="cpu"), make_batch())
    change_json(model_directory / "config.json", **{name: "flash_attention_2"})
    policy = load_policy(model_directory, device="cpu")
    assert policy.forward.packed
    assert torch.equal(logprobs(policy, make_batch()), expected)


@pytest.mark.parametrize("wanted", ["kernels-community/flash-attn2", "someone/kernel@main:attention"])
def test_attention_kernels_from_a_repository_are_refused(model_directory: Path, wanted: str) -> None:
    change_json(model_directory / "config.json", attn_implementation=wanted)
    with pytest.raises(ModelError, match=f"asks for attention kernels from the repository {wanted}") as error:
        load_policy(model_directory, device="cpu")
    assert_one_line(error)


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({"pad_token_id": -1}, "pad_token_id=-1"),
        ({"early_stopping": True, "num_beams": 1}, "early_stopping=True"),
        ({"use_cache": False, "cache_implementation": "static"}, "cache_implementation='static'"),
        ({"length_penalty": 2.0, "pad_token_id": -1, "temperature": 0.6}, "pad_token_id=-1"),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": False}, None),
    ],
)
def test_generation_settings_that_transformers_refuses_to_save_do_not_stop_a_save(
    model_directory: Path, tmp_path: Path, warnings_of_policy: Any, settings: Any, left_out: str | None
) -> None:
    change_json(model_directory / "generation_config.json", **settings)
    load_policy(model_directory, device="cpu", lora=LoraSettings(rank=2, alpha=4)).save(tmp_path / "adapter")
    load_policy(model_directory, device="cpu").save(tmp_path / "saved")
    shown = " ".join(warnings_of_policy())
    assert (left_out in shown) if left_out else "cannot be saved" not in shown
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_what_cannot_be_saved_is_found_before_the_run(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, make_tokenizer: Any
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.init_kwargs["colours"] = {1, 2}  # JSON has no sets
    with pytest.raises(ModelError, match=r"the tokenizer of LlamaForCausalLM cannot be saved: .*set") as error:
        load_policy(model_directory, tokenizer=tokenizer, device="cpu")
    assert_one_line(error)


def test_damaged_weights_are_one_clear_line(model_directory: Path) -> None:
    file = model_directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match="does not load") as error:
        load_policy(model_directory, device="cpu")
    assert_one_line(error)


def test_weights_without_an_output_head_are_refused(model_directory: Path, make_model: Any) -> None:
    make_model().model.save_pretrained(model_directory)
    with pytest.raises(ModelError, match=r"lacks weights.*is it a causal LM"):
        load_policy(model_directory, device="cpu")


def test_a_model_without_a_tokenizer_asks_for_one(model_directory: Path, make_model: Any, make_tokenizer: Any) -> None:
    for file in model_directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_policy(model_directory, device="cpu")
    assert load_policy(model_directory, tokenizer=make_tokenizer(), device="cpu").end_token_ids == (1,)
    with pytest.raises(ModelError, match="give it as well"):
        load_policy(make_model(), device="cpu")


def test_a_tokenizer_can_come_from_another_directory(
    model_directory: Path, tmp_path: Path, make_model: Any, make_tokenizer: Any
) -> None:
    make_tokenizer(eos_token="<|im_end|>").save_pretrained(tmp_path / "tokenizer")
    policy = load_policy(model_directory, tokenizer=tmp_path / "tokenizer", device="cpu")
    assert policy.end_token_ids == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "'float16' is not supported: use 'auto', 'bfloat16' or 'float32'"),
        ({"dtype": "int8"}, "not supported"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "mps"}, "'mps' lacks float64"),
    ],
)
def test_an_unknown_dtype_or_device_is_an_error(options: dict[str, str], message: str, model_directory: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_policy(model_directory, **{"device": "cpu", **options})
    assert_one_line(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(model_directory: Path) -> None:
    with pytest.raises(ConfigError, match="PyTorch sees no GPU"):
        load_policy(model_directory, device="cuda")


def test_an_object_that_is_no_causal_lm_is_refused() -> None:
    with pytest.raises(ModelError, match="not Linear"):
        load_policy(torch.nn.Linear(2, 2), device="cpu")  # type: ignore[arg-type]


def test_the_embedded_model_is_found_by_name_and_by_a_path_of_another_machine() -> None:
    from grpo.policy.tiny import TINY_DIRECTORY

    for name in ("tiny", str(TINY_DIRECTORY), "/home/someone/site-packages/grpo/policy/tiny"):
        assert find_source(name).name == "tiny"
        assert find_source(name).loadable_name == str(TINY_DIRECTORY)
