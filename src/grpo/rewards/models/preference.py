"""Reward of an answer by a preference model that `grpo reward train` has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.errors import ConfigError
from grpo.rewards.models.backbones import Backbones
from grpo.rewards.models.classifier import SequenceClassifierReward
from grpo.rewards.texts import Completion

__all__ = ["PreferenceReward"]


class PreferenceReward:
    """Scores prompt + completion; called like any reward function.

    Attributes:
        classifier: the reward model, in a format that other programs load as well.
    """

    def __init__(
        self,
        scorer: str | Path | None = None,
        *,
        device: str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        backbones: Backbones | None = None,
    ) -> None:
        """Load the reward model.

        Args:
            scorer: the directory that `grpo reward train finance-preferences` wrote, or `best_model` in it.
            device: by default the GPU if there is one.
            batch_size: texts in a forward pass.
            max_length: tokens of a text, at most the limit of the model; longer texts keep their end.
            backbones: source of the base model of adapters; None: it is loaded for this reward alone.

        Raises:
            ConfigError: `scorer` is missing or holds no reward model, or there is no such device.
            ModelError: the reward model cannot be loaded.
        """
        from grpo.reward_models.checkpoint import DESCRIPTION_FILE, best_model_of

        self.__name__ = "preference"
        how = "train it first: grpo reward train finance-preferences"
        if scorer is None:
            raise ConfigError(f"the reward 'preference' needs scorer=DIRECTORY of a trained reward model: {how}")
        directory = best_model_of(scorer)
        if directory is None:
            raise ConfigError(f"the reward 'preference' finds no reward model in {str(scorer)!r}: {how}")
        if (directory / DESCRIPTION_FILE).is_file():
            raise ConfigError(f"{scorer} holds a scorer of clicks: name the reward 'ctr', or give another scorer")
        self.classifier = SequenceClassifierReward(
            str(directory), device=device, batch_size=batch_size, max_length=max_length, backbones=backbones
        )

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        """Return one reward a completion."""
        return self.classifier(prompts, completions)
