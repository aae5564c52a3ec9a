"""An environment of two turns: the policy asks, the environment answers with a number, the policy concludes."""

from __future__ import annotations

from grpo.environments import StepResult
from grpo.types import Prompt


class AskThenConclude:
    """Pays for a last turn that repeats the environment's number, and a little for a first turn that is short."""

    def reset(self, prompt: Prompt, seed: int) -> None:
        """Draw the number of this episode."""
        self.number = str(seed % 10)
        self.turns = 0

    def step(self, completion: str) -> StepResult:
        """Answer the first turn with the number; judge the second."""
        self.turns += 1
        if self.turns == 1:
            reply = {"role": "user", "content": f"What is {self.number} + 0? Answer with an integer."}
            return StepResult([reply], {"short": 1.0 / (1 + len(completion))}, info={"number": self.number})
        return StepResult(rewards={"concluded": float(self.number in completion)}, done=True)

    def close(self) -> None:
        """Nothing to free."""
