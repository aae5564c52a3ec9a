from __future__ import annotations

import asyncio
import random
import threading
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from grpo.errors import ConfigError, DataError, RewardError
from grpo.rewards import RewardSuite, TrainerState, resolve_rewards, reward_function

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4?"}]


def suite(*functions, **options):
    return RewardSuite(resolve_rewards(list(functions)), **options)


def score(suite, groups, texts, **options):
    return suite.score(groups, texts, **{"step": 0, "max_steps": 10, **options})


def zeros(completions):
    return [0.0] * len(completions)


def scores_of(result):
    return [rollout.score for group in result.groups for rollout in group.rollouts]


def totals(result):
    return [one.total for one in scores_of(result)]


def test_a_function_written_for_trl_sees_what_trl_gives(group):
    seen = {}

    def reward(prompts, completions, completion_ids, answer, **kwargs):
        seen.update(locals())
        return [float(len(completion[0]["content"])) for completion in completions]

    groups = [group(CHAT, [2, 3], {"answer": "7", "level": 1}), group(CHAT, [1, 4], {"answer": "8", "level": 2})]
    result = score(suite(reward), groups, ["a", "bb", "ccc", "dddd"], step=3, max_steps=9, epoch=0.5)
    assert totals(result) == [1.0, 2.0, 3.0, 4.0]
    assert seen["prompts"] == [CHAT] * 4
    assert seen["completions"][1] == [{"role": "assistant", "content": "bb"}]
    assert seen["completion_ids"] == [[10, 11], [10, 11, 12], [10], [10, 11, 12, 13]]
    assert seen["answer"] == ["7", "7", "8", "8"]
    assert sorted(seen["kwargs"]) == ["level", "log_extra", "log_metric", "trainer_state"]
    assert seen["kwargs"]["level"] == [1, 1, 2, 2]
    assert seen["kwargs"]["trainer_state"] == TrainerState(global_step=3, max_steps=9, epoch=0.5)


def test_a_plain_prompt_gives_strings(group):
    seen = {}

    def reward(prompts, completions):
        seen.update(locals())
        return [1.0, 2.0]

    score(suite(reward), [group("3 + 4?", [1, 1])], ["7", "8"])
    assert seen["prompts"] == ["3 + 4?"] * 2
    assert seen["completions"] == ["7", "8"]


def test_a_function_gets_only_the_arguments_it_names(group):
    def only_completions(completions):
        return [1.0] * len(completions)

    def only_answer(answer):
        return [float(one) for one in answer]

    result = score(suite(only_completions, only_answer), [group(CHAT, [1, 1], {"answer": "7", "x": 0})], ["a", "b"])
    assert totals(result) == [8.0, 8.0]


def test_a_column_named_like_an_argument_of_trl_or_like_an_option_of_a_built_in_replaces_neither(group):
    columns = {
        "completions": "no",
        "prompt": "no",
        "format": "plain",
        "reward": -9.0,
        "correct_reward": -9.0,
        "answer": 7,
    }
    seen = {}

    def reward(completions, **others):
        seen.update(others)
        return [0.0] * len(completions)

    text = "<reasoning>so</reasoning><answer>7</answer>"
    result = score(suite(reward, "strict_format", "correctness"), [group("x", [1, 1], columns)], [text, "no"])
    assert totals(result) == [2.5, 0.0]
    assert sorted(set(seen) & set(columns)) == ["answer", "correct_reward", "format", "reward"]
    assert seen["prompts"] == ["x", "x"]


def test_a_parameter_that_was_set_is_not_replaced_by_a_column(group):
    def reward(completions, scale, **_):
        return [scale] * len(completions)

    result = score(suite({"name": reward, "scale": 3.0}), [group("x", [1, 1], {"scale": 8.0})], ["a", "b"])
    assert totals(result) == [3.0, 3.0]


