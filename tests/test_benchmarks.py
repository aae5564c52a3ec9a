"""The benchmark scripts work: exact counts of operations, and the keys that others read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KEYS_OF_A_TIMER = {
    "peer",
    "step_s",
    "min_step_s",
    "completion_tokens_per_s",
    "mean_length",
    "max_length",
    "peak_memory_mb",
}
VOCABULARY = 64
LENGTH = 6


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts import their neighbours by plain names, which must not stay behind for other tests."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    from shapes import ModelSpec, WorkSpec, write_workload

    model = ModelSpec(hidden=16, layers=2, heads=2, kv_heads=1, ffn=32, vocabulary=VOCABULARY, max_positions=128)
    work = WorkSpec(prompt_length=9, max_completion_length=LENGTH, group_size=2, prompts_per_step=2)
    write_workload(tmp_path / "workload", model, work, num_prompts=8)
    return tmp_path / "workload"


def run(script: str, *words: str | Path) -> str:
    """Return what a script prints."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def small_model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
        attn_implementation="eager",
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def counted(work: Callable[[], object]) -> int:
    """Return the operations of the matrix products that PyTorch itself counts."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_comparison_reports_ratio_and_share_of_the_limit(workload: Path, tmp_path: Path) -> None:
    record = tmp_path / "figures.json"
    printed = run(
        "compare.py", workload, "--peer", BENCHMARKS / "step.py", "--rounds", "1", "--steps", "1", "--json", record
    )
    written = json.loads(record.read_text())
    found = written["summary"]["workload"]
    assert found["step_ratio"] == [found["peer"]["step_s"] / found["ours"]["step_s"]]
    assert 0 < found["share_of_limit"]["torch"] < 1
    assert all(f"| workload | {side} |" in printed for side in ("ours", "peer"))

    step = written["answers"]["workload"][0]["ours"]
    assert set(step) >= KEYS_OF_A_TIMER | {"generate_s", "score_s", "update_s", "useful_gflop_per_s"}
    assert step["peer"] == "grpo"
    assert step["max_length"] == step["mean_length"] == LENGTH
    assert 0 < step["generate_s"] + step["update_s"] < step["step_s"]


TIMER_OF_A_COMMIT = """
import json, pathlib, sys
import grpo
with pathlib.Path(sys.argv[1], "order").open("a") as file:
    file.write(grpo.NAME)
