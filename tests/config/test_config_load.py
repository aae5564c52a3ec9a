"""Recipes, files and overrides, one on top of the other."""

import shlex
from pathlib import Path

import pytest

from grpo import recipes
from grpo.config import GRPOConfig, load_config, load_model_config, parse_overrides, split_args
from grpo.config.layers import merge_layers
from grpo.config.yaml_text import dump_yaml, parse_yaml
from grpo.errors import ConfigError

S2_FILE = """
model_name: "tiny"
max_prompt_length: 64
max_completion_length: 32
train_file: data/math_tasks_train.jsonl
eval_file: data/math_tasks_eval.jsonl
num_train_steps: 200
eval_every: 20
save_every: 50
output_dir: checkpoints
group_size: 4
learning_rate: 1e-6
batch_size: 2
max_grad_norm: 1.0
gamma: 1.0
kl_coeff: 0.02
temperature: 0.7
top_p: 0.9
seed: 42
"""

S4_WORDS = shlex.split("""
    --model-name tiny --batch-size 4 --num-epochs 3 --learning-rate 1e-6 --num-generations 4 --max-new-tokens 64
    --kl-coef 0.1 --clip-range 0.2 --temperature 0.7 --gradient-accumulation-steps 4 --max-grad-norm 1.0
    --warmup-steps 100 --output-dir ./my_grpo_model --logging-steps 10 --save-steps 500 --use-wandb
    --wandb-project my-project --wandb-run-name grpo-experiment-1 --device cpu
""")


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="config.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_loads_and_round_trips(name):
    config = load_config(name)
    assert GRPOConfig.from_yaml(config.to_yaml()) == config
    assert config.remarks() == []
    assert recipes.summary(name)


def test_all_promised_recipes_are_shipped():
    learned = {"ctr-headlines", "finance-preferences", "reward-model"}
    assert set(recipes.names()) == {"arithmetic", "gsm8k", "code", "judge", *learned}


def test_nothing_named_is_the_arithmetic_recipe():
    assert load_config() == load_config("arithmetic")
    assert load_config().policy.model == "tiny"
    assert load_config(None, ["seed=3"]) == load_config("arithmetic", ["seed=3"])


def test_the_gsm8k_recipe_has_the_settings_it_is_known_for():
    config = load_config("gsm8k")
    assert config.policy.model == "Qwen/Qwen2.5-3B-Instruct"
    assert (config.policy.lora_rank, config.policy.lora_alpha) == (64, 64)
    assert (config.rollout.group_size, config.optimizer.learning_rate, config.optimizer.steps) == (8, 5e-6, 2000)
    assert (config.data.task, config.data.dataset) == ("gsm8k", "openai/gsm8k")
    names = [function.name for function in config.rewards.functions]
    assert names == ["xmlcount", "soft_format", "strict_format", "int", "correctness"]


def test_gsm8k_runs_on_the_embedded_model_and_a_local_file():
    config = load_config("gsm8k", ["model=tiny", "train_file=train.jsonl", "steps=3"])
    assert (config.policy.model, config.policy.lora_rank, config.optimizer.steps) == ("tiny", 64, 3)
    data = config.data
    assert (data.task, data.train_file, data.dataset, data.eval_split) == ("gsm8k", "train.jsonl", None, None)


def test_a_flat_file_of_another_project_loads_as_it_is(write):
    config = load_config(write(S2_FILE))
    assert config.policy.model == "tiny"
    assert (config.data.max_prompt_length, config.rollout.max_completion_length) == (64, 32)
    assert (config.data.train_file, config.data.eval_file) == (
        "data/math_tasks_train.jsonl",
        "data/math_tasks_eval.jsonl",
    )
    assert (config.optimizer.steps, config.optimizer.num_epochs) == (200, None)
    assert (config.output.eval_every, config.output.save_every, config.output.output_dir) == (20, 50, "checkpoints")
    assert (config.rollout.group_size, config.rollout.prompts_per_step) == (4, 2)
    assert config.optimizer.learning_rate == 1e-6
    assert (config.algorithm.gamma, config.algorithm.beta) == (1.0, 0.02)
    assert (config.rollout.temperature, config.rollout.top_p, config.optimizer.seed) == (0.7, 0.9, 42)
    assert (config.data.task, config.data.answer_format) == ("rows", "plain")
    assert [function.name for function in config.rewards.functions] == ["last_integer"]


