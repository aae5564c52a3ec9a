"""Other projects' names for options."""

import pytest

from grpo.config import OPTIONS, GRPOConfig
from grpo.config.overrides import read_settings
from grpo.errors import ConfigError


def test_no_synonym_is_claimed_twice_or_is_an_option_itself():
    synonyms = [name for option in OPTIONS.values() for name in option.known("synonyms")]
    assert len(synonyms) > 40
    assert len(synonyms) == len(set(synonyms))
    assert not set(synonyms) & set(OPTIONS)


def test_a_field_speaks_of_options_and_values_that_there_are():
    for option in OPTIONS.values():
        for key in ("needs", "excludes", "displaces"):
            assert set(option.known(key)) <= set(OPTIONS), option.name
        # The values of a synonym, and other spellings, lead to a value that the option accepts.
        for spellings in (option.known("spellings"), *dict(option.known("synonyms")).values()):
            for value in set(spellings.values()) - {"vllm"}:
                assert GRPOConfig(**{option.name: value}).flat()[option.name] == value
        for other, values in dict(option.known("needs")).items():
            for value in values or ():
                assert GRPOConfig(**{other: value}).flat()[other] == value


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_generations": 4}, {"group_size": 4}),
        ({"num_generations_per_prompt": 4}, {"group_size": 4}),
        ({"GROUP_SIZE": 4, "GRPO_EPOCHS": 2, "KL_BETA": 0.04}, {"group_size": 4, "epochs_per_step": 2, "beta": 0.04}),
        ({"kl_coef": 0.1}, {"beta": 0.1}),
        ({"kl_coeff": 0.1}, {"beta": 0.1}),
        ({"num-iterations": 2}, {"epochs_per_step": 2}),
        ({"max_steps": 7}, {"steps": 7}),
        ({"num_train_steps": 7}, {"steps": 7}),
        ({"num_train_epochs": 2}, {"num_epochs": 2}),
        ({"max_new_tokens": 9}, {"max_completion_length": 9}),
        ({"clip_range": 0.1}, {"epsilon": 0.1}),
        ({"model_name": "m"}, {"model": "m"}),
        ({"model_id": "m"}, {"model": "m"}),
        ({"eval_steps": 1, "save_steps": 2, "logging_steps": 3}, {"eval_every": 1, "save_every": 2, "log_every": 3}),
        ({"use_wandb": True}, {"wandb": True}),
        ({"report_to": "wandb"}, {"wandb": True, "tensorboard": False}),
        ({"report_to": ["wandb", "tensorboard"]}, {"wandb": True, "tensorboard": True}),
        ({"report_to": "all"}, {"wandb": True, "tensorboard": True}),
        ({"report_to": "none"}, {"wandb": False, "tensorboard": False}),
        ({"loss_type": "dr_grpo"}, {"method": "dr_grpo"}),
        ({"scale_rewards": False}, {"advantage_scale": "none"}),
        ({"scale_rewards": True}, {"advantage_scale": "group"}),
        ({"scale_rewards": "batch"}, {"advantage_scale": "batch"}),
        ({"mask_truncated_completions": True}, {"truncated": "mask"}),
        ({"mask_truncated_completions": False}, {"truncated": "keep"}),
        ({"lr_scheduler_type": "constant_with_warmup"}, {"schedule": "constant"}),
        ({"bf16": True}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "torch.float32"}, {"dtype": "float32"}),
        ({"use_vllm": False}, {"engine": "native"}),
        ({"save_total_limit": 2}, {"keep_checkpoints": 2}),
        ({"rollout": {"num_generations": 4}}, {"group_size": 4}),
        ({"optimizer.lr": 0.1}, {"learning_rate": 0.1}),
        ({"Optimizer": {"LR": 0.1}}, {"learning_rate": 0.1}),
    ],
)
def test_names_of_other_projects_mean_ours(theirs, ours):
    assert read_settings(theirs) == ours
    assert GRPOConfig(**theirs) == GRPOConfig(**ours)


def test_two_names_of_one_option_may_agree_but_not_differ():
    assert read_settings({"group_size": 4, "num_generations": 4}) == {"group_size": 4}
    assert read_settings({"steps": None, "max_steps": 4}) == {"steps": 4}
    with pytest.raises(ConfigError, match=r"group_size and num_generations are one option.* 4 and 8"):
        read_settings({"group_size": 4, "num_generations": 8})
    with pytest.raises(ConfigError, match="one option"):
        read_settings({"steps": 4, "optimizer": {"max_steps": 8}})
    with pytest.raises(ConfigError, match="one option"):
        read_settings({"wandb": False, "report_to": "wandb"})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("lerning_rate", "learning_rate"), ("num_generation", "num_generations"), ("batchsize", "batch_size")],
)
def test_an_unknown_option_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"no option '{name}': did you mean .*\b{nearest}\b"):
        read_settings({name: 1})


def test_an_unknown_option_far_from_all_is_answered_with_where_to_look():
    with pytest.raises(ConfigError, match="grpo train --help"):
        read_settings({"zzzzzz": 1})


def test_an_option_in_the_wrong_section_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"write optimizer\.learning_rate, or just learning_rate"):
        read_settings({"rollout": {"learning_rate": 1}})


def test_a_misspelt_rewards_option_is_not_taken_for_a_reward_function():
    with pytest.raises(ConfigError, match="did you mean reward_timeout_s"):
        read_settings({"rewards": {"correctness": 1, "reward_timeout": 3}})


def test_a_name_whose_meaning_differs_between_versions_is_refused_with_what_to_say():
    with pytest.raises(ConfigError, match="say prompts_per_step"):
        read_settings({"per_device_train_batch_size": 8})


def test_errors_name_the_file():
    with pytest.raises(ConfigError, match=r"^my\.yaml: no option 'stepz'"):
        read_settings({"stepz": 1}, "my.yaml")


@pytest.mark.parametrize(
    ("options", "prompts", "accumulation"),
    [
        ({"batch_size": 4}, 4, 1),
        ({"batch_size": 4, "gradient_accumulation_steps": 4}, 16, 4),
        ({"prompts_per_step": 16, "gradient_accumulation_steps": 4}, 16, 4),
        ({"batch_size": 4, "gradient_accumulation_steps": 4, "prompts_per_step": 16}, 16, 4),
        ({"batch_size": "4"}, 4, 1),
    ],
)
def test_batch_size_times_accumulation_is_the_prompts_of_a_step(options, prompts, accumulation):
    config = GRPOConfig(**options)
    assert config.rollout.prompts_per_step == prompts
    assert config.optimizer.gradient_accumulation_steps == accumulation
    assert GRPOConfig.from_yaml(config.to_yaml()) == config
