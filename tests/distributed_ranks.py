"""One of two ranks that `test_distributed.py` starts: runs every scenario below and writes down how each ended.

    python distributed_ranks.py RANK DIRECTORY

Each scenario has a process group of its own (gloo over the loopback device), so that one that fails on purpose does not
disturb the next. The file `rank-N.json` in the directory has the results by scenario, or the error that ended it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}

import torch
from torch import distributed

from grpo.algorithm import Method, find_method
from grpo.checkpoint import Progress
from grpo.distributed import Processes, connected_processes
from grpo.engines.native import NativeEngine, NativeSampler
from grpo.environments import SingleTurn
from grpo.groups import describe_groups
from grpo.packing import StepCounts
from grpo.policy import LoraSettings, Policy, load_policy
from grpo.rewards import RewardSuite, resolve_rewards, reward_function
from grpo.rollout import EpisodeCollector, RolloutCollector
from grpo.tasks import PromptOrder, arithmetic_task, find_format, render
from grpo.trainer import Plan, Trainer
from grpo.types import Prompt, Rollout, SamplingParams, Score, ScoredGroup, ScoredRollout
from grpo.update import Learner

WORLD_SIZE = 2
LOST = "one_rank_ends_without_a_word"


def arithmetic(processes: Processes) -> Any:
    tensor = processes.sum(torch.tensor([1.5, processes.rank]))
    return {
        "mapping": processes.sum({"both": 1, f"rank {processes.rank}": 0.5}),
        "tensor": tensor.tolist(),
        "counts": processes.sum(StepCounts(3, 10 + processes.rank)) == StepCounts(6, 21),
        "max": processes.max(10 - processes.rank),
        "any": [processes.any(processes.rank == 1), processes.any(False)],
        "all_agree": [processes.all_agree(processes.rank == 1), processes.all_agree(True)],
        "gather": processes.gather(("of", processes.rank)),
        "broadcast": processes.broadcast(f"from {processes.rank}"),
        "share": [list(processes.share(5)), list(processes.share(1))],
        "place": processes.place(2 + processes.rank),
        "is_main": processes.is_main,
        "one object": connected_processes() is processes,
    }


def gradients(processes: Processes) -> Any:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 2)]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 10.0**number + processes.rank)
    processes.sum_gradients(parameters)
    return [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]


def deviations_over_the_step(processes: Processes) -> Any:
    """Whether advantages of the own groups are those of the whole step, for methods with such a deviation."""
    draw = random.Random(0)
    groups = [random_group(draw, row, size, step_rewards=row == 3) for row, size in enumerate((3, 4, 2, 3))]
    own = processes.share(len(groups))
    found = {}
    for name, method in {
        "batch": Method(scale="batch"),
        "whiten": Method(scale="whiten"),
        "normalise": Method(combine="normalise"),
    }.items():
        whole = learner_of(None, method).advantages(groups)
        mine = learner_of(None, method, processes=processes).advantages([groups[p] for p in own])
        size, length = mine.per_token.shape[1:]
        found[name] = torch.allclose(mine.per_completion, whole.per_completion[own, :size]) and torch.allclose(
            mine.per_token, whole.per_token[own, :size, :length]
        )
    return found


def a_step_in_two_parts(processes: Processes) -> Any:
    """A step on both ranks, one of which has three times the groups, against the same step on one."""
    return {name: compared_steps(processes, name) for name in ("grpo", "dapo", "reinforce")}


def out_of_memory_on_one_rank(processes: Processes) -> Any:
    return compared_steps(processes, "grpo", limit=40 if processes.rank == 1 else None)


def out_of_memory_for_one_completion(processes: Processes) -> Any:
    return compared_steps(processes, "grpo", limit=1 if processes.rank == 1 else None)


def dropout_and_too_little_memory(processes: Processes) -> Any:
    """Rank 1 runs out of memory where the sampler's log-probabilities are compared with the policy's."""
    lora = LoraSettings(rank=4, dropout=0.3)
    return compared_steps(processes, "grpo", limit=40 if processes.rank == 1 else None, lora=lora)["weights"]


def an_error_on_one_rank(processes: Processes) -> Any:
    with processes.stage("training"):
        with processes.stage("collecting completions"):
            if processes.rank == 1:
                raise ValueError("no such file\nand more")
            processes.any(False)
        return "not reached"


def ranks_at_different_points(processes: Processes) -> Any:
    with processes.stage("training"):
        return processes.any(True) if processes.rank == 0 else processes.max(1)


def resampling(processes: Processes) -> Any:
    """Rewards that differ only among the completions of rank 1: both go on for as many rounds, and none repeats."""
    policy = load_policy("tiny", dtype="float32", device="cpu")

    def collect(of: Processes, reward: Callable[..., list[float]], **options: Any) -> Any:
        answer_format = find_format("answer_tags")
        task = arithmetic_task(
            train_size=None, eval_size=8, max_operand=12, operators="+-", answer_format=answer_format, seed=0
        )
        prompts = render(task.train, policy.tokenizer, system_prompt=answer_format.system_prompt).prompts
        return RolloutCollector(
            EpisodeCollector(
                NativeSampler(NativeEngine(policy.model, end_ids=policy.end_token_ids)),
                lambda ids: list(policy.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)),
            ),
            PromptOrder(prompts, 0),
            RewardSuite(resolve_rewards([reward])),
            sampling=SamplingParams(max_tokens=6, temperature=1.0),
            prompts_per_step=3,
            group_size=2,
            max_steps=10,
            seed=0,
            processes=of,
            **options,
        ).collect(1, 0)

    def equal(completions: list[str], **_: object) -> list[float]:
        return [1.0] * len(completions)

    def different(completions: list[str], **_: object) -> list[float]:
        return [float(place) for place in range(len(completions))]

    resampled = collect(
        processes, equal if processes.rank == 0 else different, zero_variance_groups="resample", max_resamples=2
    )
    split = collect(processes, equal, zero_variance_groups="keep", max_resamples=0)
    whole = collect(Processes(), equal, zero_variance_groups="keep", max_resamples=0)
    own = processes.share(3)
    return {
        "groups": len(resampled.groups),
        "taken": resampled.prompts_taken,
        "tokens": [split.tokens_generated, whole.tokens_generated],
        "as on one": [token_ids(group) for group in split.groups] == [token_ids(whole.groups[p]) for p in own],
    }


def failed_rewards(processes: Processes) -> Any:
    """All rewards of rank 1 fail, so half of the step's."""

    def reward(completions: list[str], **_: object) -> list[float]:
        if processes.rank == 1:
            raise ValueError("no reward")
        return [1.0] * len(completions)

    groups = [random_group(random.Random(0), row, 2) for row in range(2)]
    unscored = [SimpleNamespace(prompt=g.prompt, rollouts=tuple(m.rollout for m in g.rollouts)) for g in groups]
    ended = []
    for share in (0.5, 0.4):
        suite = RewardSuite(resolve_rewards([reward]), max_failed_share=share, processes=processes)
        try:
            suite.score(unscored, ["a", "b", "c", "d"], step=0, max_steps=1)  # type: ignore[arg-type]
            ended.append("scored")
        except RuntimeError as error:
            ended.append(str(error).partition(";")[0])
        suite.close()
    return ended


