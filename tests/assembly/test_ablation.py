"""`ablate_rewards`: one run with all rewards, then one without each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import QUICK, lines_of, sums, tree, write_lines

from grpo.assembly.ablation import Ablation, AblationRun, ablate_rewards
from grpo.assembly.run_record import with_absolute_paths
from grpo.cli.ablation_text import ablation_table
from grpo.config import GRPOConfig
from grpo.errors import CheckpointError, ConfigError

REWARDS = """\
def letters(completions):
    return [float(len(text)) for text in completions]


def digits(completions):
    return [float(sum(map(str.isdigit, text))) for text in completions]


def sums_to_nothing(completions, trainer_state):
    if trainer_state.global_step and {where}:
        raise RuntimeError("as planned")
    return [1.0] * len(completions)
"""


@pytest.fixture
def config(workplace) -> GRPOConfig:
    Path("mine.py").write_text(REWARDS.replace("{where}", "False"))
    write_lines("rows.jsonl", sums(8))
    rewards = [
        {"name": "mine.py:letters", "weight": {"from": 0.5, "to": 1.0, "steps": 2}},
        {"name": "last_integer", "weight": 2.0, "gate": "mine.py:letters", "gate_at": 1.0},
        {"name": "mine.py:digits", "weight": 0.0},
    ]
    options = {
        **QUICK,
        "steps": 2,
        "eval_size": 2,
        "train_file": "rows.jsonl",
        "rewards": rewards,
        "eval_at_start": False,
    }
    return GRPOConfig(**options, output_dir="ablation")


def specs_of(path: str) -> list[dict[str, object]]:
    functions = GRPOConfig.from_file(Path(path) / "config.yaml").rewards.functions
    return [function.model_dump() for function in functions]


def test_each_reward_that_counts_is_left_out_in_turn_and_still_measured(config):
    told = []
    ablation = ablate_rewards(config, on_run=lambda *what: told.append(what))
    names = ["letters", "last_integer", "digits"]
    assert [run.left_out for run in ablation.runs] == [None, "letters", "last_integer"]
    assert told == [(run.left_out, Path(run.path)) for run in ablation.runs]
    everything, without_letters, without_integer = (specs_of(run.path) for run in ablation.runs)
    assert everything == [function.model_dump() for function in with_absolute_paths(config).rewards.functions]
    assert everything[1]["gate"] == str(Path("mine.py").resolve()) + ":letters"
    assert without_letters[0]["weight"] == 0.0
    assert without_letters[1] == {"name": "last_integer", "weight": 2.0}, "the gate goes with its reward"
    assert [spec["weight"] for spec in without_integer] == [everything[0]["weight"], 0.0, 0.0]
    for run in ablation.runs:
        last = lines_of(Path(run.path) / "metrics.jsonl")[-1]
        assert run.rewards == {name: last[f"rewards/{name}/mean"] for name in names}
        assert run.evaluation["accuracy"] == lines_of(Path(run.path) / "eval.jsonl")[-1]["accuracy"]
        lines = [line for line in lines_of(Path(run.path) / "completions.jsonl") if line["step"] == 2]
        for line in lines:
            rewards = line["rewards"]
            expected = (run.left_out != "letters") * 0.75 * rewards["letters"]
            expected += (run.left_out != "last_integer") * 2.0 * rewards["last_integer"]
            assert line["total"] == pytest.approx(expected)
    assert ablation.path == "ablation"
    written = json.loads(Path("ablation/ablation.json").read_text())
    assert [run["left_out"] for run in written["runs"]] == [None, "letters", "last_integer"]


def test_all_runs_sample_the_same_prompts_and_begin_with_the_same_completions(config):
    ablation = ablate_rewards(config)
    first_steps = [
        [
            (line["prompt"], line["completion"])
            for line in lines_of(Path(run.path) / "completions.jsonl")
            if line["step"] == 1
        ]
        for run in ablation.runs
    ]
    assert first_steps[0] == first_steps[1] == first_steps[2]


def test_a_run_that_fails_is_noted_and_the_next_begun(config):
    Path("mine.py").write_text(REWARDS.replace("{where}", "'without-letters' in str(Path.cwd() / OUT.read_text())"))
    Path("mine.py").write_text("from pathlib import Path\nOUT = Path('now')\n" + Path("mine.py").read_text())
    rewards = ["mine.py:letters", "mine.py:sums_to_nothing"]
    config = config.replace(rewards=rewards)
    ablation = ablate_rewards(config, on_run=lambda _, path: Path("now").write_text(str(path)))
    assert [run.left_out for run in ablation.runs] == [None, "letters", "sums_to_nothing"]
    failed = ablation.runs[1]
    assert "RuntimeError: as planned" in failed.error
    assert failed.evaluation is None
    assert failed.rewards["letters"] > 0.0
    assert [run.error for run in ablation.runs if run is not failed] == [None, None]
    assert "without letters the run failed:" in ablation_table(ablation)


def test_what_was_done_is_kept_when_a_later_run_cannot_begin_or_is_broken_off(config):
    config = config.replace(rewards=["mine.py:letters", "mine.py:digits", "last_integer"])

    def on_run(left_out: str | None, path: Path) -> None:
        if left_out == "letters":
            path.mkdir()
            (path / "taken").touch()
        if left_out == "last_integer":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate_rewards(config, on_run=on_run)
    written = json.loads(Path("ablation/ablation.json").read_text())["runs"]
    assert [run["left_out"] for run in written] == [None, "letters", "digits"]
    assert "is not empty" in written[1]["error"]


def test_a_reward_whose_gate_is_left_out_gets_the_gate_s_own_gate(config):
    chain = ["mine.py:letters", {"name": "mine.py:digits", "gate": "letters"}, {"name": "int", "gate": "digits"}]
    runs = ablate_rewards(config.replace(rewards=chain)).runs
    assert [spec.get("gate") for spec in specs_of(runs[2].path)] == [None, "letters", "letters"]
    assert [spec.get("gate") for spec in specs_of(runs[1].path)] == [None, None, "digits"]


@pytest.mark.parametrize("rewards", [["last_integer"], {"last_integer": 1.0, "xmlcount": 0.0}])
def test_with_fewer_than_two_rewards_that_count_there_is_nothing_to_leave_out(config, workplace, rewards):
    before = tree(workplace)
    with pytest.raises(ConfigError, match="fewer than two count: name more rewards"):
        ablate_rewards(config.replace(rewards=rewards))
    assert tree(workplace) == before


def test_a_directory_that_is_taken_is_refused(config):
    Path("ablation").mkdir()
    Path("ablation/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="output_dir ablation is not empty"):
        ablate_rewards(config)


def test_the_table_has_a_line_a_run_and_brackets_around_what_did_not_count():
    evaluation = {"accuracy": 0.5, "accuracy_lenient": 0.75, "accuracy_greedy": 0.25, "format_rate": 1.0}
    runs = (
        AblationRun(None, "a/all", evaluation, {"one": 1.0, "other": 0.125}),
        AblationRun("one", "a/without-one", {**evaluation, "accuracy": 0.0}, {"one": 0.25, "other": None}),
        AblationRun("other", "a/without-other", None, {}, "out of luck"),
    )
    assert ablation_table(Ablation("a", runs)).splitlines() == [
        "left out  strict  lenient  greedy  format      one  other",
        "nothing    0.500    0.750   0.250   1.000    1.000  0.125",
        "one        0.000    0.750   0.250   1.000  (0.250)      –",
        "other          –        –       –       –        –    (–)",
        "without other the run failed: out of luck",
        "strict, lenient, greedy, format: on held-out prompts after training",
        "rewards: mean over the last fifth of the steps, before weighting; in brackets where it did not count",
        "runs are in a",
    ]


def test_without_an_evaluation_the_table_shows_rewards_alone():
    table = ablation_table(Ablation("a", (AblationRun(None, "a/all", None, {"one": 1.0}),)))
    assert table.splitlines()[:2] == ["left out    one", "nothing   1.000"]
