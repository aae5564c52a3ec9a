import sys
from dataclasses import replace

import pytest
import torch

from grpo.algorithm import METHODS, Method, TrustRegion, find_method
from grpo.errors import ConfigError

OWN_METHODS = """
import torch
from grpo.algorithm import Method, TrustRegion

lenient = Method(weights="token", region=TrustRegion(epsilon=0.5, epsilon_high=0.5))

def squared(ratio, logprobs, advantages, region):
    return -advantages * (ratio - 1 + region.epsilon) ** 2

class NotAMethod:
    pass
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_methods_for_test.py").write_text(OWN_METHODS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_methods_for_test"
    sys.modules.pop("own_methods_for_test", None)


def test_every_method_is_found_by_its_name():
    assert {name: find_method(name) for name in METHODS} == dict(METHODS)
    assert set(METHODS) == {"grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo", "sapo", "rloo", "reinforce"}


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no method named 'DR-GRPO': did you mean 'dr_grpo'\? use one of grpo, "):
        find_method("DR-GRPO")
    with pytest.raises(ConfigError, match="no method named 'xyzzy': use one of grpo, "):
        find_method("xyzzy")


def test_a_users_method_is_found_by_module_and_name(own_module):
    assert find_method(f"{own_module}:lenient") == Method(weights="token", region=TrustRegion(0.5, 0.5))


def test_a_users_function_takes_the_place_of_the_clip(own_module):
    method = find_method(f"{own_module}:squared")
    assert replace(method, surrogate="clip") == METHODS["grpo"]
    mask = torch.ones(1, 2, dtype=torch.bool)
    ratio, advantages = torch.tensor([[1.5, 0.5]]), torch.tensor([[1.0, 2.0]])
    weights = method.token_weights(mask, num_rollouts=1, num_tokens=2, max_tokens=2)
    result = method.loss(ratio.log(), torch.zeros(1, 2), None, advantages=advantages, mask=mask, weights=weights)
    assert result.loss.item() == pytest.approx(-(0.7**2 + 2 * 0.3**2) / 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:missing", "cannot load method"),
        ("no_such_module_anywhere:loss", "cannot load method"),
        (":loss", "cannot load method"),
        ("{}:NotAMethod", "is of type type: give a grpo.algorithm.Method"),
        ("{}:torch", "is of type module: give a grpo.algorithm.Method"),
    ],
)
def test_what_is_not_a_method_is_refused_in_one_line(own_module, name, message):
    with pytest.raises(ConfigError, match=message) as error:
        find_method(name.format(own_module))
    assert "\n" not in str(error.value)


def test_a_single_epsilon_sets_both_sides_of_the_clip_range():
    assert METHODS["dapo"].override(epsilon=0.1).region == TrustRegion(epsilon=0.1, epsilon_high=0.1)
    assert METHODS["dapo"].override(epsilon_high=0.4).region == TrustRegion(epsilon=0.2, epsilon_high=0.4)
    assert METHODS["grpo"].override(epsilon=0.1, epsilon_high=0.3).region == TrustRegion(0.1, 0.3)
    assert METHODS["cispo"].override(epsilon=0.1).region.epsilon_high == METHODS["cispo"].region.epsilon_high


def test_overriding_nothing_changes_nothing():
    for method in METHODS.values():
        assert method.override() == method


def test_overrides_replace_a_methods_choices():
    method = METHODS["grpo"].override(
        kl="k1",
        correct_kl=False,
        scale="none",
        baseline="leave_one_out",
        weights="token",
        ratio="sequence",
        delta=4.0,
    )
    assert method == Method("sequence", "clip", "token", "k1", False, "none", "leave_one_out", TrustRegion(delta=4.0))
    assert METHODS["dapo"].override(combine="normalise").combine == "normalise"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kl": "k4"},
        {"scale": "std"},
        {"baseline": "critic"},
        {"weights": "mean"},
        {"ratio": "word"},
        {"combine": "gdpo"},
    ],
)
def test_a_choice_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
        METHODS["grpo"].override(**wrong)
    with pytest.raises(ConfigError, match="no surrogate named 'ppo': use one of clip, "):
        Method(surrogate="ppo")


@pytest.mark.parametrize("name", METHODS)
def test_the_advantages_of_a_method_follow_its_row(name):
    rewards = torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.0, 3.0]])
    advantages = METHODS[name].group_advantages(rewards, torch.ones(2, 3, dtype=torch.bool))
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    expected = {
        "dr_grpo": centred,
        "rloo": centred * 3 / 2,
        "reinforce": centred / (centred.std() + 1e-4),
    }.get(name, centred / (rewards.std(dim=1, keepdim=True) + 1e-4))
    torch.testing.assert_close(advantages, expected)
