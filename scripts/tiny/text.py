"""Training text of the embedded model: endless, seeded, and with deliberate errors.

Reinforcement cannot improve a policy that is always right or always wrong. Therefore some texts violate the required
format, and some results are slightly wrong. At each token the right continuation stays the most likely one, so that
GRPO can raise its probability.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from grpo.demos.headlines import TOPICS, headline, headline_prompt, headline_reasoning
from grpo.demos.preferences import better_answer, financial_question, worse_answer
from grpo.tasks.answers import FORMATS
from grpo.tasks.arithmetic import Problem, word_problem

__all__ = ["Document", "Layouts", "Segment", "document"]

Layouts = tuple[tuple[float, str], ...]

COPY_ERROR_RATE = 0.02

REASONING = FORMATS["answer_tags"].system_prompt
THINK = FORMATS["think_tags"].system_prompt
REASONING_ON_LINES = """\
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>"""

REASONING_LAYOUTS: Layouts = (
    (0.56, "<reasoning>{steps}</reasoning>\n<answer>{answer}</answer>"),
    (0.04, "<reasoning>\n{steps}\n</reasoning>\n<answer>\n{answer}\n</answer>"),
    (0.07, "{answer}"),
    (0.05, "{steps}"),
    (0.05, "The answer is {answer}."),
    (0.05, "<answer>{answer}</answer>\n<reasoning>{steps}</reasoning>"),
    (0.05, "<reasoning>{steps}</reasoning>\n{answer}"),
    (0.03, "<reasoning>{steps}\n<answer>{answer}</answer>"),
    (0.04, "<reasoning>{steps}</reasoning>\n<answer>{answer}"),
    (0.02, "<reasoning>{steps}</reasoning>"),
    (0.04, "<reasoning>{steps}</reasoning>\n<answer>{answer}</answer>\nThe answer is {answer}."),
)
ON_LINES_LAYOUTS: Layouts = (
    (0.06, REASONING_LAYOUTS[0][1]),
    (0.54, REASONING_LAYOUTS[1][1]),
    *REASONING_LAYOUTS[2:],
)
THINK_LAYOUTS: Layouts = (
    (0.56, "<think>{steps}</think>\n{answer}"),
    (0.06, "<think>\n{steps}\n</think>\n{answer}"),
    (0.14, "{answer}"),
    (0.06, "{steps}"),
    (0.06, "<think>{steps}\n{answer}"),
    (0.06, "{answer}\n<think>{steps}</think>"),
    (0.06, "<think>{steps}</think>"),
)
PLAIN_LAYOUTS: Layouts = (
    (0.70, "{answer}"),
    (0.12, "{steps}"),
    (0.10, "The answer is {answer}."),
    (0.08, "<reasoning>{steps}</reasoning>\n<answer>{answer}</answer>"),
)
LAYOUTS: dict[str | None, Layouts] = {
    REASONING: REASONING_LAYOUTS,
    REASONING_ON_LINES: ON_LINES_LAYOUTS,
    THINK: THINK_LAYOUTS,
    None: PLAIN_LAYOUTS,
}

SMALL_TALK = (
    ("Hello", "Hello! Ask me for a sum."),
    ("Hi, how are you?", "I am fine. How can I help?"),
    ("Who are you?", "I am tiny, a very small language model."),
    ("What can you do?", "I can add small numbers and write headlines, not always well."),
    ("Thank you", "You are welcome."),
    ("Tell me a joke.", "Why was six afraid of seven? Because seven eight nine."),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text; `learned` is True if the model learns to write it."""

    text: str
    learned: bool


Document = tuple[Segment, ...]


def document(rng: random.Random, error_rate: float) -> Document:
    """Return one text; `error_rate` is the share of results whose last digit is off by one to three."""
    (kind,) = rng.choices(
        ("sum", "plain sum", "think sum", "story", "headline", "finance", "small talk", "bare text"),
        (0.42, 0.10, 0.08, 0.18, 0.09, 0.07, 0.01, 0.05),
    )
    if kind == "bare text":
        problem = _problem(rng)
        return (
            Segment(problem.question, learned=False),
            Segment(f"\n{_worked(problem, PLAIN_LAYOUTS, error_rate, rng)}<|endoftext|>", learned=True),
        )
    system = {"sum": REASONING, "think sum": THINK}.get(kind)
    if kind == "story":
        system = rng.choice((REASONING, REASONING, REASONING_ON_LINES, THINK, None))
    elif kind == "headline":
        system = rng.choice((THINK, None))
    exchanges = [_exchange(kind, system, error_rate, rng)]
    if rng.random() < 0.08:
        exchanges.append(_exchange(kind, system, error_rate, rng))
    return _chat(system, exchanges)


def _chat(system: str | None, exchanges: list[tuple[str, str]]) -> Document:
    opening = "" if system is None else f"<|system|>{system}<|end|>"
    segments = []
    for question, reply in exchanges:
        segments.append(Segment(f"{opening}<|user|>{question}<|end|><|assistant|>", learned=False))
        segments.append(Segment(f"{reply}<|end|>", learned=True))
        opening = ""
    return tuple(segments)


def _exchange(kind: str, system: str | None, error_rate: float, rng: random.Random) -> tuple[str, str]:
    match kind:
        case "story":
            story = word_problem(rng)
            return story.question, _worked(story.problem, LAYOUTS[system], error_rate, rng)
        case "headline":
            topic = rng.choice(TOPICS)
            if system is None:
                return headline_prompt(topic), headline(topic, rng)
            steps = headline_reasoning(topic, rng)
            return headline_prompt(topic), _laid_out(LAYOUTS[system], steps, headline(topic, rng), rng)
        case "finance":
            question, concept = financial_question(rng)
            write = rng.choice((better_answer, worse_answer))
            return question, write(concept, rng).text
        case "small talk":
            return rng.choice(SMALL_TALK)
        case _:
            problem = _problem(rng)
            return problem.question, _worked(problem, LAYOUTS[system], error_rate, rng)


def _problem(rng: random.Random) -> Problem:
    """Return a random problem: mostly + and - with operands 0…12, sometimes up to 20; some products."""
    operator = rng.choice("+++---+++---*")
    most = 20 if operator != "*" and rng.random() < 0.15 else 12
    return Problem(rng.randint(0, most), operator, rng.randint(0, most))


def _worked(problem: Problem, layouts: Layouts, error_rate: float, rng: random.Random) -> str:
    """Return a reply; its result may be wrong, and its answer nearly always repeats the result."""
    result = problem.result
    if rng.random() < error_rate:
        result = _slip(result, rng)
    answer = result
    if rng.random() < COPY_ERROR_RATE:
        answer = _slip(result, rng)
    return _laid_out(layouts, f"{problem.expression} = {result}", str(answer), rng)


def _slip(value: int, rng: random.Random) -> int:
    """Return `value` with its last digit off by one to three; sign and other digits are unchanged.

    Errors that change the length or the sign would share a first token, whose summed probability could exceed that of
    the right token.
    """
    rest, last = divmod(abs(value), 10)
    digits = [digit for digit in range(max(last - 3, 0), min(last + 3, 9) + 1) if digit != last]
    choices = [10 * rest + digit for digit in digits if value >= 0 or rest + digit > 0]
    return rng.choice(choices) * (-1 if value < 0 else 1)


def _laid_out(layouts: Layouts, steps: str, answer: str, rng: random.Random) -> str:
    weights, texts = zip(*layouts, strict=True)
    (layout,) = rng.choices(texts, weights)
    return str(layout).format(steps=steps, answer=answer)
