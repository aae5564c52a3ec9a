"""Arguments of the Python API: objects stay in memory, names move into the configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo.config import GENERATED, OWN_ROWS, GRPOConfig
from grpo.errors import CheckpointError, ConfigError
from grpo.storage import expanded, read_text, write_atomically

__all__ = [
    "PythonObjects",
    "python_command",
    "require_model_and_rows",
    "require_objects",
    "require_stored_rows",
    "settle",
    "write_objects",
]

_OBJECTS = ".objects.json"


@dataclass(frozen=True, slots=True)
class PythonObjects:
    """Objects in memory in place of names in a configuration; None: as configured.

    Attributes:
        model: a Hugging Face causal LM.
        tokenizer: a Hugging Face tokenizer.
        train_rows: a list of prompts, of dictionaries, or a `datasets.Dataset`.
        eval_rows: the same, to evaluate on.
        rewards: functions, models or names.
        reward_weights: one a reward.
        reference_model: what the KL term is measured against.
        environment: an environment, or the class of one.
    """

    model: Any = None
    tokenizer: Any = None
    train_rows: Any = None
    eval_rows: Any = None
    rewards: Any = None
    reward_weights: Sequence[float] | None = None
    reference_model: Any = None
    environment: Any = None

    def names(self) -> list[str]:
        """Return the names of the objects that are present, as `GRPOTrainer` spells them."""
        present = {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "train_dataset": self.train_rows,
            "eval_dataset": self.eval_rows,
            "rewards": self.rewards,
            "reference_model": self.reference_model,
            "environment": self.environment,
        }
        return [name for name, value in present.items() if value is not None]


def require_model_and_rows(config: GRPOConfig, objects: PythonObjects) -> None:
    """Check that a model and training rows were named: the defaults of the command line are no answer to a script.

    Raises:
        ConfigError: one of them is missing.
    """
    named = config.explicit_options()
    if objects.model is None and "model" not in named:
        raise ConfigError(
            "no model was given: GRPOTrainer(model=…) takes a Hub id, a directory, 'tiny' or a Hugging Face causal LM"
        )
    if objects.train_rows is None and not {"task", "train_file", "dataset"} & set(named):
        raise ConfigError(
            "no training rows were given: GRPOTrainer(train_dataset=…) takes prompts, rows, a datasets.Dataset or a "
            "file; GRPOConfig(task='arithmetic') trains on generated sums"
        )


def settle(config: GRPOConfig, objects: PythonObjects) -> tuple[GRPOConfig, PythonObjects]:
    """Return the configuration with all of `objects` that it can hold, and the rest.

    Raises:
        ConfigError: `objects` contradict the configuration.
    """
    if objects.rewards is not None and "rewards" in config.explicit_options():
        raise ConfigError(
            "rewards are given to the trainer and named in its config (rewards or reward_weights): "
            "give the trainer all of them, with reward_weights=[…]"
        )
    names: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for attribute in ("model", "tokenizer", "reference_model", "environment"):
        if isinstance(value := getattr(objects, attribute), str | Path):
            names[attribute], rest[attribute] = str(value), None
    for attribute, file_option, name_option in (
        ("train_rows", "train_file", "dataset"),
        ("eval_rows", "eval_file", "eval_file"),
    ):
        if isinstance(value := getattr(objects, attribute), str | Path):
            is_file = Path(value).suffix != "" or isinstance(value, Path)
            names[file_option if is_file else name_option], rest[attribute] = str(value), None
    if objects.rewards is not None and all(map(_is_plain, objects.rewards)):
        names["rewards"], rest["rewards"] = objects.rewards, None
        if objects.reward_weights is not None:
            names["reward_weights"], rest["reward_weights"] = list(objects.reward_weights), None
    _refuse_two_values(config, names | ({} if objects.environment is None else {"environment": objects.environment}))
    objects = replace(objects, **rest)
    task = config.data.task
    makes_rows = task in GENERATED
    if objects.train_rows is not None:
        own = next((name for name in ("train_file", "dataset") if config.flat()[name] is not None), None)
        if own is not None and not (config.data.task == "gsm8k" and own not in config.explicit_options()):
            raise ConfigError(f"train_dataset and {own} both name training rows: give one of them")
        if makes_rows and config.is_set_by_user("task"):
            raise ConfigError(f"task {task} makes its own rows, but train_dataset was given: use task='rows'")
        if makes_rows:  # a recipe's own rows, or the default's
            names["task"] = "rows"
    config = config.replace(**names) if names else config
    if objects.eval_rows is not None and config.data.task in GENERATED:
        raise ConfigError(f"task {task} makes its own rows, but eval_dataset was given: give train_dataset as well")
    return config, objects


def write_objects(run: Path, names: Collection[str]) -> None:
    """Record in a run directory the names of objects that its configuration cannot hold."""
    if names:
        write_atomically(run / _OBJECTS, json.dumps(list(names)) + "\n")


def require_objects(run: Path, names: Collection[str]) -> None:
    """Check that the objects in memory that a run began with are present again.

    Raises:
        ConfigError: something is missing, or the run began in another environment.
    """
    file = run / _OBJECTS
    needed = _needed(file) if file.is_file() else []
    if "environment" in names and "environment" not in needed:
        raise ConfigError(f"{run} began in the environment of its config.yaml: leave out environment=… to resume it")
    if missing := [name for name in needed if name not in names]:
        raise ConfigError(
            f"{run} was started in Python with objects that its config.yaml cannot hold ({', '.join(missing)}): "
            f"resume it there: {python_command(run, needed)}"
        )


def require_stored_rows(config: GRPOConfig) -> None:
    """Check that the rows to evaluate a run's model on are not those that the run had in memory.

    Raises:
        ConfigError: they are, and `config` names no others.
    """
    place = expanded(config.policy.model)
    run = next((folder for folder in (place, place.parent) if (folder / _OBJECTS).is_file()), None)
    if run is None:
        return
    needed = _needed(run / _OBJECTS)
    data = config.data
    in_memory = "eval_dataset" in needed or (
        "train_dataset" in needed and data.task == "rows" and data.eval_file is None
    )
    own, present = GRPOConfig.from_file(run / "config.yaml").flat(), config.flat()
    if in_memory and all(present[name] == own[name] for name in ("task", *OWN_ROWS)):
        raise ConfigError(
            f"the run {run.name} was trained in Python on rows in memory, which are not stored with it: "
            f"give eval_file=FILE with rows to evaluate on, or call trainer.evaluate() in the script that trained it"
        )


def python_command(run: Path, names: Collection[str]) -> str:
    """Return the call that resumes a run which needs objects of these names."""
    arguments = ", ".join(f"{name}=…" for name in names)
    return f"GRPOTrainer({arguments}).train(resume_from={str(run)!r})"


def _is_plain(reward: Any) -> bool:
    """Return whether a configuration file could hold this reward."""
    if isinstance(reward, Mapping):
        return isinstance(reward.get("name"), str) and all(
            isinstance(value, bool | int | float | str) or key == "weight" for key, value in reward.items()
        )
    return isinstance(reward, str)


def _refuse_two_values(config: GRPOConfig, names: Mapping[str, Any]) -> None:
    explicit = config.explicit_options()
    for name, value in names.items():
        if name in explicit and explicit[name] != value:
            remedy = (
                "give one of them"
                if config.is_set_by_user(name)
                else f"load_config(RECIPE, {name}={value!r}) gives it both"
            )
            raise ConfigError(f"{name} is {value!r} for the trainer and {explicit[name]!r} in its config: {remedy}")


def _needed(file: Path) -> list[str]:
    try:
        names = json.loads(read_text(file, error=CheckpointError))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file} is damaged: it should be a list of names of Python objects")
    return names
