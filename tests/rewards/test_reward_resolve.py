from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.errors import ConfigError, ModelError
from grpo.rewards import BUILT_IN, ON_DEMAND, RewardSuite, resolve_rewards, reward_function
from grpo.rewards.rules.format import strict_format

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_reward.py"


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_every_built_in_is_found_by_its_name_and_by_the_names_of_other_projects():
    for name in BUILT_IN:
        for spelling in (name, f"{name}_reward_func", f"{name}_reward"):
            (resolved,) = resolve_rewards(spelling)
            assert (resolved.name, resolved.function) == (name, BUILT_IN[name])


def test_order_and_weights_are_kept_and_the_weight_is_one_by_default():
    resolved = resolve_rewards(["int", {"name": "xmlcount", "weight": 2}, strict_format])
    assert [(one.name, one.weight) for one in resolved] == [("int", 1.0), ("xmlcount", 2.0), ("strict_format", 1.0)]


def test_weights_can_be_given_in_a_list_beside():
    resolved = resolve_rewards(["int", "xmlcount"], weights=[0.5, 0.0])
    assert [one.weight for one in resolved] == [0.5, 0.0]
    with pytest.raises(ConfigError, match="2 reward functions have 1 weights"):
        resolve_rewards(["int", "xmlcount"], weights=[0.5])


def test_two_of_one_name_are_told_apart():
    specs = [{"name": "last_integer", "correct_reward": number} for number in (1.0, 2.0, 3.0)]
    assert [one.name for one in resolve_rewards(specs)] == ["last_integer", "last_integer_2", "last_integer_3"]


def test_a_mapping_gives_parameters_flat_or_in_a_mapping_of_their_own():
    flat, nested = resolve_rewards(
        [
            {"name": "last_integer", "correct_reward": 5.0},
            {"name": "last_integer", "weight": 1.0, "parameters": {"correct_reward": 5.0}},
        ]
    )
    assert flat.parameters == nested.parameters == {"correct_reward": 5.0, "wrong_reward": 0.0}


def test_defaults_reach_the_built_ins_that_take_them_and_only_where_nothing_is_given():
    defaults = {"format": "think_tags", "correct_reward": 3.0}
    specs = ["strict_format", "last_integer", {"name": "accuracy", "format": "plain"}, lambda completions: [0.0]]
    strict, last, accurate, own = resolve_rewards(specs, defaults=defaults)
    assert strict.parameters == {"format": "think_tags", "reward": 0.5}
    assert last.parameters == {"correct_reward": 3.0, "wrong_reward": 0.0}
    assert accurate.parameters == {"format": "plain", "correct_reward": 3.0, "wrong_reward": 0.0}
    assert own.parameters == {}


def test_needed_columns_are_those_without_a_default():
    def graded(prompts, completions, completion_ids, answer, *, hint=None, level, trainer_state, **columns):
        return [0.0]

    (resolved,) = resolve_rewards(graded)
    assert resolved.columns == ("answer", "level")
    assert resolve_rewards("correctness")[0].columns == ("answer",)
    assert resolve_rewards("xmlcount")[0].columns == ()
    assert resolve_rewards({"name": graded, "level": 3})[0].columns == ("answer",)


def test_async_functions_are_recognised_in_every_dress():
    async def plain(completions):
        return [0.0]

    class Callable:
        async def __call__(self, completions):
            return [0.0]

    class Sync:
        def __call__(self, completions):
            return [0.0]

    resolved = resolve_rewards([plain, functools.partial(plain), Callable(), Sync(), Sync().__call__])
    assert [one.is_async for one in resolved] == [True, True, True, False, False]
    assert [one.name for one in resolved] == ["plain", "plain_2", "Callable", "Sync", "__call__"]


def test_a_function_in_a_module_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "my_rewards_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "taste.py").write_text(
        "class Rewards:\n    @staticmethod\n    def sweet(completions):\n        return [1.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    (resolved,) = resolve_rewards("my_rewards_package.taste:Rewards.sweet")
    assert resolved.name == "sweet"
    assert resolved.function(["x"]) == [1.0]


def test_a_function_in_a_file_may_import_from_the_files_beside_it(user_file):
    user_file("VALUE = 0.25\n", "constants_of_mine.py")
    path = user_file("import constants_of_mine\n\ndef fixed(completions):\n    return [constants_of_mine.VALUE]\n")
    assert resolve_rewards(f"{path}:fixed")[0].function(["x"]) == [0.25]


def test_functions_of_one_file_share_its_module_until_it_changes(user_file):
    text = "SEEN = []\ndef first(completions): return SEEN\ndef second(completions): return SEEN\n"
    path = user_file(text)
    first, second = resolve_rewards([f"{path}:first", f"{path}:second"])
    assert first.function([]) is second.function([])
    user_file("def first(completions): return [9.0]\n")
    os.utime(path, ns=(1, 1))
    assert resolve_rewards(f"{path}:first")[0].function([]) == [9.0]


