"""An option is one field of its section: nothing else in the package has to know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpo

FIELD = """
    gloss: int = option(
        3, "coats of paint", synonyms={"num_coats": {}, "matt": {"true": "1", "false": "3"}}, spellings={"many": "9"},
        fixed=True, needs="wandb", excludes={"primer": "say how thick the paint is"}, displaces=("live",),
    )
    primer: int = option(0, "coats of primer", displaces=("gloss",))
"""

SCRIPT = """
import json
from grpo.config import OPTIONS, GRPOConfig, load_config, option_reference
from grpo.errors import ConfigError

def refused(*args):
    try:
        load_config(None, args)
    except ConfigError as error:
        return str(error)

def gloss(*args):
    return load_config(None, args).output.gloss

print(json.dumps({
    "default": gloss(),
    "read": [gloss("gloss=5"), gloss("--num-coats", "6"), gloss("--matt"), gloss("--no-matt"), gloss("gloss=many")],
    "round trip": GRPOConfig.from_yaml(load_config(None, ["gloss=5"]).to_yaml()).output.gloss,
    "refused": [refused("gloss=x"), refused("glos=1"), refused("gloss=1", "num_coats=2")],
    "exclusive": refused("gloss=1", "primer=2"),
    "remarks": [load_config(None, ["gloss=5"]).remarks(), load_config(None, ["gloss=5", "wandb=true"]).remarks()],
    "replaced": [GRPOConfig(live=True, primer=1).replace(gloss=5).flat()[name] for name in ("live", "primer")],
    "fixed": OPTIONS["gloss"].known("fixed"),
    "help": [line.strip() for line in option_reference().splitlines() if "--gloss" in line],
}))
"""


def test_a_field_is_all_that_the_readers_the_help_and_a_resumed_run_need(tmp_path):
    package = tmp_path / "grpo"
    package.mkdir()
    for path in Path(grpo.__file__).parent.iterdir():
        if path.name == "config":
            shutil.copytree(path, package / "config", ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (package / path.name).symlink_to(path)
    sections = package / "config" / "sections.py"
    text = sections.read_text(encoding="utf-8")
    before, class_line, after = text.partition("class OutputSection(Section):\n")
    docstring, _, fields = after.partition("\n\n")
    sections.write_text(before + class_line + docstring + "\n" + FIELD + fields, encoding="utf-8")

    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["default"] == 3
    assert found["read"] == [5, 6, 1, 3, 9]
    assert found["round trip"] == 5
    assert found["refused"] == [
        "gloss was given 'x': it should be a whole number",
        "no option 'glos': did you mean gloss?",
        "gloss and num_coats are one option, but were given 1 and 2: give one of them",
    ]
    assert found["exclusive"] == "gloss 1 and primer 2 both say how thick the paint is: give one of them"
    assert found["remarks"] == [["gloss has no effect: wandb is false"], []]
    assert found["replaced"] == [None, 0]
    assert found["fixed"] is True
    assert found["help"] == ["--gloss N                       coats of paint [3] (also num_coats, matt)"]
