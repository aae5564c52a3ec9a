"""Which texts earn what only a right answer should."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from grpo.rewards.check.answers import EXACT
from grpo.rewards.check.probes import OTHER_ANSWER, REFERENCE, REJECTED
from grpo.rewards.check.report import Finding, ProbeResult, RewardResult, SampleResult, Standing
from grpo.rewards.function import RewardFunction

__all__ = ["junk_that_pays", "quoted"]

_Paid: TypeAlias = Mapping[str, Sequence[Standing]]
"""By probe, how those of its texts stand that earn what they should not."""

_MOST_NAMED = 6
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
    """
    reference = next((probe for probe in probes if probe.name == REFERENCE), None)
    if reference is None:
        yield from _better_than_sampled(probes, rewards, samples)
        return
    sees_answers = any(function.accepts is None or reference_column in function.accepts for function in functions)
    others = [probe for probe in probes if probe is not reference]
    if reference_column == EXACT and sees_answers:
        above = _those(others, lambda each: each.above > 0)
        level = _those(others, lambda each: each.level > 0 and each.above == 0)
        yield from _hackable(reference, above, rewards)
        yield from _not_told_apart(reference, level, rewards)
        left = [probe for probe in others if probe.name not in above and probe.name not in level]
        yield from _partly_fooled(reference, left, rewards)
    else:
        junk = [probe for probe in others if probe.name != OTHER_ANSWER]
        yield from _hackable(reference, _those(junk, _is_above), rewards)
        level = _those(others if reference_column == EXACT else junk, _is_level)
        if sees_answers:
            yield from _not_told_apart(reference, level, rewards)
        else:
            yield from _unseen(level, rewards, exact=reference_column == EXACT)
        yield from _sometimes(_those(junk, lambda each: each.above > 0 and not _is_above(each) and not _is_level(each)))
        if reference_column != EXACT:
            yield from _not_of_the_prompt([probe for probe in others if probe.name == OTHER_ANSWER])


def _those(probes: Sequence[ProbeResult], wanted: Callable[[Standing], bool]) -> _Paid:
    chosen = {probe.name: [each for each in probe.standings if wanted(each)] for probe in probes}
    return {name: standings for name, standings in chosen.items() if standings}


def _is_above(standing: Standing) -> bool:
    """Return whether a text earns more than good answers in most rows, or on average."""
    return 2 * standing.above > standing.rows or (standing.lead or 0.0) > 0


def _is_level(standing: Standing) -> bool:
    """Return whether it earns as much."""
    most = 2 * (standing.above + standing.level) > standing.rows
    return not _is_above(standing) and (most or standing.lead == 0)


def _hackable(reference: ProbeResult, paid: _Paid, rewards: Sequence[RewardResult]) -> Iterator[Finding]:
    if paid:
        yield Finding(
            "hackable",
            "problem",
            f"more than the right answer earn: {_earnings(paid)}",
            "Training finds what pays best: it will teach the model to write this instead of answers.",
            _remedy(reference, paid, rewards),
            _paying(paid, rewards),
            tuple(paid),
        )


def _not_told_apart(reference: ProbeResult, paid: _Paid, rewards: Sequence[RewardResult]) -> Iterator[Finding]:
    if paid:
        yield Finding(
            "not-told-apart",
            "problem",
            f"as much as the right answer earn: {_earnings(paid, level=True)}",
            "The rewards cannot tell these from a right answer, so training will not prefer the right one.",
            _remedy(reference, paid, rewards),
            _paying(paid, rewards),
            tuple(paid),
        )


def _unseen(paid: _Paid, rewards: Sequence[RewardResult], *, exact: bool) -> Iterator[Finding]:
    """Yield what earns as much as right answers that no reward looks at."""
    if not paid:
        return
    if exact:
        meaning = "No reward here sees the right answers, so a wrong one in the right form earns as much."
        advice = "Add a reward that compares with the answer (correctness, accuracy), if answers are to get better."
    else:
        meaning = "If these texts are worse than good answers, training will not learn that they are."
        advice = "Read such a text as your rewards do, and add one that it cannot earn, if answers are to get better."
    message = f"as much as the right answer earn: {_earnings(paid, level=True)}"
    yield Finding("not-told-apart", "warning", message, meaning, advice, _paying(paid, rewards), tuple(paid))


def _sometimes(paid: _Paid) -> Iterator[Finding]:
    if paid:
        yield Finding(
            "pays-in-some-rows",
            "warning",
            f"in some rows more than the good answer earn: {_earnings(paid)}",
            "On most rows the good answer pays better; training may still find this where it does not.",
            _hints(paid),
            (),
            tuple(paid),
        )


def _not_of_the_prompt(others: Sequence[ProbeResult]) -> Iterator[Finding]:
    """Yield that good answers to other prompts please here as well; they are no junk."""
    pleasing = _those(others, lambda each: (each.above + each.level) > _TELLS * each.rows)
    if pleasing:
        yield Finding(
            "not-told-apart",
            "warning",
            f"as much as a row's own good answer earn those of other rows: {_earnings(pleasing, level=True)}",
            "Nothing here ties a completion to its prompt, so training may find one answer for all of them.",
            "Add a reward that reads the prompt, if answers are to be about it; else all is well.",
            (),
            tuple(pleasing),
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
    names = {name for standings in paid.values() for each in standings for name in each.rewards}
    return tuple(reward.name for reward in rewards if reward.reacts and reward.name in names)


def _earnings(paid: _Paid, *, level: bool = False) -> str:
    """Return what was paid for each of these texts, the best paid first, and where.

    Args:
        level: rows in which they earned as much count, and not only those in which they earned more.
    """
    ranked = _ranked(paid)
    shown = "; ".join(f"{name} {_earning(paid[name], level)}" for name in ranked[:_MOST_NAMED])
    return shown if len(ranked) <= _MOST_NAMED else f"{shown}; and {len(ranked) - _MOST_NAMED} more"


def _earning(standings: Sequence[Standing], level: bool) -> str:
    best = max(standings, key=_advantage)
    if best.due is None:
        amount, hits = f"{best.mean:.3g}", best.rows
    else:
        amount, hits = f"{best.earned:.3g} (right: {best.due:.3g})", best.above + best.level * level
    if hits < best.rows:
        texts = _texts(standings) if best.label else f"{best.text!r} in row {best.row}"
        return f"{amount} in {hits} of {best.rows} rows, as for {texts}"
    return f"{amount} for {_texts(standings)}" if best.label else amount


def _texts(standings: Sequence[Standing]) -> str:
    ranked = sorted(standings, key=_advantage, reverse=True)
    shown = ", ".join(f"{each.text!r}" for each in ranked[:_MOST_TEXTS])
    return shown if len(ranked) <= _MOST_TEXTS else f"{shown} and {len(ranked) - _MOST_TEXTS} more"


def _ranked(paid: _Paid) -> list[str]:
    return sorted(paid, key=lambda name: max(map(_advantage, paid[name]), default=0.0), reverse=True)


def _advantage(standing: Standing) -> float:
    return standing.earned - (standing.due or 0.0)


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