def test_a_users_file_hides_no_module_of_the_standard_library(user_file, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    path = user_file("def grey(completions):\n    import colorsys\n    return [colorsys.rgb_to_hsv(0, 0, 1)[2]]\n")
    user_file("raise RuntimeError('hidden')\n", "colorsys.py")
    assert resolve_rewards(f"{path}:grey")[0].function([]) == [1]


def test_the_example_file_runs(group):
    specs = [{"name": f"{EXAMPLE}:answer_first", "weight": 0.5, "opening": "So"}, f"{EXAMPLE}:polite"]
    result = RewardSuite(resolve_rewards(specs)).score(
        [group("How?", [2, 4, 8, 3])], ["So, please", "so", "Thank you", ""], step=0, max_steps=1
    )
    rollouts = result.groups[0].rollouts
    assert [one.score.rewards["answer_first"] for one in rollouts] == [1.0, 0.0, 0.0, None]
    assert [one.score.total for one in rollouts] == [1.5, 0.0, 1.0, 0.0]
    assert result.metrics["user/longest_completion"] == 8.0


def test_a_misspelt_name_gets_the_nearest_and_the_list():
    with pytest.raises(ConfigError, match=r"no reward named 'corectness' \(did you mean 'correctness'\?\)") as caught:
        resolve_rewards(["int", "corectness"])
    assert all(name in str(caught.value) for name in BUILT_IN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "correctness", "rewrad": 1},
            r"no parameter 'rewrad': it takes \['format', 'correct_reward', 'wrong_",
        ),
        ({"name": "think_xmlcount", "format": "answer_tags"}, r"no parameter 'format': it takes \['reward'\]"),
        ({"name": "int", "weight": "heavy"}, "weight 'heavy': use a finite number"),
        ({"name": "int", "weight": float("nan")}, "weight nan: use a finite number"),
        ({"name": "int", "weight": True}, "weight True: use a finite number"),
        ({"weight": 1.0}, "has no name"),
        ({"name": "strict_format", "format": "tags"}, r"no answer format named 'tags': use one of \['answer_tags'"),
        ({"name": "strict_format", "format": "plain"}, "'plain' has no tags"),
        ({"name": "xmlcount", "reward": "much"}, r"reward 'xmlcount' cannot work with \{'reward': 'much'\}"),
        ({"name": "last_integer", "wrong_reward": float("nan")}, "cannot work with .* not a finite number"),
        ({"name": "reasoning_length", "target": 0}, "1 <= target <= limit"),
        (7, r"7 \(int\) is not a reward function"),
        (dict, "the class dict is not a reward function"),
        ("", "no reward named ''"),
        ("mine.py", "'mine.py' is a file: add the function's name"),
        ("nowhere/mine.py:good", "no file 'nowhere/mine.py'"),
        ("no_such_module_here:good", "cannot import reward 'no_such_module_here:good': ModuleNotFoundError"),
        ("json:dumpz", r"'json' has no 'dumpz': its functions are \["),
        ("json:decoder", "is not a reward function"),
    ],
)
def test_a_spec_that_cannot_be_used_is_refused_in_one_line(spec, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_rewards(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import a_module_nobody_has\n",
            r"ModuleNotFoundError: No module named 'a_module_nobody_has' \(at .*mine.py:1\)",
        ),
        ("\n\nraise ValueError('not\\ntoday')\n", r"ValueError: not today \(at .*mine.py:3\)"),
        ("x = 1\ndef good(:\n", r"SyntaxError: .*\(at .*mine.py:2\)"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(at .*mine.py:1\)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_quoted_with_its_line(user_file, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_rewards(f"{user_file(text)}:good")
    assert "\n" not in str(caught.value)


def test_a_missing_function_of_a_file_is_answered_with_those_it_has(user_file):
    path = user_file("from math import sqrt\ndef good(completions): ...\ndef _hidden(): ...\n")
    with pytest.raises(ConfigError, match=r"has no 'goood': its functions are \['good'\]"):
        resolve_rewards(f"{path}:goood")


def test_a_function_without_that_parameter_names_those_it_takes():
    def short(completions, *, most=10):
        return [0.0]

    with pytest.raises(ConfigError, match=r"reward 'short' has no parameter 'least': it takes \['most'\]"):
        resolve_rewards({"name": short, "least": 3})


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot load reward model"):
        resolve_rewards(str(tmp_path))


def test_a_resolved_function_is_taken_as_it_is():
    ready = reward_function(strict_format, name="mine", weight=3.0)
    assert resolve_rewards([ready]) == [ready]


def test_rewards_that_bring_models_or_servers_are_imported_when_they_are_named():
    loaded = "import sys, grpo.rewards; print([name for name in sys.modules if name in sys.argv[1:]])"
    targets = {name: target.partition(":") for name, target in ON_DEMAND.items()}
    modules = [module for module, _, _ in targets.values()]
    command = [sys.executable, "-c", loaded, *modules, "grpo.reward_models", "openai", "sklearn", "transformers"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
    for module, _, attribute in targets.values():
        assert callable(getattr(importlib.import_module(module), attribute))
    assert not set(ON_DEMAND) & set(BUILT_IN)


def test_a_name_that_is_imported_on_demand_takes_the_usual_endings_and_is_suggested():
    for spelling in ("ctr", "ctr_reward", "ctr_reward_func"):
        with pytest.raises(ConfigError, match="train it first"):
            resolve_rewards(spelling)
    with pytest.raises(ConfigError, match=r"no reward named 'judgee' \(did you mean 'judge'\?\)"):
        resolve_rewards("judgee")
    with pytest.raises(ConfigError, match=r"reward 'judge' has no parameter 'modle': it takes \['model', "):
        resolve_rewards({"name": "judge", "modle": "large"})


def test_a_callable_that_does_not_tell_its_parameters_is_given_everything() -> None:
    reward = reward_function(dict, parameters={"kind": 3})
    assert reward.name == "dict"
    assert reward.takes_any
    assert reward.takes(["completions", "kind", "prompts"]) == ["completions", "prompts"]
    assert reward.call({"completions": lambda: ["a"]}) == {"completions": ["a"], "kind": 3}
