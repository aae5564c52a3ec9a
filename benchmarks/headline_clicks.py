"""Measure the click probability of a run's headlines before and after training, by the rule that generates clicks.

    python benchmarks/headline_clicks.py RUN [--against MODEL] [--samples 32] [--seed 0]

No part of a run sees this rule. The initial and the final model of the run write `--samples` headlines on every topic
at temperature 1. Prints one JSON line: mean click probability before and after (0 for a completion without a headline),
the probability of the best possible headlines, the share of the gap that training closed, the same probabilities on
topics that were held out from the run, and the share of completions in the format.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from grpo.config import load_run_config
from grpo.demos.clicks import best_click_probability, click_probability
from grpo.demos.headlines import TOPICS, headline_of, headline_prompt
from grpo.demos.tasks import headlines_task
from grpo.tasks.answers import find_format
from sampled import sampled


def clicks(completions: Sequence[Sequence[str]]) -> float:
    """Return the mean probability of a click over all completions."""
    headlines = [headline_of(text) for texts in completions for text in texts]
    return sum(click_probability(text) if text else 0.0 for text in headlines) / len(headlines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--against", help="the model that the run began with")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load_run_config(arguments.run)
    answer_format = find_format(config.data.answer_format)
    task = headlines_task(eval_size=config.data.eval_size, answer_format=answer_format, seed=config.optimizer.seed)
    held_out = {str(row.prompt) for row in task.evaluation}
    prompts = sorted(map(headline_prompt, TOPICS), key=lambda prompt: prompt not in held_out)
    before, after = (
        sampled(model, prompts, like=config, samples=arguments.samples, seed=arguments.seed)
        for model in (arguments.against or config.policy.model, arguments.run)
    )
    best = sum(map(best_click_probability, TOPICS)) / len(TOPICS)
    size = len(held_out)
    figures = {
        "clicks_before": clicks(before),
        "clicks": clicks(after),
        "best_attainable": best,
        "share_of_gap": (clicks(after) - clicks(before)) / (best - clicks(before)),
        "clicks_held_out_before": clicks(before[:size]),
        "clicks_held_out": clicks(after[:size]),
        "format_rate_before": well_formed(before, answer_format.is_strict),
        "format_rate": well_formed(after, answer_format.is_strict),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def well_formed(completions: Sequence[Sequence[str]], is_strict: Callable[[str], bool]) -> float:
    """Return the share of completions in the format."""
    texts = [text for several in completions for text in several]
    return sum(map(is_strict, texts)) / len(texts)


if __name__ == "__main__":
    main()
