"""`GRPOTrainer`: every kind of model, data and reward, under our names, TRL's and S4's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import datasets
import pytest
import torch
from short_runs import count_characters, lines_of, questions, quick, sums, write_lines
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from grpo import CheckpointError, ConfigError, DataError, GRPOConfig, GRPOTrainer, InputError, RunError
from grpo.config import load_config
from grpo.policy.tiny import TINY_DIRECTORY


def tiny_model():
    return AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)


def tiny_tokenizer():
    return AutoTokenizer.from_pretrained(TINY_DIRECTORY)


class PromptDataset(torch.utils.data.Dataset):
    """A data set such as users of S4 have."""

    def __init__(self, prompts):
        self.prompts = prompts

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, index):
        return {"prompt": self.prompts[index]}


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differs(first, second):
    return any(not torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def classifier(tmp_path):
    """A real sequence classifier with one label, saved with its tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(TINY_DIRECTORY, num_labels=1)
    model.save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier")


def test_a_configuration_may_name_the_model_and_the_rows():
    options = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "eval_prompts": 2, "output_dir": "a"}
    trainer = GRPOTrainer(config=GRPOConfig(model="tiny", task="arithmetic", **options))
    summary = trainer.train()
    assert summary["steps"] == 1
    assert Path(summary["final_model"]).samefile("a/final_model")
    assert summary["eval_before"]["prompts"] == summary["eval_after"]["prompts"] == 2


def test_rows_of_one_s_own_take_the_place_of_those_that_a_recipe_would_make():
    config = load_config("ctr-headlines", ["steps=1", "output_dir=run", "prompts_per_step=2", "group_size=2"])
    rows = ["Tell me a joke.", "Sing."]
    trainer = GRPOTrainer(config=config.replace(rewards=["think_xmlcount"]), train_dataset=rows)
    trainer.train()
    prompts = [str(line["prompt"]) for line in lines_of("run/completions.jsonl")]
    assert prompts
    assert all(any(row in prompt for row in rows) for prompt in prompts)


def test_a_model_in_memory_is_trained_in_place():
    model = tiny_model()
    before = weights_of(model)
    config = quick(learning_rate=1e-3, steps=2, group_size=4)
    trainer = GRPOTrainer(model, config, tokenizer=tiny_tokenizer(), train_dataset=sums(8), rewards=count_characters)
    assert trainer.model is model
    trainer.train()
    assert differs(before, weights_of(model))
    saved = AutoModelForCausalLM.from_pretrained("run/final_model").state_dict()
    assert not differs(saved, weights_of(model))


def test_a_model_in_memory_finds_the_tokenizer_of_the_name_it_was_loaded_by():
    trainer = GRPOTrainer(tiny_model(), quick(), train_dataset=sums(8))
    assert trainer.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


def test_a_model_in_memory_without_files_needs_a_tokenizer():
    model = tiny_model()
    model.config._name_or_path = ""
    with pytest.raises(InputError, match="no tokenizer"):
        GRPOTrainer(model, quick(), train_dataset=sums(8))


@pytest.mark.parametrize(
    "rows",
    [
        questions(4),
        [[{"role": "user", "content": question}] for question in questions(4)],
        [{"prompt": question, "topic": "sums"} for question in questions(4)],
        [{"prompt": [{"role": "user", "content": question}]} for question in questions(4)],
        datasets.Dataset.from_list([{"prompt": question} for question in questions(4)]),
        PromptDataset(questions(4)),
    ],
    ids=["strings", "message lists", "rows", "rows with messages", "datasets.Dataset", "torch Dataset"],
)
def test_data_may_be_any_of(rows):
    GRPOTrainer("tiny", quick(), train_dataset=rows, rewards=count_characters).train()
    logged = lines_of("run/completions.jsonl")
    assert len(logged) == 4
    prompts = {line["prompt"] if isinstance(line["prompt"], str) else line["prompt"][0]["content"] for line in logged}
    assert prompts <= set(questions(4))
    assert all(line["total"] is not None for line in logged)


def test_rows_with_answers_need_no_reward_and_are_judged():
    summary = GRPOTrainer("tiny", quick(), train_dataset=sums(8), eval_dataset=sums(20)[8:]).train()
    assert 0 <= summary["eval_after"]["accuracy"] <= 1
    assert "last_integer" in lines_of("run/completions.jsonl")[0]["rewards"]


def test_prompts_without_answers_call_for_a_reward():
    with pytest.raises(DataError, match=r"no reward was named.*'answer'.*rewards"):
        GRPOTrainer("tiny", quick(), train_dataset=questions(4))
    assert not Path("run").exists()


