"""What runs between the caller and a program: a process that makes the jail, and sees to the program's end.

It starts once for each program and half its time would go into imports. So what is in this folder imports, of the
package, only this folder, `grpo.sandbox.folder` and `grpo.processes`, and none of them pathlib, json, typing,
contextlib, dataclasses, re and signal.
"""