def test_a_column_that_some_rows_lack_is_none_there(group):
    def reward(completions, level):
        return [-1.0 if one is None else one for one in level]

    result = score(suite(reward), [group("x", [1, 1], {"level": 2.0}), group("y", [1, 1])], list("abcd"))
    assert totals(result) == [2.0, 2.0, -1.0, -1.0]


def test_async_functions_run_beside_each_other_and_beside_the_others(group):
    """Each of the three waits for the two others: one after another they could never finish."""
    arrived = [threading.Event() for _ in range(3)]

    async def meet(own):
        arrived[own].set()
        while not all(event.is_set() for event in arrived):
            await asyncio.sleep(0.001)
        return [float(own), float(own)]

    async def first(completions, **kwargs):
        return await meet(0)

    async def second(completions):
        return await meet(1)

    def third(completions):
        arrived[2].set()
        return [10.0, 10.0] if all(event.wait(10) for event in arrived) else [0.0, 0.0]

    result = score(suite(first, third, second, timeout_s=30), [group("x", [1, 1])], ["a", "b"])
    assert totals(result) == [11.0, 11.0]


def test_async_functions_keep_their_event_loop_from_step_to_step(group):
    loops = []

    async def reward(completions):
        loops.append(asyncio.get_running_loop())
        return [1.0]

    one = suite(reward)
    for _ in range(2):
        score(one, [group("x", [1])], ["a"])
    assert loops[0] is loops[1]


def test_sync_functions_run_one_after_another_in_the_order_given(group):
    """So functions that draw from the global generators give the same in every run."""

    def draws(completions):
        return [random.random() for _ in completions]

    def draws_too(completions):
        return [random.random() for _ in completions]

    runs = []
    for _ in range(2):
        random.seed(5)
        runs.append(totals(score(suite(draws, draws_too), [group("x", [1, 1, 1])], ["a", "b", "c"])))
    random.seed(5)
    expected = [random.random() for _ in range(6)]
    assert runs[0] == runs[1] == [expected[index] + expected[index + 3] for index in range(3)]


def test_scoring_draws_nothing_from_the_global_generators(group):
    random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), torch.get_rng_state())
    score(suite("strict_format", "reasoning_length"), [group("x", [1, 1])], ["a", "b"])
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_function_that_changes_its_arguments_changes_nobody_elses(group):
    def vandal(prompts, completions, completion_ids, answer):
        prompts[0].clear()
        completions[0][0]["content"] = "spoilt"
        completion_ids[0].clear()
        answer[0] = "spoilt"
        return [0.0, 0.0]

    def honest(prompts, completions, completion_ids, answer):
        untouched = prompts[0] == given.prompt.raw == CHAT and completions[0][0]["content"] == "a"
        return [float(untouched and completion_ids[0] == [10, 11] and answer[0] == "7")] * 2

    given = group(list(CHAT), [2, 2], {"answer": "7"})
    assert totals(score(suite(vandal, honest), [given], ["a", "b"])) == [1.0, 1.0]


@pytest.mark.parametrize(
    "returned",
    [
        [1.0, 0.0, None],
        (1, 0, None),
        [True, False, None],
        [np.float32(1.0), np.int64(0), None],
        [torch.tensor(1.0), torch.tensor(0), None],
        np.array([1.0, 0.0, None], dtype=object),
        iter([1.0, 0.0, None]),
    ],
)
def test_rewards_are_read_from_whatever_holds_them(group, returned):
    result = score(suite(lambda completions: returned), [group("x", [1, 1, 1])], ["a", "b", "c"], step=0)
    assert [one.rewards["lambda"] for one in scores_of(result)] == [1.0, 0.0, None]


@pytest.mark.parametrize("returned", [torch.tensor([1.0, 0.5], requires_grad=True), np.array([1.0, 0.5])])
def test_tensors_and_arrays_are_rewards(group, returned):
    result = score(suite(lambda completions: returned), [group("x", [1, 1])], ["a", "b"])
    assert totals(result) == [1.0, 0.5]
    assert all(type(total) is float for total in totals(result))


