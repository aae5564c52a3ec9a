"""Arguments of a command: its own options are Typer's, every other option belongs to the configuration."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from grpo.errors import ConfigError

__all__ = ["BAD_VERDICT", "Args", "Arguments", "AsJson", "Command", "read_arguments", "take_model"]

BAD_VERDICT = 3
"""Exit code of a command that worked and whose verdict is bad."""

_MODEL = re.compile(r"[\w.~:@/\\-]+")
"""The form of a Hub id or a path without blanks; a prompt has blanks or punctuation."""


class Command(TyperCommand):
    """A command that takes options of the configuration beside its own.

    Its own options may be written `--key value` and `key=value`, as those of the configuration. Typer does not know
    the latter: they arrive, in their order, in the command's parameter `args`, for `read_arguments`.
    """

    ignore_unknown_options = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite `key=value` of own options for Typer, and double `--`, which Typer drops once."""
        before, after = _split_at_dashes(args)
        if not ctx.resilient_parsing:
            before = list(self._rewritten(before))
        return super().parse_args(ctx, before if after is None else [*before, "--", "--", *after])

    def _rewritten(self, args: Sequence[str]) -> Iterator[str]:
        own = [param for param in self.params if isinstance(param, TyperOption) and not param.is_flag]
        names = {name for option in own for name in option.opts}
        for arg, following in zip(args, [*args, "--"][1:], strict=True):
            if arg in names and following.startswith("--"):
                raise ConfigError(f"{arg} needs a value: write {arg} VALUE")
            key, equals, _ = arg.partition("=")
            yield f"--{arg}" if equals and f"--{key}" in names else arg

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write every option of the configuration below the help of `grpo train`, as it is: Typer would fill lines."""
        super().format_epilog(ctx, formatter)
        if ctx.command_path == "grpo train":
            from grpo.config import option_reference

            formatter.write(f"\n{option_reference()}\n")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments that are not the command's own options.

    Attributes:
        positionals: those before `--` that set no option.
        overrides: `key=value` for each option of the configuration.
        literals: those after `--`, which set no option in any form.
    """

    positionals: list[str]
    overrides: list[str]
    literals: list[str]

    def at_most_one(self, kind: str) -> str | None:
        """Return the only argument that sets no option, None if there is none.

        Raises:
            ConfigError: there are more; `kind` names them in the message.
        """
        found = [*self.positionals, *self.literals]
        if len(found) > 1:
            raise ConfigError(f"one {kind} is allowed, not {' and '.join(map(repr, found))}: leave out all but one")
        return found[0] if found else None


def _completions(incomplete: str) -> list[str]:
    """Return recipes and options of the configuration that begin with `incomplete`, for the shell."""
    from grpo import recipes
    from grpo.config import GRPOConfig

    names = [*recipes.names(), *(f"{option}=" for option in GRPOConfig().flat())]
    return [name for name in names if name.startswith(incomplete)]


Args = Annotated[
    list[str] | None, typer.Argument(metavar="key=value|--key value", hidden=True, autocompletion=_completions)
]
"""All arguments of a `Command` but its own options, for `read_arguments`."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_arguments(ctx: typer.Context, args: Sequence[str] | None) -> Arguments:
    """Return the arguments that Typer left to the command that runs in `ctx`.

    Raises:
        ConfigError: an option is unknown or has no value; the command's own options are suggested as well.
    """
    from grpo.config import split_args

    before, after = _split_at_dashes(args or [])
    own = [name for param in ctx.command.params if isinstance(param, TyperOption) for name in param.opts]
    return Arguments(*split_args(before, (*own, "--help", "--debug")), after or [])


def take_model(named: str | None, arguments: Arguments, example: str) -> tuple[str | None, Arguments]:
    """Return the model, None where none is named, and the arguments without it.

    The model is `named`, else the option `model` of the configuration, else the first positional.

    Args:
        named: the value of `--model`.
        example: a command line up to its model, for the message.

    Raises:
        ConfigError: the first positional can be no model: no such path exists, and it has not the form of a Hub id.
    """
    from grpo.config.overrides import parse_overrides

    if named is None:
        # An option that does not exist may be a prompt in the wrong place: the command has the better message.
        with contextlib.suppress(ConfigError):
            named = parse_overrides(arguments.overrides).get("model")
    if named is not None or not arguments.positionals:
        return named, arguments
    model, *rest = arguments.positionals
    # Path.exists raises for a prompt that is longer than a file's name may be.
    if not os.path.exists(model) and not _MODEL.fullmatch(model):  # noqa: PTH110
        raise ConfigError(
            f"{model!r} is not a model (a run, a directory, a Hub id or tiny): name the model first, as in "
            f"{example} {shlex.quote(model)}, or by --model"
        )
    return model, replace(arguments, positionals=rest)


def _split_at_dashes(args: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return the arguments before the first `--` and those after it, None where there is no `--`."""
    if "--" not in args:
        return list(args), None
    place = args.index("--")
    return list(args[:place]), list(args[place + 1 :])
