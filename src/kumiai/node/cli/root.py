"""The root command: shared options anywhere on the line, errors as one line and an exit code."""

import copy
import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from kumiai.core.errors import KumiaiError
from kumiai.node.cli.exit_codes import ExitCode, exit_code_of_error
from kumiai.node.cli.invocation import Invocation, OutputFormat, invocation_of, parse_overrides

__all__ = ["Root", "begin"]

_SHARED = ("output", "config", "overrides", "debug")
# Typer brings its own copy of click from 0.26 on, before that it needs click itself; the base of
# the error that Typer exports is the right one either way.
_UsageError: type[Any] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def begin(
    ctx: typer.Context, output: OutputFormat, config: Path | None, overrides: list[str], debug: bool
) -> None:
    """Note the options that stand before the command."""
    ctx.obj = Invocation(
        config=config, overrides=dict(parse_overrides(overrides)), output=output, debug=debug
    )


class Root(TyperGroup):
    """The program as one command."""

    def __init__(self, **attributes: Any) -> None:
        """Give the shared options to every command below."""
        super().__init__(**attributes)
        shared = [option for option in self.params if option.name in _SHARED]
        for command in list(self.commands.values()):
            _share(command, shared)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command; in standalone mode exit with the code of what came of it."""
        run = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        sys.exit(_code_of(run))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn our errors into a line and a code."""
        try:
            return super().invoke(ctx)
        except KumiaiError as error:
            _tell(ctx, error)
            raise typer.Exit(exit_code_of_error(error)) from None
        except (typer.Exit, typer.Abort, _UsageError, BrokenPipeError):
            raise  # Typer ends the program quietly when the reader of a pipe has gone
        except Exception as error:
            # The outermost place: what arrives here is a mistake of ours.
            if ctx.obj is not None and ctx.obj.debug:
                raise
            _print_error(f"{type(error).__name__}: {error}; --debug shows where")
            raise typer.Exit(ExitCode.FAILED) from None


def _share(command: Any, options: list[Any]) -> None:
    for child in getattr(command, "commands", {}).values():
        _share(child, options)
    if hasattr(command, "commands"):
        return
    for option in options:
        twin = copy.copy(option)
        twin.expose_value = False
        twin.callback = _note
        command.params.append(twin)


def _note(ctx: Any, option: Any, value: Any) -> None:
    """Take up an option that stands after the command; it wins over the one before."""
    if ctx.get_parameter_source(option.name).name != "COMMANDLINE" or ctx.resilient_parsing:
        return
    invocation = invocation_of(ctx)
    match option.name:
        case "output":
            invocation.output = OutputFormat(value)
        case "config":
            invocation.config = Path(value)
        case "overrides":
            invocation.overrides.update(parse_overrides(list(value)))
        case _:
            invocation.debug = True


def _code_of(run: Callable[[], Any]) -> int:
    try:
        code = run()
    except (typer.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return ExitCode.INTERRUPTED
    except _UsageError as error:
        return _usage_problem(error)
    return code if isinstance(code, int) else ExitCode.OK


def _usage_problem(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return ExitCode.USAGE
    message = error.format_message()
    ctx = getattr(error, "ctx", None)
    mend = f"; see `{ctx.command_path} --help`" if ctx is not None else ""
    _print_error(message[:1].lower() + message[1:].rstrip().removesuffix(".") + mend)
    return ExitCode.USAGE


def _tell(ctx: Any, error: KumiaiError) -> None:
    if ctx.obj is not None and ctx.obj.debug:
        traceback.print_exception(error)
    _print_error(str(error))


def _print_error(message: str) -> None:
    for line in message.split("\n"):
        typer.echo(f"error: {line}", err=True)
