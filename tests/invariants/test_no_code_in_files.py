"""Invariant 9: no loader in the package can run code that a file brings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import grpo
from grpo.config import yaml_text

SOURCE = Path(grpo.__file__).parent

FORBIDDEN = {"pickle.load", "pickle.loads", "joblib.load", "dill.load", "yaml.unsafe_load", "np.load", "numpy.load"}
"""Calls that run what a file says."""

PIPES = ("rewards/calling/process_worker.py", "rewards/calling/processes.py")
"""Modules that read pickles from a pipe between the package's own processes."""


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                place = f"{file.relative_to(SOURCE)}:{node.lineno}"
                yield place, ast.unparse(node.func), {key.arg or "**": key.value for key in node.keywords}


def is_false(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_every_loader_of_transformers_refuses_code() -> None:
    loaders = [
        (place, options)
        for place, name, options in calls()
        if name.endswith(".from_pretrained") and not name.startswith("Peft")
    ]
    assert len(loaders) >= 6
    for place, options in loaders:
        assert is_false(options.get("trust_remote_code")) or "**" in options, f"{place}: trust_remote_code=False"


def test_weights_are_read_without_unpickling() -> None:
    found = [(place, name, options) for place, name, options in calls() if name == "torch.load"]
    assert found
    for place, _, options in found:
        assert is_true(options.get("weights_only")), f"{place}: weights_only=True"


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_no_file_is_unpickled(name: str) -> None:
    found = [place for place, called, _ in calls() if called == name]
    assert [place for place in found if not place.startswith(PIPES)] == []


def test_yaml_is_read_by_a_safe_loader() -> None:
    assert issubclass(yaml_text._Loader, yaml.SafeLoader)
    loaders = [ast.unparse(options["Loader"]) for _, name, options in calls() if name == "yaml.load"]
    assert loaders == ["_Loader"]