def test_the_total_is_the_weighted_sum_of_what_applies(group):
    def first(completions):
        return [1.0, None, None, 4.0]

    def second(completions):
        return [10.0, 20.0, None, None]

    specs = [{"name": first, "weight": 2.0}, {"name": second, "weight": 0.5}]
    result = score(suite(*specs), [group("x", [1, 1, 1, 1])], list("abcd"))
    assert totals(result) == [7.0, 10.0, None, 8.0]
    assert scores_of(result)[1].rewards == {"first": None, "second": 20.0}
    assert scores_of(result)[1].failures == {}
    assert scores_of(result)[2].failures == {}
    assert [one.is_unscored for one in scores_of(result)] == [False, False, True, False]
    assert (result.metrics["rewards/unscored"], result.metrics["rewards/failed_completions"]) == (1.0, 0.0)


def test_none_from_every_reward_is_never_a_failure_and_is_said_once(group, caplog):
    def absent(completions):
        return [None] * len(completions)

    one = RewardSuite(resolve_rewards([absent]), max_failed_share=0.0)
    for step in range(2):
        result = one.score([group("x", [1, 1])], ["a", "b"], step=step, max_steps=2)
        assert totals(result) == [None, None]
        assert result.metrics["rewards/unscored"] == 2.0
    assert caplog.text.count("no reward applies to any of 2 completions") == 1


def test_a_weight_of_zero_logs_without_counting(group):
    result = score(suite({"name": "xmlcount", "weight": 0.0}), [group("x", [1])], ["<reasoning>"])
    assert totals(result) == [0.0]
    assert result.metrics["rewards/xmlcount/mean"] == 0.125


def test_token_rewards_are_weighted_and_added_token_by_token_and_kept_out_of_the_total(group):
    def process(completions, completion_ids):
        return [[1.0, None, 3.0], None, 5.0]

    def process_too(completions):
        return [(None, None, 1.0), torch.tensor([1.0, 2.0]), None]

    specs = [{"name": process, "weight": 2.0}, {"name": process_too, "weight": 10.0}, lambda completions: [7, 7, 7]]
    result = score(suite(*specs), [group("x", [3, 2, 1])], ["a", "b", "c"])
    first, second, third = scores_of(result)
    assert first.token_rewards == (2.0, None, 16.0)
    assert second.token_rewards == (10.0, 20.0)
    assert third.token_rewards is None
    assert [first.total, second.total, third.total] == [7.0, 7.0, 17.0]
    assert first.rewards == {"process": 4.0, "process_too": 1.0, "lambda": 7.0}


def test_token_rewards_alone_are_a_reward(group):
    result = score(suite(lambda completions: [[1.0, 2.0], [None, None]]), [group("x", [2, 2])], ["a", "b"], step=0)
    first, second = scores_of(result)
    assert (first.total, first.token_rewards, first.failures) == (0.0, (1.0, 2.0), {})
    assert second.total is None
    assert second.is_unscored


def test_metrics_are_means_deviations_and_counts_of_what_has_a_number(group):
    def half(completions):
        return [1.0, 3.0, None, float("nan")]

    result = score(suite(half), [group("x", [1, 1, 1, 1])], list("abcd"))
    assert result.metrics["rewards/half/mean"] == 2.0
    assert result.metrics["rewards/half/std"] == pytest.approx(2.0**0.5)
    assert result.metrics["rewards/half/failed"] == 1.0
    assert result.metrics["rewards/failed_completions"] == 1.0
    assert result.metrics["rewards/unscored"] == 1.0
    assert result.metrics["rewards/half/seconds"] >= 0.0


def test_what_functions_log_comes_back_with_the_scores(group):
    def reward(completions, log_extra, log_metric):
        log_extra("length", [len(text) for text in completions])
        log_metric("lengths/longest", 3)
        log_metric("lengths/longest", 5)
        log_metric("broken", float("nan"))
        return [0.0, 0.0]

    async def other(completions, **kwargs):
        kwargs["log_extra"]("length", ["x", "y"])
        return [0.0, 0.0]

    result = score(suite(reward, other), [group("x", [1, 1])], ["a", "bb"])
    logged = [scored.logged for group in result.groups for scored in group.rollouts]
    assert logged == [{"length": 1, "other/length": "x"}, {"length": 2, "other/length": "y"}]
    assert result.metrics["user/lengths/longest"] == 4.0
    assert "user/broken" not in result.metrics