def test_a_command_line_of_another_project_works_as_it_is():
    config = load_config(None, S4_WORDS)
    assert config.policy.model == "tiny"
    assert (config.optimizer.num_epochs, config.optimizer.steps) == (3, None)
    assert (config.rollout.prompts_per_step, config.optimizer.gradient_accumulation_steps) == (16, 4)
    assert (config.rollout.group_size, config.rollout.max_completion_length) == (4, 64)
    assert (config.algorithm.beta, config.algorithm.epsilon) == (0.1, 0.2)
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps) == (1e-6, 100)
    assert (config.output.log_every, config.output.save_every) == (10, 500)
    assert (config.output.wandb, config.output.wandb_project) == (True, "my-project")
    assert (config.output.wandb_run_name, config.policy.device) == ("grpo-experiment-1", "cpu")
    assert (config.rollout.temperature, config.output.output_dir) == (0.7, "./my_grpo_model")
    assert config.remarks() == []


def test_another_model_or_own_data_do_not_get_what_is_made_for_the_embedded_model():
    assert load_config(None, ["--model-name", "Qwen/Qwen3-0.6B"]).optimizer.learning_rate == 1e-6
    own = load_config(None, ["train_file=rows.jsonl"])
    assert own == GRPOConfig(train_file="rows.jsonl")


def test_a_file_starts_from_the_defaults_or_from_the_recipe_it_names(write):
    assert load_config(write("steps: 3")) == GRPOConfig(steps=3)
    assert load_config(write("recipe: arithmetic\nsteps: 3")) == load_config("arithmetic", ["steps=3"])
    assert load_config(write("")) == GRPOConfig()
    with pytest.raises(ConfigError, match=r"config\.yaml: no recipe 'arithmetics'"):
        load_config(write("recipe: arithmetics"))


def test_a_nested_file_and_a_flat_one_are_the_same(write):
    flat = load_config(write("learning_rate: 1e-4\nrewards: [accuracy]", "flat.yaml"))
    nested = load_config(write("optimizer: {learning_rate: 0.0001}\nrewards: {accuracy: 1}", "nested.yaml"))
    assert flat == nested


def test_overrides_win_over_the_file_and_keywords_over_both(write):
    path = write("seed: 1\ntop_p: 0.5\ntop_k: 5")
    config = load_config(path, ["seed=2", "top_p=0.6"], seed=3)
    assert (config.optimizer.seed, config.rollout.top_p, config.rollout.top_k) == (3, 0.6, 5)
    assert load_config(path, {"seed": 2}).optimizer.seed == 2


def test_a_higher_layer_takes_back_what_it_contradicts(write):
    path = write("steps: 60\nprompts_per_step: 16\nwarmup_steps: 5\ndataset: a/b\ndataset_config: c\neval_split: d")
    config = load_config(path, ["num_epochs=2", "batch_size=4", "warmup_ratio=0.1", "train_file=x.jsonl"])
    assert (config.optimizer.steps, config.optimizer.num_epochs) == (None, 2)
    assert config.rollout.prompts_per_step == 4
    assert (config.optimizer.warmup_steps, config.optimizer.warmup_ratio) == (0, 0.1)
    assert (config.data.dataset, config.data.dataset_config, config.data.eval_split) == (None, None, None)


def test_batch_size_is_multiplied_after_all_layers_are_merged(write):
    path = write("batch_size: 4")
    assert load_config(path, ["gradient_accumulation_steps=8"]).rollout.prompts_per_step == 32
    resolved = write(load_config(path).to_yaml(), "resolved.yaml")
    assert load_config(resolved, ["gradient_accumulation_steps=2"]).rollout.prompts_per_step == 4


def test_contradictions_in_one_layer_are_errors(write):
    with pytest.raises(ConfigError, match="steps 1 and num_epochs 2"):
        load_config(write("steps: 1\nnum_epochs: 2"))
    with pytest.raises(ConfigError, match="steps and max_steps are one option"):
        load_config(None, ["steps=1", "--max-steps", "2"])


