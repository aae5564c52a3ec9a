"""Generated arithmetic problems: bare sums and one-step stories.

Bare sums are asked as "What is 2 + 3? Answer with an integer.". They are few enough to list, so training and
evaluation sets without common problems are a split of that list.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from grpo.errors import DataError

__all__ = [
    "Problem",
    "WordProblem",
    "all_problems",
    "reasoned_answer",
    "split_problems",
    "word_problem",
    "word_problems",
]

OPERATORS = "+-*"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """`left operator right`, with non-negative operands and one of the operators `+ - *`."""

    left: int
    operator: str
    right: int

    @property
    def expression(self) -> str:
        """The problem as an expression, for example `7 + 5`."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def question(self) -> str:
        """The prompt."""
        return f"What is {self.expression}? Answer with an integer."

    @property
    def result(self) -> int:
        """The correct answer as a number."""
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case _:
                return self.left * self.right

    @property
    def answer(self) -> str:
        """The correct answer as text, as in the column `answer`."""
        return str(self.result)


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A one-step story; `problem` is the sum that answers it."""

    question: str
    problem: Problem

    @property
    def answer(self) -> str:
        """The correct answer as text, as in the column `answer`."""
        return self.problem.answer


def all_problems(max_operand: int = 12, operators: str = "+-") -> list[Problem]:
    """Return every problem with operands 0…`max_operand`, in a fixed order; `2 + 3` and `3 + 2` are two problems.

    Raises:
        DataError: an operator is not one of `+ - *`, there is none, or `max_operand` is negative.
    """
    unknown = sorted(set(operators) - set(OPERATORS))
    if unknown or not operators:
        raise DataError(f"operators {operators!r}: use one or more of {OPERATORS!r}")
    if max_operand < 0:
        raise DataError(f"max_operand {max_operand}: use 0 or more")
    operands = range(max_operand + 1)
    unique_operators = dict.fromkeys(operators)
    return [
        Problem(left, operator, right)
        for operator, left, right in itertools.product(unique_operators, operands, operands)
    ]


def split_problems(
    train_size: int | None,
    eval_size: int,
    *,
    max_operand: int = 12,
    operators: str = "+-",
    seed: int = 0,
) -> tuple[list[Problem], list[Problem]]:
    """Return (train, eval): distinct problems in random order, without common problems.

    The evaluation problems depend only on `seed` and `eval_size`, not on `train_size`.

    Args:
        train_size: number of training problems; None: all that are left.

    Raises:
        DataError: a size is negative, or there are fewer problems than the sum of both sizes.
    """
    problems = all_problems(max_operand, operators)
    if eval_size < 0 or (train_size is not None and train_size < 0):
        raise DataError(f"train_size {train_size}, eval_size {eval_size}: use 0 or more")
    wanted = eval_size + (train_size or 0)
    if wanted > len(problems):
        raise DataError(
            f"{wanted} arithmetic problems asked for, but operands 0 to {max_operand} with {operators!r} "
            f"give {len(problems)}: lower the sizes or raise max_operand"
        )
    random.Random(seed).shuffle(problems)
    held_out, rest = problems[:eval_size], problems[eval_size:]
    return rest if train_size is None else rest[:train_size], held_out


def reasoned_answer(problem: Problem) -> str:
    """Return the correct answer in the most frequent layout of the texts that `tiny` was trained on.

    Example:
        >>> reasoned_answer(Problem(7, "+", 5))
        '<reasoning>7 + 5 = 12</reasoning>\\n<answer>12</answer>'
    """
    return f"<reasoning>{problem.expression} = {problem.answer}</reasoning>\n<answer>{problem.answer}</answer>"


NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Iris", "Jack",
    "Kim", "Leo", "Maria", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Victor",
)  # fmt: skip
THINGS = (
    "apples", "books", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "oranges", "pencils",
    "shells", "stamps", "stickers", "toys",
)  # fmt: skip
CONTAINERS = ("bags", "baskets", "boxes", "jars", "packs", "rows", "shelves")

STORIES = {
    "+": (
        "{name} has {left} {things} and buys {right} more. How many {things} does {name} have now?",
        "{name} has {left} {things}. {other} gives {name} {right} more. How many {things} does {name} have?",
        "{name} has {left} {things} and {other} has {right}. How many {things} do they have together?",
        "{name} sold {left} {things} in April and {right} in May. How many {things} did {name} sell altogether?",
        "There are {left} {things} on the table and {right} on the floor. How many {things} are there in total?",
        "{name} spends ${left} on {things} and ${right} on lunch. How much does {name} spend in total?",
        "{name} read {left} pages yesterday and {right} pages today. How many pages did {name} read?",
    ),
    "-": (
        "{name} has {left} {things} and gives {right} to {other}. How many {things} are left?",
        "{name} had {left} {things} and lost {right} of them. How many {things} does {name} have now?",
        "There are {left} {things} in a box. {name} takes {right} of them. How many {things} are left in the box?",
        "{name} has ${left} and spends ${right} on {things}. How much money is left?",
        "{name} has {left} {things} and {other} has {right}. How many more {things} does {name} have than {other}?",
        "{name} needs {left} {things} and already has {right}. How many more {things} does {name} need?",
    ),
    "*": (
        "{name} has {left} {containers} with {right} {things} each. How many {things} does {name} have in total?",
        "{name} earns ${left} an hour. How much does {name} earn in {right} hours?",
        "{name} buys {left} {things} for ${right} each. How much does {name} pay?",
        "There are {left} {containers} and each holds {right} {things}. How many {things} are there?",
    ),
}


def word_problem(rng: random.Random) -> WordProblem:
    """Return a story with operands up to 20 (up to 10 for products) and a non-negative answer."""
    operator = rng.choice("++--*")
    if operator == "*":
        left, right = rng.randint(2, 10), rng.randint(2, 10)
    else:
        left, right = rng.randint(1, 20), rng.randint(1, 20)
    if operator == "-" and left < right:
        left, right = right, left
    name, other = rng.sample(NAMES, 2)
    question = rng.choice(STORIES[operator]).format(
        name=name,
        other=other,
        left=left,
        right=right,
        things=rng.choice(THINGS),
        containers=rng.choice(CONTAINERS),
    )
    return WordProblem(question, Problem(left, operator, right))


def word_problems(count: int, seed: int = 0) -> list[WordProblem]:
    """Return `count` stories with different questions; a longer list starts with the shorter one."""
    rng = random.Random(seed)
    found: dict[str, WordProblem] = {}
    while len(found) < count:
        story = word_problem(rng)
        found.setdefault(story.question, story)
    return list(found.values())
