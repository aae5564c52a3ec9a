"""The table of findings: code, severity, message, effect on a run, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo.reward_check.report import Finding, Severity

__all__ = ["FindingKind"]


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding. `message` and `advice` are templates for `str.format`.

    Attributes:
        names_rewards: whether a finding names the rewards that cause it; False where sound rewards behave so as well.
    """

    code: str
    severity: Severity
    message: str
    meaning: str
    advice: str
    names_rewards: bool = True

    def finding(
        self,
        *,
        rewards: Sequence[str] = (),
        probes: Sequence[str] = (),
        severity: Severity | None = None,
        **values: object,
    ) -> Finding:
        """Return a finding of this kind with `values` in its templates; `severity` replaces the kind's own."""
        message, advice = self.message.format(**values), self.advice.format(**values)
        return Finding(
            self.code, severity or self.severity, message, self.meaning, advice, tuple(rewards), tuple(probes)
        )


# fmt: off
# Rewards that fail, or do not discriminate
FAILS = FindingKind("fails", "problem",
    "reward {reward.name!r} fails on {where}: {error}",
    "A completion without a reward teaches nothing, and an exception fails all completions of the call; a policy "
    "writes such texts sooner or later.",
    "If it always fails, repair what it depends on (data, server, key); else return 0.0, or a penalty, for a text "
    "that it cannot read.")
UNDECIDED = FindingKind("no-right-answer", "warning",
    "no right answer was tried, so it is unknown whether reward {reward.name!r} recognises one; it gave {values} to "
    "every text",
    "The check cannot tell a reward that never pays from a sound one.",
    "{advice}")
UNTRIED = FindingKind("no-right-answer", "warning",
    "no right answer was tried in {untried} of {rows}, so junk is compared with nothing there: the rewards give the "
    "reference no more than an empty answer",
    "A reward may accept another form of the answer than the ones that were tried.",
    "{advice}",
    names_rewards=False)
UNASKED = FindingKind("form-not-asked-for", "warning",
    "in {unasked} of {rows} the rewards recognise a right answer only in a form that the answer format does not ask "
    "for, as in {example!r}",
    "A model that does not write this form earns nothing.",
    "Ask for this form in the prompts or in system_prompt, or set answer_format to the format that the rewards read.",
    names_rewards=False)
NEVER_APPLIES = FindingKind("never-applies", "problem",
    "reward {reward.name!r} gave no number to any text (None: does not apply)",
    "It is left out of every total, as if it were not configured.",
    "Check that the column it reads exists and is filled in, or remove the reward.")
CONSTANT = FindingKind("constant", "problem",
    "reward {reward.name!r} gave {reward.highest:g} to every text, right, wrong and empty",
    "Completions are compared with one another, so a value that all of them get teaches nothing.",
    "If it should pay for right answers or for the format, compare what it expects with the text of the probe "
    "{probe.name!r}: {probe.example!r}.")
IGNORES_COMPLETION = FindingKind("ignores-completion", "problem",
    "reward {reward.name!r} depends on the row only: all completions of a row get the same value",
    "Completions of one prompt are compared with one another, so it teaches nothing.",
    "Check that it reads `completions`, and not `prompts` or a column instead.")

# Texts that earn too much. `{more}` and `{as_much}` list them with the rows in which they earned more, or at least
# as much; `{remedy}` and `{fixes}` are advice from the table of probes.
HACKABLE = FindingKind("hackable", "problem",
    "these texts earn more than the right answer: {more}",
    "Training maximises the reward: it will teach the model to write such texts instead of answers.",
    "{remedy}")
HACKABLE_UNSEEN = FindingKind("hackable", "problem",
    "these texts earn more than the right answer: {more}",
    "No reward reads the right answers, so training will teach the model to write such texts, whatever the question.",
    "{text_fix}Add a reward that compares with the answer (correctness, accuracy), if answers are to improve.")
NOT_TOLD_APART = FindingKind("not-told-apart", "problem",
    "these texts earn as much as the right answer: {as_much}",
    "The rewards do not tell these texts from a right answer, so training will not prefer the right one.",
    "{remedy}")
