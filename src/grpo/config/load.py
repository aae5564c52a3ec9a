"""Recipe or file, then overrides → `GRPOConfig`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo import recipes
from grpo.config.layers import OWN_ROWS, merge_layers
from grpo.config.overrides import parse_overrides
from grpo.config.schema import GRPOConfig, mapping_in
from grpo.config.settings import Settings, read_settings
from grpo.errors import CheckpointError, ConfigError

__all__ = ["DEFAULT_RECIPE", "load_config", "load_model_config", "load_run_config"]

DEFAULT_RECIPE = "arithmetic"
LATEST_RUN = "runs/latest"

_OTHER_MODELS = "other_models"
"""In a recipe or file that is made for `tiny`: a table of options that count with any other model."""

_YAML = (".yaml", ".yml")


def load_config(
    source: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = (), **options: Any
) -> GRPOConfig:
    """Return the config of a recipe or a YAML file, with overrides on top.

    What a recipe or file has in a table `other_models` counts where the model is another than `tiny`: overrides, and
    for a recipe the user's file, win over it.

    A file starts from the defaults, or from the recipe that it names (`recipe: gsm8k`). With no source it is
    the recipe `arithmetic`; but that one is made for the model `tiny` and its own rows, so overrides that
    bring another model or other data start from the defaults.

    Args:
        source: name of a recipe, or path of a file.
        overrides: words as on the command line (`["steps=3", "--use-wandb"]`), or a mapping.
        options: further overrides, which win over the others.

    Raises:
        ConfigError: no such recipe or file, or a config that cannot be.

    Example:
        >>> config = load_config("arithmetic", ["steps=3"], seed=7)
        >>> config.optimizer.steps, config.optimizer.seed
        (3, 7)
    """
    changes = read_settings(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    changes = merge_layers([changes, read_settings(options)])
    if source is None:
        layers = [] if _brings_its_own(changes) else _recipe_layers(DEFAULT_RECIPE)
    else:
        layers = _source_layers(source)
    return _config(layers, changes)


def load_model_config(
    model: str | None, source: str | None = None, overrides: Sequence[str] = (), *, needs_task: bool = True
) -> GRPOConfig:
    """Return the config to use `model` with, without training it; its `policy.model` says where the model is.

    The rest is that of `source` if there is one; else, for a run or the model in one, the run's own; for `tiny`
    the recipe it is made for; for any other model the defaults.

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
        base = [_Layer({} if needs_task else {"task": "rows"}, {}, is_recipe=False)]
    # What was trained lies in the run with its tokenizer; an adapter of it is not to be put on another.
    chosen = {"model": model, "tokenizer": None, "revision": None, "reference_model": None, "lora_rank": 0}
    made_for = model if run is None else GRPOConfig.from_file(run / "config.yaml").policy.model
    return _config(base, chosen, changes, model=made_for)


def load_run_config(run: str | Path, overrides: Sequence[str] = ()) -> GRPOConfig:
    """Return the config of a run, with overrides on top.

    Raises:
        CheckpointError: no run is there.
        ConfigError: as `load_config`.
    """
    from grpo.tracking import find_run

    config = GRPOConfig.from_file(find_run(run) / "config.yaml")
    return config.replace(**parse_overrides(overrides))


def _run_of(model: str) -> Path | None:
    """Return the directory of the run that `model` is, or whose model it is; None if it belongs to none."""
    from grpo.tracking import find_run

    path = Path(model).expanduser()
    try:
        return find_run(path.parent if _is_inside_run(model) else path)
    except CheckpointError:
        return None


def _is_inside_run(model: str) -> bool:
    name = Path(model).name
    return name == "final_model" or name.startswith("checkpoint-")


def _brings_its_own(changes: Settings) -> bool:
    return (
        changes.get("model", "tiny") != "tiny"
        or changes.get("task", DEFAULT_RECIPE) != DEFAULT_RECIPE
        or _brings_rows(changes)
    )


