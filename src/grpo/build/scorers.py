"""Reward models by configuration: training them, and scoring texts with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from grpo.build.parts import take_threads
from grpo.config import GRPOConfig
from grpo.errors import ConfigError
from grpo.machine import keep_freed_memory
from grpo.scorer import (
    CTRScorer,
    OnEpoch,
    ScorerReport,
    ScorerSettings,
    hold_out_clicks,
    read_click_rows,
    read_pair_rows,
    train_ctr_scorer,
    train_pair_scorer,
)
from grpo.scorer.checkpoint import DESCRIPTION_FILE
from grpo.tasks.clicks import attainable_auc, click_rows
from grpo.tasks.preferences import preference_pairs

__all__ = ["attainable", "score_texts", "train_scorer"]

_GENERATED_CLICKS = 20_000
_GENERATED_PAIRS = 500


def train_scorer(config: GRPOConfig, *, overwrite: bool = False, on_epoch: OnEpoch | None = None) -> ScorerReport:
    """Train the reward model that the section `scorer` describes, and return what came of it.

    Args:
        overwrite: take the place of one that is there.

    Raises:
        ConfigError: one is there already, or an option has a value it cannot have.
        DataError, ModelError, RunError, StorageError: as `train_ctr_scorer` and `train_pair_scorer`.
    """
    options = config.scorer
    if not overwrite and (Path(options.scorer_dir) / "best_model").exists():
        raise ConfigError(
            f"there is a scorer in {options.scorer_dir}: name another scorer_dir, or replace it with --overwrite"
        )
    keep_freed_memory()
    config = take_threads(config)
    common: dict[str, Any] = {
        "model": options.scorer_model or config.policy.model,
        "output_dir": options.scorer_dir,
        "settings": _settings(config),
        "on_epoch": on_epoch,
    }
    is_ctr = options.scorer_kind == "ctr"
    read: Any = read_click_rows if is_ctr else read_pair_rows
    rows: Any = _generated(config) if options.scorer_train_file is None else read(options.scorer_train_file)
    held_out = None if options.scorer_eval_file is None else read(options.scorer_eval_file)
    if is_ctr:
        return train_ctr_scorer(rows, eval_rows=held_out, **common)
    return train_pair_scorer(rows, eval_rows=held_out, margin=options.scorer_margin, **common)


def _generated(config: GRPOConfig) -> list[dict[str, Any]]:
    options = config.scorer
    if options.scorer_kind == "ctr":
        return click_rows(options.scorer_rows or _GENERATED_CLICKS, config.optimizer.seed)
    return [dict(pair) for pair in preference_pairs(options.scorer_rows or _GENERATED_PAIRS, config.optimizer.seed)]


def attainable(config: GRPOConfig) -> float | None:
    """Return the AUC, on the held-out rows, of the rule that generated clicks follow; None for other rows."""
    options = config.scorer
    if options.scorer_kind != "ctr" or options.scorer_train_file is not None:
        return None
    _, held_out = hold_out_clicks(_generated(config), options.scorer_holdout, config.optimizer.seed)
    return attainable_auc([row["text"] for row in held_out], [row["label"] for row in held_out])


def score_texts(
    scorer: str, texts: Sequence[str], prompts: Sequence[Any] | None = None, *, device: str = "auto"
) -> list[float]:
    """Return what a scorer says of each text: the probability of a click, or a sequence classifier's reward.

    Args:
        scorer: directory of `grpo reward train`, or for a sequence classifier also a Hub id.
        prompts: what the texts answer; needed by a sequence classifier that was trained on answers.

    Raises:
        ConfigError: prompts were given to a scorer of texts alone.
        CheckpointError, ModelError: it does not load.
    """
    from grpo.rewards import SequenceClassifierReward

    directory = _scorer_directory(scorer)
    if directory is not None and (directory / DESCRIPTION_FILE).exists():
        if prompts is not None:
            raise ConfigError(f"{scorer} scores texts by themselves: leave out the prompts")
        return CTRScorer(None, str(directory), device).predict_many(list(texts))
    place = None if device == "auto" else device
    reward = SequenceClassifierReward(scorer if directory is None else str(directory), device=place)
    return reward(list(prompts or [""] * len(texts)), list(texts))


def _scorer_directory(scorer: str) -> Path | None:
    given = Path(scorer)
    inner = given / "best_model"
    if inner.is_dir():
        return inner
    return given if given.exists() else None


def _settings(config: GRPOConfig) -> ScorerSettings:
    options = config.scorer
    names = [field.name for field in fields(ScorerSettings) if hasattr(options, f"scorer_{field.name}")]
    return ScorerSettings(
        **{name: getattr(options, f"scorer_{name}") for name in names},
        lora_targets=config.policy.lora_targets,
        dtype=config.policy.dtype,
        device=config.policy.device,
        seed=config.optimizer.seed,
    )
