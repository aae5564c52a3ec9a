"""Recipe or file, then overrides → `GRPOConfig`."""

from __future__ import annotations

import difflib
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
        layers = _Layers() if _brings_its_own(changes) else _recipe_layers(DEFAULT_RECIPE)
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
        base = _Layers(own=(_Layer({} if needs_task else {"task": "rows"}, {}),))
    # What was trained lies in the run with its tokenizer; an adapter of it is not to be put on another.
    chosen = {"model": model, "tokenizer": None, "revision": None, "reference_model": None, "lora_rank": 0}
    return _config(base, chosen, changes)


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
    """Settings of one recipe or file.

    Attributes:
        settings: in any case.
        other_models: on top of them where the model, in the end, is not `tiny`.
    """

    settings: Settings
    other_models: Settings

    def for_model(self, model: str) -> list[Settings]:
        """Return what counts with this model, later ones on top."""
        return [self.settings] if model == "tiny" else [self.settings, self.other_models]


@dataclass(frozen=True, slots=True)
class _Layers:
    """Layers, later ones on top: those of a recipe of the package, and those of the user's file."""

    recipe: tuple[_Layer, ...] = ()
    own: tuple[_Layer, ...] = ()


def _config(layers: _Layers, *changes: Settings) -> GRPOConfig:
    model = merge_layers([*(layer.settings for layer in (*layers.recipe, *layers.own)), *changes]).get("model")
    model = model or "tiny"
    recipe = [settings for layer in layers.recipe for settings in layer.for_model(model)]
    user = [*(settings for layer in layers.own for settings in layer.for_model(model)), *changes]
    own = merge_layers(user)
    config = GRPOConfig(**merge_layers([*recipe, *user]))
    config = config.with_defaults({name for settings in recipe for name in settings} - own.keys())
    return config if model == "tiny" else config.with_remarks(_on_other_model(config, layers, changes))


def _on_other_model(config: GRPOConfig, layers: _Layers, changes: Sequence[Settings]) -> list[str]:
    """Return a line that says which options are as they are because the model is another than `tiny`."""
    typed = {name for change in changes for name in change}
    names = {name for layer in (*layers.recipe, *layers.own) for name in layer.other_models} - typed
    if not names:
        return []
    values = config.flat()
    said = ", ".join(f"{name} {values[name]}" for name in sorted(names) if name in values)
    return [f"as the model is {config.policy.model} and not tiny: {said}"]


def _source_layers(source: str | Path) -> _Layers:
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


def _recipe_layers(name: str) -> _Layers:
    layers = _text_layers(recipes.text(name), f"recipe {name}")
    return _Layers(recipe=(*layers.recipe, *layers.own))


def _text_layers(text: str, origin: str) -> _Layers:
    options = mapping_in(text, origin)
    base = options.pop("recipe", None)
    others = options.pop(_OTHER_MODELS, None) or {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"{origin}: {_OTHER_MODELS} was given {others!r}: it should have lines like `lora_rank: 16`")
    layers = _Layers()
    if base is not None:
        if base not in recipes.names():
            raise ConfigError(f"{origin}: no recipe {base!r} to start from: use one of {', '.join(recipes.names())}")
        layers = _recipe_layers(str(base))
    layer = _Layer(read_settings(options, origin), read_settings(others, f"{origin}: {_OTHER_MODELS}"))
    return _Layers(layers.recipe, (layer,))


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
