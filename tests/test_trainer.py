from __future__ import annotations

from pathlib import Path

import pytest

from grpo import assembly
from grpo.checkpoint import checkpoint_steps
from grpo.config import load_config
from grpo.evaluate import Evaluation, Evaluator

OPTIONS = (
    *("steps=4", "prompts_per_step=2", "group_size=2", "max_completion_length=4", "eval_prompts=2"),
    *("eval_samples=1", "eval_every=1", "keep_checkpoints=1"),
)


@pytest.mark.parametrize(("save_every", "expected"), [(4, [2, 4]), (0, [])])
@pytest.mark.parametrize("accuracies", [[0.1, 0.2, 0.6, 0.5, 0.4], [0.1, 0.2, 0.6, 0.6, 0.6]], ids=["worse", "ties"])
def test_the_best_weights_are_kept_though_no_checkpoint_was_due(
    accuracies: list[float],
    save_every: int,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def evaluate(_: Evaluator, step: int, max_steps: int, epoch: float) -> Evaluation:
        return Evaluation({"accuracy": accuracies[step]})

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    assembly.train(load_config(None, [*OPTIONS, f"save_every={save_every}", f"output_dir={tmp_path / 'run'}"]))
    assert checkpoint_steps(tmp_path / "run") == expected
