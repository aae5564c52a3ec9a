"""Episodes: one turn, several turns, tokens between turns, failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from grpo.engines.native import NativeEngine, NativeSampler
from grpo.environments import EpisodeSampler, MultiTurn, SingleTurn, StepResult, make_environment
from grpo.environments.turn_tokens import TurnTokens
from grpo.errors import ConfigError, DataError, ModelError, RunError
from grpo.policy import Policy
from grpo.rollout import EpisodeCollector, judged_texts
from grpo.types import Group, Prompt, Rollout, SamplingParams

SAMPLING = SamplingParams(max_tokens=90)


class AskAndConclude:
    """The policy writes something, is asked to conclude, and concludes."""

    def reset(self, prompt: Prompt, seed: int) -> None:
        self.answer = prompt.columns["answer"]
        self.turns = 0

    def step(self, completion: str) -> StepResult:
        self.turns += 1
        if self.turns == 1:
            messages = [{"role": "user", "content": "Answer with an integer."}]
            return StepResult(messages, {"asked": 0.25, "right": None}, info={"first": completion})
        return StepResult(rewards={"right": float(self.answer in completion), "asked": 0.25}, done=True)

    def close(self) -> None:
        pass


def collector_of(policy: Policy, environment: object) -> EpisodeCollector:
    return EpisodeCollector(
        NativeSampler(NativeEngine(policy.model, end_ids=policy.end_token_ids)),
        lambda ids: list(policy.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)),
        make_environment(environment, policy.tokenizer),
    )


def seeds_of(prompts: list[Prompt], size: int) -> list[list[int]]:
    return [[1000 * place + index for index in range(size)] for place in range(len(prompts))]


@pytest.fixture
def groups(tiny_policy: Policy, sums: list[Prompt]) -> list[Group]:
    return collector_of(tiny_policy, AskAndConclude).collect(sums[:3], seeds_of(sums[:3], 4), SAMPLING)


def two_turns(groups: list[Group]) -> list[Any]:
    found = [rollout for group in groups for rollout in group.rollouts if rollout.info["turns"] == 2]
    assert len(found) >= 6
    return found


def test_an_episode_is_what_was_sampled_with_the_environments_tokens_between(
    tiny_policy: Policy, groups: list[Group]
) -> None:
    for rollout in two_turns(groups):
        spans = [
            (sampled, tiny_policy.tokenizer.decode([token for _, token in tokens]))
            for sampled, tokens in groupby(
                zip(rollout.sampled, rollout.token_ids, strict=True), key=lambda found: found[0]
            )
        ]
        assert [sampled for sampled, _ in spans] == [True, False, True]
        assert spans[1][1] == "<|user|>Answer with an integer.<|end|><|assistant|>"
        assert len(rollout.sampled) == len(rollout.logprobs) == len(rollout.token_ids) <= SAMPLING.max_tokens
        assert all(
            value == 0.0 for value, sampled in zip(rollout.logprobs, rollout.sampled, strict=True) if not sampled
        )
        assert all(value < 0.0 for value, sampled in zip(rollout.logprobs, rollout.sampled, strict=True) if sampled)


def test_the_tokens_of_an_episode_are_those_of_the_template_for_its_messages(
    tiny_policy: Policy, groups: list[Group]
) -> None:
    for group in groups:
        for rollout in group.rollouts:
            if rollout.finish_reason != "stop":
                continue
            messages = [{"role": "user", "content": "…"}, *rollout.messages]
            text = tiny_policy.tokenizer.apply_chat_template(messages, tokenize=False)
            assert text.endswith("<|assistant|>" + tiny_policy.tokenizer.decode(list(rollout.token_ids)))


def test_the_first_turn_is_the_single_completion_of_its_seed(
    tiny_policy: Policy, sums: list[Prompt], groups: list[Group]
) -> None:
    alone = collector_of(tiny_policy, "single_turn").collect(sums[:3], seeds_of(sums[:3], 4), SAMPLING)
    for group, single in zip(groups, alone, strict=True):
        for rollout, completion in zip(group.rollouts, single.rollouts, strict=True):
            assert rollout.token_ids[: len(completion.token_ids)] == completion.token_ids
            assert completion.sampled == (True,) * len(completion.token_ids)
            assert completion.messages == ()


def test_rewards_of_turns_add_up_and_the_last_info_stays(groups: list[Group]) -> None:
    for rollout in two_turns(groups):
        assert rollout.rewards["asked"] == 0.5
        assert rollout.rewards["right"] in (0.0, 1.0)
        assert rollout.info["first"] == rollout.messages[0]["content"]
        assert [message["role"] for message in rollout.messages] == ["assistant", "user", "assistant"]


def test_an_episode_is_a_function_of_its_seed(tiny_policy: Policy, sums: list[Prompt], groups: list[Group]) -> None:
    again = collector_of(tiny_policy, AskAndConclude).collect(sums[:3], seeds_of(sums[:3], 4), SAMPLING)
    assert again == groups
    others = collector_of(tiny_policy, AskAndConclude).collect(sums[:1], [[7, 8]], SAMPLING)
    assert others[0].rollouts != groups[0].rollouts[:2]


def test_text_for_rewards_is_what_the_policy_wrote(tiny_policy: Policy, groups: list[Group]) -> None:
    collector = collector_of(tiny_policy, AskAndConclude)
    for rollout in two_turns(groups):
        (text,) = collector.texts([rollout])
        assert text == "\n".join(found["content"] for found in rollout.messages if found["role"] == "assistant")
        assert "Answer with an integer" not in text


@pytest.mark.parametrize("budget", [1, 8, 20, 26, 40])
def test_the_budget_covers_all_turns(tiny_policy: Policy, sums: list[Prompt], budget: int) -> None:
    collector = collector_of(tiny_policy, AskAndConclude)
    (group,) = collector.collect(sums[:1], [list(range(12))], SamplingParams(max_tokens=budget))
    for rollout in group.rollouts:
        assert len(rollout.token_ids) <= budget
        assert rollout.sampled[-1]
        done = rollout.info["turns"] == 2 and rollout.token_ids[-1] in tiny_policy.end_token_ids
        assert (rollout.finish_reason == "stop") == done


def test_an_episode_that_never_ends_stops_after_its_turns(tiny_policy: Policy, sums: list[Prompt]) -> None:
    class Endless(AskAndConclude):
        def step(self, completion: str) -> StepResult:
            return StepResult([{"role": "user", "content": "And?"}])

    environment = MultiTurn(Endless, tiny_policy.tokenizer, max_turns=3)
    (group,) = collector_of(tiny_policy, environment).collect(sums[:1], [[1, 2]], SamplingParams(max_tokens=400))
    assert [rollout.info["turns"] for rollout in group.rollouts] == [3, 3]
    assert {rollout.finish_reason for rollout in group.rollouts} == {"length"}
    with pytest.raises(ConfigError, match="max_turns=0"):
        MultiTurn(Endless, tiny_policy.tokenizer, max_turns=0)


def test_async_steps_and_environments_with_a_loop_of_their_own_run(tiny_policy: Policy, sums: list[Prompt]) -> None:
    class Later(AskAndConclude):
        async def step(self, completion: str) -> StepResult:  # type: ignore[override]
            await asyncio.sleep(0.001)
            return super().step(completion)

    class Own:
        async def rollout(self, prompt: Prompt, sampler: Any, seed: int) -> Any:
            return await SingleTurn().rollout(prompt, sampler, seed)

    (later,) = collector_of(tiny_policy, Later).collect(sums[:1], [[1, 2, 3]], SAMPLING)
    assert any(rollout.info["turns"] == 2 for rollout in later.rollouts)
    for own in (Own, Own()):
        (group,) = collector_of(tiny_policy, own).collect(sums[:1], [[1, 2, 3]], SAMPLING)
        assert len(group.rollouts) == 3


def failing(fails: Callable[[str], bool]) -> tuple[type, list[str]]:
    closed: list[str] = []

    class Failing(AskAndConclude):
        def step(self, completion: str) -> StepResult:
            if fails(completion):
                raise ZeroDivisionError("no such luck")
            return StepResult(done=True)

        def close(self) -> None:
            closed.append("closed")

    return Failing, closed


def test_a_failed_episode_is_left_out_of_its_group(
    tiny_policy: Policy, sums: list[Prompt], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    environment, closed = failing(lambda text: seen.append(text) or len(seen) in (2, 5))
    collector = collector_of(tiny_policy, environment)
    with caplog.at_level(logging.WARNING):
        groups = collector.collect(sums[:2], seeds_of(sums[:2], 4), SAMPLING)
    assert sum(len(group.rollouts) for group in groups) == 6
    assert len(closed) == 8
    assert [record.getMessage() for record in caplog.records] == [
        "an episode failed in the environment and is left out of its group: ZeroDivisionError: no such luck"
    ]


def test_too_many_failed_episodes_stop_with_the_first_exception(tiny_policy: Policy, sums: list[Prompt]) -> None:
    environment, closed = failing(lambda text: True)
    collector = collector_of(tiny_policy, environment)
    with pytest.raises(RunError, match=r"8 of 8 episodes failed.*ZeroDivisionError: no such luck") as caught:
        collector.collect(sums[:2], seeds_of(sums[:2], 4), SAMPLING)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(closed) == 8
    assert not collector.sampler.engine.has_work  # type: ignore[attr-defined]


def test_a_failure_of_the_sampler_is_not_lost_where_the_environment_catches_it(
    tiny_policy: Policy, sums: list[Prompt]
) -> None:
    class Careless:
        async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
            with contextlib.suppress(Exception):
                return await SingleTurn().rollout(prompt, sampler, seed)
            return Rollout((3,), (True,), (-1.0,), "stop", 0)

    collector = collector_of(tiny_policy, Careless())

    def fail() -> None:
        raise RunError("the weights have diverged")

    collector.sampler.engine.step = fail  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="the weights have diverged"):
        collector.collect(sums[:2], seeds_of(sums[:2], 4), SAMPLING)


@pytest.mark.parametrize(
    ("episode", "reason"),
    [
        (Rollout((3,), (True,), (-1.0,), "stop", 0, rewards=[1.0]), "rewards are a list"),  # type: ignore[arg-type]
        (Rollout((3,), (True,), (math.nan,), "stop", 0), "a log-probability that is not finite"),
    ],
)
def test_an_episode_without_sense_fails_alone(
    tiny_policy: Policy, sums: list[Prompt], caplog: pytest.LogCaptureFixture, episode: Rollout, reason: str
) -> None:
    class Once:
        async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
            return episode if seed == 0 else await SingleTurn().rollout(prompt, sampler, seed)

    (group,) = collector_of(tiny_policy, Once()).collect(sums[:1], [[0, 1, 2]], SAMPLING)
    assert len(group.rollouts) == 2
    assert reason in caplog.text


def test_an_interrupt_in_an_environment_closes_the_others(tiny_policy: Policy, sums: list[Prompt]) -> None:
    closed: list[int] = []

    class Interrupted:
        async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
            try:
                if seed == 1:
                    signal.raise_signal(signal.SIGINT)
                return await SingleTurn().rollout(prompt, sampler, seed)
            finally:
                await asyncio.sleep(0)
                closed.append(seed)

    collector = collector_of(tiny_policy, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        collector.collect(sums[:2], [[0, 1], [2, 3]], SAMPLING)
    assert sorted(closed) == [0, 1, 2, 3]
    assert not collector.sampler.engine.has_work  # type: ignore[attr-defined]
    assert len(collector.collect(sums[:1], [[5]], SAMPLING)) == 1


def test_what_is_judged_is_the_last_message_or_the_whole_text(groups: list[Group]) -> None:
    texts = [f"text {number}" for number in range(sum(len(group.rollouts) for group in groups))]
    plain = [replace(group, prompt=replace(group.prompt, raw="a question")) for group in groups]
    chat = [replace(group, prompt=replace(group.prompt, raw=[{"role": "user", "content": "?"}])) for group in groups]
    assert judged_texts(plain, texts) == texts
    members = [rollout for group in groups for rollout in group.rollouts]
    assert judged_texts(chat, texts) == [rollout.messages[-1]["content"] for rollout in members]


def test_a_failure_of_the_sampler_is_not_one_of_the_episode(tiny_policy: Policy, sums: list[Prompt]) -> None:
    collector = collector_of(tiny_policy, AskAndConclude)

    def fail() -> None:
        raise MemoryError("no more")

    collector.sampler.engine.step = fail  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match="no more"):
        collector.collect(sums[:2], seeds_of(sums[:2], 4), SAMPLING)


def test_a_template_that_changes_earlier_turns_is_refused(tiny_policy: Policy) -> None:
    class Rewriting:
        chat_template = "…"

        def apply_chat_template(self, messages: Any, **options: Any) -> Any:
            batch = messages if isinstance(messages[0], list) else [messages]
            texts = ["".join(f"[{m['content']}{'!' if m is not turns[-1] else ''}]" for m in turns) for turns in batch]
            return texts if isinstance(messages[0], list) else texts[0]

    with pytest.raises(ModelError, match="renders a turn differently"):
        TurnTokens(Rewriting())


def test_a_step_that_is_not_done_needs_messages(tiny_policy: Policy) -> None:
    with pytest.raises(DataError, match="has no messages"):
        TurnTokens(tiny_policy.tokenizer).between(1, [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("two_turns", "no environment named 'two_turns': use single_turn, or your own"),
        (AskAndConclude(), "give the class"),
        (3, "the environment is a int"),
    ],
)
def test_what_is_no_environment_is_refused(tiny_policy: Policy, given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_environment(given, tiny_policy.tokenizer)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda rollout: None, "TypeError: rollout.. returned a NoneType"),
        (lambda rollout: replace(rollout, sampled=(True,)), "ValueError: the episode has .* 1 flags"),
        (lambda rollout: replace(rollout, sampled=(False,) * len(rollout.sampled)), "no token that the policy sampled"),
        (
            lambda rollout: replace(rollout, token_ids=(5,) * 99, sampled=(True,) * 99, logprobs=(-1.0,) * 99),
            "has 99 tokens, over max_completion_length 90",
        ),
        (lambda rollout: sys.exit("gone"), "SystemExit: gone"),
    ],
)
def test_what_cannot_be_trained_on_is_a_failed_episode(
    broken: Callable[[Any], Any], said: str, tiny_policy: Policy, sums: list[Prompt]
) -> None:
    class Broken:
        async def rollout(self, prompt: Prompt, sampler: Any, seed: int) -> Any:
            return broken(await SingleTurn().rollout(prompt, sampler, seed))

    with pytest.raises(RunError, match=said):
        collector_of(tiny_policy, Broken).collect(sums[:1], [[1, 2]], SAMPLING)
    (group,) = collector_of(tiny_policy, "single_turn").collect(sums[:1], [[1, 2]], SAMPLING)
    assert len(group.rollouts) == 2


def test_an_episode_cannot_ask_for_more_than_its_budget(tiny_policy: Policy, sums: list[Prompt]) -> None:
    asked: list[int] = []

    class Greedy:
        async def rollout(self, prompt: Prompt, sampler: Any, seed: int) -> Any:
            first = await sampler.complete(prompt.token_ids, seed, max_tokens=4)
            second = await sampler.complete((*prompt.token_ids, *first.token_ids), seed, max_tokens=10**6)
            asked.extend((len(first.token_ids), len(second.token_ids)))
            with pytest.raises(ValueError, match="has used its budget of 12 tokens"):
                await sampler.complete((*prompt.token_ids, *range(3, 15)), seed)
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(sampler.complete(prompt.token_ids, seed), 0)
            return Rollout.of(first)

    collector_of(tiny_policy, Greedy).collect(sums[:1], [[1]], SamplingParams(max_tokens=12))
    assert asked[0] <= 4
    assert asked[1] <= 8


def test_without_a_chat_template_turns_are_plain_text(tiny_policy: Policy) -> None:
    tokens = TurnTokens(tiny_policy.tokenizer, chat=False).between(1, [{"role": "user", "content": "more"}])
    assert tiny_policy.tokenizer.decode(list(tokens)) == "\n\nmore\n\n"


def test_a_class_that_lacks_a_method_is_refused(tiny_policy: Policy) -> None:
    class Half:
        def step(self, completion: str) -> StepResult:
            return StepResult(done=True)

    with pytest.raises(ConfigError, match="Half has no reset, close"):
        make_environment(Half, tiny_policy.tokenizer)
