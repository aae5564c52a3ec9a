"""Reward models from a configuration: their training, and scores of texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from grpo import reward_models
from grpo.assembly.parts import take_threads
from grpo.assembly.runs import output_directory
from grpo.config import GRPOConfig
from grpo.demos.clicks import attainable_auc, click_rows
from grpo.demos.preferences import preference_pairs
from grpo.errors import ConfigError
from grpo.machine import keep_freed_memory
from grpo.policy import LoraSettings
from grpo.reward_models import CTRScorer, OnEpoch, OnProgress, ScorerReport, ScorerSettings, read_scorer_rows
from grpo.reward_models.checkpoint import DESCRIPTION_FILE, best_model_of
from grpo.reward_models.output import BEST_MODEL, standing
from grpo.rewards import SequenceClassifierReward
from grpo.storage import expanded, require_short_names

__all__ = ["score_texts", "scorer_settings", "train_scorer"]

_log = logging.getLogger(__name__)

_GENERATORS: Mapping[str, tuple[Callable[[int, int], Sequence[Mapping[str, Any]]], int]] = {
    "ctr": (click_rows, 20_000),
    "pair": (preference_pairs, 500),
}
"""Generator and default number of rows, by `scorer_kind`."""

_CONFIG_FILE = "scorer_config.yaml"
"""Not `config.yaml`, which marks a run directory."""
_ROWS_FILE = "rows.jsonl"


def train_scorer(
    config: GRPOConfig,
    *,
    overwrite: bool = False,
    on_epoch: OnEpoch | None = None,
    on_progress: OnProgress | None = None,
) -> ScorerReport:
    """Train the reward model of the section `scorer` and return the report.

    Beside the weights are the configuration and, if the rows were generated, all rows in a file that
    `scorer_train_file` can name.

    Args:
        overwrite: replace an earlier scorer.
        on_epoch, on_progress: as in `grpo.reward_models.train_scorer`.

    Raises:
        ConfigError: the configuration has no option of a scorer, a scorer is there already, or an option has a value
            it cannot have.
        DataError, ModelError, RunError, StorageError: as `grpo.reward_models.train_scorer`.
    """
    if not any(name.startswith("scorer_") for name in config.explicit_options()):
        raise ConfigError(
            "there is no scorer to train: take a recipe with a section `scorer`, as ctr-headlines or "
            "finance-preferences, or name a kind: scorer_kind=ctr or scorer_kind=pair"
        )
    config = _with_scorer_dir(config)
    options = config.scorer
    output_dir = require_short_names(expanded(options.scorer_dir))
    if not overwrite and standing(output_dir / BEST_MODEL) is not None:
        raise ConfigError(
            f"there is a scorer in {options.scorer_dir}: name another scorer_dir, or replace it with --overwrite"
        )
    settings = scorer_settings(config)
    if on_progress is not None:
        on_progress(f"reward model: {options.scorer_kind}, in {output_dir}")
    keep_freed_memory()
    config = take_threads(config)
    beside = {_CONFIG_FILE: config.to_yaml()}
    rows: Sequence[Mapping[str, Any]]
    if options.scorer_train_file is not None:
        rows = read_scorer_rows(options.scorer_kind, options.scorer_train_file)
    else:
        generate, default_size = _GENERATORS[options.scorer_kind]
        rows = generate(options.scorer_rows or default_size, config.optimizer.seed)
        beside[_ROWS_FILE] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    eval_rows = None
    if options.scorer_eval_file is not None:
        eval_rows = read_scorer_rows(options.scorer_kind, options.scorer_eval_file)
    follows_rule = options.scorer_kind == "ctr" and options.scorer_train_file is None and eval_rows is None
    return reward_models.train_scorer(
        options.scorer_kind,
        rows,
        model=options.scorer_model or config.policy.model,
        output_dir=output_dir,
        settings=settings,
        on_epoch=on_epoch,
        on_progress=on_progress,
        eval_rows=eval_rows,
        beside=beside,
        attainable=attainable_auc if follows_rule else None,
    )


def _with_scorer_dir(config: GRPOConfig) -> GRPOConfig:
    """Return the config with `output_dir` or `run_name`, where the user has set one, as the scorer's directory.

    Raises:
        ConfigError: `scorer_dir` names another.
    """
    place = output_directory(config)
    if place is None or not (config.is_set_by_user("output_dir") or config.is_set_by_user("run_name")):
        return config
    if config.is_set_by_user("scorer_dir") and expanded(config.scorer.scorer_dir) != place:
        raise ConfigError(
            f"{place} and scorer_dir {config.scorer.scorer_dir} both name the directory of the reward model: "
            f"give one of them"
        )
    return config.replace(scorer_dir=str(place), output_dir=None, run_name=None)


def score_texts(
    scorer: str, texts: Sequence[str], prompts: Sequence[Any] | None = None, *, device: str = "auto"
) -> list[float]:
    """Return the score of each text: the probability of a click, or the reward of a sequence classifier.

    Args:
        scorer: directory of `grpo reward train`, or for a sequence classifier also a Hub id.
        prompts: the prompts that the texts answer; needed by a sequence classifier that was trained on answers.

    Raises:
        ConfigError: there is no scorer, or prompts were given to a CTR scorer.
        CheckpointError, ModelError: the scorer does not load.
        RunError: a score is not a number.
    """
    directory = best_model_of(scorer)
    if directory is None and expanded(scorer).is_dir():
        raise ConfigError(
            f"no scorer in {scorer}: train one first (grpo reward train), or give a sequence classifier's directory or "
            f"Hub id"
        )
    if directory is not None and (directory / DESCRIPTION_FILE).exists():
        if prompts is not None:
            raise ConfigError(f"{scorer} is a click scorer, which scores texts without prompts: leave out the prompts")
        return CTRScorer(None, str(directory), device).predict_many(list(texts))
    place = None if device == "auto" else device
    reward = SequenceClassifierReward(scorer if directory is None else str(directory), device=place)
    if prompts is None:
        _log.warning("no prompt: a model that was trained on answers to prompts scores the texts without their prompts")
    return reward(list(prompts or [""] * len(texts)), list(texts))


def scorer_settings(config: GRPOConfig) -> ScorerSettings:
    """Return the settings of a scorer's training: the options of the section `scorer`, and some of the policy's."""
    scorer, policy = config.scorer, config.policy
    options = {name.removeprefix("scorer_"): value for name, value in scorer}
    lora = None
    if scorer.scorer_lora_rank > 0:
        lora = LoraSettings(
            rank=scorer.scorer_lora_rank,
            alpha=scorer.scorer_lora_alpha or float(scorer.scorer_lora_rank),
            target_modules=policy.lora_targets,
        )
    return ScorerSettings(
        **{field.name: options[field.name] for field in fields(ScorerSettings) if field.name in options},
        lora=lora,
        device=policy.device,
        seed=config.optimizer.seed,
        # These two belong to `policy.model` and do not apply to another model.
        tokenizer=None if scorer.scorer_model else policy.tokenizer,
        revision=None if scorer.scorer_model else policy.revision,
        gradient_checkpointing=policy.gradient_checkpointing,
    )
