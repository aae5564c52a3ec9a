"""The trivial environment: one completion is the whole episode."""

from __future__ import annotations

from grpo.environments.protocol import EpisodeSampler
from grpo.types import Prompt, Rollout

__all__ = ["SingleTurn"]


class SingleTurn:
    """An environment whose episode ends after the first turn of the policy."""

    async def rollout(self, prompt: Prompt, sampler: EpisodeSampler, seed: int) -> Rollout:
        """Return one completion of the prompt."""
        return Rollout.of(await sampler.complete(prompt.token_ids, seed))
