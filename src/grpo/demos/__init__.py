"""Generators of the shipped examples: headlines with clicks, financial questions with preferences, programs."""

from __future__ import annotations

from grpo.demos.tasks import DEMO_TASKS, DemoTask, finance_task, headlines_task, programs_task

__all__ = ["DEMO_TASKS", "DemoTask", "finance_task", "headlines_task", "programs_task"]
