"""A user's own rewards in whole runs: written for TRL, in files and modules; and what becomes of those that fail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from short_runs import WORDS, lines_of, questions, quick, sums, write_lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from grpo import GRPOTrainer, RewardError
from grpo.policy.tiny import TINY_DIRECTORY

# As TRL's documentation writes reward functions: for texts, for messages, with a column, with None.
WRITTEN_FOR_TRL = '''\
import re


def reward_len(completions, **kwargs):
    """Reward function that gives higher scores to longer completions."""
    return [float(len(completion)) for completion in completions]


def format_reward_func(completions, **kwargs):
    """Reward function that checks if the completion has a specific format."""
    pattern = r"^<reasoning>.*?</reasoning><answer>.*?</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]


def reward_func(completions, ground_truth, **kwargs):
    contents = [str(completion) for completion in completions]
    return [1.0 if gt in c else 0.0 for c, gt in zip(contents, ground_truth)]


def math_reward_func(prompts, completions, task, **kwargs):
    rewards = []
    for prompt, completion, t in zip(prompts, completions, task):
        rewards.append(1.0 if t == "math" and any(c.isdigit() for c in completion) else 0.0 if t == "math" else None)
    return rewards


def coding_reward_func(prompts, completions, task, **kwargs):
    return [0.5 if t == "coding" else None for t in task]


async def async_reward_func(prompts, completions, completion_ids, trainer_state, **kwargs):
    assert len(prompts) == len(completions) == len(completion_ids)
    return [float(trainer_state.global_step) for _ in completions]


def logged_reward(completions, log_extra=None, log_metric=None, **kwargs):
    log_extra("letters", [len(c) for c in completions])
    log_metric("mean_letters", sum(len(c) for c in completions) / len(completions))
    return [0.0 for _ in completions]
'''


@pytest.fixture
def rows():
    Path("trl_rewards.py").write_text(WRITTEN_FOR_TRL)
    rows = [
        {**row, "ground_truth": row["answer"], "task": "math" if n % 2 else "coding"} for n, row in enumerate(sums(8))
    ]
    return write_lines("rows.jsonl", rows)


@pytest.mark.parametrize("place", ["trl_rewards.py", "./trl_rewards.py", "trl_rewards"])
def test_functions_written_for_trl_run_unchanged(train, rows, place):
    names = [
        "reward_len",
        "reward_func",
        "math_reward_func",
        "coding_reward_func",
        "async_reward_func",
        "logged_reward",
    ]
    run = train("train_file=rows.jsonl", f"rewards={','.join(f'{place}:{name}' for name in names)}", "steps=2")
    lines = lines_of(run / "completions.jsonl")
    assert len(lines) == 8
    for line in lines:
        rewards = line["rewards"]
        assert list(rewards) == names
        assert rewards["reward_len"] == len(line["completion"])
        assert (rewards["math_reward_func"] is None) == (line["columns"]["task"] == "coding")
        assert (rewards["coding_reward_func"] is None) == (line["columns"]["task"] == "math")
        assert line["total"] == sum(value for value in rewards.values() if value is not None)
        assert line["letters"] == len(line["completion"])
    metrics = lines_of(run / "metrics.jsonl")
    assert metrics[0]["user/mean_letters"] == pytest.approx(sum(line["letters"] for line in lines[:4]) / 4)
    assert all(line["rewards/failed_completions"] == 0 for line in metrics)


def test_functions_for_messages_get_messages(train, rows):
    messages = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in sums(4)]
    write_lines("chat.jsonl", messages)
    run = train("train_file=chat.jsonl", "rewards=trl_rewards.py:format_reward_func", "answer_format=answer_tags")
    assert {line["total"] for line in lines_of(run / "completions.jsonl")} <= {0.0, 1.0}


def test_a_classifier_in_a_folder_is_a_reward(train):
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(TINY_DIRECTORY, num_labels=1).save_pretrained("judge")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained("judge")
    write_lines("rows.jsonl", [{"prompt": question} for question in questions(4)])
    run = train("train_file=rows.jsonl", "rewards={./judge: 2.0}")
    for line in lines_of(run / "completions.jsonl"):
        assert line["total"] == pytest.approx(2.0 * line["rewards"]["judge"])


def failing(how):
    """Return a reward that fails for the completions of every other prompt."""

    def reward(prompts, completions, **_):
        values = [float(len(completion)) for completion in completions]
        for place, prompt in enumerate(prompts):
            if prompt in questions(4)[::2]:
                values[place] = how(values[place])
        return values

    return reward


@pytest.mark.parametrize(("value", "said"), [(math.nan, "NaN"), (math.inf, "inf"), ("text", "not a number")])
def test_a_value_that_is_no_number_fails_that_completion_only(value, said):
    reward = failing(lambda number: value)
    options = {"max_failed_share": 1.0, "steps": 4, "prompts_per_step": 2, "shuffle": False}
    GRPOTrainer("tiny", quick(**options), train_dataset=questions(4), rewards=reward).train()
    lines = lines_of("run/completions.jsonl")
    bad = [line for line in lines if line["prompt"] in questions(4)[::2]]
    good = [line for line in lines if line["prompt"] not in questions(4)[::2]]
    assert bad
    assert good
    for line in bad:
        assert line["rewards"]["reward"] is None
        assert line["total"] is None
        assert line["advantage"] == 0
        assert said.lower() in line["failures"]["reward"].lower()
    assert all("failures" not in line and line["total"] is not None for line in good)
    for step, metrics in enumerate(lines_of("run/metrics.jsonl"), start=1):
        count = sum(line["step"] == step for line in bad)
        assert metrics["rewards/failed_completions"] == metrics["rewards/reward/failed"] == count


def test_a_failed_completion_is_left_out_of_its_group_s_baseline():
    def reward(completions, **_):
        return [1.0, 3.0, math.nan, 2.0][: len(completions)]

    options = {"prompts_per_step": 1, "group_size": 4, "method": "dr_grpo"}
    GRPOTrainer("tiny", quick(**options), train_dataset=questions(4), rewards=reward).train()
    lines = lines_of("run/completions.jsonl")
    assert [line["advantage"] for line in lines] == pytest.approx([-1.0, 1.0, 0.0, 0.0])
    assert [line["total"] for line in lines] == [1.0, 3.0, None, 2.0]


def raises(completions, **_):
    raise ZeroDivisionError("by nothing")


def wrong_length(completions, **_):
    return [1.0]


def hangs(completions, **_):
    import time

    time.sleep(30)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (raises, "ZeroDivisionError: by nothing"),
        (wrong_length, "4 completions"),
        (hangs, "TimeoutError: no result within 0.2 s"),
    ],
)
def test_a_function_that_fails_as_a_whole_is_counted_and_shown(reward, said):
    options = {"max_failed_share": 1.0, "reward_timeout_s": 0.2}
    GRPOTrainer("tiny", quick(**options), train_dataset=sums(4), rewards=["last_integer", reward]).train()
    for line in lines_of("run/completions.jsonl"):
        assert line["rewards"][reward.__name__] is None
        assert line["rewards"]["last_integer"] is not None
        assert line["total"] is None
        assert said in line["failures"][reward.__name__]
    (metrics,) = lines_of("run/metrics.jsonl")
    assert metrics[f"rewards/{reward.__name__}/failed"] == 4
    assert metrics["rewards/failed_completions"] == 4


def test_more_failures_than_allowed_stop_the_run_with_the_exception(command, rows):
    Path("mine.py").write_text("def broken(completions, **_):\n    return [1 / 0 for _ in completions]\n")
    words = ["train_file=rows.jsonl", "rewards=mine.py:broken", "output_dir=run"]
    shown = command("train", *WORDS, *words)
    assert shown.code == 1
    assert shown.err.count("\n") == 1
    assert "4 of 4 completions after 0 steps have no valid reward, max_failed_share=0.5 allows fewer" in shown.err
    assert "ZeroDivisionError: division by zero (at " in shown.err
    assert "mine.py:2" in shown.err


def test_the_exception_that_stops_a_run_is_the_cause():
    with pytest.raises(RewardError) as caught:
        GRPOTrainer("tiny", quick(), train_dataset=questions(4), rewards=raises).train()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_was_saved_before_a_run_is_stopped_by_its_rewards_goes_on(command):
    # The reward breaks at the third step, is mended, and the run goes on as if nothing had happened.
    body = "def mine(completions, trainer_state, **_):\n    {}\n    return [float(len(c)) for c in completions]\n"
    write_lines("rows.jsonl", sums(8))
    words = ["train_file=rows.jsonl", "rewards=mine.py:mine", "steps=4", "save_every=1"]
    Path("mine.py").write_text(body.format("assert trainer_state.global_step < 3, 'too far'"))
    shown = command("train", *WORDS, *words, "output_dir=run")
    assert shown.code == 1
    assert "too far" in shown.err
    Path("mine.py").write_text(body.format("pass"))
    shown = command("train", "--resume", "run")
    assert shown.code == 0, shown.err
    assert [line["step"] for line in lines_of("run/metrics.jsonl")] == [1, 2, 3, 4]


def test_own_rows_with_text_answers_get_a_reward_that_compares_texts(command):
    capitals = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima"}
    write_lines("rows.jsonl", [{"prompt": f"Capital of {name}?", "answer": city} for name, city in capitals.items()])
    shown = command("train", *WORDS, "train_file=rows.jsonl", "eval_size=1", "output_dir=run")
    assert (shown.code, shown.err) == (0, "")
    assert "no reward was named: accuracy compares completions with the column answer" in " ".join(shown.out.split())
    assert "name: accuracy" in Path("run/config.yaml").read_text()
    assert all(line["rewards"] == {"accuracy": 0.0} for line in lines_of("run/completions.jsonl"))


def test_own_rows_with_whole_numbers_keep_the_reward_for_them(train):
    write_lines("rows.jsonl", [{"prompt": f"{number} + 1 =", "answer": number + 1} for number in range(6)])
    run = train("train_file=rows.jsonl", "eval_size=1")
    assert "name: last_integer" in (run / "config.yaml").read_text()
