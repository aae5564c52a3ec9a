"""Reward of a headline: its probability of a click, by a reward model trained on clicks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grpo.demos.headlines import headline_of
from grpo.errors import CheckpointError, ConfigError
from grpo.rewards.models.backbones import Backbones, find_device
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["CTRReward"]


class CTRReward:
    """Scores the headline in a completion; called like any reward function.

    Attributes:
        scorer: the reward model, which predicts the probability of a click.
    """

    def __init__(
        self,
        scorer: str | Path | None = None,
        *,
        model: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
        backbones: Backbones | None = None,
    ) -> None:
        """Load the scorer.

        Args:
            scorer: the directory `best_model` that `grpo reward train ctr-headlines` wrote, or the run's that holds it.
            model: backbone in place of the one that the scorer names.
            device: by default that of a backbone shared with the policy, else the GPU if there is one.
            batch_size: headlines in a forward pass.
            backbones: source of the backbone of a scorer with adapters; None: it is loaded for this reward alone.

        Raises:
            ConfigError: `scorer` is missing or holds no scorer, or there is no such device.
            CheckpointError: the scorer is damaged, or has another backbone.
            ModelError: the backbone cannot be loaded.
        """
        from grpo.reward_models import CTRScorer
        from grpo.reward_models.checkpoint import read_description

        self.__name__ = "ctr"
        directory = _find_scorer(scorer)
        description = read_description(directory)
        backbone = None
        # Without adapters, the scorer's own weights take the place of the backbone's.
        if backbones is not None and description.lora is not None:
            revision = description.revision if model in (None, description.backbone) else None
            backbone = backbones.language_model(model or description.backbone, revision=revision, device=device)
        self.scorer = CTRScorer(model, directory, str(find_device(device)), backbone=backbone, batch_size=batch_size)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Return the probability of a click for each completion's headline; 0 where it has none."""
        return self.scorer.predict_many([headline_of(text) for text in completion_texts(completions)])


def _find_scorer(scorer: str | Path | None) -> Path:
    """Return the directory that holds the scorer's files."""
    from grpo.reward_models.checkpoint import best_model_of, find_scorer

    how = "train it first: grpo reward train ctr-headlines"
    if scorer is None:
        raise ConfigError(f"the reward 'ctr' needs scorer=DIRECTORY, the best_model/ of a trained scorer: {how}")
    try:
        return find_scorer(scorer)
    except CheckpointError as error:
        if best_model_of(scorer) is not None:
            raise ConfigError(
                f"{scorer} holds no scorer of clicks but a model: if it is a reward model of answers, name the reward "
                f"'preference', else give another scorer"
            ) from error
        seen = f"in {str(scorer)!r} as seen from {str(Path.cwd())!r}"
        raise ConfigError(f"the reward 'ctr' finds no scorer {seen}: {how}") from error
