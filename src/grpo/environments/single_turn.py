"""The trivial environment: one completion is the whole episode."""

from __future__ import annotations

from grpo.environments.protocol import EpisodeSampler
from grpo.types import Prompt, Rollout

__all__ = ["SingleTurn"]


class SingleTurn:
    """The environment whose first step is done."""

    async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
        """Return one completion of the prompt."""
        return Rollout.of(await sampler.complete(prompt.token_ids, seed))
