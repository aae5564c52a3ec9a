"""`grpo doctor --sandbox`: what programs that a reward runs are kept from on this machine."""

from __future__ import annotations

from grpo.cli.words import take_switch
from grpo.errors import ConfigError

__all__ = ["SWITCHES", "USAGE", "run"]

SWITCHES = ("--sandbox", "--help", "--debug")

USAGE = (
    "grpo doctor --sandbox\n\n"
    "Tries what programs that the reward `unit_tests` runs are kept from on this machine; exit code 1 if something\n"
    "is not.\n\n"
    "  --sandbox  required: the only thing it looks at\n"
    "  --debug    show the traceback of an error"
)


def run(words: list[str]) -> int:
    """Print each protection, whether it holds and how."""
    if not take_switch(words, "--sandbox") or words:
        given = f", not {words[0]!r}" if words else ""
        raise ConfigError(f"grpo doctor takes --sandbox{given}: see grpo doctor --help")

    from grpo.sandbox import protections

    found = protections()
    width = max(len(protection.name) for protection in found)
    for protection in found:
        print(f"{'yes' if protection.in_force else 'NO ':<4} {protection.name:<{width}}  {protection.how}")
    return 0 if all(protection.in_force for protection in found) else 1