class Counted:
    """A reward that is normalised, logs a number, counts a total, and fails for the text "x"."""

    def __init__(self) -> None:
        self.totals = {"calls": 0.0}

    def __call__(self, completions: list[str], log_metric: Callable[[str, float], None], **_: object) -> list[Any]:
        self.totals["calls"] += 1
        log_metric("longest", max(map(len, completions)))
        return [None if text == "x" else float(text) for text in completions]


def rewards_of_both_ranks(processes: Processes) -> Any:
    """Score a step in two parts and as one: three groups of two, of which rank 0 has the first."""

    def unscored(rows: Sequence[int]) -> Any:
        groups = [random_group(random.Random(row), row, 2) for row in rows]
        for group in groups:
            names = {"kind": 0.5} if group.prompt.row == 2 else {}
            rollouts = tuple(replace(member.rollout, rewards=names) for member in group.rollouts)
            yield SimpleNamespace(prompt=group.prompt, rollouts=rollouts)

    def scored(of: Processes, rows: Sequence[int]) -> Any:
        counted = reward_function(Counted(), name="counted").with_options(normalise="running")
        suite = RewardSuite([counted], processes=of)
        texts = ["1", "5", "2", "x", "30", "7"]
        for step in range(2):
            own = [text for row in rows for text in texts[2 * row : 2 * row + 2]]
            result = suite.score(list(unscored(rows)), own, step=step, max_steps=2)
        suite.close()
        totals = [member.score.total for group in result.groups for member in group.rollouts]
        metrics = {name: value for name, value in result.metrics.items() if not name.endswith("/seconds")}
        return {"totals": totals, "metrics": metrics, "state": suite.state_dict(), "reward_totals": suite.totals()}

    rows = processes.share(3)
    return {"own": scored(processes, rows), "whole": scored(Processes(), range(3)), "rows": list(rows)}


