"""Standard streams that are closed, full, or of an encoding that lacks characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from grpo.errors import ConfigError

__all__ = ["MOST_CHARACTERS", "drop_output", "is_text", "is_utf8", "open_closed_streams", "read_standard_input"]

MOST_CHARACTERS = 2**26
"""Characters of standard input that are read; a program such as `yes` never ends."""


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed, and let none fail on a character.

    Otherwise the next file that is opened would get the number of the closed stream, and with it what is printed.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An escape is JSON, too; a question mark is easier to read where many characters are missing.
            stream.reconfigure(errors="backslashreplace" if is_utf8(stream) else "replace")


def is_utf8(stream: object) -> bool:
    """Return whether a text stream can write every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "") == "utf8"


def is_text(text: str) -> bool:
    """Return whether `text` has a form in UTF-8; bytes that are none arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def drop_output() -> None:
    """Drop what standard output does not take: Python would complain once more when it closes the stream."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_standard_input() -> str:
    """Return the text on standard input.

    Raises:
        ConfigError: it is not text, or has no end in sight.
    """
    try:
        text = sys.stdin.read(MOST_CHARACTERS + 1)
    except UnicodeDecodeError:
        text = "\udcff"
    except OSError as error:
        raise ConfigError(f"cannot read standard input: {error.strerror}: name a --file") from None
    if not is_text(text):
        raise ConfigError("standard input is not UTF-8 text: name a --file")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"standard input has more than {MOST_CHARACTERS:,} characters: name a --file")
    return text
