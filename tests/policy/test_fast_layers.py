import copy
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from grpo.policy import load_policy
from grpo.policy.fused import FusedGatedUnit, FusedRMSNorm, use_fused_layers
from grpo.policy.products import (
    FastLinear,
    has_packed_product,
    outer_product,
    pack_weight,
    packed_product,
    product,
    use_fast_products,
)

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2", "phi3", "olmo2", "granite"]


def gradients(model: nn.Module, token_ids: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(input_ids=token_ids, labels=token_ids).loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (1, 48)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_and_its_gradients_are_those_of_a_linear_layer(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    rows, weight, bias = (torch.randn(size, requires_grad=True) for size in (shape, (33, 48), (33,)))
    inputs = (rows, weight, bias) if with_bias else (rows, weight)
    ours, plain = product(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    into = torch.randn_like(plain)
    for found, expected in zip(
        torch.autograd.grad(ours, inputs, into), torch.autograd.grad(plain, inputs, into), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_float32_products_on_the_cpu_take_the_fast_way_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weight = torch.randn(6, 20), torch.randn(9, 20, requires_grad=True)
    if not has_packed_product(weight.device, weight.dtype):
        pytest.skip("this machine has no faster product")
    expected = F.linear(rows, weight).detach()
    plain: list[torch.dtype] = []

    def linear(input: torch.Tensor, *others: torch.Tensor | None) -> torch.Tensor:
        plain.append(input.dtype)
        return torch.zeros(len(input), len(weight), dtype=input.dtype)

    monkeypatch.setattr(F, "linear", linear)
    with torch.no_grad():
        torch.testing.assert_close(product(rows, weight), expected, atol=1e-5, rtol=1e-5)
    product(rows, weight).sum().backward()
    assert plain == []
    product(rows.double(), weight.double())
    product(rows[:0], weight)
    with torch.autocast("cpu"):
        product(rows, weight)
    assert plain == [torch.float64, torch.float32, torch.float32]


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)])
def test_a_product_may_be_changed_in_place_as_that_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(shape), torch.randn(5, 8, requires_grad=True)
    output = product(rows, weight)
    output += 1.0
    output.square().sum().backward()
    expected = weight.detach().clone().requires_grad_()
    (torch.nn.functional.linear(rows, expected) + 1.0).square().sum().backward()
    torch.testing.assert_close(weight.grad, expected.grad)


def test_a_transposed_weight_needs_no_copy_to_be_right() -> None:
    rows, weight = torch.randn(6, 20), torch.randn(20, 9)
    torch.testing.assert_close(product(rows, weight.t()), rows @ weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outer_product(rows, rows), rows.t() @ rows, atol=1e-5, rtol=1e-5)


def test_a_packed_weight_gives_the_same_product() -> None:
    rows, weight, bias = torch.randn(6, 20), torch.randn(9, 20), torch.randn(9)
    if not has_packed_product(weight.device, weight.dtype):
        pytest.skip("this machine has nothing to pack for")
    packed = pack_weight(weight, 6)
    torch.testing.assert_close(packed_product(rows, packed, bias), F.linear(rows, weight, bias), atol=1e-5, rtol=1e-5)


def test_under_autocast_a_fast_layer_computes_in_the_lower_precision() -> None:
    layer = nn.Linear(16, 8)
    layer.__class__ = FastLinear
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 16)).dtype == torch.bfloat16


def test_subclasses_of_linear_layers_are_left_alone() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Other(2, 2))
    use_fast_products(model)
    assert type(model[1]) is Other
    assert type(model[0]) is (FastLinear if has_packed_product(torch.device("cpu"), torch.float32) else nn.Linear)


def test_a_bias_alone_can_be_trained() -> None:
    layer = nn.Linear(16, 8)
    layer.__class__ = FastLinear
    layer.weight.requires_grad_(False)
    layer(torch.randn(3, 16)).sum().backward()
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.full((8,), 3.0))


@pytest.mark.parametrize("weights", ["small", "zero"])
def test_a_gated_unit_with_another_activation_is_left_alone_whatever_its_weights(weights: str, make_model: Any) -> None:
    model = make_model("llama", hidden_act="gelu_pytorch_tanh")
    for module in model.modules():
        if hasattr(module, "down_proj"):
            for name in ("gate_proj", "up_proj", "down_proj"):
                getattr(module, name).weight.data.mul_(1e-3 if weights == "small" or name != "down_proj" else 0.0)
    use_fused_layers(model)
    assert not any(isinstance(module, FusedGatedUnit) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_stay_the_same_with_fast_layers(family: str, make_model: Any) -> None:
    settings = {"head_dim": 4} if family in ("gemma2", "qwen3") else {}
    plain = make_model(family, **settings)
    fast = copy.deepcopy(plain)
    use_fast_products(fast)
    use_fused_layers(fast)
    token_ids = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast(token_ids).logits, plain(token_ids).logits, atol=2e-5, rtol=1e-4)
    for found, expected in zip(gradients(fast, token_ids), gradients(plain, token_ids), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_norms_and_gated_units_of_the_common_families_are_fused(family: str, make_model: Any) -> None:
    model = make_model(family)
    norms = sum(type(module).__name__.endswith("RMSNorm") for module in model.modules())
    use_fused_layers(model)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(FusedRMSNorm) == norms > 0
    assert kinds.count(FusedGatedUnit) == 2


def test_a_layer_that_computes_something_else_is_left_alone(make_model: Any) -> None:
    # Gemma's norm multiplies by 1 + weight, and its unit has another activation.
    model = make_model("gemma", head_dim=4)
    use_fused_layers(model)
    assert not any(isinstance(module, FusedRMSNorm | FusedGatedUnit) for module in model.modules())


def test_less_is_kept_for_the_backward_pass(make_model: Any) -> None:
    plain = make_model("llama")
    fused = copy.deepcopy(plain)
    use_fused_layers(fused)
    kept = []
    for model in (plain, fused):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(input_ids=torch.arange(40)[None]).logits
        kept.append(sum(sizes.values()))
        del logits
    assert kept[1] < 0.9 * kept[0]


def test_a_saved_model_does_not_show_that_its_layers_were_fast(model_directory: Any, tmp_path: Any) -> None:
    policy = load_policy(model_directory, device="cpu")
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", device="cpu")
    for (name, ours), (other, theirs) in zip(
        policy.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(ours, theirs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_policy_gives_the_same_log_probabilities_and_gradients(
    model_directory: Any, make_batch: Any
) -> None:
    results = []
    for compile in (False, True):
        policy = load_policy(model_directory, device="cpu", compile=compile)
        logprobs = policy.token_logprobs(make_batch(), temperature=1.0).logprobs
        logprobs.sum().backward()
        results.append([logprobs, *(parameter.grad for parameter in policy.trainable_parameters())])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
