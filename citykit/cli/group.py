"""The group of commands: the options of all of them, and their errors as one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import citykit
from citykit.cli.interrupts import Interrupted, end_now, flush, interrupts
from citykit.cli.messages import say, typed_options


class _Commands(TyperGroup):
    """The commands. Each also takes the options of the group, and reports an error in one line on stderr."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command:
            command.params += [
                each for each in self.params if each.name in _OF_ALL and each not in command.params
            ]
        return command

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        interrupts.began = True
        words = sys.argv[1:] if args is None else list(args)
        typed_options.clear()
        options["standalone_mode"] = False
        warnings.showwarning = lambda message, *_, **__: say(str(message))
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # a StringIO, for example
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        code = 1
        try:
            returned = super().main(words or ["--help"], *rest, **options)
            flush()
            sys.exit(returned or 0)
        except TyperException as exc:  # wrong words on the command line
            code, ctx = exc.exit_code, getattr(exc, "ctx", None)
            command = ctx.info_name if ctx and ctx.parent else ""
            command = command or next((word for word in words if word in self.commands), "")
            said = exc.format_message().replace("Value error, ", "", 1)  # which pydantic puts before ours
            if "unexpected extra argument" in said:
                said += ". Put a value with spaces in quotes"
            end = "" if said.endswith((".", "?")) else "."
            say(f"{said}{end} See {' '.join(filter(None, ('citykit', command)))} --help.", command)
        except Interrupted as exc:
            say(str(exc))
            if "citykit.database" in sys.modules:
                from citykit.database import leave_embedded

                leave_embedded()
            flush()
            end_now()
        except typer.Abort:  # "no" or Ctrl-D at a confirmation
            say("nothing was changed")
        except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as exc:
            if not _is_expected(exc):
                raise
            say(str(getattr(exc, "orig", None) or exc))
        sys.exit(code)


def _is_expected(exc: Exception) -> bool:
    """Tell whether an error is shown as its message alone, without a traceback."""
    from sqlalchemy.exc import SQLAlchemyError  # its import takes longer than --help may

    return isinstance(exc, (citykit.CitykitError, OSError, SQLAlchemyError, ValueError))


def _use(param: typer.CallbackParam, value: str | None) -> None:
    """Put a URL or a database into the environment, for this process and those that it starts."""
    if value == "":
        raise typer.BadParameter("it is empty")
    if value is not None:
        typed_options[str(param.name)] = value
        os.environ[f"CITYKIT_{param.name}".upper()] = value
        if "database" not in typed_options:  # the one in the environment belongs to another URL
            os.environ.pop("CITYKIT_DATABASE", None)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"citykit {citykit.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Real cities in a real PostgreSQL: load them, ask which are the biggest, chart them. "
    "The database is citykit's own one unless --url or CITYKIT_URL names another.",
)
_OF_ALL = ("url", "database", "version")


@app.callback()
def of_all(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", callback=_use, expose_value=False, is_eager=True,
            help="The server, postgresql://…; else that of CITYKIT_URL.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=_use, expose_value=False,
            help="The database, made if it is new; else that of CITYKIT_DATABASE.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, expose_value=False, is_eager=True,
            help="Show the version and end.",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Take the options of the group, which may stand before or after the name of the command."""
