"""Reward models by configuration: training them, and scoring texts with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from grpo.assembly.parts import take_threads
from grpo.config import GRPOConfig
from grpo.demos.clicks import attainable_auc, click_rows
from grpo.demos.preferences import preference_pairs
from grpo.errors import ConfigError
from grpo.machine import keep_freed_memory
from grpo.reward_models import (
    CTRScorer,
    OnEpoch,
    ScorerReport,
    ScorerSettings,
    read_click_rows,
    read_pair_rows,
    train_ctr_scorer,
    train_pair_scorer,
)
from grpo.reward_models.checkpoint import DESCRIPTION_FILE, best_model_of
from grpo.reward_models.output import BEST_MODEL, standing
from grpo.rewards import SequenceClassifierReward

__all__ = ["score_texts", "scorer_settings", "train_scorer"]

_log = logging.getLogger(__name__)

_GENERATED_CLICKS = 20_000
_GENERATED_PAIRS = 500
_CONFIG_FILE = "scorer_config.yaml"
"""Not `config.yaml`: the directory is no run's."""
_ROWS_FILE = "rows.jsonl"

_OF_THE_POLICY = ("tokenizer", "revision")
"""Options that say more about `policy.model`, and nothing about another model."""


def train_scorer(config: GRPOConfig, *, overwrite: bool = False, on_epoch: OnEpoch | None = None) -> ScorerReport:
    """Train the reward model that the section `scorer` describes, and return what came of it.

    Beside the weights lie the configuration and, if they were generated, all rows, which `scorer_train_file` reads.

    Args:
        overwrite: take the place of one that is there.

    Raises:
        ConfigError: nothing in the configuration is about a scorer, one is there already, or an option has a value
            it cannot have.
        DataError, ModelError, RunError, StorageError: as `train_ctr_scorer` and `train_pair_scorer`.
    """
    options = config.scorer
    if not any(name.startswith("scorer_") for name in config.explicit_options()):
        raise ConfigError(
            "there is no scorer to train: take a recipe with a section `scorer`, as ctr-headlines or "
            "finance-preferences, or say what to train: scorer_kind=ctr or scorer_kind=pair"
        )
    if not overwrite and standing(Path(options.scorer_dir) / BEST_MODEL) is not None:
        raise ConfigError(
            f"there is a scorer in {options.scorer_dir}: name another scorer_dir, or replace it with --overwrite"
        )
    settings = scorer_settings(config)
    keep_freed_memory()
    config = take_threads(config)
    beside = {_CONFIG_FILE: config.to_yaml()}
    is_ctr = options.scorer_kind == "ctr"
    read: Any = read_click_rows if is_ctr else read_pair_rows
    if options.scorer_train_file is not None:
        rows = read(options.scorer_train_file)
    else:
        rows = _generated(config)
        beside[_ROWS_FILE] = _as_lines(rows)
    common: dict[str, Any] = {
        "model": options.scorer_model or config.policy.model,
        "output_dir": options.scorer_dir,
        "settings": settings,
        "on_epoch": on_epoch,
        "eval_rows": None if options.scorer_eval_file is None else read(options.scorer_eval_file),
        "beside": beside,
    }
    if is_ctr:
        follows_rule = options.scorer_train_file is None and options.scorer_eval_file is None
        return train_ctr_scorer(rows, attainable=attainable_auc if follows_rule else None, **common)
    return train_pair_scorer(rows, margin=options.scorer_margin, **common)


def _generated(config: GRPOConfig) -> list[dict[str, Any]]:
    options = config.scorer
    if options.scorer_kind == "ctr":
        return click_rows(options.scorer_rows or _GENERATED_CLICKS, config.optimizer.seed)
    return [dict(pair) for pair in preference_pairs(options.scorer_rows or _GENERATED_PAIRS, config.optimizer.seed)]


def _as_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def score_texts(
    scorer: str, texts: Sequence[str], prompts: Sequence[Any] | None = None, *, device: str = "auto"
) -> list[float]:
    """Return what a scorer says of each text: the probability of a click, or a sequence classifier's reward.

    Args:
        scorer: directory of `grpo reward train`, or for a sequence classifier also a Hub id.
        prompts: what the texts answer; needed by a sequence classifier that was trained on answers.

    Raises:
        ConfigError: there is none, or prompts were given to a scorer of texts alone.
        CheckpointError, ModelError: it does not load.
        RunError: what it says is not a number.
    """
    directory = best_model_of(scorer)
    if directory is None and Path(scorer).expanduser().is_dir():
        raise ConfigError(
            f"no scorer in {scorer}: train one first (grpo reward train), or give a sequence classifier's directory or "
            f"Hub id"
        )
    if directory is not None and (directory / DESCRIPTION_FILE).exists():
        if prompts is not None:
            raise ConfigError(f"{scorer} scores texts by themselves: leave out the prompts")
        return CTRScorer(None, str(directory), device).predict_many(list(texts))
    place = None if device == "auto" else device
    reward = SequenceClassifierReward(scorer if directory is None else str(directory), device=place)
    if prompts is None:
        _log.warning("no prompt: a model that was trained on answers to prompts scores them as answers to nothing")
    return reward(list(prompts or [""] * len(texts)), list(texts))


def scorer_settings(config: GRPOConfig) -> ScorerSettings:
    """Return how a scorer is to be trained.

    Raises:
        ConfigError: an option is out of its range.
    """
    scorer, policy = config.scorer, config.policy
    names = [field.name for field in fields(ScorerSettings) if hasattr(scorer, f"scorer_{field.name}")]
    return ScorerSettings(
        **{name: getattr(scorer, f"scorer_{name}") for name in names},
        **({} if scorer.scorer_model else {name: getattr(policy, name) for name in _OF_THE_POLICY}),
        lora_targets=policy.lora_targets,
        gradient_checkpointing=policy.gradient_checkpointing,
        device=policy.device,
        seed=config.optimizer.seed,
    )
