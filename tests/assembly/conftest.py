from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import WORDS, Shown, tree

from grpo.cli import main


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty working directory, in which the command can be called by its name."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    place = tmp_path / "workplace"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def command(capsys) -> Callable[..., Shown]:
    """Run `grpo` with words, as the shell would, in this process.

    W&B's own lines on stderr are left out: it advertises for packages that some other test has imported.
    """

    def run(*words: object) -> Shown:
        capsys.readouterr()
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        err = "".join(line for line in shown.err.splitlines(keepends=True) if not line.startswith("wandb: "))
        return Shown(code, shown.out, err)

    return run


@pytest.fixture
def train(command) -> Callable[..., Path]:
    """Train shortly in the directory `run`, with `options` on top; the run has to succeed without complaint."""

    def run(*options: object, output_dir: str = "run") -> Path:
        shown = command("train", *WORDS, f"output_dir={output_dir}", *options)
        assert shown.code == 0, shown.err
        assert shown.err == ""
        return Path(output_dir)

    return run


@pytest.fixture
def refused(command, workplace) -> Callable[..., str]:
    """Run what has to be refused, and return the one line that says why; nothing on the disk may have changed."""

    def run(*words: object, code: int = 2) -> str:
        before = tree(workplace)
        shown = command(*words)
        assert shown.code == code, shown
        # The training of a reward model shows its stages from the first second.
        assert shown.out == "" or words[:2] == ("reward", "train")
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1, shown.err
        assert tree(workplace) == before
        return shown.err.removeprefix("error: ").rstrip("\n")

    return run
