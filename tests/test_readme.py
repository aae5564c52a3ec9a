"""Invariant 10: every recipe loads and starts; every command in README and docs runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from judge_server import judge_server

from grpo import recipes
from grpo.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [
    "steps=1",
    "prompts_per_step=2",
    "group_size=2",
    "eval_prompts=2",
    "eval_samples=1",
    "max_completion_length=16",
]
SMALL_SCORER = ["scorer_rows=200", "scorer_epochs=1"]
WITHOUT_DATA = ["model=tiny", "device=cpu", "gradient_checkpointing=false"]


def commands_of(page: Path) -> list[list[str]]:
    """Return the words of each indented `grpo …` line."""
    lines = [line.split("  #")[0].strip() for line in page.read_text().splitlines() if line.startswith("    ")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("grpo ")]


COMMANDS = [words for page in PAGES for words in commands_of(page)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: the examples, a file of their own, and a finished run."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "mine.yaml").write_text("recipe: arithmetic\nsteps: 1\n")
    (folder / "train.jsonl").write_text('{"question": "What is 2 + 3?", "answer": "2 + 3 = 5\\n#### 5"}\n' * 2)
    for words in (
        ["train", *SMALL],
        ["reward", "train", "ctr-headlines", *SMALL_SCORER],
        ["reward", "train", "finance-preferences", *SMALL_SCORER],
    ):
        subprocess.run([sys.executable, "-m", "grpo", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def test_the_readme_has_commands() -> None:
    assert {words[0] for words in COMMANDS} >= {"train", "eval", "generate"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_in_readme_and_docs_runs(
    words: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    needs_a_hub = words[:2] == ["train", "gsm8k"] and not any(word.startswith("train_file=") for word in words)
    if needs_a_hub:
        assert main([*words, "--dry-run"]) == 0
        words = [*words, "train_file=train.jsonl", "eval_size=0", *WITHOUT_DATA]
    if words[0] == "train" and "--resume" not in words:
        words = [*words, *SMALL]
    elif words[:2] == ["reward", "train"]:
        words = [*words, *SMALL_SCORER, "--overwrite"]
    elif words[:2] == ["reward", "check"]:
        # What a scorer of one epoch falls for says nothing about the command.
        words = [*words, "--rows", "4", "--groups", "0"]
        assert main(words) in (0, 3), capsys.readouterr().err
        return
    elif words == ["doctor", "--sandbox"]:
        assert main(words) in (0, 3)
        return
    elif words[0] == "eval":
        words = [*words, "eval_prompts=2"]
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_example_in_readme_and_docs_runs(page: Path, workplace: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        subprocess.run([sys.executable, "-c", example], cwd=workplace, check=True, capture_output=True)


def test_the_reward_of_the_readmes_python_example_is_learned(workplace: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", example], cwd=workplace, check=True, capture_output=True)
    steps = (workplace / "runs/latest/metrics.jsonl").read_text().splitlines()
    first, *_, last = (json.loads(line)["reward"] for line in steps)
    assert first < 0.4
    assert last > 0.8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_readme_and_docs_name_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for link in links:
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_page_on_environments_shows_the_shipped_example() -> None:
    page = (ROOT / "docs" / "environments.md").read_text()
    example = (ROOT / "examples" / "second_try.py").read_text()
    assert "class SecondTry" in page
    assert example[example.index("class SecondTry") :] in page


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^    |`)make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"demo", "test", "check"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_starts_on_the_embedded_model(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    data = ["train_file=train.jsonl", "eval_size=0"] if name == "gsm8k" else []
    with judge_server(lambda _: "Fair enough.\nScore: 7") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("HOME", str(workplace))
        assert main(["train", name, *data, *WITHOUT_DATA, *SMALL, "lora_rank=4"]) == 0, capsys.readouterr().err
