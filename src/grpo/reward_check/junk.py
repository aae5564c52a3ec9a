"""Which texts earn what only a right answer should."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from grpo.reward_check.answers import EXACT
from grpo.reward_check.probes import OTHER_ANSWER, REFERENCE, REJECTED
from grpo.reward_check.report import (
    ComparisonResult,
    Finding,
    ProbeResult,
    RewardResult,
    SampleResult,
    Severity,
    quoted,
)
from grpo.rewards.function import RewardFunction

__all__ = ["junk_that_pays"]

_Paid: TypeAlias = Mapping[str, Sequence[ComparisonResult]]
"""By probe, how those of its texts compare that earn what they should not."""

_MOST_PROBES = 6
_MOST_TEXTS = 3
_TELLS = 0.25
"""In how many rows a reward that tells right from wrong may give another row's answer as much as the right one."""

_HINTS = (
    ("listed", "Compare the whole marked answer with the right one; that it occurs somewhere is not enough."),
    ("in tags", "Take one answer, the last, and leave the others out."),
    ("other answer", "See whether the rewards expect another format, and whether one compares with the row's answer."),
    ("long text", "Put a limit on what length earns."),
    ("repeated text", "Do not pay for the same words twice."),
    ("format repeated", "Pay for each tag once, and for nothing after the last."),
    ("prompt echoed", "Do not pay for the prompt's own words."),
    ("empty", "Give an empty text, or an empty answer, nothing."),
    ("odd numbers", "Give what is no finite number nothing: NaN and infinity pass many a comparison."),
    ("odd Unicode", "Give a text that cannot be read as an answer nothing."),
    ("rejected", "See whether the sign, or the label that is rewarded, is the wrong one."),
    ("program", "Have the tests report their own result, and compare types as well as values."),
)
"""By a part of a probe's name: what mends a reward that pays for it."""

_PAYMENTS: Mapping[str, tuple[str, Severity, str, str, str]] = MappingProxyType(
    {
        "more": (
            "hackable",
            "problem",
            "more than the right answer earn: {more}",
            "Training finds what pays best: it will teach the model to write this instead of answers.",
            "{remedy}",
        ),
        "as much": (
            "not-told-apart",
            "problem",
            "as much as the right answer earn: {as_much}",
            "The rewards cannot tell these from a right answer, so training will not prefer the right one.",
            "{remedy}",
        ),
        "as much, answers unseen": (
            "not-told-apart",
            "warning",
            "as much as the right answer earn: {as_much}",
            "No reward here sees the right answers, so a wrong one in the right form earns as much.",
            "Add a reward that compares with the answer (correctness, accuracy), if answers are to get better.",
        ),
        "as much, good answers unseen": (
            "not-told-apart",
            "warning",
            "as much as the right answer earn: {as_much}",
            "If these texts are worse than good answers, training will not learn that they are.",
            "Read such a text as your rewards do, and add one that it cannot earn, if answers are to get better.",
        ),
        "more in some rows": (
            "pays-in-some-rows",
            "warning",
            "in some rows more than the good answer earn: {more}",
            "On most rows the good answer pays better; training may still find this where it does not.",
            "{hints}",
        ),
        "as much for other prompts": (
            "not-told-apart",
            "warning",
            "as much as a row's own good answer earn those of other rows: {as_much}",
            "Nothing here ties a completion to its prompt, so training may find one answer for all of them.",
            "Add a reward that reads the prompt, if answers are to be about it; else all is well.",
        ),
    }
)
"""By kind of pay that texts should not get: code, severity, message, meaning and advice of the finding.

In the words, `{more}` and `{as_much}` are what they earned, and in how many rows more, or at least as much; `{remedy}`
and `{hints}` are what the functions of these names return.
"""

_BLAMES_NO_REWARD = frozenset({"more in some rows", "as much for other prompts"})
"""Kinds of pay that a sound reward may give as well."""


