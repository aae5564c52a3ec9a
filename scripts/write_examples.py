"""Write `examples/*.jsonl`: arithmetic in two disjoint files, a few chat prompts, and 500 pairs of financial answers.

python scripts/write_examples.py [DIRECTORY]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpo.demos.preferences import preference_pairs
from grpo.tasks.answers import FORMATS
from grpo.tasks.arithmetic import Problem, split_problems, word_problems

# Stories of several steps, which only larger models than `tiny` can solve.
LONGER_STORIES = (
    (
        "A baker makes 24 rolls in the morning and half as many in the afternoon. "
        "She sells 30 of them. How many rolls does she have left?",
        "6",
    ),
    (
        "Omar saves $5 every week. After 8 weeks he buys a game for $25 and a pen for $3. "
        "How much money does Omar have left?",
        "12",
    ),
    (
        "A class has 28 pupils. A quarter of them walk to school, 9 come by bicycle and the rest take the bus. "
        "How many pupils take the bus?",
        "12",
    ),
)


def main() -> None:
    default = Path(__file__).parent.parent / "examples"
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    directory.mkdir(parents=True, exist_ok=True)
    train, evaluation = split_problems(200, 64)
    write(directory / "arithmetic_train.jsonl", map(row, train))
    write(directory / "arithmetic_eval.jsonl", map(row, evaluation))
    write(directory / "sample_prompts.jsonl", sample_prompts())
    # The rows that `grpo reward train finance-preferences` generates, as a file for `scorer_train_file`.
    write(directory / "financial_rewards_500.jsonl", preference_pairs(500))


def row(problem: Problem) -> dict[str, str]:
    return {"prompt": problem.question, "answer": problem.answer}


def sample_prompts() -> list[dict[str, Any]]:
    sums = (Problem(7, "+", 5), Problem(3, "-", 9), Problem(6, "*", 7))
    asked = [(problem.question, problem.answer) for problem in sums]
    asked += [(story.question, story.answer) for story in word_problems(3, seed=12)]
    asked += LONGER_STORIES
    rows = [{"prompt": chat(question, "answer_tags"), "answer": answer} for question, answer in asked]
    (story,) = word_problems(1, seed=13)
    thought = [(Problem(8, "+", 4).question, "12"), (story.question, story.answer), LONGER_STORIES[0]]
    rows += [{"prompt": chat(question, "think_tags"), "answer": answer} for question, answer in thought]
    return rows


def chat(question: str, answer_format: str) -> list[dict[str, str | None]]:
    system = FORMATS[answer_format].system_prompt
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
