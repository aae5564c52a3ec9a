"""Extraction of the program in a completion, and its verification by the tests of its row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.errors import ConfigError, SandboxError
from grpo.sandbox import Case, Tester, TestRun, run_program
from grpo.tasks.answers import AnswerFormat
from grpo.types import Verdict

__all__ = ["ProgramVerifier", "extract_program", "row_case", "row_tests"]

_FENCE = "```"
_PYTHON = ("python", "py", "python3")
_THOUGHTS = ("think", "reasoning")


def extract_program(text: str) -> str:
    """Return the program in a completion; an empty string if there is none.

    After thoughts are removed, it is the last block fenced as Python, else the last fenced block, else the content of
    the last `<answer>`, else the text. A missing closing mark is accepted.

    Example:
        >>> extract_program("<reasoning>7 and 5</reasoning><answer>7 + 5</answer>")
        '7 + 5'
    """
    for block in _THOUGHTS:
        text = _without(text, f"<{block}>", f"</{block}>")
    parts = text.split(_FENCE)
    blocks = [part.partition("\n") for part in parts[1::2]]
    labelled = [body for label, _, body in blocks if label.strip().lower() in _PYTHON]
    if blocks:
        program = labelled[-1] if labelled else _unlabelled(blocks[-1])
    else:
        _, tag, answer = text.rpartition("<answer>")
        program = answer.partition("</answer>")[0] if tag else text
    return textwrap.dedent(program).strip()


def _without(text: str, opening: str, closing: str) -> str:
    """Return the text without these tags and their content; a closing tag alone ends a block from the start."""
    kept: list[str] = []
    end = 0
    while (stop := text.find(closing, end)) >= 0:
        start = text.rfind(opening, end, stop)
        if start >= 0:
            kept.append(text[end:start])
        end = stop + len(closing)
    return "".join([*kept, text[end:]])


def _unlabelled(block: tuple[str, str, str]) -> str:
    first, line_break, rest = block
    return rest if line_break else first


def row_tests(tests: Any) -> tuple[str, ...]:
    """Return the tests in a row's column as pieces of source; an empty tuple if the column is empty."""
    pieces = (tests,) if isinstance(tests, str) else tuple(str(piece) for piece in (() if tests is None else tests))
    return pieces if any(piece.strip() for piece in pieces) else ()


def row_case(text: str, tests: Any, entry_point: Any) -> Case | None:
    """Return the program in a completion with the tests of its row; None if the row has no tests."""
    pieces = row_tests(tests)
    name = entry_point.strip() if isinstance(entry_point, str) else ""
    return Case(extract_program(text), pieces, name or None) if pieces else None


@dataclass(frozen=True, slots=True)
class ProgramVerifier:
    """Verifies programs by the tests of their rows.

    Strict: the completion is in the format, and every test passes. Lenient: every test passes.
    """

    answer_format: AnswerFormat
    tester: Tester = field(default_factory=Tester)

    def verdicts(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Return a verdict for each text, from the columns `tests` and, if present, `entry_point` of its row.

        Programs are tested in parallel.

        Raises:
            SandboxError: the sandbox cannot be set up.
            ConfigError: programs cannot be run on this system.
        """
        cases = [
            row_case(text, columns.get("tests"), columns.get("entry_point"))
            for text, columns in zip(texts, rows, strict=True)
        ]
        runs = self.tester.run_all([case for case in cases if case is not None and case.program], known=True)
        self._require_sandbox(runs.values())
        verdicts = []
        for text, case in zip(texts, cases, strict=True):
            run = runs.get(case) if case is not None else None
            passed = isinstance(run, TestRun) and all(run.passed)
            well_formed = self.answer_format.is_strict(text)
            verdicts.append(Verdict(well_formed and passed, passed, well_formed, extract_program(text) or None))
        return verdicts

    def _require_sandbox(self, runs: Iterable[TestRun | Exception]) -> None:
        """Raise the error of a sandbox that can test no program; an error of one program must not end the run."""
        errors = [run for run in runs if isinstance(run, Exception)]
        for error in errors:
            if isinstance(error, ConfigError):
                raise error
        if any(isinstance(error, SandboxError) for error in errors):
            run_program("", limits=self.tester.limits, namespaces=self.tester.namespaces)
