"""Import of a user's own functions by name, from modules and from files outside the import path."""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo.errors import ConfigError
from grpo.rewards.failures import describe_error, error_location
from grpo.storage import expanded

__all__ = ["FILE_MODULE_PREFIX", "import_object"]

FILE_MODULE_PREFIX = "grpo_user_"
"""Prefix of the module names of files; another process cannot import a module by such a name."""


def import_object(name: str, *, kind: str = "reward") -> Any:
    """Return the object named by `"module:name"` or `"file.py:name"`.

    Args:
        kind: noun for the object in messages.

    Raises:
        ConfigError: the file or module cannot be imported, or has nothing of that name.
    """
    place, _, path = name.rpartition(":")
    is_file = place.endswith(".py") or "/" in place
    try:
        module = _file_module(place) if is_file else _module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ConfigError):
            raise
        location = error_location(error)
        where = "" if location is None else f" (at {location})"
        # The text of a SyntaxError ends with its place, without the folder.
        reason = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else describe_error(error)
        raise ConfigError(f"cannot import {kind} {name!r}: {reason}{where}: correct the file or the name") from error
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise ConfigError(f"{place!r} has no {path!r}: its functions are {sorted(own)}") from error


def _module(name: str) -> ModuleType:
    # An installed command does not have the working directory on its path, as `python script.py` would.
    _search_in(Path.cwd())
    return importlib.import_module(name)


def _file_module(place: str) -> ModuleType:
    """Return a file as a module; functions of one file share it while the file is unchanged."""
    path = expanded(place).resolve()
    if not path.is_file():
        raise ConfigError(f"no file {place!r} for a reward: give its path from {str(Path.cwd())!r}")
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{FILE_MODULE_PREFIX}{stem}_{abs(hash((str(path), path.stat().st_mtime_ns))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place!r} is not a Python file: a reward is 'file.py:function'")
    module = importlib.util.module_from_spec(spec)
    _search_in(path.parent)
    _let_children_import(name, path)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _let_children_import(name: str, path: Path) -> None:
    """Write a module of that name which runs the file: spawned processes import the module by its name.

    Spawned processes get the import path of this process.
    """
    (_stand_ins() / f"{name}.py").write_text(
        "import importlib.util\nimport sys\n"
        f"spec = importlib.util.spec_from_file_location(__name__, {str(path)!r})\n"
        "sys.modules[__name__] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n",
        encoding="utf-8",
    )


@functools.cache
def _stand_ins() -> Path:
    """Return a folder on the import path that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="grpo-rewards-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _search_in(Path(folder))
    return Path(folder)


def _search_in(directory: Path) -> None:
    # At the end, so that a user's `types.py` does not hide the standard library's.
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