def junk_that_pays(
    functions: Sequence[RewardFunction],
    probes: Sequence[ProbeResult],
    rewards: Sequence[RewardResult],
    samples: SampleResult | None,
    reference_column: str | None,
) -> Iterator[Finding]:
    """Yield what earns more than a right answer, or as much; without right answers, more than the model earns.

    Where there is one right answer and a reward can see it, one row in which junk earns as much is a problem. Where
    rows merely have a good answer, others may please as well, so what counts is most rows, or all on average.
    Arguments are those of `find`.
    """
    reference = next((probe for probe in probes if probe.name == REFERENCE), None)
    if reference is None:
        yield from _better_than_sampled(probes, rewards, samples)
        return
    is_exact = reference_column == EXACT
    sees_answers = any(function.accepts is None or reference_column in function.accepts for function in functions)
    others = [probe for probe in probes if probe is not reference]
    if is_exact and sees_answers:
        more = _those(others, lambda each: each.above > 0)
        as_much = _those(others, lambda each: each.level > 0 and each.above == 0)
        yield from _findings({"more": more, "as much": as_much}, reference, rewards)
        left = [probe for probe in others if probe.name not in more and probe.name not in as_much]
        yield from _partly_fooled(reference, left, rewards)
    else:
        yield from _findings(_mostly_paid(others, is_exact, sees_answers), reference, rewards)


def _mostly_paid(others: Sequence[ProbeResult], is_exact: bool, sees_answers: bool) -> dict[str, _Paid]:
    """Return by kind of pay the texts that get it in most rows, or on average.

    Args:
        others: what each probe earned, the reference left out.
        is_exact: whether there is one right answer to each row.
        sees_answers: whether a reward can see it.
    """
    junk = [probe for probe in others if probe.name != OTHER_ANSWER]
    unseen = "as much, answers unseen" if is_exact else "as much, good answers unseen"
    found = {
        "more": _those(junk, _is_above),
        "as much" if sees_answers else unseen: _those(others if is_exact else junk, _is_level),
        "more in some rows": _those(junk, lambda each: each.above > 0 and not _is_above(each) and not _is_level(each)),
    }
    if not is_exact:
        foreign = [probe for probe in others if probe.name == OTHER_ANSWER]
        found["as much for other prompts"] = _those(foreign, lambda each: each.above + each.level > _TELLS * each.rows)
    return found


def _those(probes: Sequence[ProbeResult], wanted: Callable[[ComparisonResult], bool]) -> _Paid:
    chosen = {probe.name: [each for each in probe.comparisons if wanted(each)] for probe in probes}
    return {name: texts for name, texts in chosen.items() if texts}


def _is_above(text: ComparisonResult) -> bool:
    """Return whether a text earns more than good answers in most rows, or on average."""
    return 2 * text.above > text.rows or (text.margin or 0.0) > 0


def _is_level(text: ComparisonResult) -> bool:
    """Return whether it earns as much."""
    most = 2 * (text.above + text.level) > text.rows
    return not _is_above(text) and (most or text.margin == 0)


def _findings(
    paid_by_kind: Mapping[str, _Paid], reference: ProbeResult, rewards: Sequence[RewardResult]
) -> Iterator[Finding]:
    """Yield a finding for each kind of pay that some text gets, in words from `_PAYMENTS`."""
    for kind, paid in paid_by_kind.items():
        if paid:
            code, severity, message, meaning, advice = _PAYMENTS[kind]
            words = {
                "more": _earnings(paid),
                "as_much": _earnings(paid, level=True),
                "hints": _hints(paid),
                "remedy": _remedy(reference, paid, rewards),
            }
            paying = () if kind in _BLAMES_NO_REWARD else _paying(paid, rewards)
            yield Finding(code, severity, message.format(**words), meaning, advice.format(**words), paying, tuple(paid))


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
    better = _those([probe for probe in probes if probe.name != REJECTED], lambda each: each.mean > best)
    if better:
        cells = [probe.rewards for probe in probes if probe.name in better]
        yield Finding(
            "junk-pays",
            "warning",
            f"more than the best of {samples.group_size} completions that the model writes now ({best:.3g}) earn: "
            f"{_earnings(better)}",
            "The rows have no right answers to compare with; if these texts are worthless, training will still find "
            "them.",
            "Read such a text as your rewards do, and add one that it cannot earn: a format, a limit of length, a "
            "judge.",
            tuple(reward.name for reward in rewards if any((cell[reward.name].highest or 0.0) > 0 for cell in cells)),
            tuple(better),
        )


