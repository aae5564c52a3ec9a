"""Run random configurations, rows and command lines; each must end with an exit code and at most one line of error.

    python scripts/fuzz.py [NUMBER] [SEED]

Everything runs in this process and without a model: configurations through `grpo train --dry-run`, rows through
`read_rows`, command lines through `grpo`. Those that would load a model are left out. A finding is a raw exception,
a traceback, an error of several lines, more than ten seconds, or a result other than the known one. The same seed
gives the same cases. Exit code 1 after a finding.
"""

# ruff: noqa: E501
from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from grpo.cli import main as grpo
from grpo.config import OPTIONS, load_config
from grpo.errors import DataError
from grpo.tasks import read_rows

SECONDS = 10

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 0.5, 1e-6, -0.0, float("nan"), float("inf"), 2**63, 10**4000, 1e308,
    "", " ", "tiny", "auto", "cuda:9", "a:b", "a.py:f", "~", "~nobody/x", "x" * 300, "日本 \u202e", "a\tb", "null", "0x10",
    "correctness", "correctness,correctness", "{a: 1}", "[", "*a", "&a", "!!python/object:os.system", "grpo", "rows",
)  # fmt: skip

RAW_YAML = (
    b"", b"\x00", b"\xff\xfe", b"[" * 3000, b"- 1\n- 2", b"a: &a [*a]", b"steps: 1\nsteps: 1", b"steps: " + b"1" * 4400,
    b"? [1]\n: 2", b"<<: {steps: 1}", b"? {a: 1}\n: 2", b"%YAML 9.9\n---\nsteps: 1", b"--- 1\n--- 2", b"!!binary aa",
    b"steps: !!int x", b"steps: !!float .", b"!!set {a, b}", b"steps: !!timestamp 2020", b"\xef\xbb\xbfsteps: 1", b"5",
)  # fmt: skip