def test_single_rewards_change_in_what_lies_below(write):
    path = write("rewards: {correctness: 1, strict_format: 0.5}")
    config = load_config(path, ["rewards.correctness=2", "--rewards.reasoning_length", "0.1"])
    assert [(function.name, function.weight) for function in config.rewards.functions] == [
        ("correctness", 2.0),
        ("strict_format", 0.5),
        ("reasoning_length", 0.1),
    ]
    assert [function.name for function in load_config(path, ["rewards=accuracy"]).rewards.functions] == ["accuracy"]


def test_layers_keep_single_reward_changes_unless_the_list_is_replaced():
    changed = {"rewards.a": {"weight": 2}}
    assert merge_layers([{"rewards": ["a"]}, changed])["rewards.a"] == {"weight": 2}
    assert merge_layers([changed, {"rewards.a": {"x": 1}}])["rewards.a"] == {"weight": 2, "x": 1}
    assert merge_layers([changed, {"rewards": ["b"]}]) == {"rewards": ["b"]}
    assert merge_layers([changed, {"reward_weights": [1]}]) == {"reward_weights": [1]}


def test_a_resolved_config_takes_overrides_again(write):
    path = write(load_config("arithmetic").to_yaml())
    again = load_config(path, ["steps=200"])
    assert again == load_config("arithmetic", ["steps=200"])


