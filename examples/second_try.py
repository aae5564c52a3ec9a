"""An environment of your own: the policy gets a second try when its first answer is wrong.

    grpo train environment=examples/second_try.py:SecondTry max_completion_length=96

docs/environments.md describes the three methods.
"""

from __future__ import annotations

import re

from grpo import Prompt
from grpo.environments import StepResult


class SecondTry:
    """Reward a right answer: 1.0 at the first try, 0.5 at the second."""

    def reset(self, prompt: Prompt, seed: int) -> None:
        """Read the reference answer of this episode."""
        self.answer = str(prompt.columns["answer"])
        self.tries = 0

    def step(self, completion: str) -> StepResult:
        """End the episode, or ask for a second try."""
        self.tries += 1
        solved = re.findall(r"-?\d+", completion)[-1:] == [self.answer]
        if solved or self.tries == 2:
            reward = 1.0 / self.tries if solved else 0.0
            return StepResult(rewards={"solved": reward}, done=True, info={"tries": self.tries})
        return StepResult([{"role": "user", "content": "That is wrong. What is the right answer?"}])

    def close(self) -> None:
        """Free nothing: the episode holds no resources."""
