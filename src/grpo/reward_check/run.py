"""`check_rewards`: what a suite of rewards gives to right answers and to junk, and whether it can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpo.algorithm import Combine
from grpo.errors import ConfigError
from grpo.groups import Truncated
from grpo.reward_check.answers import reference_column, reference_text
from grpo.reward_check.findings import find
from grpo.reward_check.passes import Passes, SuiteRunner, layout_of, score_samples
from grpo.reward_check.probes import LONGEST, make_probes
from grpo.reward_check.report import CheckReport, RewardResult, SampleResult
from grpo.reward_check.results import probe_result, reward_result, sample_result
from grpo.rewards.function import RewardFunction
from grpo.rewards.suite import RewardSuite
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
    """Return what the rewards gave to probes written for real rows, and what is wrong with them.

    Each row gets its right answer, another row's, and a dozen kinds of junk, bare and in the format asked for.
    What fails is tried again by itself; what does not fail is scored `repeats` times, in another order, and row
    by row. Weights that change during a run are taken as they are at its end, and rewards that normalise over a run
    as they are before that; what they remember is not touched.

    Args:
        rewards: a suite, or the functions to make one of.
        rows: prompts with their columns. Where some rows have a right answer (in the column `answer`,
            `reference` or `chosen`) and others have none, the others are left out.
        answer_format: what a completion is asked to look like.
        groups: completions sampled from the policy, for the share of groups with spread; None: no forecast.
        texts: their decoded completions, in order of groups.
        truncated, combine: as in training, which decide what spread is.
        repeats: how often the same call is made.
        batch_size: completions in a step of the run; no call is much larger.
        max_steps: length of the run in steps.
        seed: of the other order.
        encode: a text's token ids, for rewards that look at these; by default a token is a character.
        max_characters: what the policy can write at most.

    Raises:
        ConfigError: there are no rows, `repeats` is below 1, or `groups` and `texts` do not belong together.
    """
    _refuse_nothing(rows, repeats, groups or (), texts or ())
    suite = rewards if isinstance(rewards, RewardSuite) else RewardSuite(rewards)
    column = reference_column(rows)
    if column is not None:
        rows = [row for row in rows if reference_text(row, column) is not None]
    runner = SuiteRunner(suite, rows, encode or _characters, step=max_steps, max_steps=max_steps)
    probes = make_probes(rows, answer_format, column, max_characters=max_characters)
    layout = layout_of(len(rows), probes)
    rows_per_call = max(1, batch_size // max(len(written) for _, written in layout))
    try:
        with runner.ready(layout, rows_per_call=rows_per_call):
            passes = Passes(runner, probes, rows_per_call=rows_per_call, repeats=repeats, seed=seed)
            sampled = score_samples(runner, groups, texts or ()) if groups else ()
    finally:
        if suite is not rewards:
            suite.close()
    samples = sample_result(suite, sampled, truncated=truncated, combine=combine) if sampled else None
    behaviour = [reward_result(function, passes, sampled, batch_size) for function in suite.functions]
    return _report(passes, behaviour, samples, column=column, repeats=repeats)


def _report(
    passes: Passes,
    behaviour: Sequence[RewardResult],
    samples: SampleResult | None,
    *,
    column: str | None,
    repeats: int,
) -> CheckReport:
    suite = passes.runner.suite
    probes = tuple(probe_result(probe, passes) for probe in passes.probes)
    findings = find(
        suite.functions,
        probes,
        behaviour,
        samples,
        reference_column=column,
        timeout_s=suite.timeout_s,
        repeats=repeats,
    )
    return CheckReport(len(passes.runner.rows), column, repeats, probes, tuple(behaviour), samples, findings)


def _refuse_nothing(rows: Sequence[Prompt], repeats: int, groups: Sequence[Group], texts: Sequence[str]) -> None:
    if not rows or repeats < 1:
        raise ConfigError(f"a check of rewards got {len(rows)} rows and repeats={repeats}: give at least 1 of each")
    if sum(len(group.rollouts) for group in groups) != len(texts):
        raise ConfigError("a check of rewards takes sampled groups together with one text for each completion")


def _characters(text: str) -> list[int]:
    return [ord(character) for character in text]
