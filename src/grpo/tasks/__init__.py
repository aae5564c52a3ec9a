"""Data sets, chat templates, and verification of answers.

read_rows → Task (train, evaluation, verifier) → render → PromptOrder
"""

from __future__ import annotations

from grpo.tasks.answers import FORMATS, AnswerFormat, find_format, verify
from grpo.tasks.chat import Rendered, render, render_chat
from grpo.tasks.gsm8k import gsm8k_task
from grpo.tasks.opened_tags import has_closed_tag, opened_tag
from grpo.tasks.order import PromptOrder
from grpo.tasks.prompt_lengths import enough_of, without_overlong
from grpo.tasks.rows import Row, read_rows
from grpo.tasks.task import AnswerVerifier, Task, Verifier, arithmetic_task, rows_task

__all__ = [
    "FORMATS",
    "AnswerFormat",
    "AnswerVerifier",
    "PromptOrder",
    "Rendered",
    "Row",
    "Task",
    "Verifier",
    "arithmetic_task",
    "enough_of",
    "find_format",
    "gsm8k_task",
    "has_closed_tag",
    "opened_tag",
    "read_rows",
    "render",
    "render_chat",
    "rows_task",
    "verify",
    "without_overlong",
]
