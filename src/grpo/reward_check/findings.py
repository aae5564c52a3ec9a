"""From figures to findings: rewards that fail, do not discriminate, pay for junk, are noisy or slow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from grpo.plurals import counted
from grpo.reward_check import finding_kinds as kinds
from grpo.reward_check.finding_kinds import FindingKind
from grpo.reward_check.probes import OTHER_ANSWER, REFERENCE, Probe
from grpo.reward_check.report import ROUNDING, CheckReport, ComparisonResult, Finding, RewardResult, quoted
from grpo.reward_check.verdicts import FOREIGN_SHARE, Standard

__all__ = ["find"]

_MOST_PROBES = 6
_MOST_TEXTS = 3
_MOST_FIXES = 2

_Texts: TypeAlias = Mapping[str, Sequence[ComparisonResult]]
"""By probe, the texts that earn too much."""

_Fixes: TypeAlias = Mapping[str, Sequence[str]]
"""By probe, advice on rewards that pay for its texts."""

_IN_ORDER = (
    *(kinds.HACKABLE, kinds.HACKABLE_UNSEEN, kinds.NOT_TOLD_APART, kinds.ANSWERS_UNSEEN, kinds.GOOD_UNSEEN),
    *(kinds.PAYS_IN_SOME_ROWS, kinds.OTHER_PROMPTS, kinds.JUNK_PAYS),
)

_NEGLIGIBLE, _HARMFUL = 1e-3, 0.2
"""Changes of a reward as a share of its range: smaller ones are rounding, larger ones decide the order of a group."""

_FEW_GROUPS = 0.25
_SHARE_OF_TIMEOUT = 0.5

_UNSTEADY = {
    "repeat_change": kinds.NOT_REPEATABLE,
    "order_change": kinds.DEPENDS_ON_ORDER,
    "batch_change": kinds.DEPENDS_ON_BATCH,
}
"""By attribute of `RewardResult`: the finding for a change that is too large."""


def find(
    report: CheckReport, probes: Sequence[Probe], *, sees_answers: bool, timeout_s: float | None
) -> tuple[Finding, ...]:
    """Return the findings, problems first.

    Args:
        report: the figures, without findings.
        probes: the kinds of the report's probes.
        sees_answers: whether a reward reads the column of the right answers.
        timeout_s: seconds that one call of a reward may take in a run; None: no limit.
    """
    best = report.samples.best if report.samples is not None else None
    standard = Standard(report.reference_column if report.has_right_answers else None, sees_answers, best)
    found = [
        *_failing(report),
        *(indifferent := list(_indifferent(report))),
        *_untried(report, {finding.code for finding in indifferent}),
        *_paid_too_much(report, probes, standard),
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
            yield kinds.FAILS.finding(
                rewards=[reward.name], probes=tuple(reward.failures), reward=reward, where=where, error=error
            )


def _indifferent(report: CheckReport) -> Iterator[Finding]:
    for reward in report.rewards:
        if reward.reacts or len(reward.failures) >= len(report.probes):
            continue
        if not report.has_right_answers:
            yield kinds.UNDECIDED.finding(
                rewards=[reward.name], reward=reward, values=_values(reward), advice=_advice_on_right_answers(report)
            )
            continue
        if reward.lowest is None or reward.highest is None:
            kind = kinds.NEVER_APPLIES
        elif reward.highest - reward.lowest <= ROUNDING * max(1.0, abs(reward.highest)):
            kind = kinds.CONSTANT
        else:
            kind = kinds.IGNORES_COMPLETION
        yield kind.finding(rewards=[reward.name], reward=reward, probe=report.probes[0])


def _values(reward: RewardResult) -> str:
    if reward.lowest is None or reward.highest is None:
        return "no number"
    return f"{reward.highest:g}" if reward.lowest == reward.highest else "one value in each row"


def _untried(report: CheckReport, named: Collection[str]) -> Iterator[Finding]:
    """Yield rows without a right answer, unless a finding with one of the codes `named` says so already."""
    rows = counted(report.rows, "row")
    if report.untried_rows and kinds.UNTRIED.code not in named:
        yield kinds.UNTRIED.finding(untried=report.untried_rows, rows=rows, advice=_advice_on_right_answers(report))
    if report.unasked_rows:
        example = next(probe.example for probe in report.probes if probe.name == REFERENCE)
        yield kinds.UNASKED.finding(unasked=report.unasked_rows, rows=rows, example=example)


def _advice_on_right_answers(report: CheckReport) -> str:
    if report.reference_column is None:
        return (
            "Give rows a right answer in the column answer (or name the column by answer_column), or a good completion "
            "in the column reference, and check again."
        )
    return (
        f"Compare what the rewards expect with the text of the probe 'reference', as {report.probes[0].example!r}; "
        f"put a text that they accept into the column {report.reference_column!r}, and check again."
    )


def _unsteady(report: CheckReport) -> Iterator[Finding]:
    """Yield for each reward the first kind of change that is too large; later ones follow from it."""
    for reward in report.rewards:
        spread = (reward.highest or 0.0) - (reward.lowest or 0.0)
        for attribute, kind in _UNSTEADY.items():
            largest: float | None = getattr(reward, attribute)
            if largest is not None and largest > max(ROUNDING, _NEGLIGIBLE * spread):
                yield kind.finding(
                    rewards=[reward.name],
                    severity="problem" if largest > _HARMFUL * spread else "warning",
                    reward=reward,
                    repeats=counted(report.repeats, "time"),
                    amount=f"by up to {largest:.3g}; its values span {spread:.3g}",
                )
                break


def _slow(report: CheckReport, timeout_s: float | None) -> Iterator[Finding]:
    for reward in report.rewards:
        if timeout_s is not None and max(reward.step_s, reward.longest_s) > _SHARE_OF_TIMEOUT * timeout_s:
            yield kinds.SLOW.finding(rewards=[reward.name], reward=reward, timeout_s=timeout_s)


def _without_spread(report: CheckReport) -> Iterator[Finding]:
    samples = report.samples
    if samples is None or samples.total.numbers == 0:
        return
    if samples.share < _FEW_GROUPS:
        yield kinds.LITTLE_SPREAD.finding(
            samples=samples, differing=sum(samples.spread), groups=counted(len(samples.spread), "sampled group")
        )
    for reward in report.rewards:
        cell = samples.rewards[reward.name]
        if reward.reacts and cell.numbers > 1 and cell.highest == cell.lowest:
            yield kinds.SAME_FOR_ALL.finding(rewards=[reward.name], reward=reward, cell=cell)


def _paid_too_much(report: CheckReport, probes: Sequence[Probe], standard: Standard) -> Iterator[Finding]:
    """Yield a finding for each kind that the probes' verdicts return, with all texts that belong to it."""
    if standard.reference_column is None and standard.best_sampled is None:
        if report.reference_column is None:
            yield kinds.NO_REFERENCE.finding()
        return
    fixes = {probe.name: probe.kind.fixes for probe in probes}
    paid: dict[FindingKind, dict[str, list[ComparisonResult]]] = {kind: {} for kind in _IN_ORDER}
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
                text_fix=_text_fix(texts, probes),
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
            yield kinds.FOOLED.finding(
                rewards=[name], probes=taken, name=name, right=full, where=quoted(taken), fixes=advice
            )


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


