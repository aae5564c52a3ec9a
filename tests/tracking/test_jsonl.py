from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy
import pytest
import torch

from grpo.tracking.jsonl import append_lines, encode, rewind_lines


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"kl": math.nan, "loss": [math.inf, -math.inf, 1.5]}, {"kl": None, "loss": [None, None, 1.5]}),
        ({1: "a\nb\u2028c", "é": "漢字 🙂"}, {"1": "a\nb\u2028c", "é": "漢字 🙂"}),
        ({"lone": "\\ \ud800"}, {"lone": "\\ \ud800"}),
        ({"pair": (1, True, None)}, {"pair": [1, True, None]}),
        ({"t": torch.tensor([0.5, math.nan]), "n": numpy.float32(0.25)}, {"t": [0.5, None], "n": 0.25}),
        ({"day": date(2026, 11, 21), "path": Path("a/b")}, {"day": "2026-11-21", "path": "a/b"}),
    ],
)
def test_whatever_a_row_holds_becomes_strict_json_on_one_line(value: object, expected: object) -> None:
    data = encode(value)
    assert b"\n" not in data
    assert json.loads(data, parse_constant=pytest.fail) == expected


def test_text_stays_readable() -> None:
    assert encode({"text": "½ 漢"}).decode() == '{"text": "½ 漢"}'


def test_rows_are_found_by_their_step_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_lines(path, [{"step": 1}, {"text": '{"step": 9}', "step": 2}, {"step": 3, "text": "x"}])
    rewind_lines(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_broken_line_at_the_end_goes_and_one_between_whole_lines_costs_no_others(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\n{"step": 2}\n{"step": 2, "te\n')
    rewind_lines(path, 5)
    assert path.read_bytes() == b'{"step": 1}\n\x00\x00\n{"step": 2}\n'


def test_importing_tracking_loads_no_heavy_package() -> None:
    heavy = ("torch", "rich", "numpy", "wandb", "tensorboard")
    code = f"import sys, grpo.tracking; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
