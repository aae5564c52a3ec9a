"""The launcher: the process that isolates a program, starts it and ends it for the caller.

It starts once for each program, and imports would take half of its time. Modules in this folder therefore import, of
the package, only this folder, `grpo.sandbox.folder` and `grpo.processes`, and none of them imports pathlib, json,
typing, contextlib, dataclasses, re or signal.
"""
