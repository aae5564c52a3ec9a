"""The files of a Python interpreter that a program must be able to read to run in it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo.errors import ConfigError

__all__ = ["Interpreter", "find_interpreter", "outermost"]

_READABLE = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32",
    "/usr/local/bin", "/usr/local/lib", "/usr/local/lib64", "/usr/share/zoneinfo", "/nix/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
)  # fmt: skip
_OF_PREFIX = ("bin", "lib", "lib32", "lib64", "pyvenv.cfg")
"""Required parts of an interpreter's folder; a project may lie beside them."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter.

    Attributes:
        path: the file that was named.
        base: the file behind it, outside any virtual environment.
        environment: the folder of the virtual environment; None outside one.
        prefixes: the folders that the interpreter is installed in.
    """

    path: str
    base: str
    environment: str | None
    prefixes: tuple[str, ...]

    def readable(self, *, packages: bool) -> list[str]:
        """Return the files and folders that a program must see, with `packages` the virtual environment's too."""
        prefixes = [*self.prefixes, *([self.environment] if packages and self.environment else [])]
        parts = [f"{os.path.realpath(prefix)}/{part}" for prefix in prefixes for part in _OF_PREFIX]
        named = [f"{prefix}/{part}" for prefix in prefixes if not Path(prefix).is_symlink() for part in _OF_PREFIX]
        links = [prefix for prefix in prefixes if Path(prefix).is_symlink()]
        return outermost([*_READABLE, *named, *parts, self.base], links)


_ASK = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.base_exec_prefix]))"


@functools.lru_cache(maxsize=8)
def find_interpreter(python: str) -> Interpreter:
    """Return an interpreter with its folders.

    Raises:
        ConfigError: the interpreter does not run.
    """
    if python == sys.executable:
        prefixes = [sys.prefix, sys.base_prefix, sys.base_exec_prefix]
    else:
        try:
            asked = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, check=True, timeout=30, text=True)
            prefixes = json.loads(asked.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ConfigError(
                f"{python!r} cannot run programs: {error}: give the path of a Python interpreter"
            ) from error
    path = shutil.which(python) or python
    prefix, *bases = prefixes
    return Interpreter(
        path, os.path.realpath(path), None if prefix == bases[0] else prefix, tuple(dict.fromkeys(bases))
    )


def outermost(places: Sequence[str], links: Sequence[str] = ()) -> list[str]:
    """Return the paths that exist and lie in no other of them; the target of a link is added.

    Args:
        links: further links, whose targets are not added.
    """
    pointed_to = [os.path.realpath(place) for place in places if Path(place).is_symlink()]
    all_ = dict.fromkeys([*places, *pointed_to, *links])
    there = [place for place in all_ if place != "/" and os.path.lexists(place)]
    folders = [f"{place.rstrip('/')}/" for place in there if not Path(place).is_symlink()]
    return [place for place in there if not any(place.startswith(folder) for folder in folders)]