RAW_ROWS = (
    b"", b"\x00", b"\xff\xfe", b"{", b"[]", b"[1]", b"null", b'"a"', b"1" * 5000, b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": ' + b"[" * 50000, b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'{"prompt": "a"}\n' * 3 + b"{",
    b'{"prompt": "a", "answer": ' + b"9" * 4400 + b"}", b"\xef\xbb\xbf" + b'{"prompt": "a"}', b"prompt,prompt\na,b\n",
    b'prompt,answer\n"a,1\n', b"prompt\n\x00\n", b"PAR1", b"prompt,answer\na,1\n",
)  # fmt: skip

COMMANDS = (
    "train",
    "eval",
    "generate",
    "doctor",
    "recipes",
    "reward train",
    "reward check",
    "reward score",
    "reward",
    "",
)
WORDS = (
    "--help", "--version", "-h", "--json", "--num", "--num=0", "--num=x", "--file", "--file=none", "--resume",
    "--resume=none", "none.yaml", "bad.yaml", "--dry-run", "--ablate=x", "--sandbox=1", "stepps=1", "steps=x", "=", "=1",
    "steps=", "--steps", "--no-steps", "-x", "--", "--=", "a b", "\udcff", "", "x" * 5000, "--model=none/x/y", "help", "--rows=-1",
)  # fmt: skip


class TookTooLong(BaseException):
    """A case ran longer than `SECONDS`."""


def value(draw: random.Random, depth: int = 0) -> Any:
    """Return a random value as YAML or JSON may hold it."""
    kind = draw.random()
    if kind < 0.7 or depth > 3:
        return draw.choice(SCALARS)
    parts = [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return parts if kind < 0.85 else {str(draw.choice(SCALARS))[:20]: part for part in parts}


def run_command(args: list[str]) -> tuple[int, str]:
    """Return the exit code of `grpo` and its standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = grpo(args)
    return code, err.getvalue()


def complaint(code: int, err: str) -> str | None:
    """Return what is wrong with the end of a command; None where it is as it should be."""
    errors = [line for line in err.splitlines() if not line.startswith(("note: ", "warning: "))]
    if code == 0:
        return f"exit code 0 with {errors[0]!r}" if errors else None
    if code not in (2, 3):
        return f"exit code {code}: {err[:300]}"
    if code == 2 and (len(errors) != 1 or not errors[0].startswith("error: ") or "Traceback" in err):
        return f"{len(errors)} lines: {err[:300]}"
    return None


def try_options(draw: random.Random) -> str | None:
    """Try a file of random options, and that a configuration that is accepted reads back as the same one."""
    if draw.random() < 0.2:
        Path("conf.yaml").write_bytes(draw.choice(RAW_YAML) + draw.choice((b"", b"\nseed: 1\n", b"\n", b"\x85")))
    else:
        names = draw.sample(sorted(OPTIONS), draw.randrange(1, 4))
        with contextlib.suppress(ValueError):  # of numbers of thousands of digits, in str()
            text = yaml.safe_dump({name: value(draw) for name in names}, allow_unicode=True)
            Path("conf.yaml").write_text(text, encoding="utf-8")
    code, err = run_command(["train", "conf.yaml", "--dry-run"])
    if code == 0:
        config = load_config("conf.yaml")
        Path("again.yaml").write_text(config.to_yaml(), encoding="utf-8")
        if load_config("again.yaml") != config:
            return "the configuration does not read back as itself"
    return complaint(code, err)


def try_known_option(draw: random.Random) -> str | None:
    """Try an option whose value is known to be right or wrong."""
    number = draw.randrange(1, 1000)
    text, is_right = draw.choice(
        (
            (f"steps={number}", True), (f"steps=-{number}", False), (f"steps={number}.5", False),
            (f"learning_rate={number}e-9", True), (f"learning_rate=-{number}", False), (f"seed={number}", True),
            (f"group_size={number + 1}", True), ("group_size=1", False), (f"steps={number}x", False),
            (f"report_to=[{number}]", False), (f"correct_reward={number}", True), ("correct_reward=.nan", False),
        )
    )  # fmt: skip
    code, err = run_command(["train", "--dry-run", text])
    if (code == 0) != is_right:
        return f"{text} gave exit code {code}: {err[:200]}"
    return complaint(code, err)


def try_rows(draw: random.Random) -> str | None:
    """Try a file of random rows; rows known to be right must come out as they went in."""
    suffix = draw.choice(("jsonl", "json", "csv", "tsv", "parquet"))
    file = Path(f"rows.{suffix}")
    known = None
    if draw.random() < 0.4:
        file.write_bytes(draw.choice(RAW_ROWS) + draw.choice((b"", b"\n", b"\x00", b"\n\n{}")))
    elif draw.random() < 0.5:
        rows = [{"prompt": value(draw), "answer": value(draw)} for _ in range(3)]
        with contextlib.suppress(ValueError):
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        file = Path("rows.jsonl")
        known = [
            (f"What is {draw.randrange(99)}?{place}", str(draw.randrange(99))) for place in range(draw.randrange(1, 5))
        ]
        file.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in known), encoding="utf-8")
    try:
        found = [(row.prompt, row.columns.get("answer")) for row in read_rows(str(file))]
    except DataError as error:
        if known is not None:
            return f"good rows were refused: {error}"
        return "an error of several lines" if "\n" in str(error) else None
    return None if known is None or found == known else f"rows changed: {found} instead of {known}"


def try_command(draw: random.Random) -> str | None:
    """Try a random command line that loads no model."""
    args = [*draw.choice(COMMANDS).split(), *draw.choices(WORDS, k=draw.randrange(1, 4))]
    # A word that every command refuses, so that none begins to work.
    args.insert(1 + args.count("reward"), "no_such_option=1")
    return complaint(*run_command(args))


TRIES: tuple[Callable[[random.Random], str | None], ...] = (try_options, try_known_option, try_rows, try_command)


def findings(number: int, seed: int) -> Iterator[str]:
    """Yield a line for each case that ends as none should."""

    def stop(*_: object) -> None:
        raise TookTooLong

    signal.signal(signal.SIGALRM, stop)
    for case in range(number):
        attempt = TRIES[case % len(TRIES)]
        signal.alarm(SECONDS)
        try:
            problem = attempt(random.Random(f"{seed}/{case}"))
        except TookTooLong:
            problem = f"more than {SECONDS} s"
        except BaseException as error:
            problem = f"raw {type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.alarm(0)
        if problem is not None:
            yield f"case {case} ({attempt.__name__}): {problem}"


def main() -> int:
    """Run the cases in an empty folder and print what was found."""
    number, seed = (int(sys.argv[1]) if sys.argv[1:] else 1200), (int(sys.argv[2]) if sys.argv[2:] else 0)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open() as nothing:
        os.chdir(folder)
        sys.stdin = nothing
        Path("bad.yaml").write_text("stepps: 1\n", encoding="utf-8")
        found = list(findings(number, seed))
    print(*found, f"{number} cases, {len(found)} findings", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
