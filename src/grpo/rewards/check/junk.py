"""Which texts earn what only a right answer should."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from grpo.rewards.check.answers import EXACT
from grpo.rewards.check.probes import OTHER_ANSWER, REFERENCE, REJECTED
from grpo.rewards.check.report import Finding, ProbeResult, RewardResult, SampleResult
from grpo.rewards.function import RewardFunction

__all__ = ["ROUNDING", "junk_that_pays", "quoted"]

ROUNDING = 1e-6
"""Relative to a reward's size: what separates two numbers that are meant to be equal."""

_MOST_NAMED = 6

_HINTS = (
    ("listed", "Compare the whole marked answer with the right one; that it occurs somewhere is not enough."),
    ("in tags", "Take one answer, the last, and leave the others out."),
    ("other answer", "See whether the rewards expect another format, and whether one compares with the row's answer."),
    ("long text", "Put a limit on what length earns."),
    ("repeated text", "Do not pay for the same words twice."),
    ("format repeated", "Pay for each tag once, and for nothing after the last."),
    ("prompt echoed", "Do not pay for the prompt's own words."),
    ("empty", "Give an empty text, or an empty answer, nothing."),
    ("odd", "Give a text that cannot be read as an answer nothing."),
    ("rejected", "See whether the sign, or the label that is rewarded, is the wrong one."),
    ("program", "Have the tests report their own result, and compare types as well as values."),
)
"""By a part of a probe's name: what mends a reward that pays for it."""


def junk_that_pays(
    functions: Sequence[RewardFunction],
    probes: Sequence[ProbeResult],
    rewards: Sequence[RewardResult],
    samples: SampleResult | None,
    reference_column: str | None,
) -> Iterator[Finding]:
    """Yield what earns more than a right answer, or as much; without right answers, more than the model earns."""
    reference = _named(probes, REFERENCE)
    if reference is None:
        yield from _better_than_sampled(probes, rewards, samples)
    elif reference.total.mean is not None:
        sees_answers = any(function.accepts is None or reference_column in function.accepts for function in functions)
        exact = reference_column == EXACT
        yield from _at_least_the_reference(reference, probes, rewards, exact=exact, sees_answers=sees_answers)
        yield from _partly_fooled(reference, probes, rewards)


def _at_least_the_reference(
    reference: ProbeResult,
    probes: Sequence[ProbeResult],
    rewards: Sequence[RewardResult],
    *,
    exact: bool,
    sees_answers: bool,
) -> Iterator[Finding]:
    """Yield what earns more than the reference, and what earns as much.

    Args:
        exact: another row's answer is wrong here; a text that was merely preferred to another may please anywhere.
        sees_answers: some reward can compare with the right answer.
    """
    right = _mean(reference)
    margin = ROUNDING * max(1.0, abs(right))
    others = [probe for probe in probes if probe is not reference and probe.total.mean is not None]
    better = [probe for probe in others if _mean(probe) > right + margin and (exact or probe.name != OTHER_ANSWER)]
    equal = [probe for probe in others if _mean(probe) >= right - margin and probe not in better]
    if better:
        yield Finding(
            "hackable",
            "problem",
            f"more than the right answer ({right:.3g}) earn: {_earnings(better)}",
            "Training finds what pays best: it will teach the model to write this instead of answers.",
            _remedy(reference, better, rewards),
            _paying(reference, better, rewards),
            tuple(probe.name for probe in better),
        )
    if not equal:
        return
    names = tuple(probe.name for probe in equal)
    message = f"as much as the right answer ({right:.3g}) earn: {_earnings(equal)}"
    if not sees_answers:
        yield Finding(
            "not-told-apart",
            "warning",
            message,
            "No reward here sees the right answers, so a wrong one in the right form earns as much.",
            "Add a reward that compares with the answer (correctness, accuracy), if answers are to get better.",
            _paying(reference, equal, rewards),
            names,
        )
    else:
        yield Finding(
            "not-told-apart",
            "problem" if exact or names != (OTHER_ANSWER,) else "warning",
            message,
            "The rewards cannot tell these from a right answer, so training will not prefer the right one.",
            _remedy(reference, equal, rewards),
            _paying(reference, equal, rewards),
            names,
        )