def _brings_rows(changes: Settings) -> bool:
    return any(changes.get(name) is not None for name in OWN_ROWS)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Settings of one recipe or file, or of one that is named as its base.

    Attributes:
        settings: in any case.
        other_models: on top of them where the model, in the end, is not `tiny`; those of a scorer where its own is not.
        is_recipe: whether the package brings them; else they are the user's.
    """

    settings: Settings
    other_models: Settings
    is_recipe: bool

    def table_for(self, model: str, scorer_model: str) -> Settings:
        """Return what counts with these models besides the settings."""
        policy, scorer = not _is_tiny(model), not _is_tiny(scorer_model)
        return {
            name: value
            for name, value in self.other_models.items()
            if (scorer if name.startswith("scorer_") else policy)
        }


def _config(layers: Sequence[_Layer], *changes: Settings, model: str | None = None) -> GRPOConfig:
    """Return the config of layers, later ones on top, with changes on top of all.

    Args:
        model: what decides about `other_models`; None: the model that the config comes to.
    """
    plain = merge_layers([*(layer.settings for layer in layers), *changes])
    model = model or plain.get("model") or "tiny"
    scorer_model = plain.get("scorer_model") or model
    tables = [layer.table_for(model, scorer_model) for layer in layers]
    parts = [
        (part, layer.is_recipe, is_table)
        for layer, table in zip(layers, tables, strict=True)
        for part, is_table in ((layer.settings, False), (table, True))
    ]
    config = GRPOConfig(**merge_layers([*(part for part, _, _ in parts), *changes]))
    last = {name: (is_recipe, is_table) for part, is_recipe, is_table in parts for name in part}
    for change in changes:
        last |= dict.fromkeys(change, (False, False))
    config = config.with_defaults({name for name, (is_recipe, _) in last.items() if is_recipe})
    of_tables = sorted(name for name, (_, is_table) in last.items() if is_table)
    return config.with_remarks(_on_other_models(config, model, scorer_model, of_tables))


def _on_other_models(config: GRPOConfig, model: str, scorer_model: str, names: Sequence[str]) -> list[str]:
    """Return lines that say which options are as they are because a model is another than `tiny`."""
    values = config.flat()
    said: dict[str, list[str]] = {}
    for name in names:
        which = scorer_model if name.startswith("scorer_") else model
        said.setdefault(which, []).append(f"{name}={_written(values[name])}")
    return [f"as the model is {which} and not tiny: {', '.join(options)}" for which, options in said.items()]


def _written(value: Any) -> str:
    """Return an option's value as one would type it.

    Example:
        >>> [_written(value) for value in (True, None, 1e-5, "auto")]
        ['true', 'null', '1e-05', 'auto']
    """
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_tiny(model: str) -> bool:
    """Return whether a model is the embedded one, or what a run has made of that."""
    if model == "tiny" or not Path(model).expanduser().is_dir():
        return model == "tiny"
    run = _run_of(model)
    return run is not None and _is_tiny(GRPOConfig.from_file(run / "config.yaml").policy.model)


def _source_layers(source: str | Path) -> list[_Layer]:
    name = str(source)
    path = Path(source).expanduser()
    if name in recipes.names():
        return _recipe_layers(name)
    if path.is_dir():
        hint = f"go on with it by: grpo train --resume {source}" if (path / "config.yaml").is_file() else "name a file"
        raise ConfigError(f"{name} is a directory: {hint}")
    if not path.exists():
        raise ConfigError(f"no recipe or file {name!r}: {_nearest(path)}")
    return _text_layers(_read(path), name)


def _recipe_layers(name: str) -> list[_Layer]:
    return _text_layers(recipes.text(name), f"recipe {name}", is_recipe=True)


def _text_layers(text: str, origin: str, *, is_recipe: bool = False) -> list[_Layer]:
    options = mapping_in(text, origin)
    base = options.pop("recipe", None)
    others = options.pop(_OTHER_MODELS, None) or {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"{origin}: {_OTHER_MODELS} was given {others!r}: it should have lines like `lora_rank: 16`")
    if base is not None and base not in recipes.names():
        raise ConfigError(f"{origin}: no recipe {base!r} to start from: use one of {', '.join(recipes.names())}")
    table = read_settings(others, f"{origin}: {_OTHER_MODELS}")
    layer = _Layer(read_settings(options, origin), table, is_recipe)
    return [*([] if base is None else _recipe_layers(str(base))), layer]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from None


def _nearest(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    files = [str(path.parent / found.name) for found in folder.iterdir() if found.suffix in _YAML]
    close = difflib.get_close_matches(str(path), [*recipes.names(), *files], n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"recipes are {', '.join(recipes.names())}; a file ends in .yaml"
