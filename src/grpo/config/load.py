"""Recipe or file, then overrides → `GRPOConfig`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo import recipes
from grpo.config.layers import OWN_ROWS, merge_layers
from grpo.config.overrides import Settings, parse_overrides, read_settings
from grpo.config.schema import GRPOConfig, as_text
from grpo.config.yaml_text import MOST_BYTES, parse_options
from grpo.errors import CheckpointError, ConfigError
from grpo.storage import expanded, read_text

__all__ = ["DEFAULT_RECIPE", "load_config", "load_model_config", "load_run_config"]

DEFAULT_RECIPE = "arithmetic"
LATEST_RUN = "runs/latest"

_OTHER_MODELS = "other_models"
"""In a recipe or file that is made for `tiny`: a table of options for any other model."""


def load_config(
    source: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = (), **options: Any
) -> GRPOConfig:
    """Return the config of a recipe or a YAML file, with overrides on top.

    The options in a table `other_models` of a recipe or file apply where the model is not `tiny`: overrides, and for
    a recipe the user's file, win over it.

    A file starts from the defaults, or from the recipe that it names (`recipe: gsm8k`). With no source it is
    the recipe `arithmetic`; but that one is made for the model `tiny` and its own rows, so overrides that
    bring another model or other data start from the defaults.

    Args:
        source: name of a recipe, or path of a file.
        overrides: arguments as on the command line (`["steps=3", "--use-wandb"]`), or a mapping.
        options: further overrides, which win over the others.

    Raises:
        ConfigError: no such recipe or file, or an option that cannot be.

    Example:
        >>> config = load_config("arithmetic", ["steps=3"], seed=7)
        >>> config.optimizer.steps, config.optimizer.seed
        (3, 7)
    """
    changes = merge_layers([parse_overrides(overrides), read_settings(options)])
    if source is not None:
        return _config(_source_layers(source), changes)
    own_model = changes.get("model", "tiny") != "tiny"
    own_task = changes.get("task", DEFAULT_RECIPE) != DEFAULT_RECIPE
    return _config([] if own_model or own_task or _brings_rows(changes) else _recipe_layers(DEFAULT_RECIPE), changes)


def load_model_config(
    model: str | None, source: str | None = None, overrides: Sequence[str] = (), *, needs_task: bool = True
) -> GRPOConfig:
    """Return the config to use `model` without training it; its `policy.model` is the place of the model.

    The other options are those of `source` if it is given; else, for a run or the model in one, the run's own; for
    `tiny` the recipe it is made for; for any other model the defaults.

    Args:
        model: a run's directory, a model's directory, Hub id or `tiny`; None takes `runs/latest`, else `tiny`.
        needs_task: whether a model of which nothing is known gets the default task, arithmetic.

    Raises:
        ConfigError: as `load_config`.
    """
    changes = parse_overrides(overrides)
    run = _run_of(LATEST_RUN if model is None else model)
    if model is None:
        model = "tiny" if run is None else str(run)
    elif run is not None and not _is_inside_run(model):
        model = str(run)
    if source is not None:
        base = _source_layers(source)
    elif run is not None:
        base = _source_layers(run / "config.yaml")
    elif model == "tiny" and not _brings_rows(changes):
        base = _recipe_layers(DEFAULT_RECIPE)
    else:
        base = [_Layer({} if needs_task else {"task": "rows"})]
    # The trained weights lie in the run with their tokenizer; an adapter must not get another on top.
    chosen = {"model": model, "tokenizer": None, "revision": None, "reference_model": None, "lora_rank": 0}
    made_for = model if run is None else GRPOConfig.from_file(run / "config.yaml").policy.model
    return _config(base, chosen, changes, model=made_for)


def load_run_config(run: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> GRPOConfig:
    """Return the config of a run, with overrides on top.

    Raises:
        CheckpointError: no run is there.
        ConfigError: as `load_config`.
    """
    from grpo.tracking import find_run

    return GRPOConfig.from_file(find_run(run) / "config.yaml").replace(**parse_overrides(overrides))


def _run_of(model: str) -> Path | None:
    """Return the directory of the run that `model` is, or that its model lies in; None if it belongs to no run."""
    from grpo.tracking import find_run

    path = expanded(model)
    try:
        return find_run(path.parent if _is_inside_run(model) else path)
    except CheckpointError:
        return None


def _is_inside_run(model: str) -> bool:
    name = Path(model).name
    return name == "final_model" or name.startswith("checkpoint-")


def _brings_rows(changes: Settings) -> bool:
    return any(changes.get(name) is not None for name in OWN_ROWS)


def _is_tiny(model: str) -> bool:
    """Return whether a model is the embedded one, or was trained from it."""
    if model == "tiny" or not expanded(model).is_dir():
        return model == "tiny"
    run = _run_of(model)
    return run is not None and _is_tiny(GRPOConfig.from_file(run / "config.yaml").policy.model)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Settings from one place.

    Attributes:
        is_recipe: True where the package brings them, False where the user does.
        is_table: True for a table `other_models`; its options apply where the model is not `tiny`, those of a scorer
            where the scorer's model is not.
    """

    settings: Settings
    is_recipe: bool = False
    is_table: bool = False


