"""Probe the rewards: find inputs that score well without solving the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from grpo.algorithm import Combine
from grpo.errors import ConfigError
from grpo.groups import Truncated
from grpo.plurals import counted
from grpo.reward_check.answers import reference_column, reference_text
from grpo.reward_check.findings import find
from grpo.reward_check.measures import probe_result, reward_result, sample_result
from grpo.reward_check.probes import LONGEST, make_probes
from grpo.reward_check.references import find_references
from grpo.reward_check.report import CheckReport
from grpo.reward_check.scoring import SuiteRunner, run_passes, sees_answers, texts_by_row
from grpo.rewards import RewardFunction, RewardSuite
from grpo.tasks.answers import FORMATS, AnswerFormat
from grpo.types import Group, Prompt

__all__ = ["check_rewards"]


def check_rewards(
    rewards: RewardSuite | Sequence[RewardFunction],
    rows: Sequence[Prompt],
    *,
    answer_format: AnswerFormat = FORMATS["plain"],
    groups: Sequence[Group] | None = None,
    texts: Sequence[str] | None = None,
    truncated: Truncated = "keep",
    combine: Combine = "sum",
    repeats: int = 3,
    batch_size: int = 128,
    max_steps: int = 1,
    seed: int = 0,
    encode: Callable[[str], Sequence[int]] | None = None,
    max_characters: int = LONGEST,
) -> CheckReport:
    """Return the rewards of probes written for real rows, and the faults that they reveal.

    Each row gets its right answer, another row's, and a dozen kinds of junk, bare and in the format asked for. A right
    answer that the rewards refuse is tried in other forms; where they refuse these as well, and the answer is none that
    can be written in one way only, the row is compared with nothing.
    Probes that fail are scored again one by one; the others are scored `repeats` times, in another order, and row
    by row. Weights that change during a run have their final values, and nothing is normalised over the run. The
    rewards' own state is as before afterwards.

    Args:
        rewards: a suite, or the functions to make one of.
        rows: prompts with their columns. Where some rows have a right answer (in the column `answer`,
            `reference` or `chosen`) and others have none, the others are left out.
        answer_format: the format that completions are asked to have.
        groups: completions sampled from the policy, for the share of groups with spread; None: no forecast.
        texts: their decoded completions, in order of groups.
        truncated, combine: as in training; they decide which groups have spread.
        repeats: number of identical calls.
        batch_size: completions in a step of the run; no call is much larger.
        max_steps: length of the run in steps.
        seed: of the other order.
        encode: returns the token ids of a text, for rewards that read them; by default a character is a token.
        max_characters: length of the longest completion that the policy can write.

    Raises:
        ConfigError: there are no rows, `repeats` is below 1, or `groups` and `texts` do not belong together.
    """
    _check_arguments(rows, repeats, groups or (), texts or ())
    suite = rewards if isinstance(rewards, RewardSuite) else RewardSuite(rewards)
    column = reference_column(rows)
    if column is not None:
        rows = [row for row in rows if reference_text(row, column) is not None]
    probes = make_probes(rows, answer_format, column, max_characters=max_characters)
    layout = texts_by_row(probes)
    rows_per_call = max(1, batch_size // max(map(len, layout)))
    encode = encode or _code_points
    runner = SuiteRunner(suite, rows, encode=encode, max_steps=max_steps, rows_per_call=rows_per_call)
    try:
        with runner.steady(layout):
            passes = run_passes(runner, probes, repeats=repeats, seed=seed)
            references = find_references(runner, probes, passes.scores, answer_format, column)
            sampled = runner.score_samples(groups, texts or ()) if groups else ()
    finally:
        if suite is not rewards:
            suite.close()
    names = [function.name for function in suite.functions]
    probes = [references.put_into(probe) for probe in probes]
    passes = replace(passes, scores=passes.scores | references.scores)
    report = CheckReport(
        rows=len(rows),
        reference_column=column,
        repeats=repeats,
        untried_rows=len(references.untried),
        unasked_rows=len(references.unasked),
        probes=tuple(probe_result(probe, passes.scores, rows, names, references.untried) for probe in probes),
        rewards=tuple(reward_result(each, passes, sampled, runner, batch_size) for each in suite.functions),
        samples=sample_result(sampled, names, truncated=truncated, combine=combine) if sampled else None,
        findings=(),
    )
    seen = sees_answers(suite, column, passes.scores)
    findings = find(report, probes, sees_answers=seen, timeout_s=suite.timeout_s)
    return replace(report, findings=findings)


def _check_arguments(rows: Sequence[Prompt], repeats: int, groups: Sequence[Group], texts: Sequence[str]) -> None:
    if not rows or repeats < 1:
        raise ConfigError(
            f"a check of rewards got {counted(len(rows), 'row')} and repeats={repeats}: give at least 1 of each"
        )
    completions = sum(len(group.rollouts) for group in groups)
    if completions != len(texts):
        raise ConfigError(
            f"a check of rewards got {counted(completions, 'sampled completion')} and {counted(len(texts), 'text')}: "
            f"give the groups together with one text for each completion"
        )


def _code_points(text: str) -> list[int]:
    return [ord(character) for character in text]