def test_data_and_names_may_be_given_as_on_the_command_line():
    write_lines("train.jsonl", sums(8))
    write_lines("eval.jsonl", sums(12)[8:])
    trainer = GRPOTrainer(
        "tiny",
        quick(),
        train_dataset="train.jsonl",
        eval_dataset="eval.jsonl",
        rewards=["last_integer", {"name": "int", "weight": 0.5, "reward": 2.0}],
    )
    trainer.train()
    # All of it has a name, so the run's configuration holds it.
    config = GRPOConfig.from_file("run/config.yaml")
    assert (config.data.train_file, config.data.eval_file) == (
        str(Path("train.jsonl").resolve()),
        str(Path("eval.jsonl").resolve()),
    )
    assert [function.name for function in config.rewards.functions] == ["last_integer", "int"]
    assert config.rewards.functions[1].parameters == {"reward": 2.0}


async def slow_reward(completions, **_):
    return [float(len(completion)) for completion in completions]


def test_functions_names_and_models_are_weighted_together(classifier):
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    GRPOTrainer(
        "tiny",
        quick(),
        train_dataset=sums(8),
        rewards=[count_characters, "last_integer", {"name": slow_reward, "weight": 3.0}, model],
        reward_weights=None,
    ).train()
    for line in lines_of("run/completions.jsonl"):
        assert list(line["rewards"]) == ["count_characters", "last_integer", "slow_reward", "classifier"]
        total = sum(value * (3.0 if name == "slow_reward" else 1.0) for name, value in line["rewards"].items())
        assert line["total"] == pytest.approx(total)


def test_weights_may_be_given_as_a_list():
    rewards = [count_characters, "last_integer"]
    GRPOTrainer("tiny", quick(), train_dataset=sums(8), rewards=rewards, reward_weights=[0.5, 2.0]).train()
    for line in lines_of("run/completions.jsonl"):
        count, last = line["rewards"].values()
        assert line["total"] == pytest.approx(0.5 * count + 2.0 * last)


def test_what_s4_documents_runs(classifier):
    # As in its README, but for the names of the models.
    model = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    ref_model = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    reward_model = AutoModelForSequenceClassification.from_pretrained(classifier, num_labels=1)
    config = GRPOConfig(
        batch_size=4,
        num_epochs=3,
        learning_rate=1e-6,
        num_generations_per_prompt=4,
        output_dir="./grpo_output",
        max_new_tokens=8,
        kl_coef=0.1,
    )
    trainer = GRPOTrainer(
        model=model,
        ref_model=ref_model,
        reward_model=reward_model,
        tokenizer=tokenizer,
        config=config,
        train_dataset=questions(4),
    )
    summary = trainer.train()
    assert summary["steps"] == 3
    assert all("kl" in line for line in lines_of("grpo_output/metrics.jsonl"))
    assert not differs(weights_of(ref_model), tiny_model().state_dict())


def test_the_policy_itself_is_refused_as_reward_model():
    model = tiny_model()
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM is not a reward model: give an AutoModelForSequenceCl"):
        GRPOTrainer(model, quick(), reward_model=model, tokenizer=tiny_tokenizer(), train_dataset=questions(4))


def test_a_reference_without_effect_is_remarked_on(caplog):
    GRPOTrainer("tiny", quick(), ref_model=tiny_model(), rewards=count_characters, train_dataset=questions(4))
    assert "reference_model has no effect: beta is 0" in caplog.text