def _config(base: Sequence[_Layer], *changes: Settings, model: str | None = None) -> GRPOConfig:
    """Return the config of layers, later ones on top, with changes on top of all.

    Args:
        model: the model that decides about `other_models`; None: the model in the config.
    """
    layers = [*base, *map(_Layer, changes)]
    plain = merge_layers(layer.settings for layer in layers if not layer.is_table)
    # Types are checked below, when the config is made.
    policy_model = str(model or plain.get("model") or "tiny").replace("\0", "")
    scorer_model = str(plain.get("scorer_model") or policy_model).replace("\0", "")

    def model_for(name: str) -> str:
        return scorer_model if name.startswith("scorer_") else policy_model

    is_tiny = {name: _is_tiny(name) for name in (policy_model, scorer_model)}
    for place, layer in enumerate(layers):
        if layer.is_table:
            table = {name: value for name, value in layer.settings.items() if not is_tiny[model_for(name)]}
            layers[place] = replace(layer, settings=table)
    config = GRPOConfig(**merge_layers(layer.settings for layer in layers))
    origin = {name: layer for layer in layers for name in layer.settings}
    values = config.flat()
    from_tables: dict[str, list[str]] = {}
    for name in sorted(name for name, layer in origin.items() if layer.is_table):
        from_tables.setdefault(model_for(name), []).append(f"{name}={as_text(values[name])}")
    return config.with_provenance(
        from_recipe=(name for name, layer in origin.items() if layer.is_recipe),
        notes=(f"as the model is {name} and not tiny: {', '.join(options)}" for name, options in from_tables.items()),
    )


def _source_layers(source: str | Path) -> list[_Layer]:
    name = str(source)
    path = expanded(source)
    if name in recipes.names():
        return _recipe_layers(name)
    if path.is_dir():
        hint = f"resume it with: grpo train --resume {source}" if (path / "config.yaml").is_file() else "name a file"
        raise ConfigError(f"{name} is a directory: {hint}")
    if not path.exists():
        raise ConfigError(f"no recipe or file {name!r}: {_nearest(path)}")
    return _text_layers(read_text(path, most_bytes=MOST_BYTES), name)


def _recipe_layers(name: str) -> list[_Layer]:
    return _text_layers(recipes.text(name), f"recipe {name}", is_recipe=True)


def _text_layers(text: str, origin: str, *, is_recipe: bool = False) -> list[_Layer]:
    options = parse_options(text, origin)
    base = options.pop("recipe", None)
    others = options.pop(_OTHER_MODELS, None) or {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"{origin}: {_OTHER_MODELS} was given {others!r}: it should have lines like `lora_rank: 16`")
    if base is not None and base not in recipes.names():
        raise ConfigError(f"{origin}: no recipe {base!r} to start from: use one of {', '.join(recipes.names())}")
    return [
        *([] if base is None else _recipe_layers(str(base))),
        _Layer(read_settings(options, origin), is_recipe),
        _Layer(read_settings(others, f"{origin}: {_OTHER_MODELS}"), is_recipe, is_table=True),
    ]


def _nearest(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    files = [str(path.parent / found.name) for found in folder.iterdir() if found.suffix in (".yaml", ".yml")]
    close = difflib.get_close_matches(str(path), [*recipes.names(), *files], n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"recipes are {', '.join(recipes.names())}; a file ends in .yaml"