speed = grpo.STEP_S + len(sys.argv[2])
print(json.dumps({"step_s": speed, "completion_tokens_per_s": 60 / speed, "peak_memory_mb": 100}))
"""


def test_the_guard_runs_two_commits_by_turns_and_prints_the_ratios_of_the_second(tmp_path: Path) -> None:
    repository, workload, record = tmp_path / "repository", tmp_path / "short", tmp_path / "record.json"
    (repository / "benchmarks").mkdir(parents=True)
    (repository / "benchmarks" / "step.py").write_text(TIMER_OF_A_COMMIT)
    (repository / "src" / "grpo").mkdir(parents=True)
    workload.mkdir()
    (workload / "workload.json").write_text("{}")

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", "-C", str(repository), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    commits = []
    for name, step_s in (("A", 1.0), ("B", 2.0)):
        (repository / "src" / "grpo" / "__init__.py").write_text(f"NAME, STEP_S = {name!r}, {step_s}\n")
        git("add", ".")
        git("commit", "--quiet", "--message", name)
        commits.append(git("rev-parse", "HEAD"))

    words = ("--repository", repository, "--workloads", workload, "--rounds", "3", "--steps", "5", "--json", record)
    printed = run("guard.py", commits[0], *words)
    assert (workload / "order").read_text() == "ABBAAB"
    ratios = ("1.500 (1.500–1.500)", "0.667 (0.667–0.667)", "1.000 (1.000–1.000)")
    assert "| short | 2.000 | 3.000 | {} | 30 | 20 | {} | 100 | 100 | {} |".format(*ratios) in printed
    assert "slower by more than 3%: short" in printed
    assert "slower by more than 3%: none" in run("guard.py", "HEAD", commits[0], *words)
    assert list(json.loads(record.read_text())["commits"].values()) == commits[::-1]
    assert git("worktree", "list").count("\n") == 0


def test_the_interval_of_many_rounds_is_narrower_than_their_extremes() -> None:
    from guard import median_interval

    middle, low, high = median_interval([0.2, *(1.0 + place / 100 for place in range(-5, 6)), 9.0])
    assert middle == 1.0
    assert 0.94 < low < middle < high < 1.06


def test_every_guarded_workload_can_be_written() -> None:
    from guard import GUARDED
    from shapes import WORKLOADS

    assert set(GUARDED) == set(WORKLOADS)
    assert all(model.hidden % model.heads == model.heads % model.kv_heads == 0 for model, _ in WORKLOADS.values())


def test_the_count_of_a_forward_is_what_pytorch_counts_but_for_half_the_attention() -> None:
    from flops import GroupLengths, forward_flops, shape_of

    model = small_model()
    shape = shape_of(model)
    length = 12
    ids = torch.ones(1, length, dtype=torch.long)
    # A prompt of one token and a completion that fills the rest: every position has its prediction.
    ours = forward_flops(shape, GroupLengths(1, (length,)))
    attention = 2 * shape.attention
    pytorch_counts = counted(lambda: model(ids, use_cache=False))
    assert pytorch_counts - ours == attention * (length * length - length * (length + 1) // 2)


def test_a_backward_costs_twice_its_forward_where_all_weights_are_trained() -> None:
    from flops import GroupLengths, forward_flops, shape_of, update_flops

    group = GroupLengths(5, (3, 7))
    shape = shape_of(small_model())
    assert update_flops(shape, group) == 3 * forward_flops(shape, group)


def test_frozen_weights_cost_no_gradient_of_their_own() -> None:
    from flops import GroupLengths, forward_flops, shape_of, update_flops

    model = small_model().requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    shape = shape_of(model)
    group = GroupLengths(5, (3,))
    attention = 2 * shape.attention * (sum(range(1, 6)) + 6 + 7)
    assert update_flops(shape, group) == 2 * forward_flops(shape, group) + 2 * 16 * 32 * 7 + attention


def test_a_group_without_anything_to_learn_needs_no_update() -> None:
    from flops import GroupLengths, shape_of, update_flops

    assert update_flops(shape_of(small_model()), GroupLengths(5, (3,), trained=False)) == 0


def test_a_window_limits_what_is_attended_to() -> None:
    from dataclasses import replace

    from flops import GroupLengths, forward_flops, shape_of

    shape = shape_of(small_model())
    narrow = replace(shape, windows=(None, 4))
    group = GroupLengths(6, (4,))
    seen_by_all, seen_in_window = sum(range(1, 10)), 1 + 2 + 3 + 4 * 6
    difference = forward_flops(shape, group) - forward_flops(narrow, group)
    assert difference == shape.attention * (seen_by_all - seen_in_window)


def test_mixtures_of_experts_are_not_counted_wrongly() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    from flops import shape_of

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="not a dense decoder"):
        shape_of(MixtralForCausalLM(config))


def test_engines_sample_the_tokens_asked_for_and_a_missing_one_says_why() -> None:
    shape = ("--hidden", "32", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--ffn", "32", "--vocabulary", "64")
    printed = run(
        "engine.py", *shape, "--prompts", "2", "--completions", "2", "--prompt", "8", "--tokens", "4", "--rounds", "1",
        "--vllm-python", sys.executable,
    )  # fmt: skip
    lines = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in printed.splitlines()[2:]}
    assert int(lines["native"]) > 0
    assert int(lines["generate()"]) > 0
    assert int(lines["continuous batching"]) > 0
    assert "ModuleNotFoundError" in lines["vLLM"]


def test_growth_draws_what_it_measured(tmp_path: Path) -> None:
    point = {"step_s": 1.0, "update_s": 0.5, "generate_s": 0.4, "peak_memory_mb": 300, "useful_gflop": 2.0}
    doubled = {name: 2 * value for name, value in point.items()}
    figures = {"shared": [{"value": 4, **point}, {"value": 32, **doubled}]}
    (tmp_path / "growth.json").write_text(json.dumps({"sweeps": figures}))
    assert "| 2.00 × | 2.00 × |" in run("growth.py", "--out", tmp_path, "--plot-only")
    assert (tmp_path / "growth.svg").read_text().rstrip().endswith("</svg>")


def test_the_performance_page_has_the_figures_of_its_records() -> None:
    from document import filled

    page = BENCHMARKS.parent / "docs" / "performance.md"
    text = page.read_text()
    assert filled(text, page.parent) == text, "run python benchmarks/document.py"


def test_a_table_of_a_page_is_taken_from_its_record(tmp_path: Path) -> None:
    from document import filled, records_of

    page = "Above.\n<!-- figures: startup.json startup -->\nold\n<!-- end -->\nBelow.\n"
    origin = {"date": "2026-01-02", "processor": "a processor", "cores": 2, "torch": "2.13.0"}
    assert records_of(page) == {"startup.json"}
    assert filled(page, tmp_path) == page
    (tmp_path / "startup.json").write_text(json.dumps({"origin": origin, "seconds": {"help_s": [0.1, 0.3, 0.2]}}))
    new = filled(page, tmp_path)
    assert "| `grpo --help` | 0.20 (0.10–0.30) |" in new
    assert "2026-01-02, a processor, 2 cores, torch 2.13.0" in new
    assert "old" not in new
    assert filled(new, tmp_path) == new


def test_a_slow_async_reward_is_timed_beside_a_quick_one() -> None:
    words = ("--seconds", "0.05", "--steps", "1", "--prompts", "2", "--group-size", "2")
    figures = json.loads(run("slow_reward.py", *words).splitlines()[-1])
    assert figures["completions"] == 4
    assert len(figures["step_s"]) == len(figures["step_without_waiting_s"]) == 1


def test_runs_on_generated_data_are_judged_by_what_the_data_follows(tmp_path: Path) -> None:
    from grpo import assembly
    from grpo.config import load_config

    for recipe, reward in (("ctr-headlines", "clicks_by_rule"), ("finance-preferences", "criteria_by_rule")):
        short = ["steps=1", "prompts_per_step=2", "group_size=2", "eval_every=0", f"rewards={reward}"]
        assembly.train(load_config(recipe, [*short, f"output_dir={tmp_path}/{recipe}"]))
    clicks = json.loads(run("headline_clicks.py", tmp_path / "ctr-headlines", "--samples", "2"))
    assert 0.0 < clicks["clicks_before"] < clicks["best_attainable"] < 0.9
    assert 0.0 < clicks["format_rate"] <= 1.0
    wins = json.loads(run("preference_wins.py", tmp_path / "finance-preferences", "--samples", "1"))
    assert 0.0 < wins["wins"] < 1.0
    assert 0.0 < wins["criteria_before"] < 4.0
    picture = tmp_path / "curves.svg"
    run("curves.py", tmp_path / "ctr-headlines", "reward", "clicks_by_rule", "--out", picture, "--ceiling", "0.86")
    assert "clicks_by_rule" in picture.read_text()
