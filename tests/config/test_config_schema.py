"""The schema: accepted values, values that follow from others, contradictions, options without effect."""

import json
import pickle
from pathlib import Path

import pytest

from grpo import algorithm
from grpo.config import METHODS, OPTIONS, GRPOConfig, RewardOptions, option_reference
from grpo.config.fields import option_types
from grpo.config.sections import SECTIONS, AlgorithmSection
from grpo.errors import ConfigError


def message(**options):
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(**options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_option_names_are_unique_across_sections_and_attributes_too():
    fields = [(name, field) for section in SECTIONS.values() for name, field in section.model_fields.items()]
    assert len({name for name, _ in fields}) == len({field.alias or name for name, field in fields}) == len(fields)
    # `rewards` is the section and its list of functions, so `rewards: [a, b]` and `rewards: {functions: …}` are one.
    assert {field.alias or name for name, field in fields} & set(SECTIONS) == {"rewards"}


def test_every_option_has_a_description_of_one_line_and_appears_in_the_reference():
    reference = option_reference()
    for section in SECTIONS.values():
        for leaf, field in section.model_fields.items():
            assert field.description
            assert "\n" not in field.description
            assert f"--{(field.alias or leaf).replace('_', '-')} " in reference.replace("\n", " ")
    for option in OPTIONS.values():
        assert all(synonym in reference for synonym in option.known("synonyms"))


def test_built_in_names_are_those_of_the_algorithm():
    assert set(METHODS) == set(algorithm.METHODS)
    (estimators,) = option_types(AlgorithmSection.model_fields["kl_estimator"].annotation)
    assert set(estimators.__args__) == set(algorithm.KL_ESTIMATORS)


def test_options_are_taken_flat_nested_and_dotted():
    flat = GRPOConfig(learning_rate=1e-4, group_size=4)
    nested = GRPOConfig(optimizer={"learning_rate": 1e-4}, rollout={"group_size": 4})
    dotted = GRPOConfig(**{"optimizer.learning_rate": 1e-4, "rollout.group_size": 4})
    sections = GRPOConfig(optimizer=SECTIONS["optimizer"](learning_rate=1e-4), group_size=4)
    assert flat == nested == dotted == sections
    assert flat.optimizer.learning_rate == 1e-4
    assert flat.rollout.group_size == 4


def test_the_api_of_another_project_gives_the_same_run():
    config = GRPOConfig(
        batch_size=4, num_epochs=3, learning_rate=1e-6, num_generations_per_prompt=4, output_dir="./grpo_output"
    )
    assert config.rollout.prompts_per_step == 4
    assert config.optimizer.num_epochs == 3
    assert config.rollout.group_size == 4
    assert config.output.output_dir == "./grpo_output"


def test_a_config_cannot_be_changed():
    config = GRPOConfig()
    with pytest.raises(Exception, match="frozen"):
        config.optimizer.learning_rate = 1.0
    with pytest.raises(Exception, match="frozen"):
        config.optimizer = SECTIONS["optimizer"]()


def test_rows_of_the_users_own_get_plain_answers_and_the_last_integer_as_reward():
    config = GRPOConfig(train_file="rows.jsonl")
    assert config.data.task == "rows"
    assert config.data.answer_format == "plain"
    assert config.rewards.functions == (RewardOptions(name="last_integer"),)


def test_rows_with_tags_are_rewarded_for_format_and_correctness():
    config = GRPOConfig(train_file="rows.jsonl", answer_format="think_tags")
    assert [function.name for function in config.rewards.functions] == ["strict_format", "correctness"]


def test_nothing_given_is_the_arithmetic_task_for_one_epoch():
    config = GRPOConfig()
    assert config.data.task == "arithmetic"
    assert config.data.answer_format == "answer_tags"
    assert config.optimizer.num_epochs == 1
    assert config.data.eval_size == 64
    assert config.explicit_options() == {}


def test_gsm8k_comes_from_the_hub_unless_a_file_is_given():
    hub = GRPOConfig(task="gsm8k").data
    assert (hub.dataset, hub.dataset_config, hub.eval_split) == ("openai/gsm8k", "main", "test")
    local = GRPOConfig(task="gsm8k", train_file="train.jsonl").data
    assert (local.dataset, local.eval_split, local.task) == (None, None, "gsm8k")


def test_replacing_an_option_keeps_explicit_options_and_derives_the_others_again():
    config = GRPOConfig(learning_rate=1e-3).replace(task="rows")
    assert config.data.answer_format == "plain"
    assert config.rewards.functions[0].name == "last_integer"
    assert config.optimizer.learning_rate == 1e-3
    kept = GRPOConfig(functions=["accuracy"]).replace(task="rows")
    assert [function.name for function in kept.rewards.functions] == ["accuracy"]
    assert GRPOConfig(steps=5).replace(num_epochs=2).optimizer.steps is None


@pytest.mark.parametrize(
    "written",
    [
        "correctness,strict_format",
        ["correctness", "strict_format"],
        [{"name": "correctness"}, {"name": "strict_format", "weight": 1.0}],
        [{"correctness": None}, {"strict_format": 1}],
        {"correctness": 1.0, "strict_format": {"weight": 1}},
    ],
)
def test_reward_functions_can_be_written_in_several_ways(written):
    expected = (RewardOptions(name="correctness"), RewardOptions(name="strict_format"))
    assert GRPOConfig(rewards=written).rewards.functions == expected
    assert GRPOConfig(reward_funcs=written).rewards.functions == expected
    assert GRPOConfig(rewards={"functions": written}).rewards.functions == expected


def test_rewards_and_their_options_mix_in_one_section():
    rewards = GRPOConfig(rewards={"correctness": 2.0, "my.py:length": None, "reward_timeout_s": 5}).rewards
    assert [(function.name, function.weight) for function in rewards.functions] == [
        ("correctness", 2.0),
        ("my.py:length", 1.0),
    ]
    assert rewards.reward_timeout_s == 5


def test_other_keys_of_a_reward_function_are_its_parameters():
    (function,) = GRPOConfig(rewards=[{"name": "reasoning_length", "weight": 0.5, "target": 40}]).rewards.functions
    assert function == RewardOptions(name="reasoning_length", weight=0.5, parameters={"target": 40})
    assert function.model_dump() == {"name": "reasoning_length", "weight": 0.5, "target": 40}


def test_weights_follow_the_order_of_the_functions():
    functions = GRPOConfig(reward_funcs=["a", "b"], reward_weights=[0.5, 2]).rewards.functions
    assert [(function.name, function.weight) for function in functions] == [("a", 0.5), ("b", 2.0)]
    assert "1 weights for 2" in message(reward_funcs=["a", "b"], reward_weights=[1.0])


def test_one_reward_function_can_be_changed_added_or_weighted():
    options = {"rewards": ["a", "b"], "rewards.b": 3, "rewards.c.target": 7, "rewards.my.py:d": 0.1}
    functions = GRPOConfig(**options).rewards.functions
    assert [(function.name, function.weight, function.parameters) for function in functions] == [
        ("a", 1.0, {}),
        ("b", 3.0, {}),
        ("c", 1.0, {"target": 7}),
        ("my.py:d", 0.1, {}),
    ]


def test_yaml_round_trips_exactly():
    config = GRPOConfig(
        model="0123",
        run_name="1e-6",
        output_dir="2026-01-01",
        system_prompt="line one\n\n  <answer>: 'two' # \"three\"\ttab \\ ünïcode\n",
        learning_rate=1.1e-7,
        adam_epsilon=0.1 + 0.2,
        rewards=[{"name": "f", "parameters": {"name": "clash", "depth": [1, {"x": None}]}}, {"name": "g", "by": "1e3"}],
        lora_targets="q_proj,v_proj",
        chat=False,
        wandb_project="no",
    )
    again = GRPOConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.to_yaml() == config.to_yaml()
    assert again.rewards.functions[0].parameters == {"name": "clash", "depth": [1, {"x": None}]}


def test_plain_values_are_json_and_the_config_can_be_pickled():
    config = GRPOConfig(lora_targets=["q_proj"], rewards={"a": {"steps": (1, 2)}})
    assert json.loads(json.dumps(config.flat()))["lora_targets"] == ["q_proj"]
    assert pickle.loads(pickle.dumps(config)) == config


def test_only_what_differs_from_the_defaults_is_reported_as_changed():
    assert GRPOConfig().changed_from_defaults() == {}
    assert GRPOConfig(group_size=8, steps=3).changed_from_defaults() == {"steps": 3, "num_epochs": None}
    one, other = GRPOConfig(seed=1), GRPOConfig(seed=2)
    assert one.differences(other) == {"seed": (1, 2)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rate": "fast"}, "learning_rate was given 'fast': it should be a number"),
        ({"learning_rate": -1.0}, "learning_rate was given -1.0: it should be greater than or equal to 0"),
        ({"learning_rate": float("nan")}, "it should be a finite number"),
        ({"steps": 2.5}, "steps was given 2.5: it should be a whole number"),
        ({"steps": True}, "steps was given True: it should be a number"),
        ({"steps": 0}, "steps was given 0: it should be greater than or equal to 1"),
        ({"shuffle": "perhaps"}, "it should be true or false"),
        ({"group_size": 1}, "at least 2"),
        ({"temperature": -1}, "temperature was given -1: it should be greater than or equal to 0"),
        ({"top_p": 0}, "top_p was given 0"),
        ({"top_p": 1.5}, "top_p was given 1.5: it should be less than or equal to 1"),
        ({"top_k": -1}, "top_k was given -1"),
        ({"min_p": 1.0}, "it should be less than 1"),
        ({"gamma": 0}, "gamma was given 0"),
        ({"dtype": "float16"}, "it should be 'float32', 'bfloat16' or 'auto'"),
        ({"engine": "vllm"}, "it should be 'native'"),
        ({"device": "gpu"}, "'cuda:N'"),
        ({"method": "dapoo"}, "did you mean 'dapo'?"),
        ({"operators": "/"}, "signs"),
        ({"model": ["tiny"]}, "model was given ['tiny']: it should be text"),
        ({"rewards": 3}, "rewards"),
        ({"rewards": ["a", "a"]}, "twice"),
        ({"rewards": [{"weight": 2.0}]}, "name: correctness, weight: 2.0"),
        ({"rewards": {"a": "heavy"}}, "a reward function's weight was given 'heavy': it should be a number"),
        ({"optimizer": "adamw"}, "optimizer is a section of options, such as learning_rate"),
        ({"steps": 10, "num_epochs": 2}, "steps 10 and num_epochs 2"),
        ({"batch_size": 4, "prompts_per_step": 5}, "contradicts"),
        ({"batch_size": 0}, "batch_size was given 0"),
        ({"batch_size": 2.5}, "batch_size was given 2.5"),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "warmup_steps 5 and warmup_ratio 0.1"),
        ({"train_file": "a.jsonl", "dataset": "b/c"}, "train_file 'a.jsonl' and dataset 'b/c'"),
        ({"task": "arithmetic", "train_file": "a.jsonl"}, "use task=rows"),
        ({"dataset": "b/c", "eval_file": "a.jsonl", "eval_split": "test"}, "eval_file 'a.jsonl' and eval_split 'test'"),
        ({"epsilon": 0.3, "epsilon_high": 0.2}, "epsilon_high 0.2 is below epsilon 0.3"),
        ({"gradient_accumulation_steps": 100}, "64 completions"),
        ({"report_to": "mlflow"}, "report_to was given 'mlflow'"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line_with_the_allowed_ones(options, expected):
    assert expected in message(**options)


def test_several_wrong_values_are_reported_together():
    assert message(steps=0, top_p=2) == (
        "top_p was given 2: it should be less than or equal to 1; "
        "steps was given 0: it should be greater than or equal to 1"
    )


def test_a_long_warm_up_is_no_error():
    assert GRPOConfig(warmup_steps=100, steps=3).optimizer.warmup_steps == 100


def test_null_means_the_default_where_an_option_has_a_value():
    assert GRPOConfig(learning_rate=None, task=None, steps=None) == GRPOConfig()
    assert GRPOConfig(reward_timeout_s=None).rewards.reward_timeout_s is None


def test_choices_are_read_in_any_case_and_with_dashes():
    config = GRPOConfig(method="Dr-GRPO", dtype="BFloat16", answer_format="think-tags", advantage_scale="None")
    assert config.algorithm.method == "dr_grpo"
    assert config.policy.dtype == "bfloat16"
    assert config.data.answer_format == "think_tags"
    assert config.algorithm.advantage_scale == "none"
    assert GRPOConfig(method="my_package.losses:Mine").algorithm.method == "my_package.losses:Mine"


def test_options_without_effect_are_remarked_on():
    config = GRPOConfig(lora_alpha=16, reference_model="x", wandb_project="p", max_resamples=3)
    assert config.remarks() == [
        "lora_alpha has no effect: lora_rank is 0",
        "reference_model has no effect: beta is 0",
        "max_resamples has no effect: zero_variance_groups is skip",
        "wandb_project has no effect: wandb is false",
    ]
    assert GRPOConfig(lora_rank=8, lora_alpha=16, beta=0.1, reference_model="x").remarks() == []


def test_a_correction_of_the_sampler_has_an_effect_only_where_it_computes_otherwise() -> None:
    assert GRPOConfig(vllm_importance_sampling_cap=3).remarks() == [
        "sampler_correction has no effect: engine_dtype is null"
    ]
    config = GRPOConfig(engine_dtype="bfloat16", sampler_correction=None)
    assert config.remarks() == []
    assert GRPOConfig.from_yaml(config.to_yaml()).algorithm.sampler_correction is None


def test_a_path_is_taken_where_text_is_expected(tmp_path: Path) -> None:
    config = GRPOConfig(output_dir=tmp_path / "run", train_file=tmp_path / "rows.jsonl", task="rows")
    assert config.output.output_dir == str(tmp_path / "run")
    assert config.data.train_file == str(tmp_path / "rows.jsonl")
