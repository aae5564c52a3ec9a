"""From figures to findings: rewards that fail, do not discriminate, pay for junk, are noisy or slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grpo.reward_check.junk_findings import junk_findings
from grpo.reward_check.probes import Probe
from grpo.reward_check.report import ROUNDING, CheckReport, Finding, quoted
from grpo.reward_check.verdicts import FindingKind, Standard

__all__ = ["find"]

_NEGLIGIBLE, _HARMFUL = 1e-3, 0.2
"""Changes of a reward as a share of its range: smaller ones are rounding, larger ones decide the order of a group."""

_FEW_GROUPS = 0.25
_SHARE_OF_TIMEOUT = 0.5

FAILS = FindingKind(
    "fails",
    "problem",
    "reward {reward.name!r} fails on {where}: {error}",
    "A completion without a reward teaches nothing, and an exception fails all completions of the call; a policy "
    "writes such texts sooner or later.",
    "If it always fails, repair what it depends on (data, server, key); else return 0.0, or a penalty, for a text "
    "that it cannot read.",
)
NEVER_APPLIES = FindingKind(
    "never-applies",
    "problem",
    "reward {reward.name!r} gave no number to any text (None: does not apply)",
    "It is left out of every total, as if it were not configured.",
    "Check that the column it reads exists and is filled in, or remove the reward.",
)
CONSTANT = FindingKind(
    "constant",
    "problem",
    "reward {reward.name!r} gave {reward.highest:g} to every text, right, wrong and empty",
    "Completions are compared with one another, so a value that all of them get teaches nothing.",
    "If it should pay for right answers or for the format, compare what it expects with the text of the probe "
    "{probe.name!r}: {probe.example!r}.",
)
IGNORES_COMPLETION = FindingKind(
    "ignores-completion",
    "problem",
    "reward {reward.name!r} depends on the row only: all completions of a row get the same value",
    "Completions of one prompt are compared with one another, so it teaches nothing.",
    "Check that it reads `completions`, and not `prompts` or a column instead.",
)
UNSTEADY = {
    "repeat_change": FindingKind(
        "not-repeatable",
        "problem",
        "reward {reward.name!r} gives one text different values when called again ({repeats} times), {amount}",
        "Training learns noise as well: it makes good completions look bad and bad ones good.",
        "Remove randomness, clocks and memory of earlier calls from it; call a judge at temperature 0.",
    ),
    "order_change": FindingKind(
        "depends-on-order",
        "problem",
        "reward {reward.name!r} gives a text another value when the texts come in another order, {amount}",
        "Some completions are paid for the text of others.",
        "Return one value for each completion, in the order of `completions`, and keep no state between them.",
    ),
    "batch_change": FindingKind(
        "depends-on-batch",
        "problem",
        "reward {reward.name!r} gives a text another value when fewer texts are scored with it, {amount}",
        "The reward of a completion then depends on the rest of the step; GRPO already compares within a group.",
        "Score each completion by itself, and leave normalisation to the training.",
    ),
}
"""By attribute of `RewardResult`: the finding for a change that is too large."""
SLOW = FindingKind(
    "slow",
    "warning",
    "reward {reward.name!r} will take about {reward.step_s:.3g} s a step; its longest call took "
    "{reward.longest_s:.3g} s, and {timeout_s:g} s are allowed",
    "A call that takes too long fails for every completion in it, and the run waits for it.",
    "Make it async if it waits for a server, give it processes if it computes, or raise reward_timeout_s.",
)
LITTLE_SPREAD = FindingKind(
    "little-spread",
    "warning",
    "the rewards differ in {differing} of {groups} sampled groups of {samples.group_size}",
    "A group whose completions all earn the same has no gradient, so most of the compute will teach nothing.",
    "The task is too hard or too easy for this model, or the rewards are too coarse: try easier rows, a higher "
    "temperature, a larger group_size, or a reward that pays for partial success.",
)
SAME_FOR_ALL = FindingKind(
    "same-for-all-sampled",
    "warning",
    "reward {reward.name!r} gave {cell.highest:g} to all {cell.numbers} sampled completions",
    "At the start of the run it teaches nothing; that is fine if another reward leads to completions that differ.",
    "If it stays so, the model never writes what the reward pays for: add a reward for intermediate steps.",
)


def find(
    report: CheckReport, probes: Sequence[Probe], *, sees_answers: bool, timeout_s: float | None
) -> tuple[Finding, ...]:
    """Return the findings, problems first.

    Args:
        report: the figures, without findings.
        probes: the kinds of the report's probes.
        sees_answers: whether a reward can read the column of the right answers.
        timeout_s: seconds that one call of a reward may take in a run; None: no limit.
    """
    best = report.samples.best if report.samples is not None else None
    standard = Standard(report.reference_column, sees_answers, best)
    found = [
        *_failing(report),
        *_indifferent(report),
        *junk_findings(report, probes, standard),
        *_unsteady(report),
        *_slow(report, timeout_s),
        *_without_spread(report),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "problem"))


def _failing(report: CheckReport) -> Iterator[Finding]:
    for reward in report.rewards:
        if reward.failures:
            cells = [probe.rewards[reward.name] for probe in report.probes]
            everywhere = all(cell.failed and not cell.numbers for cell in cells)
            where = "everything it was given" if everywhere else quoted(reward.failures)
            error = next(iter(reward.failures.values()))
            yield FAILS.finding(
                rewards=[reward.name], probes=tuple(reward.failures), reward=reward, where=where, error=error
            )


def _indifferent(report: CheckReport) -> Iterator[Finding]:
    for reward in report.rewards:
        if reward.reacts or len(reward.failures) >= len(report.probes):
            continue
        if reward.lowest is None or reward.highest is None:
            kind = NEVER_APPLIES
        elif reward.highest - reward.lowest <= ROUNDING * max(1.0, abs(reward.highest)):
            kind = CONSTANT
        else:
            kind = IGNORES_COMPLETION
        yield kind.finding(rewards=[reward.name], reward=reward, probe=report.probes[0])


def _unsteady(report: CheckReport) -> Iterator[Finding]:
    """Yield for each reward the first kind of change that is too large; later ones follow from it."""
    for reward in report.rewards:
        spread = (reward.highest or 0.0) - (reward.lowest or 0.0)
        for attribute, kind in UNSTEADY.items():
            largest: float | None = getattr(reward, attribute)
            if largest is not None and largest > max(ROUNDING, _NEGLIGIBLE * spread):
                yield kind.finding(
                    rewards=[reward.name],
                    severity="problem" if largest > _HARMFUL * spread else "warning",
                    reward=reward,
                    repeats=report.repeats,
                    amount=f"by up to {largest:.3g}; its values span {spread:.3g}",
                )
                break


def _slow(report: CheckReport, timeout_s: float | None) -> Iterator[Finding]:
    for reward in report.rewards:
        if timeout_s is not None and max(reward.step_s, reward.longest_s) > _SHARE_OF_TIMEOUT * timeout_s:
            yield SLOW.finding(rewards=[reward.name], reward=reward, timeout_s=timeout_s)


def _without_spread(report: CheckReport) -> Iterator[Finding]:
    samples = report.samples
    if samples is None or samples.total.numbers == 0:
        return
    if samples.share < _FEW_GROUPS:
        yield LITTLE_SPREAD.finding(samples=samples, differing=sum(samples.spread), groups=len(samples.spread))
    for reward in report.rewards:
        cell = samples.rewards[reward.name]
        if reward.reacts and cell.numbers > 1 and cell.highest == cell.lowest:
            yield SAME_FOR_ALL.finding(rewards=[reward.name], reward=reward, cell=cell)