def failed_episodes(processes: Processes) -> Any:
    """All episodes of rank 1 fail, so half of the step's."""
    policy = load_policy("tiny", dtype="float32", device="cpu")

    class Failing:
        async def rollout(self, prompt: Prompt, sampler: Any, seed: int) -> Rollout:
            if processes.rank == 1:
                raise ValueError("no episode")
            return await SingleTurn().rollout(prompt, sampler, seed)

    prompts = [Prompt(row, "", "", (3, 4, 5), {}) for row in range(2)]
    ended = []
    for share in (0.5, 0.4):
        collector = EpisodeCollector(
            NativeSampler(NativeEngine(policy.model, end_ids=policy.end_token_ids)),
            lambda ids: ["" for _ in ids],
            Failing(),
            max_failed_share=share,
            processes=processes,
        )
        try:
            groups = collector.collect(prompts, [[1, 2], [3, 4]], SamplingParams(max_tokens=3))
            ended.append([len(group.rollouts) for group in groups])
        except RuntimeError as error:
            ended.append(str(error).partition(": correct")[0])
    return ended


def a_signal_to_one_rank(processes: Processes) -> Any:
    """Rank 1 is asked to stop in its second step of five."""

    class Stepping(Trainer):
        def _step(self, step: int) -> None:
            if step == 2 and self.processes.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            self.progress = replace(self.progress, step=step)

        def _save(self) -> None:
            pass

        def summary(self) -> dict[str, Any]:
            return {"steps": self.progress.step}

    parts: Any = SimpleNamespace(device="cpu", warn=lambda text: None, num_optimizer_steps=0)
    names = ("policy", "sampler", "collector", "learner", "journal", "checkpoints")
    trainer = Stepping(
        **dict.fromkeys(names, parts),
        evaluator=None,
        plan=Plan(steps=5, eval_every=0, save_every=0, seed=0, eval_at_start=False),
        progress=Progress(),
        parts={},
        processes=processes,
    )
    outcome = trainer.train()
    return [outcome.summary["steps"], outcome.signal_number]


def one_rank_ends_without_a_word(processes: Processes) -> Any:
    with processes.stage("training"):
        if processes.rank == 1:
            os._exit(3)
        return processes.any(False)


SCENARIOS: Sequence[Callable[[Processes], Any]] = (
    arithmetic,
    gradients,
    deviations_over_the_step,
    a_step_in_two_parts,
    out_of_memory_on_one_rank,
    out_of_memory_for_one_completion,
    dropout_and_too_little_memory,
    an_error_on_one_rank,
    ranks_at_different_points,
    resampling,
    failed_rewards,
    rewards_of_both_ranks,
    failed_episodes,
    a_signal_to_one_rank,
    one_rank_ends_without_a_word,  # the last: there is one rank fewer then
)


def token_ids(group: ScoredGroup) -> list[tuple[int, ...]]:
    return [member.rollout.token_ids for member in group.rollouts]


def random_group(draw: random.Random, row: int, size: int, *, step_rewards: bool = False) -> ScoredGroup:
    def member() -> ScoredRollout:
        length = draw.randint(3, 12)
        ids = tuple(draw.randrange(30) for _ in range(length))
        sampled = (True, *(draw.random() < 0.7 for _ in range(length - 1)))
        parts = {"a": (1.0, draw.random()), "b": (0.5, draw.random())}
        total = sum(weight * reward for weight, reward in parts.values())
        of_tokens = tuple(draw.random() for _ in ids) if step_rewards else None
        return ScoredRollout(
            Rollout(ids, sampled, (0.0,) * length, "stop", 0), "", Score({}, {}, total, of_tokens, parts)
        )

    prompt = Prompt(row, "", "", tuple(draw.randrange(30) for _ in range(draw.randint(2, 9))), {})
    return ScoredGroup(prompt, tuple(member() for _ in range(size)))


