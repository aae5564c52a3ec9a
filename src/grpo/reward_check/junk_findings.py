"""Findings about texts that earn too much: what the verdicts of the table of probes add up to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from grpo.reward_check.probes import OTHER_ANSWER, REFERENCE, Probe
from grpo.reward_check.report import CheckReport, ComparisonResult, Finding, quoted
from grpo.reward_check.verdicts import FOREIGN_SHARE, PROBE_FINDINGS, FindingKind, Standard

__all__ = ["junk_findings"]

_MOST_PROBES = 6
_MOST_TEXTS = 3
_MOST_FIXES = 2

_Texts: TypeAlias = Mapping[str, Sequence[ComparisonResult]]
"""By probe, the texts that earn too much."""

_Fixes: TypeAlias = Mapping[str, Sequence[str]]
"""By probe, advice on rewards that pay for its texts."""

FOOLED = FindingKind(
    "fooled",
    "warning",
    "reward {name!r} gives its full {right:.3g} also to: {where}",
    "The other rewards make up for it, but a part of the total can be earned without a right answer.",
    "{fixes}",
)
NO_REFERENCE = FindingKind(
    "no-reference",
    "warning",
    "the rows have no right answers and no sampled completion has a reward, so the probes are compared with nothing",
    "The check cannot tell whether junk earns more than good completions.",
    "Read the table: no probe should earn what a good completion earns.",
)


def junk_findings(report: CheckReport, probes: Sequence[Probe], standard: Standard) -> Iterator[Finding]:
    """Yield a finding for each kind that the probes' verdicts return, with all texts that belong to it."""
    if standard.reference_column is None and standard.best_sampled is None:
        yield NO_REFERENCE.finding()
        return
    fixes = {probe.name: probe.kind.fixes for probe in probes}
    paid: dict[FindingKind, dict[str, list[ComparisonResult]]] = {kind: {} for kind in PROBE_FINDINGS}
    for probe, result in zip(probes, report.probes, strict=True):
        for text in result.comparisons:
            kind = probe.kind.verdict(text, standard)
            if kind is not None:
                paid[kind].setdefault(probe.name, []).append(text)
    for kind, texts in paid.items():
        if texts:
            paying = _paying(report, texts, standard)
            yield kind.finding(
                rewards=paying if kind.names_rewards else (),
                probes=tuple(texts),
                samples=report.samples,
                more=_earnings(texts),
                as_much=_earnings(texts, level=True),
                fixes=_advice(texts, fixes),
                remedy=_remedy(report, texts, fixes, paying),
            )
    if standard.is_exact and standard.sees_answers:
        yield from _fooled(report, {name for texts in paid.values() for name in texts}, fixes)


def _fooled(report: CheckReport, named: Collection[str], fixes: _Fixes) -> Iterator[Finding]:
    """Yield rewards that tell right from wrong but take probes for right, where the total does not.

    Args:
        named: probes that other findings name.
    """
    results = {probe.name: probe for probe in report.probes}
    if OTHER_ANSWER not in results:
        return
    right, other = results.pop(REFERENCE), results[OTHER_ANSWER]
    for name in right.rewards:
        full, tells = right.rewards[name].mean, other.fooled[name] <= FOREIGN_SHARE
        taken = [probe.name for probe in results.values() if probe.name not in named and probe.fooled[name] > 0]
        if full is not None and other.rewards[name].numbers and tells and taken:
            advice = _advice(dict.fromkeys(taken, ()), fixes)
            yield FOOLED.finding(rewards=[name], probes=taken, name=name, right=full, where=quoted(taken), fixes=advice)


def _paying(report: CheckReport, paid: _Texts, standard: Standard) -> list[str]:
    """Return the rewards that give one of these texts at least what they give the right answer."""
    if standard.reference_column is None:
        cells = [probe.rewards for probe in report.probes if probe.name in paid]
        return [each.name for each in report.rewards if any((cell[each.name].highest or 0.0) > 0 for cell in cells)]
    names = {name for texts in paid.values() for text in texts for name in text.rewards}
    return [reward.name for reward in report.rewards if reward.reacts and reward.name in names]


def _remedy(report: CheckReport, paid: _Texts, fixes: _Fixes, paying: Sequence[str]) -> str:
    if not paying and any(reward.reacts for reward in report.rewards):
        return "No reward gives these texts more than the right answer: check whether a weight has the wrong sign."
    where = f"Look at {quoted(paying)}. " if paying and len(report.rewards) > 1 else ""
    example = f" The right answer was written as {report.probes[0].example!r}." if OTHER_ANSWER in paid else ""
    return f"{where}{_advice(paid, fixes)}{example}"


def _advice(paid: _Texts, fixes: _Fixes) -> str:
    """Return advice for rewards that pay for these texts, the best paid first; two sentences at most."""
    advice = dict.fromkeys(fix for name in _ranked(paid) for fix in fixes[name])
    return " ".join(list(advice)[:_MOST_FIXES])


def _earnings(paid: _Texts, *, level: bool = False) -> str:
    """Return what each of these texts earned and where, the best paid first.

    Args:
        level: whether rows in which a text earned as much count too, and not only those in which it earned more.
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


def _ranked(paid: _Texts) -> list[str]:
    return sorted(paid, key=lambda name: max(map(_advantage, paid[name]), default=0.0), reverse=True)


def _advantage(text: ComparisonResult) -> float:
    return text.earned - (text.reference or 0.0)