ANSWERS_UNSEEN = FindingKind("not-told-apart", "warning",
    "these texts earn as much as the right answer: {as_much}",
    "No reward reads the right answers, so a text without the right answer earns as much.",
    "Add a reward that compares with the answer (correctness, accuracy), if answers are to improve.")
GOOD_UNSEEN = FindingKind("not-told-apart", "warning",
    "these texts earn as much as the good answer: {as_much}",
    "If these texts are worse than good answers, training will not learn that they are.",
    "Read one of these texts and add a reward that it cannot earn, if answers are to improve.")
PAYS_IN_SOME_ROWS = FindingKind("pays-in-some-rows", "warning",
    "in some rows these texts earn more than the good answer: {more}",
    "In most rows the good answer earns more; training may still find such a text where it does not.",
    "{fixes}",
    names_rewards=False)
OTHER_PROMPTS = FindingKind("not-told-apart", "warning",
    "good answers to other rows earn as much as the row's own good answer: {as_much}",
    "No reward ties a completion to its prompt, so training may find one answer for all prompts.",
    "Add a reward that reads the prompt, if answers should be about it; otherwise ignore this warning.",
    names_rewards=False)
JUNK_PAYS = FindingKind("junk-pays", "warning",
    "these texts earn more than the best of {samples.group_size} completions that the model writes now "
    "({samples.best:.3g}): {more}",
    "There are no right answers to compare with; if these texts are worthless, training will still find them.",
    "{text_fix}Read one of these texts; if it is worthless, add a reward that it cannot earn: a format, a judge.")
FOOLED = FindingKind("fooled", "warning",
    "reward {name!r} gives its full {right:.3g} also to: {where}",
    "The other rewards make up for it, but a part of the total can be earned without a right answer.",
    "{fixes}")
NO_REFERENCE = FindingKind("no-reference", "warning",
    "the rows have no right answers and no sampled completion has a reward, so the probes are compared with nothing",
    "The check cannot tell whether junk earns more than good completions.",
    "Read the table: no probe should earn what a good completion earns.")

# Rewards whose values change from call to call, by `{amount}`, and slow ones
NOT_REPEATABLE = FindingKind("not-repeatable", "problem",
    "reward {reward.name!r} gives one text different values when called again ({repeats}), {amount}",
    "Training learns noise as well: it makes good completions look bad and bad ones good.",
    "Remove randomness, clocks and memory of earlier calls from it; call a judge at temperature 0.")
DEPENDS_ON_ORDER = FindingKind("depends-on-order", "problem",
    "reward {reward.name!r} gives a text another value when the texts come in another order, {amount}",
    "Some completions are paid for the text of others.",
    "Return one value for each completion, in the order of `completions`, and keep no state between them.")
DEPENDS_ON_BATCH = FindingKind("depends-on-batch", "problem",
    "reward {reward.name!r} gives a text another value when fewer texts are scored with it, {amount}",
    "The reward of a completion then depends on the rest of the step; GRPO already compares within a group.",
    "Score each completion by itself, and leave normalisation to the training.")
SLOW = FindingKind("slow", "warning",
    "reward {reward.name!r} will take about {reward.step_s:.3g} s a step; its longest call took "
    "{reward.longest_s:.3g} s, and {timeout_s:g} s are allowed",
    "A call that takes too long fails for every completion in it, and the run waits for it.",
    "Make it async if it waits for a server, give it processes if it computes, or raise reward_timeout_s.")

# Sampled groups without differences to learn from
LITTLE_SPREAD = FindingKind("little-spread", "warning",
    "the rewards differ in {differing} of {groups} of {samples.group_size}",
    "A group whose completions all earn the same has no gradient, so most of the compute will teach nothing.",
    "The task is too hard or too easy for this model, or the rewards are too coarse: try easier rows, a higher "
    "temperature, a larger group_size, or a reward that pays for partial success.")
SAME_FOR_ALL = FindingKind("same-for-all-sampled", "warning",
    "reward {reward.name!r} gave {cell.highest:g} to all {cell.numbers} sampled completions",
    "At the start of the run it teaches nothing; that is fine if another reward leads to completions that differ.",
    "If it stays so, the model never writes what the reward pays for: add a reward for intermediate steps.")
# fmt: on