def test_a_logged_column_of_the_wrong_length_is_left_out_and_said_once(group, caplog):
    def reward(completions, log_extra):
        log_extra("short", [1])
        return [0.0, 0.0]

    one = suite(reward)
    for _ in range(2):
        result = score(one, [group("x", [1, 1])], ["a", "b"])
    assert not any(scored.logged for group in result.groups for scored in group.rollouts)
    assert totals(result) == [0.0, 0.0]
    assert caplog.text.count("logged 1 values in column 'short' for 2 completions") == 1


def test_groups_and_texts_come_back_as_they_were(group):
    groups = [group("x", [1, 2]), group("y", [3, 4])]
    result = score(suite("xmlcount"), groups, list("abcd"))
    assert [one.prompt for one in result.groups] == [one.prompt for one in groups]
    assert [[one.rollout for one in scored.rollouts] for scored in result.groups] == [
        list(one.rollouts) for one in groups
    ]
    assert [one.text for scored in result.groups for one in scored.rollouts] == list("abcd")


def test_a_missing_column_is_told_before_the_first_step():
    with pytest.raises(DataError, match=r"reward 'correctness' needs the column 'answer', the data has \['solution'\]"):
        suite("xmlcount", "correctness").check_columns(["solution"])
    suite("xmlcount", "correctness").check_columns(["answer", "solution"])


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ([], {}, "no reward function was given"),
        ([reward_function(zeros), reward_function(zeros)], {}, "give each a different name"),
        ([reward_function(zeros, name="all")], {}, "'all' is reserved"),
        ([reward_function(zeros)], {"timeout_s": 0}, "use seconds above 0"),
        ([reward_function(zeros)], {"max_failed_share": 1.5}, "use a share from 0 to 1"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(functions, options, message):
    with pytest.raises(ConfigError, match=message):
        RewardSuite(functions, **options)


def test_what_one_reward_does_to_a_list_in_a_column_no_other_sees(group):
    def changes(tests, **columns):
        for lines in tests:
            lines.append("assert False")
        return [1.0] * len(tests)

    def counts(tests, **columns):
        return [float(len(lines)) for lines in tests]

    row = group("?", [1, 1], {"tests": ["assert True"]})
    result = score(suite(changes, counts), [row], ["a", "b"])
    assert [one.rewards["counts"] for one in scores_of(result)] == [1.0, 1.0]
    assert row.prompt.columns["tests"] == ["assert True"]


def test_a_total_that_float32_cannot_hold_fails_its_completion(group):
    def huge(completions):
        return [3e38 if text == "big" else 1.0 for text in completions]

    one = suite({"name": huge, "weight": 10.0}, max_failed_share=0.5)
    scores = scores_of(score(one, [group("?", [1, 1])], ["big", "small"]))
    assert [(score.total, sorted(score.failures)) for score in scores] == [(None, ["all"]), (10.0, [])]
    with pytest.raises(RewardError, match="weights make the rewards 3e\\+39"):
        score(one, [group("?", [1, 1])], ["big", "big"])


def test_weights_are_those_that_are_given_beside_ready_functions():
    functions = resolve_rewards([reward_function(zeros, weight=2.0)], weights=[5.0])
    assert functions[0].weight == 5.0
    assert resolve_rewards([reward_function(zeros, weight=2.0)])[0].weight == 2.0


def test_what_takes_arguments_by_position_only_is_refused():
    def positional(completions, /):
        return [0.0] * len(completions)

    with pytest.raises(ConfigError, match="takes 'completions' by position only"):
        reward_function(positional)


def test_a_column_called_like_what_gates_log_is_kept_apart(group):
    def logs(completions, log_extra):
        log_extra("gated_out", [7] * len(completions))
        return [1.0] * len(completions)

    result = score(suite(logs, {"name": zeros, "gate": "logs", "gate_at": 2.0}), [group("?", [1])], ["a"])
    assert result.groups[0].rollouts[0].logged == {"logs/gated_out": 7, "gated_out": {"zeros": 0.0}}


def test_a_reward_that_fails_now_and_then_is_told_once_with_its_exception(group, caplog):
    def shaky(completions):
        return [ValueError("no such table") if text == "bad" else 1.0 for text in completions]

    one = suite(shaky)
    for _ in range(2):
        score(one, [group("?", [1, 1, 1])], ["bad", "good", "good"])
    assert caplog.text.count("reward 'shaky' failed for 1 of 3 completions: ValueError: no such table") == 1


def test_an_option_that_is_misspelt_is_not_taken_for_a_parameter():
    def free(completions, **kwargs):
        return [kwargs["scale"]] * len(completions)

    with pytest.raises(ConfigError, match="has 'wieght': did you mean 'weight'"):
        resolve_rewards({"name": free, "wieght": 0.5})
    assert resolve_rewards({"name": free, "scale": 2.0})[0].parameters == {"scale": 2.0}


def test_a_mock_is_a_reward_like_any_other(group):
    mock = Mock(return_value=[1.0, 2.0])
    one = RewardSuite(resolve_rewards([{"name": mock, "weight": 2.0}]))
    one.check_rows([{"answer": "1"}])
    result = score(one, [group("x", [1, 1])], ["a", "b"])
    assert totals(result) == [2.0, 4.0]
    assert one.state_dict() == {}
    assert one.totals() == {}


def test_an_object_whose_attributes_are_made_on_demand_is_a_reward(group):
    class Anything:
        def __call__(self, completions, **columns):
            return [3.0] * len(completions)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *arguments: self

    one = RewardSuite(resolve_rewards([Anything()]))
    one.check_rows([{"answer": "1"}])
    assert totals(score(one, [group("x", [1])], ["a"])) == [3.0]
    assert (one.state_dict(), one.totals()) == ({}, {})


def test_a_function_may_ask_for_the_event_loop_of_its_thread(group):
    async def later(text):
        await asyncio.sleep(0)
        return float(len(text))

    def lengths(completions):
        loop = asyncio.get_event_loop()
        return [loop.run_until_complete(later(text)) for text in completions]

    assert totals(score(suite(lengths), [group("x", [1, 1])], ["a", "bcd"])) == [1.0, 3.0]


def test_a_time_limit_by_signals_fails_with_what_to_set_and_works_in_a_process(group, tmp_path):
    (tmp_path / "limited.py").write_text(
        "import signal\n"
        "def limited(completions, **columns):\n"
        "    signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "    signal.alarm(5)\n"
        "    signal.alarm(0)\n"
        "    return [1.0 for _ in completions]\n"
    )
    spec = {"name": f"{tmp_path / 'limited.py'}:limited"}
    with pytest.raises(RewardError, match=r"a time limit by signals works in a main thread only.*`processes: 1`"):
        score(RewardSuite(resolve_rewards([spec])), [group("x", [1])], ["a"])
    one = RewardSuite(resolve_rewards([{**spec, "processes": 1}]))
    assert totals(score(one, [group("x", [1])], ["a"])) == [1.0]
    one.close()


def test_a_function_from_a_file_may_spawn_processes(group, tmp_path):
    (tmp_path / "spawning-rewards.py").write_text(
        "import multiprocessing\n"
        "def length(text):\n"
        "    return float(len(text))\n"
        "def lengths(completions, **columns):\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        return pool.map(length, completions)\n"
    )
    one = RewardSuite(resolve_rewards([f"{tmp_path / 'spawning-rewards.py'}:lengths"]), timeout_s=50)
    assert totals(score(one, [group("x", [1, 1])], ["a", "bcd"])) == [1.0, 3.0]