def _better_than_sampled(
    probes: Sequence[ProbeResult], rewards: Sequence[RewardResult], samples: SampleResult | None
) -> Iterator[Finding]:
    if samples is None or samples.best is None:
        yield Finding(
            "no-reference",
            "warning",
            "the rows have no right answers, and no sampled completion has a reward: probes are compared with nothing",
            "Whether junk pays better than good completions cannot be said.",
            "Look at the table: no line of it should earn what a good completion earns.",
        )
        return
    best = samples.best
    better = [
        probe for probe in probes if probe.name != REJECTED and probe.total.mean is not None and _mean(probe) > best
    ]
    if better:
        yield Finding(
            "junk-pays",
            "warning",
            f"more than the best of {samples.group_size} completions that the model writes now ({best:.3g}) earn: "
            f"{_earnings(better)}",
            "The rows have no right answers to compare with; if these texts are worthless, training will still find "
            "them.",
            "Read such a text as your rewards do, and add one that it cannot earn: a format, a limit of length, a "
            "judge.",
            tuple(reward.name for reward in rewards if any(_pays(probe, reward.name) for probe in better)),
            tuple(probe.name for probe in better),
        )


def _partly_fooled(
    reference: ProbeResult, probes: Sequence[ProbeResult], rewards: Sequence[RewardResult]
) -> Iterator[Finding]:
    """Yield rewards that tell right from wrong, but take junk for right where the total does not."""
    other = _named(probes, OTHER_ANSWER)
    if other is None:
        return
    for reward in rewards:
        right, wrong = reference.rewards[reward.name].mean, other.rewards[reward.name].mean
        if right is None or wrong is None or right <= wrong + ROUNDING:
            continue
        fooled = [
            probe
            for probe in probes
            if probe is not reference
            and (mean := probe.rewards[reward.name].mean) is not None
            and mean >= right - ROUNDING
            and (probe.total.mean is None or _mean(probe) < _mean(reference) - ROUNDING)
        ]
        if fooled:
            yield Finding(
                "fooled",
                "warning",
                f"reward {reward.name!r} gives its full {right:.3g} also to: {quoted([p.name for p in fooled])}",
                "The other rewards make up for it, but a part of the pay can be had without a right answer.",
                _hints(fooled),
                (reward.name,),
                tuple(probe.name for probe in fooled),
            )


def _remedy(reference: ProbeResult, probes: Sequence[ProbeResult], rewards: Sequence[RewardResult]) -> str:
    paying = _paying(reference, probes, rewards)
    if not paying and any(reward.reacts for reward in rewards):
        return "No reward gives these more than the right answer: see whether a weight has the wrong sign."
    where = f"Look at {quoted(paying)}. " if paying and len(rewards) > 1 else ""
    told = (
        f" The right answer was written as {reference.example!r}." if OTHER_ANSWER in {p.name for p in probes} else ""
    )
    return f"{where}{_hints(probes)}{told}"


def _hints(probes: Sequence[ProbeResult]) -> str:
    """Return what mends the rewards that pay for these, the best paid first; two things at most."""
    hints = [hint for probe in _ranked(probes) for part, hint in _HINTS if part in probe.name]
    return " ".join(list(dict.fromkeys(hints))[:2])


def _paying(reference: ProbeResult, probes: Sequence[ProbeResult], rewards: Sequence[RewardResult]) -> tuple[str, ...]:
    """Return the rewards that give one of the probes at least what they give the reference."""

    def is_paid(probe: ProbeResult, name: str) -> bool:
        given, due = probe.rewards[name].mean, reference.rewards[name].mean
        return given is not None and due is not None and given >= due - ROUNDING

    return tuple(
        reward.name for reward in rewards if reward.reacts and any(is_paid(probe, reward.name) for probe in probes)
    )


def _pays(probe: ProbeResult, name: str) -> bool:
    mean = probe.rewards[name].mean
    return mean is not None and mean > 0


def _earnings(probes: Sequence[ProbeResult]) -> str:
    ranked = _ranked(probes)
    shown = "; ".join(f"{probe.name} {_mean(probe):.3g}" for probe in ranked[:_MOST_NAMED])
    return shown if len(ranked) <= _MOST_NAMED else f"{shown}; and {len(ranked) - _MOST_NAMED} more"


def _ranked(probes: Sequence[ProbeResult]) -> list[ProbeResult]:
    return sorted(probes, key=_mean, reverse=True)


def quoted(names: Collection[str]) -> str:
    """Return names in quotation marks, the first few of many.

    Example:
        >>> quoted(["a", "b", "c"])
        "'a', 'b' and 'c'"
    """
    shown = [repr(name) for name in names]
    if len(shown) > _MOST_NAMED:
        shown = [*shown[:_MOST_NAMED], f"{len(shown) - _MOST_NAMED} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _named(probes: Sequence[ProbeResult], name: str) -> ProbeResult | None:
    return next((probe for probe in probes if probe.name == name), None)


def _mean(probe: ProbeResult) -> float:
    return 0.0 if probe.total.mean is None else probe.total.mean
