"""The launcher: a process between the caller and a program that makes the jail and ends the program.

It starts once for each program, and imports would take half of its time. Modules in this folder therefore import, of
the package, only this folder, `grpo.sandbox.folder` and `grpo.processes`, and none of them imports pathlib, json,
typing, contextlib, dataclasses, re or signal.
"""