def _partly_fooled(
    reference: ProbeResult, probes: Sequence[ProbeResult], rewards: Sequence[RewardResult]
) -> Iterator[Finding]:
    """Yield rewards that tell right from wrong, but take junk for right where the total does not."""
    other = next((probe for probe in probes if probe.name == OTHER_ANSWER), None)
    if other is None:
        return
    for reward in rewards:
        right = reference.rewards[reward.name].mean
        if right is None or not other.rewards[reward.name].numbers or other.fooled[reward.name] > _TELLS:
            continue
        fooled = [probe.name for probe in probes if probe.fooled[reward.name] > 0]
        if fooled:
            yield Finding(
                "fooled",
                "warning",
                f"reward {reward.name!r} gives its full {right:.3g} also to: {quoted(fooled)}",
                "The other rewards make up for it, but a part of the pay can be had without a right answer.",
                _hints(dict.fromkeys(fooled, ())),
                (reward.name,),
                tuple(fooled),
            )


def _remedy(reference: ProbeResult, paid: _Paid, rewards: Sequence[RewardResult]) -> str:
    paying = _paying(paid, rewards)
    if not paying and any(reward.reacts for reward in rewards):
        return "No reward gives these more than the right answer: see whether a weight has the wrong sign."
    where = f"Look at {quoted(paying)}. " if paying and len(rewards) > 1 else ""
    told = f" The right answer was written as {reference.example!r}." if OTHER_ANSWER in paid else ""
    return f"{where}{_hints(paid)}{told}"


def _hints(paid: _Paid) -> str:
    """Return what mends the rewards that pay for these, the best paid first; two things at most."""
    hints = [hint for name in _ranked(paid) for part, hint in _HINTS if part in name]
    return " ".join(list(dict.fromkeys(hints))[:2])


def _paying(paid: _Paid, rewards: Sequence[RewardResult]) -> tuple[str, ...]:
    """Return the rewards that give one of these at least what they give the right answer."""
    names = {name for texts in paid.values() for each in texts for name in each.rewards}
    return tuple(reward.name for reward in rewards if reward.reacts and reward.name in names)


def _earnings(paid: _Paid, *, level: bool = False) -> str:
    """Return what was paid for each of these texts, the best paid first, and where.

    Args:
        level: rows in which they earned as much count, and not only those in which they earned more.
    """
    ranked = _ranked(paid)
    shown = "; ".join(f"{name} {_earning(paid[name], level)}" for name in ranked[:_MOST_PROBES])
    return shown if len(ranked) <= _MOST_PROBES else f"{shown}; and {len(ranked) - _MOST_PROBES} more"


def _earning(texts: Sequence[ComparisonResult], level: bool) -> str:
    best = max(texts, key=_advantage)
    if best.reference is None:
        amount, hits = f"{best.mean:.3g}", best.rows
    else:
        amount, hits = f"{best.earned:.3g} (right: {best.reference:.3g})", best.above + best.level * level
    if hits < best.rows:
        where = _quoted_texts(texts) if best.label else f"{best.text!r} in row {best.row}"
        return f"{amount} in {hits} of {best.rows} rows, as for {where}"
    return f"{amount} for {_quoted_texts(texts)}" if best.label else amount


def _quoted_texts(texts: Sequence[ComparisonResult]) -> str:
    ranked = sorted(texts, key=_advantage, reverse=True)
    shown = ", ".join(f"{each.text!r}" for each in ranked[:_MOST_TEXTS])
    return shown if len(ranked) <= _MOST_TEXTS else f"{shown} and {len(ranked) - _MOST_TEXTS} more"


def _ranked(paid: _Paid) -> list[str]:
    return sorted(paid, key=lambda name: max(map(_advantage, paid[name]), default=0.0), reverse=True)


def _advantage(text: ComparisonResult) -> float:
    return text.earned - (text.reference or 0.0)
