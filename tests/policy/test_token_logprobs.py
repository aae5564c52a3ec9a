from typing import Any

import pytest
import torch
from torch import nn

from grpo.policy import tiled_head, use_attention
from grpo.policy.forward import LogprobForward
from grpo.policy.products import LENGTH_MULTIPLE
from grpo.policy.self_check import choose_forward
from grpo.policy.token_logprobs import OutputHead, chunked_logprobs, output_head

VOCABULARY = 500


class OtherLinear(nn.Linear):
    """A layer that may do something of its own, as an adapter's does: it has to be called."""


LAYERS = pytest.mark.parametrize("layer", [nn.Linear, OtherLinear])
"""Heads that are computed in tiles, and heads that are called on a few rows at a time."""


def head_and_inputs(
    layer: type[nn.Linear] = nn.Linear, rows: int = 37
) -> tuple[OutputHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = OutputHead(layer(8, VOCABULARY), VOCABULARY, scale=2.0, softcap=5.0)
    return head, torch.randn(rows, 8, requires_grad=True), torch.randint(VOCABULARY, (rows,))


@LAYERS
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_and_entropy_are_those_of_all_logits_at_once(
    temperature: float, layer: type[nn.Linear]
) -> None:
    head, hidden, targets = head_and_inputs(layer)
    tokens = chunked_logprobs(
        head, hidden, targets, temperature=temperature, entropy=True, chunk_bytes=5 * 4 * VOCABULARY
    )
    scaled = 2.0 * (hidden @ head.projection.weight.T + head.projection.bias)  # type: ignore[operator,union-attr]
    everything = torch.log_softmax(5.0 * torch.tanh(scaled / 5.0) / temperature, dim=-1)
    torch.testing.assert_close(tokens.logprobs, everything[torch.arange(37), targets])
    assert tokens.entropy is not None and not tokens.entropy.requires_grad
    torch.testing.assert_close(tokens.entropy, -(everything.exp() * everything).sum(dim=-1))


def test_temperature_zero_means_the_models_own_distribution() -> None:
    head, hidden, targets = head_and_inputs()
    greedy, plain = (chunked_logprobs(head, hidden, targets, temperature=t).logprobs for t in (0.0, 1.0))
    assert torch.equal(greedy, plain)


@LAYERS
@pytest.mark.parametrize("rows", [37, 300], ids=["one span", "several spans, filled up"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradients_are_those_of_all_logits_at_once(
    temperature: float, rows: int, layer: type[nn.Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_head, "_MAX_ROWS", 128)
    head, hidden, targets = head_and_inputs(layer, rows)
    weights = torch.linspace(-1, 1, rows)
    inputs = (hidden, *head.projection.parameters())
    tokens = chunked_logprobs(head, hidden, targets, temperature=temperature, chunk_bytes=5 * 4 * VOCABULARY)
    found = torch.autograd.grad((tokens.logprobs * weights).sum(), inputs)
    scaled = 2.0 * (hidden @ head.projection.weight.T + head.projection.bias)  # type: ignore[operator,union-attr]
    everything = torch.log_softmax(5.0 * torch.tanh(scaled / 5.0) / temperature, dim=-1)
    expected = torch.autograd.grad((everything[torch.arange(rows), targets] * weights).sum(), inputs)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_the_head_multiplies_rows_in_multiples_so_that_kernels_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: set[int] = set()
    multiply = tiled_head.product

    def noted(rows: torch.Tensor, *others: torch.Tensor | None) -> torch.Tensor:
        lengths.add(len(rows))
        return multiply(rows, *others)

    monkeypatch.setattr(tiled_head, "product", noted)
    for rows in (1, LENGTH_MULTIPLE, LENGTH_MULTIPLE + 1, 2 * LENGTH_MULTIPLE - 1, 2 * LENGTH_MULTIPLE):
        head, hidden, targets = head_and_inputs(rows=rows)
        chunked_logprobs(head, hidden, targets, temperature=1.0).logprobs.sum().backward()
    assert lengths == {1, LENGTH_MULTIPLE, 2 * LENGTH_MULTIPLE}


def test_without_a_token_nothing_is_computed_and_every_gradient_is_zero() -> None:
    head, hidden, targets = head_and_inputs(rows=0)
    tokens = chunked_logprobs(head, hidden, targets, temperature=1.0, entropy=True)
    assert tokens.logprobs.shape == (0,)
    assert tokens.entropy is not None and tokens.entropy.shape == (0,)
    tokens.logprobs.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.projection.parameters())


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_theirs() -> None:
    head, hidden, targets = head_and_inputs()
    expected = torch.autograd.grad(chunked_logprobs(head, hidden, targets, temperature=1.0).logprobs.sum(), hidden)
    head.projection.requires_grad_(False)
    chunked_logprobs(head, hidden, targets, temperature=1.0).logprobs.sum().backward()
    assert hidden.grad is not None and torch.equal(hidden.grad, expected[0])
    assert all(parameter.grad is None for parameter in head.projection.parameters())


@LAYERS
@pytest.mark.parametrize("tokens_in_chunk", [0.5, 1, 5, 36, 1000])
def test_the_chunk_size_changes_neither_values_nor_gradients(tokens_in_chunk: float, layer: type[nn.Linear]) -> None:
    head, hidden, targets = head_and_inputs(layer)
    results = []
    for chunk_bytes in (2**30, int(4 * VOCABULARY * tokens_in_chunk)):
        tokens = chunked_logprobs(head, hidden, targets, temperature=0.8, entropy=True, chunk_bytes=chunk_bytes)
        weights = torch.linspace(-1, 1, 37)
        gradients = torch.autograd.grad((tokens.logprobs * weights).sum(), (hidden, *head.projection.parameters()))
        results.append((tokens.logprobs, tokens.entropy, *gradients))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, atol=1e-5, rtol=1e-5)


@LAYERS
def test_no_tensor_of_tokens_times_vocabulary_is_made_in_either_direction(
    largest_tensor: Any, layer: type[nn.Linear]
) -> None:
    head, hidden, targets = head_and_inputs(layer)
    with largest_tensor:
        tokens = chunked_logprobs(head, hidden, targets, temperature=0.8, entropy=True, chunk_bytes=4 * 4 * VOCABULARY)
        tokens.logprobs.sum().backward()
    assert largest_tensor.numel == max(4 * VOCABULARY, VOCABULARY * 8)


@LAYERS
def test_logits_are_not_kept_for_the_backward_pass(layer: type[nn.Linear]) -> None:
    head, hidden, targets = head_and_inputs(layer)
    own = {hidden.data_ptr(), *(parameter.data_ptr() for parameter in head.projection.parameters())}
    saved: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunked_logprobs(head, hidden, targets, temperature=0.8, chunk_bytes=4 * 4 * VOCABULARY)
    assert saved and max(saved) <= 4 * 37


def test_a_model_forward_never_holds_all_logits(make_model: Any, make_batch: Any, largest_tensor: Any) -> None:
    model = make_model("llama", vocab_size=5000, initializer_range=0.02)
    batch = make_batch(((5, (20, 20, 20)), (7, (20, 20))))
    assert use_attention(model)
    forward = LogprobForward(packed=True, chunked=True, pad_token_id=0, chunk_bytes=4 * 5000 * 4)
    with largest_tensor:
        forward(model, batch, temperature=1.0, entropy=True).logprobs.sum().backward()
    # The weights of the head, and nothing larger.
    assert largest_tensor.numel == 5000 * 16


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_the_policy_did_not_sample_have_log_probability_zero(
    packed: bool, make_model: Any, make_batch: Any
) -> None:
    model = make_model()
    assert use_attention(model)
    batch = make_batch()
    assert (~batch.mask & (batch.predicted_by > 0)).any()
    tokens = LogprobForward(packed=packed, chunked=True, pad_token_id=0)(model, batch, temperature=1.0, entropy=True)
    assert tokens.entropy is not None
    assert tokens.logprobs.shape == batch.mask.shape
    for values in (tokens.logprobs, tokens.entropy):
        assert (values[~batch.mask] == 0).all()
        assert (values[batch.mask] != 0).all()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_every_way_gives_the_same(packed: bool, chunked: bool, make_model: Any, make_batch: Any) -> None:
    model = make_model("gpt2", n_embd=16, n_layer=2, n_head=4)
    assert use_attention(model)
    batch = make_batch()
    plain = LogprobForward(packed=False, chunked=False, pad_token_id=3)(model, batch, temperature=0.9, entropy=True)
    other = LogprobForward(packed=packed, chunked=chunked, pad_token_id=0)(model, batch, temperature=0.9, entropy=True)
    torch.testing.assert_close(other.logprobs, plain.logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.entropy, plain.entropy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 3.0}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
    ],
)
def test_the_head_makes_the_models_own_logits(family: str, settings: dict[str, float], make_model: Any) -> None:
    model = make_model(family, head_dim=4, **settings)
    ids = torch.randint(60, (1, 6), generator=torch.Generator().manual_seed(0))
    head = output_head(model)
    assert head is not None
    torch.testing.assert_close(head(model.base_model(ids).last_hidden_state), model(ids).logits)


