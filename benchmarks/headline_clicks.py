"""How much likelier a click on a run's headlines became, by the rule behind the clicks, which no part of a run sees.

    python benchmarks/headline_clicks.py RUN [--against MODEL] [--samples 32] [--seed 0]

A headline is asked for on every topic, `--samples` times at temperature 1, from the model that the run began with and
from the one it ended with. Prints one JSON line: mean probability of a click (0 where there is no headline) before and
after, that of the best headlines there are, the share of the gap between the two that was closed, the same on topics
that were held out from the run, and the share of completions in the format.
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
