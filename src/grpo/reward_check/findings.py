"""From what was measured to what a user should know, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grpo.reward_check.junk import junk_that_pays
from grpo.reward_check.report import ROUNDING, Finding, ProbeResult, RewardResult, SampleResult, quoted
from grpo.rewards.function import RewardFunction

__all__ = ["find"]

_NEGLIGIBLE, _HARMFUL = 1e-3, 0.2
"""Changes of a reward as a share of its range: below the one they are rounding, above the other they decide groups."""

_FEW_GROUPS = 0.25
_SHARE_OF_TIMEOUT = 0.5


def find(
    functions: Sequence[RewardFunction],
    probes: Sequence[ProbeResult],
    rewards: Sequence[RewardResult],
    samples: SampleResult | None,
    *,
    reference_column: str | None,
    timeout_s: float | None,
    repeats: int,
) -> tuple[Finding, ...]:
    """Return the findings, problems first.

    Args:
        functions: of the suite.
        probes: what each probe earned, the reference first if there is one.
        rewards: how each reward behaved.
        samples: what completions of the policy earned; None: there are none.
        reference_column: where the right answers are; None: there are none.
        timeout_s: seconds that one call of a reward may take in a run.
        repeats: how often the same call was made.
    """
    found = [
        *_failures(rewards, probes),
        *_indifferent(rewards, probes),
        *junk_that_pays(functions, probes, rewards, samples, reference_column),
        *_unsteady(rewards, repeats),
        *_slow(rewards, timeout_s),
        *_without_spread(samples, rewards),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "problem"))


def _failures(rewards: Sequence[RewardResult], probes: Sequence[ProbeResult]) -> Iterator[Finding]:
    for reward in rewards:
        if not reward.failures:
            continue
        cells = {probe.name: probe.rewards[reward.name] for probe in probes}
        everywhere = all(cell.failed and not cell.numbers for cell in cells.values())
        where = "everything it was given" if everywhere else quoted(reward.failures)
        yield Finding(
            "fails",
            "problem",
            f"reward {reward.name!r} fails on {where}: {next(iter(reward.failures.values()))}",
            "A completion without a reward teaches nothing, and a function that raises takes the whole step with it; "
            "a policy writes such texts sooner or later.",
            "Mend what it needs (data, server, key) if it always fails; else return 0.0, or a penalty, for a text "
            "that it cannot read.",
            (reward.name,),
            tuple(reward.failures),
        )


def _indifferent(rewards: Sequence[RewardResult], probes: Sequence[ProbeResult]) -> Iterator[Finding]:
    for reward in rewards:
        if reward.reacts or len(reward.failures) >= len(probes):
            continue
        if reward.lowest is None or reward.highest is None:
            yield Finding(
                "never-applies",
                "problem",
                f"reward {reward.name!r} gave no number to any text (None: does not apply)",
                "It is left out of every total, as if it had not been named.",
                "See whether the column that it looks at is there and filled in, or leave the reward out.",
                (reward.name,),
            )
        elif reward.highest - reward.lowest <= ROUNDING * max(1.0, abs(reward.highest)):
            yield Finding(
                "constant",
                "problem",
                f"reward {reward.name!r} gave {reward.highest:g} to every text, right, wrong and empty",
                "Completions are compared with one another, so what all of them get teaches nothing.",
                "If it should pay for right answers or for the format, compare what it expects with the text of the "
                f"probe {_example(probes)}.",
                (reward.name,),
            )
        else:
            yield Finding(
                "ignores-completion",
                "problem",
                f"reward {reward.name!r} depends on the row only: whatever the completion, a row gets the same",
                "Completions of one prompt are compared with one another, so it teaches nothing.",
                "See whether it reads `completions`, and not `prompts` or a column in their place.",
                (reward.name,),
            )


_UNSTEADY = (
    (
        "not-repeatable",
        "repeat_change",
        "gives one text different values when asked again",
        "Noise is learned like anything else: it makes good completions look bad and bad ones good.",
        "Take randomness, clocks and memory of earlier calls out of it; ask a judge at temperature 0.",
    ),
    (
        "depends-on-order",
        "order_change",
        "gives a text another value when the texts come in another order",
        "Some completions are paid for what others wrote.",
        "Return one value for each completion, in the order of `completions`, and keep nothing between them.",
    ),
    (
        "depends-on-batch",
        "batch_change",
        "gives a text another value when fewer texts are scored with it",
        "What a completion earns then depends on what else is in the step; GRPO compares within a group already.",
        "Score each completion by itself; leave normalising to the training.",
    ),
)


def _unsteady(rewards: Sequence[RewardResult], repeats: int) -> Iterator[Finding]:
    for reward in rewards:
        spread = (reward.highest or 0.0) - (reward.lowest or 0.0)
        for code, attribute, words, meaning, advice in _UNSTEADY:
            largest: float | None = getattr(reward, attribute)
            if largest is None or largest <= max(ROUNDING, _NEGLIGIBLE * spread):
                continue
            amount = f"by up to {largest:.3g}, where its values lie {spread:.3g} apart"
            times = f" ({repeats} times)" if attribute == "repeat_change" else ""
            yield Finding(
                code,
                "problem" if largest > _HARMFUL * spread else "warning",
                f"reward {reward.name!r} {words}{times}, {amount}",
                meaning,
                advice,
                (reward.name,),
            )
            break


def _slow(rewards: Sequence[RewardResult], timeout_s: float | None) -> Iterator[Finding]:
    for reward in rewards:
        if timeout_s is not None and max(reward.step_s, reward.longest_s) > _SHARE_OF_TIMEOUT * timeout_s:
            yield Finding(
                "slow",
                "warning",
                f"reward {reward.name!r} will take about {reward.step_s:.3g} s a step; its longest call took "
                f"{reward.longest_s:.3g} s, and {timeout_s:g} s are allowed",
                "A call that takes too long fails for every completion in it, and all else waits.",
                "Make it async if it waits for a server, give it processes if it computes, or raise reward_timeout_s.",
                (reward.name,),
            )


def _without_spread(samples: SampleResult | None, rewards: Sequence[RewardResult]) -> Iterator[Finding]:
    if samples is None or samples.total.numbers == 0:
        return
    groups = len(samples.spread)
    if samples.share < _FEW_GROUPS:
        yield Finding(
            "little-spread",
            "warning",
            f"in {sum(samples.spread)} of {groups} sampled groups of {samples.group_size} the rewards differ",
            "A group whose completions all earn the same has no gradient: most of the compute will teach nothing.",
            "The task is too hard or too easy for this model, or the rewards are too coarse: try easier rows, a "
            "higher temperature, a larger group_size, or a reward that pays for partial success.",
        )
    for reward in rewards:
        cell = samples.rewards[reward.name]
        if reward.reacts and cell.numbers > 1 and cell.highest == cell.lowest:
            yield Finding(
                "same-for-all-sampled",
                "warning",
                f"reward {reward.name!r} gave {cell.highest:g} to all {cell.numbers} sampled completions",
                "At the start of the run it teaches nothing; that is fine if another reward leads there.",
                "If it stays so, the model never meets what the reward pays for: make the way there shorter.",
                (reward.name,),
            )


def _example(probes: Sequence[ProbeResult]) -> str:
    return f"{probes[0].name!r}: {probes[0].example!r}"