@pytest.mark.parametrize(
    ("args", "settings"),
    [
        (["learning_rate=1e-6"], {"learning_rate": 1e-6}),
        (["--learning-rate", "1e-6"], {"learning_rate": 1e-6}),
        (["--learning_rate=1E-6"], {"learning_rate": 1e-6}),
        (["--optimizer.learning-rate", "3"], {"learning_rate": 3}),
        (["--shuffle"], {"shuffle": True}),
        (["--shuffle", "no"], {"shuffle": False}),
        (["--no-shuffle"], {"shuffle": False}),
        (["--no-use-wandb"], {"wandb": False}),
        (["--use-wandb", "--seed", "3"], {"wandb": True, "seed": 3}),
        (["--mask-truncated-completions"], {"truncated": "mask"}),
        (["--bf16"], {"dtype": "bfloat16"}),
        (["scale_rewards=false"], {"advantage_scale": "none"}),
        (["advantage_scale=none"], {"advantage_scale": "none"}),
        (["scale_rewards=none"], {"advantage_scale": "none"}),
        (["report_to=none"], {"wandb": False, "tensorboard": False}),
        (["epsilon=none"], {"epsilon": None}),
        (["run_name=007"], {"run_name": "007"}),
        (["system_prompt=Answer: [x] = 1"], {"system_prompt": "Answer: [x] = 1"}),
        (["--min-p", "0.1"], {"min_p": 0.1}),
        (["rewards=a,b.c:d"], {"rewards": "a,b.c:d"}),
        (["rewards=[{name: a, weight: 2}]"], {"rewards": [{"name": "a", "weight": 2}]}),
        (["rewards.file.py:f=2.5"], {"rewards.file.py:f": {"weight": 2.5}}),
        (["rewards.My_Name.some_path=x"], {"rewards.My_Name": {"some_path": "x"}}),
        (["reward_weights=1,2"], {"reward_weights": "1,2"}),
        (["seed=1", "seed=2"], {"seed": 2}),
        (["operators=-"], {"operators": "-"}),
    ],
)
def test_command_line_arguments_are_read(args, settings):
    assert parse_overrides(args) == settings


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--learning-rate"], "--learning-rate needs a value"),
        (["--learning-rate", "--seed", "1"], "--learning-rate needs a value"),
        (["--lerning-rate", "1"], "did you mean learning_rate"),
        (["lerning_rate=1"], "did you mean learning_rate"),
        (["--no-learning-rate"], "no option"),
        (["word"], "'word' sets no option"),
        (["policy=3"], "^policy is a section of options, such as model"),
        (["seed=1", "optimizer.seed=2"], r"^seed and optimizer\.seed are one option"),
        (["steps=[1"], "not valid YAML"),
    ],
)
def test_bad_command_line_arguments_are_refused_with_a_reason(args, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_overrides(args)


def test_arguments_that_set_no_option_are_left_for_the_command():
    assert split_args(["a b?", "seed=1", "--", "seed=2", "--x"]) == (["a b?", "seed=2", "--x"], ["seed=1"])


def test_weights_on_the_command_line_are_a_list():
    config = load_config(None, ["rewards=a,b", "reward_weights=1,0.5"])
    assert [function.weight for function in config.rewards.functions] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("arithmetc", "did you mean arithmetic?"),
        ("conifg.yaml", r"did you mean config\.yaml\?"),
        ("nowhere/x.yaml", "no recipe or file"),
        ("zzz", "recipes are arithmetic"),
        (".", "is a directory"),
    ],
)
def test_a_source_that_does_not_exist_is_answered_with_the_nearest(write, source, expected):
    write("")
    with pytest.raises(ConfigError, match=expected):
        load_config(source)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 3\nseed: [", r"config\.yaml, line \d: not valid YAML"),
        ("seed: 1\nsteps: 2\nseed: 3", r"config\.yaml, line 3: .*'seed' is there twice"),
        ("- a", "is not a configuration"),
        ("just text", "is not a configuration"),
        ("stepz: 1", r"config\.yaml: no option 'stepz': did you mean steps"),
        ("GROUP_SIZE: 4\nnum_generations: 8", r"config\.yaml: GROUP_SIZE and num_generations are one option"),
        ("steps: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(write, text, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(write(text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


@pytest.mark.parametrize(
    "value",
    [
        "1e-6",
        "1.5",
        "007",
        "10",
        "null",
        "no",
        "2026-01-01",
        "12:30",
        "",
        " x ",
        "a\nb\n",
        "a: b",
        "=",
        "é\t\x07",
        "+-",
    ],
)
def test_text_survives_yaml(value):
    assert parse_yaml(dump_yaml({"value": value})) == {"value": value}


@pytest.mark.parametrize("value", [1e-6, 1e-300, 0.1, 1e22, -3, 0, 12345678901234567890, True, None, [1, [2.0, "3"]]])
def test_numbers_survive_yaml(value):
    again = parse_yaml(dump_yaml({"value": value}))["value"]
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("spelling", ["1e-6", "1E-6", "1.0e-06", "+1e-6", ".000001", "0.000_001"])
def test_small_numbers_are_numbers_in_yaml(spelling):
    assert parse_yaml(f"x: {spelling}") == {"x": 1e-6}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = Path("runs/first")
    (directory / "final_model").mkdir(parents=True)
    config = load_config("arithmetic", ["temperature=0.5", "lora_rank=4", "tokenizer=other"])
    (directory / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    Path("runs/latest").symlink_to("first")
    return directory


@pytest.mark.parametrize("named", ["runs/first", "runs/latest", "runs/first/final_model", None])
def test_a_trained_model_is_used_as_its_run_was(run, named):
    config = load_model_config(named, None, ["top_k=5"])
    assert Path(config.policy.model) == (run / "final_model" if named and "final" in named else run)
    assert (config.rollout.temperature, config.rollout.top_k) == (0.5, 5)
    assert (config.policy.lora_rank, config.policy.tokenizer) == (0, None)


def test_a_trained_model_is_used_on_another_task(run):
    config = load_model_config("runs/first", "gsm8k", ["train_file=x.jsonl"])
    assert (config.data.task, config.policy.model) == ("gsm8k", str(run))
    rows = load_model_config("runs/first", None, ["eval_file=rows.jsonl"])
    assert (rows.data.task, rows.data.answer_format) == ("rows", "answer_tags")


def test_a_model_without_a_run_gets_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model_config(None).flat() == {**load_config().flat()}
    other = load_model_config("Qwen/Qwen3-0.6B")
    assert (other.data.task, other.rollout.max_completion_length) == ("arithmetic", 256)
    assert load_model_config("Qwen/Qwen3-0.6B", needs_task=False).data.answer_format == "plain"
    assert load_model_config("tiny", None, ["eval_file=x.jsonl"]).data.task == "rows"
