from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo.errors import ConfigError
from grpo.tracking import TensorBoardTracker, Tracker, WandbTracker, answer_counts, flatten_evaluation, flatten_step

STEP = {"step": 1, "reward": 0.5, "rewards/format/mean": 1, "kl": None, "loss": math.nan, "reward_std": 0.25}
EVALUATION = {
    "step": 1,
    "accuracy": 0.5,
    "accuracy_ci95": [0.4, 0.6],
    "accuracy_greedy": None,
    "pass_at_k": {"1": 0.5, "4": 0.75},
    "reward": 0.25,
    "reward_ci95": None,
    "rewards": {"format": 0.25, "own": None},
    "rewards_ci95": {"format": [0.2, 0.3], "own": None},
    "answers": {"x | y": 1, "12": 5, "1,000": 3, "nan": 1},
}
SUMMARY = {"steps": 2, "seconds": 1.0, "eval_before": None, "eval_after": {"accuracy": 0.5}}


def line(step: int, completion: str, **rewards: float | None) -> dict[str, Any]:
    """Return a line of `completions.jsonl`."""
    prompt = [{"role": "user", "content": "2 + 3"}]
    facts = {"index": 0, "total": 1.0, "advantage": 0.5, "length": 4, "finish_reason": "stop"}
    return {"step": step, "row": 7, "prompt": prompt, "completion": completion, "rewards": rewards, **facts}


def follow(tracker: Tracker, first: int, last: int, *, finish: bool = True) -> str:
    """Call a tracker as a trainer does from step `first` to step `last`, and one more step without an evaluation."""
    tracker.start({"seed": 1, "rewards": {"format": 1.0}}, step=first - 1)
    for step in range(first, last + 1):
        tracker.log(
            step, {**STEP, "step": step, "reward": step / 10}, [line(step, f"five {step}", format=1.0, own=None)]
        )
        tracker.log_evaluation(step, {**EVALUATION, "step": step})
    if not finish:
        return ""
    tracker.log(last + 1, {}, [line(last + 1, "the end", format=0.0, own=2.0)])
    return tracker.finish(SUMMARY)


def test_only_finite_numbers_become_points() -> None:
    assert flatten_step(STEP) == {"train/reward": 0.5, "rewards/format/mean": 1.0, "train/reward_std": 0.25}
    assert flatten_evaluation(EVALUATION) == {
        "eval/accuracy": 0.5,
        "eval/accuracy_ci95_low": 0.4,
        "eval/accuracy_ci95_high": 0.6,
        "eval/pass_at_1": 0.5,
        "eval/pass_at_4": 0.75,
        "eval/reward": 0.25,
        "eval/rewards/format": 0.25,
        "eval/rewards/format_ci95_low": 0.2,
        "eval/rewards/format_ci95_high": 0.3,
    }
    assert list(answer_counts(EVALUATION)) == ["12", "1,000", "nan", "x | y"]
    assert answer_counts({"reward": 1.0}) == {}


def read_events(directory: Path) -> Any:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(
        str(directory / "tensorboard"), size_guidance={"tensors": 0, "histograms": 0, "scalars": 0}
    )
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    assert follow(TensorBoardTracker(tmp_path), 1, 3) == f"curves: tensorboard --logdir {tmp_path}/tensorboard"
    events = read_events(tmp_path)
    assert [(point.step, round(point.value, 6)) for point in events.Scalars("train/reward")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert set(events.Tags()["scalars"]) == {
        "train/reward",
        "train/reward_std",
        "rewards/format/mean",
        "eval/accuracy",
        "eval/accuracy_ci95_low",
        "eval/accuracy_ci95_high",
        "eval/pass_at_1",
        "eval/pass_at_4",
        "eval/reward",
        "eval/rewards/format",
        "eval/rewards/format_ci95_low",
        "eval/rewards/format_ci95_high",
    }
    answers = events.Histograms("eval/answers")
    assert [entry.step for entry in answers] == [1, 2, 3]
    value = answers[0].histogram_value
    assert (value.num, value.min, value.max) == (8, 12, 1000)
    (config,) = events.Tensors("config/text_summary")
    assert b'"format": 1.0' in config.tensor_proto.string_val[0]
    table = events.Tensors("eval/answers/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.splitlines()[2:] == ["| 12 | 5 |", "| 1,000 | 3 |", "| nan | 1 |", "| x \\| y | 1 |"]


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path: Path) -> None:
    follow(TensorBoardTracker(tmp_path), 1, 5, finish=False)
    follow(TensorBoardTracker(tmp_path), 4, 6)
    points = read_events(tmp_path).Scalars("train/reward")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("package", "tracker", "extra"),
    [
        ("torch.utils.tensorboard.writer", TensorBoardTracker, "tensorboard"),
        ("wandb", WandbTracker, "wandb"),
    ],
)
def test_a_missing_package_gives_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, tracker: Any, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install {extra}$"):
        tracker(tmp_path).start({})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quiet_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    # What it read from the environment would stay for the tests after this one.
    wandb.teardown()


def test_wandb_goes_on_with_the_run_of_the_directory(tmp_path: Path, quiet_wandb: None) -> None:
    run = tmp_path / "arithmetic"
    run.mkdir()
    follow(WandbTracker(run, project="sums", mode="offline"), 1, 2)
    run_id = (run / "wandb_run_id.txt").read_text().strip()
    place = follow(WandbTracker(run, project="sums", mode="offline"), 3, 3)
    assert place == f"Weights & Biases: offline, upload with: wandb sync {run}/wandb/offline-run-*"

    assert (run / "wandb_run_id.txt").read_text().strip() == run_id
    records = sorted((run / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert records
    logged = b"".join(record.read_bytes() for record in records)
    for name in (b"train/reward", b"rewards/format/mean", b"eval/pass_at_4", b"eval/answers", b"arithmetic", b"sums"):
        assert name in logged
    tables = [json.loads(table.read_text()) for table in (run / "wandb").rglob("*.table.json")]
    answers = [table for table in tables if table["columns"] == ["answer", "times"]]
    assert len(answers) == 3
    assert all(table["data"] == [["12", 5], ["1,000", 3], ["nan", 1], ["x | y", 1]] for table in answers)
    completions = sorted(
        (table for table in tables if table not in answers),
        key=lambda table: (table["data"][0][4], table["data"][0][1]),
    )
    head = ["prompt", "completion", "rewards/format", "rewards/own", "step", "row", "index", "total", "advantage"]
    assert all(table["columns"] == [*head, "length", "finish_reason"] for table in completions)
    assert [table["data"][0][1] for table in completions] == ["five 1", "five 2", "five 3", "the end", "the end"]
    assert completions[0]["data"] == [["user: 2 + 3", "five 1", 1.0, None, 1, 7, 0, 1.0, 0.5, 4, "stop"]]


def test_wandb_without_a_login_says_what_to_do(tmp_path: Path, quiet_wandb: None) -> None:
    with pytest.raises(ConfigError, match="wandb login"):
        WandbTracker(tmp_path, mode="online").start({})