def sampled_by(policy: Policy, group: ScoredGroup) -> ScoredGroup:
    """Return the group as if the policy had sampled it: with its log-probabilities."""
    members = []
    for member in group.rollouts:
        ids = torch.tensor([[*group.prompt.token_ids, *member.rollout.token_ids]])
        with torch.no_grad():
            logprobs = policy.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        own = logprobs[len(group.prompt.token_ids) - 1 : -1].gather(1, torch.tensor(member.rollout.token_ids)[:, None])
        kept = tuple(v if s else 0.0 for v, s in zip(own[:, 0].tolist(), member.rollout.sampled, strict=True))
        members.append(replace(member, rollout=replace(member.rollout, logprobs=kept)))
    return replace(group, rollouts=tuple(members))


def learner_of(policy: Policy | None, method: Method, **options: Any) -> Learner:
    parameters = [torch.nn.Parameter(torch.zeros(1))] if policy is None else policy.trainable_parameters()
    settings: dict[str, Any] = {
        "beta": 0.1 if policy is not None else 0.0,
        "gamma": 0.9,
        "temperature": 1.0,
        "max_completion_length": 12,
        "epochs_per_step": 2,
        "max_grad_norm": 0.0,
        "skip_zero_variance_groups": False,
        "truncated": "keep",
        "tokens_per_micro_batch": 60,
        "min_micro_batches": 1,
        "mismatch_limit": 1e-3,
        "seed": 0,
        **options,
    }
    return Learner(policy, torch.optim.SGD(parameters, lr=0.1), lambda step: 0.1, method, **settings)  # type: ignore[arg-type]


def compared_steps(processes: Processes, name: str, *, limit: int | None = None, **options: Any) -> Any:
    """Compare a step that is split over the ranks with the same step on this rank alone.

    Args:
        limit: rows of more tokens than this run out of memory on this rank in the split step.
        options: of the policy.
    """
    policy = load_policy("tiny", dtype="float32", device="cpu", reference="start", **options)
    policy.model.eval()
    draw = random.Random(1)
    groups = [sampled_by(policy, random_group(draw, row, size)) for row, size in enumerate((2, 4, 3, 4))]
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]

    def step(own: Sequence[ScoredGroup], learner: Learner) -> tuple[list[torch.Tensor], dict[str, float]]:
        advantages = learner.advantages(own)
        metrics = learner.update(learner.pack(own, advantages), 1)
        figures = learner.processes.sum(describe_groups(own, ~advantages.has_gradient))
        moved = [parameter.detach() - old for parameter, old in zip(policy.trainable_parameters(), before, strict=True)]
        with torch.no_grad():
            for parameter, old in zip(policy.trainable_parameters(), before, strict=True):
                parameter.copy_(old)
        return moved, {**metrics, **figures.means()}

    expected, expected_metrics = step(groups, learner_of(policy, find_method(name)))
    own = groups[:1] if processes.rank == 0 else groups[1:]
    learner = learner_of(policy, find_method(name), processes=processes)
    with counted_forwards(policy, limit) as rows:
        found, metrics = step(own, learner)
    scale = max(float(change.abs().max()) for change in expected)
    ignored = ("seconds", "micro_batches", "learning_rate")
    return {
        "scale": scale,
        "error": max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale,
        "weights": [float(change.double().sum()) for change in found],
        "metrics": {
            key: (metrics[key], value) for key, value in expected_metrics.items() if not key.startswith(ignored)
        },
        "passes": len(rows),
        "longest": max(rows),
        "shortest": min(rows),
        "lowered_budget": learner.budget.lowered,
    }


@contextmanager
def counted_forwards(policy: Policy, limit: int | None) -> Any:
    """Yield the lengths of the rows whose forward was for a backward; fail above the limit."""
    forward, rows = policy.token_logprobs, []

    def counted(batch: Any, **options: Any) -> Any:
        rows.append(len(batch.token_ids))
        if limit is not None and len(batch.token_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch, **options)

    policy.token_logprobs = counted  # type: ignore[assignment]
    yield rows
    policy.token_logprobs = forward  # type: ignore[method-assign]


def main(rank: int, directory: Path) -> None:
    results: dict[str, Any] = {}
    for scenario in SCENARIOS:
        store = distributed.FileStore(str(directory / f"store-{scenario.__name__}"), WORLD_SIZE)
        distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=100)
        )
        try:
            results[scenario.__name__] = {"result": scenario(connected_processes())}
        except Exception as error:
            results[scenario.__name__] = {"error": f"{type(error).__name__}: {error}"}
        (directory / f"rank-{rank}.json").write_text(json.dumps(results))
        if scenario.__name__ != LOST:
            distributed.destroy_process_group()
    # The group that lost a rank would wait for it in its destructor.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