def test_what_a_user_of_trl_writes_runs():
    def reward_num_unique_letters(completions, **kwargs):
        return [float(len(set(content))) for content in completions]

    dataset = datasets.Dataset.from_dict({"prompt": questions(6)})
    trainer = GRPOTrainer(
        model="tiny",
        reward_funcs=[reward_num_unique_letters],
        args=GRPOConfig(
            output_dir="run", max_steps=1, num_generations=2, batch_size=2, max_completion_length=8, loss_type="dapo"
        ),
        train_dataset=dataset,
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    for line in lines_of("run/completions.jsonl"):
        assert line["total"] == len(set(line["completion"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reward_funcs": count_characters, "rewards": count_characters}, "reward_funcs and rewards mean the same"),
        ({"args": GRPOConfig(), "config": GRPOConfig()}, "config and args mean the same"),
        ({"config": {"steps": 3}}, "config is a dict: give a grpo.GRPOConfig"),
        ({"config": GRPOConfig(model="other"), "model": "tiny"}, "model is 'tiny' for the trainer and 'other' in its"),
        ({"config": GRPOConfig(train_file="x.jsonl")}, "train_dataset and train_file both"),
        ({"config": GRPOConfig(task="arithmetic"), "train_dataset": ["a"]}, "task arithmetic makes its own rows"),
        ({"config": GRPOConfig(task="headlines"), "train_dataset": ["a"]}, "task headlines makes its own rows"),
        (
            {"config": load_config("finance-preferences"), "eval_dataset": ["a"], "train_dataset": None},
            "give train_dataset as well",
        ),
        ({"eval_dataset": sums(3), "train_dataset": None}, "no training rows were given"),
        ({"train_dataset": None}, "no training rows were given: GRPOTrainer(train_dataset=…) takes prompts, rows"),
        ({"model": None}, "no model was given: GRPOTrainer(model=…) takes a Hub id, a directory"),
        ({"config": GRPOConfig(model="tiny"), "model": None, "train_dataset": None}, "no training rows were given"),
        ({"config": GRPOConfig(rewards="int"), "rewards": count_characters}, "and named in its config"),
        ({"rewards": [count_characters], "reward_weights": [1, 2]}, "1 reward functions have 2 weights"),
        ({"train_dataset": []}, "the data set is empty"),
        ({"train_dataset": 7}, "data of type int"),
        ({"model": torch.nn.Linear(2, 2)}, "not Linear"),
        ({"rewards": 3}, "is not a reward function"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, said):
    with pytest.raises(InputError) as caught:
        GRPOTrainer(**{"model": "tiny", "train_dataset": sums(3), **arguments})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(Path.cwd().iterdir())


def test_gsm8k_rows_may_be_given_as_objects():
    rows = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(6)]
    trainer = GRPOTrainer("tiny", quick(task="gsm8k"), train_dataset=rows[:4], eval_dataset=rows[4:])
    assert trainer.train()["eval_after"]["prompts"] == 2
    assert lines_of("run/completions.jsonl")[0]["columns"]["answer"].isdigit()


def test_a_trainer_evaluates_generates_and_saves():
    trainer = GRPOTrainer("tiny", quick(temperature=0.5), train_dataset=sums(8), eval_dataset=sums(12)[8:])
    metrics = trainer.evaluate()
    assert metrics["prompts"] == 4
    texts = trainer.generate(["What is 2 + 3?", [{"role": "user", "content": "What is 4 + 4?"}]], num_completions=3)
    assert [len(answers) for answers in texts] == [3, 3]
    assert all(isinstance(text, str) for answers in texts for text in answers)
    assert trainer.generate("What is 2 + 3?", num_completions=3) == [texts[0]]
    trainer.save_model("saved")
    assert not Path("saved/training_state.pt").exists()
    assert not differs(AutoModelForCausalLM.from_pretrained("saved").state_dict(), weights_of(trainer.model))
    assert AutoTokenizer.from_pretrained("saved").chat_template
    assert not Path("run").exists()


def test_a_summary_has_the_keys_of_the_docstring():
    trainer = GRPOTrainer("tiny", quick(), train_dataset=sums(8), eval_dataset=sums(12)[8:])
    assert set(trainer.evaluate()) >= {"prompts", "samples_per_prompt", "reward", "rewards", "completion_length"}
    summary = trainer.train()
    assert all(f"`{key}`" in GRPOTrainer.train.__doc__ for key in summary)
    assert "reward_totals" not in summary


def test_evaluating_without_held_out_rows_says_what_to_give():
    trainer = GRPOTrainer("tiny", quick(), train_dataset=sums(8))
    with pytest.raises(DataError, match="give eval_file, or eval_size"):
        trainer.evaluate()


def test_a_run_from_python_goes_on_where_it_stopped_and_keeps_its_options():
    data = sums(12)
    options = {"learning_rate": 1e-3, "save_every": 1, "beta": 0.1}
    whole = GRPOTrainer(tiny_model(), quick(steps=4, output_dir="whole", **options), train_dataset=data)
    whole.train()

    GRPOTrainer(tiny_model(), quick(steps=2, output_dir="parts", **options), train_dataset=data).train()
    again = GRPOTrainer(tiny_model(), GRPOConfig(beta=0.1, steps=4), train_dataset=data)
    summary = again.train(resume_from="parts")
    assert summary["steps"] == 4
    assert again.config.optimizer.learning_rate == 1e-3
    assert not differs(weights_of(again.model), weights_of(whole.model))
    assert [line["step"] for line in lines_of("parts/metrics.jsonl")] == [1, 2, 3, 4]


def test_the_same_trainer_goes_on_with_the_reference_that_it_took_at_first():
    options = {"learning_rate": 1e-3, "beta": 0.5}
    given = {"train_dataset": questions(12), "rewards": count_characters}
    whole = GRPOTrainer(tiny_model(), quick(steps=3, output_dir="whole", **options), **given)
    whole.train()
    trainer = GRPOTrainer(tiny_model(), quick(steps=2, **options), **given)
    trainer.train()
    trainer.config = trainer.config.replace(steps=3)
    trainer.train(resume_from="run")
    kl = [[line["kl"] for line in lines_of(f"{run}/metrics.jsonl")] for run in ("whole", "run")]
    assert kl[0] == kl[1]
    assert kl[0][-1] > 0


def test_after_resuming_by_name_the_trainer_holds_the_trained_model():
    write_lines("train.jsonl", sums(8))
    GRPOTrainer("tiny", quick(learning_rate=1e-2), train_dataset="train.jsonl").train()
    trainer = GRPOTrainer("tiny", GRPOConfig(steps=2), train_dataset="train.jsonl")
    trainer.train(resume_from="run")
    saved = AutoModelForCausalLM.from_pretrained("run/final_model").state_dict()
    assert not differs(saved, weights_of(trainer.model))


def test_objects_that_a_run_began_with_are_asked_for_again(command):
    GRPOTrainer(tiny_model(), quick(), train_dataset=questions(4), rewards=count_characters).train()
    shown = command("train", "--resume", "run", "steps=2")
    assert shown.code == 2
    assert "model, train_dataset, rewards" in shown.err
    assert "GRPOTrainer(model=…, train_dataset=…, rewards=…).train(resume_from='run')" in shown.err
    with pytest.raises(ConfigError, match="cannot hold"):
        GRPOTrainer("tiny", quick(steps=2), train_dataset=sums(4)).train(resume_from="run")


def test_a_run_of_another_model_cannot_be_gone_on_with():
    GRPOTrainer("tiny", quick(lora_rank=2), train_dataset=sums(4)).train()
    with pytest.raises(ConfigError, match="lora_rank is 2 in this run and cannot become 4"):
        GRPOTrainer("tiny", GRPOConfig(lora_rank=4), train_dataset=sums(4)).train(resume_from="run")
    with pytest.raises(CheckpointError, match="no run at elsewhere"):
        GRPOTrainer("tiny", train_dataset=sums(4)).train(resume_from="elsewhere")


def test_after_an_interrupt_the_run_is_saved_and_the_program_is_told():
    def reward(completions, trainer_state, **_):
        if trainer_state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return [float(len(completion)) for completion in completions]

    trainer = GRPOTrainer("tiny", quick(steps=50), train_dataset=questions(4), rewards=reward)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(list(Path("run").glob("checkpoint-*"))) == 1
    assert not Path("run/final_model").exists()


def test_a_lack_of_memory_is_one_line_wherever_it_shows(monkeypatch):
    from grpo.assembly import api

    def without_memory(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    trainer = GRPOTrainer("tiny", quick(), train_dataset=questions(4), rewards=count_characters)
    for name, call in {
        "train_parts": trainer.train,
        "evaluate_parts": trainer.evaluate,
        "complete": lambda: trainer.generate(["hello"]),
        "assemble": lambda: GRPOTrainer("tiny", quick(), train_dataset=questions(4), rewards=count_characters),
    }.items():
        monkeypatch.setattr(api, name, without_memory)
        with pytest.raises(RunError, match="out of memory: take a smaller model"):
            call()


@pytest.mark.parametrize("named", ["train_dataset", "eval_dataset"])
def test_the_rows_in_memory_of_a_run_are_not_replaced_by_others_to_evaluate_on(command, named):
    own = {"eval_size": 4} if named == "train_dataset" else {"train_file": str(write_lines("rows.jsonl", sums(8)))}
    trainer = GRPOTrainer("tiny", quick(steps=1, rewards=["correctness"], **own), **{named: sums(12, seed=2)})
    trainer.train()
    for model in ("run", "run/final_model"):
        shown = command("eval", model)
        assert (shown.code, shown.out) == (2, "")
        assert shown.err == (
            "error: the run run was trained in Python on rows in memory, which are not stored with it: "
            "give eval_file=FILE with rows to evaluate on, or call trainer.evaluate() in the script that trained it\n"
        )
    assert "accuracy" in trainer.evaluate()
    write_lines("others.jsonl", sums(4, seed=1))
    assert command("eval", "run", "eval_file=others.jsonl").out.startswith("run (step 1): 4 prompts")