def _text_fix(paid: _Texts, probes: Sequence[Probe]) -> str:
    """Return advice on the best paid text for rewards that read no answer; a text without tags goes first.

    What a reward pays for in a text without tags, such as its length, is not the format.
    """
    kinds_of = {probe.name: probe for probe in probes}
    fitting = [kinds_of[name] for name in _ranked(paid) if not kinds_of[name].kind.fixes_reading]
    best = next(iter(sorted(fitting, key=lambda probe: probe.in_format)), None)
    return "" if best is None else f"{best.kind.fixes[0]} "


def _earnings(paid: _Texts, *, level: bool = False) -> str:
    """Return the amounts that these texts earned and the rows in which they did, the best paid first.

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
        return f"{amount} in {hits} of {counted(best.rows, 'row')}, as for {where}"
    return f"{amount} for {_quoted_texts(texts)}" if best.label else amount


def _quoted_texts(texts: Sequence[ComparisonResult]) -> str:
    ranked = sorted(texts, key=_advantage, reverse=True)
    shown = ", ".join(f"{each.text!r}" for each in ranked[:_MOST_TEXTS])
    return shown if len(ranked) <= _MOST_TEXTS else f"{shown} and {len(ranked) - _MOST_TEXTS} more"


def _ranked(paid: _Texts) -> list[str]:
    return sorted(paid, key=lambda name: max(map(_advantage, paid[name]), default=0.0), reverse=True)


def _advantage(text: ComparisonResult) -> float:
    return text.earned - (text.reference or 0.0)
