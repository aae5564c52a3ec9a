"""Ablation of rewards: the same run with each reward left out in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo.assembly.runs import output_directory, train
from grpo.config import GRPOConfig
from grpo.errors import ConfigError, GrpoError
from grpo.rewards import find_gate
from grpo.storage import write_atomically
from grpo.tracking import RunDirectory, require_empty

__all__ = ["Ablation", "AblationRun", "ablate_rewards"]

_GATE = ("gate", "gate_at")

_LAST_SHARE = 5
"""Means of rewards are those of the last fifth of the steps."""


@dataclass(frozen=True, slots=True)
class AblationRun:
    """One run of an ablation.

    Attributes:
        left_out: name of the reward that did not count; None: all did.
        path: the run's directory.
        evaluation: metrics of its last evaluation; None where nothing is held out or the run failed.
        rewards: by name, the mean over the last fifth of the steps, before weighting, of what was left out as well;
            None where a reward gave no number.
        error: why the run failed; None if it did not.
    """

    left_out: str | None
    path: str
    evaluation: Mapping[str, Any] | None
    rewards: Mapping[str, float | None]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ablation:
    """The runs of an ablation, the one with all rewards first.

    Attributes:
        path: the directory that holds the runs, and this in `ablation.json`.
        signal_number: of the signal that stopped the last run, so that others were not begun; None: all were.
    """

    path: str
    runs: tuple[AblationRun, ...]
    signal_number: int | None = None


def ablate_rewards(config: GRPOConfig, *, on_run: Callable[[str | None, Path], None] | None = None) -> Ablation:
    """Train once with all rewards, then with each left out in turn, and return the runs' results.

    A reward that is left out has weight 0: it is still computed and logged, so that its course without training
    shows. A reward that it gates gets its own gate instead. All runs have the same seed, and so the same prompts.
    A run that fails is noted, and the next one starts. `ablation.json` is rewritten after each run.

    Args:
        on_run: called before each run with what is left out (None: nothing) and the run's directory.

    Raises:
        ConfigError: fewer than two rewards count.
        InputError: as `train`, before anything is written.
        RunError: the run with all rewards failed.
    """
    places = _counting(config)
    if len(places) < 2:
        raise ConfigError("an ablation leaves out one reward in turn, but fewer than two count: name more rewards")
    directory = _directory(config)
    require_empty(directory)
    announce = on_run or (lambda *_: None)
    announce(None, directory / "all")
    outcome = train(_changed(config, directory / "all"))
    names = _names(directory / "all")
    runs = [_finished(None, directory / "all", names, outcome.summary)]
    signal_number = outcome.signal_number
    _write(ablation := Ablation(str(directory), tuple(runs), signal_number))
    for place in places:
        if signal_number is not None:
            break
        path = directory / f"without-{_plain(names[place])}"
        announce(names[place], path)
        try:
            outcome = train(_changed(config, path, names, place))
        except (GrpoError, MemoryError) as error:
            runs.append(AblationRun(names[place], str(path), None, _last_means(path, names), str(error)))
        else:
            runs.append(_finished(names[place], path, names, outcome.summary))
            signal_number = outcome.signal_number
        _write(ablation := Ablation(str(directory), tuple(runs), signal_number))
    return ablation


def _write(ablation: Ablation) -> None:
    path = Path(ablation.path) / "ablation.json"
    write_atomically(path, json.dumps(asdict(ablation), indent=2, ensure_ascii=False) + "\n")


def _counting(config: GRPOConfig) -> list[int]:
    """Return the places of the rewards whose absence would change a run: they have a weight, or may be a gate."""
    functions = config.rewards.functions
    gates = {function.gate for function in functions if function.gate is not None}
    return [
        place
        for place, function in enumerate(functions)
        if function.weight != 0.0 or any(find_gate(gate, [function.name, _last_part(function.name)]) for gate in gates)
    ]


def _last_part(name: str) -> str:
    return name.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def _directory(config: GRPOConfig) -> Path:
    named = output_directory(config)
    return named or Path("runs", f"{config.data.task}-ablation-{datetime.now():%Y%m%d-%H%M%S}")


def _changed(config: GRPOConfig, path: Path, names: Sequence[str] = (), left_out: int | None = None) -> GRPOConfig:
    """Return the configuration of one run."""
    specs = [function.model_dump() for function in config.rewards.functions]
    if left_out is not None:
        specs[left_out]["weight"] = 0.0
        own_gate = {key: specs[left_out][key] for key in _GATE if key in specs[left_out]}
        for place, spec in enumerate(specs):
            if "gate" in spec and find_gate(spec["gate"], names) == names[left_out]:
                specs[place] = {key: value for key, value in spec.items() if key not in _GATE} | own_gate
    return config.replace(rewards=specs, output_dir=str(path), run_name=None)


def _names(path: Path) -> list[str]:
    """Return the rewards' names as the run at `path` logged them, in the order of the configuration."""
    first = next(iter(RunDirectory(path, None).metrics()), {})
    return [
        key.removeprefix("rewards/").removesuffix("/seconds")
        for key in first
        if key.startswith("rewards/") and key.endswith("/seconds")
    ]


def _finished(left_out: str | None, path: Path, names: Sequence[str], summary: Mapping[str, Any]) -> AblationRun:
    return AblationRun(left_out, str(path), summary.get("eval_after"), _last_means(path, names))


def _last_means(path: Path, names: Sequence[str]) -> dict[str, float | None]:
    lines = RunDirectory(path, None).metrics()
    last = lines[-max(1, len(lines) // _LAST_SHARE) :]
    means: dict[str, float | None] = {}
    for name in names:
        values = [line[key] for line in last if line.get(key := f"rewards/{name}/mean") is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def _plain(name: str) -> str:
    """Return a name that a directory may have."""
    return "".join(character if character.isalnum() or character in "_-." else "-" for character in name)