def test_a_model_whose_logits_are_more_than_its_head_makes_them_itself(
    make_model: Any, make_batch: Any, warnings_of_policy: Any
) -> None:
    model = make_model("cohere", logit_scale=0.3)
    model.config.logit_scale = 1.0  # the configuration no longer says what the model does
    assert model.logit_scale == 0.3
    forward = choose_forward(model, 0, can_attend=use_attention(model))
    assert forward.packed and not forward.chunked
    assert "in chunks" in warnings_of_policy()[0]
    batch = make_batch()
    expected = LogprobForward(packed=False, chunked=False, pad_token_id=0)(model, batch, temperature=1.0).logprobs
    torch.testing.assert_close(forward(model, batch, temperature=1.0).logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_check_leaves_the_model_in_the_mode_that_it_had(make_model: Any, training: bool) -> None:
    model = make_model("llama").train(training)
    choose_forward(model, 0, can_attend=use_attention(model))
    assert {module.training for module in model.modules()} == {training}


def test_half_precision_hidden_states_get_a_float32_softmax() -> None:
    head, hidden, targets = head_and_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = chunked_logprobs(head, hidden, targets, temperature=1.0, entropy=True)
    assert tokens.logprobs.dtype == torch.float32
    full = torch.log_softmax(head(hidden.bfloat16().float()), dim=-1)[torch.arange(37), targets]
    assert (tokens.logprobs - full).abs().max() < 0.1
