"""Measure how often a run's answers to financial questions beat those of another model, by the generators' criteria.

    python benchmarks/preference_wins.py RUN [--against MODEL] [--samples 4] [--seed 0]

Both models answer every question of the task `--samples` times at temperature 1. The answer that meets more of the
criteria in `grpo.demos.preferences` wins; equal answers get half a point each. Prints one JSON line: the share of wins
on held-out questions and on all questions, and the mean number of criteria met by each model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from grpo.config import load_run_config
from grpo.demos.preferences import criteria_met
from grpo.demos.tasks import finance_task
from grpo.tasks.answers import find_format
from sampled import sampled


def criteria_counts(questions: Sequence[str], completions: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return how many criteria each answer meets, question by question."""
    return [
        [len(criteria_met(question, text)) for text in texts]
        for question, texts in zip(questions, completions, strict=True)
    ]


def share_of_wins(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Return the share of points over all pairs of answers to the same question."""
    points = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for own, others in zip(ours, theirs, strict=True)
        for mine in own
        for other in others
    ]
    return sum(points) / len(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--against", help="the model that the run began with")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run = load_run_config(arguments.run)
    task = finance_task(
        eval_size=run.data.eval_size, answer_format=find_format(run.data.answer_format), seed=run.optimizer.seed
    )
    held_out = [str(row.prompt) for row in task.evaluation]
    questions = held_out + [str(row.prompt) for row in task.train]
    ours, theirs = (
        criteria_counts(questions, sampled(model, questions, like=run, samples=arguments.samples, seed=arguments.seed))
        for model in (arguments.run, arguments.against or run.policy.model)
    )
    size = len(held_out)
    print(
        json.dumps(
            {
                "wins_held_out": round(share_of_wins(ours[:size], theirs[:size]), 3),
                "wins": round(share_of_wins(ours, theirs), 3),
                "criteria": round(sum(map(sum, ours)) / (len(ours) * arguments.samples), 2),
                "criteria_before": round(sum(map(sum, theirs)) / (len(theirs) * arguments.samples), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
