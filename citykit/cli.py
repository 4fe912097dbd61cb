"""The command line: each command calls a few of the package's helpers."""

from __future__ import annotations

import ast
import csv
import io
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import citykit

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")

TUTORIAL = "tutorial"  # the database of `demo` and of the notebooks


class _Interrupted(BaseException):
    """Ctrl-C; its message says what state the database is in."""


class _Interrupts:
    """The handler of SIGINT: the first one cancels the running work, the second ends the process at once."""

    def __init__(self) -> None:
        self.cancel: Callable[[], object] | None = None
        self.said = "interrupted; nothing was loaded or changed"
        self._times = 0

    def __call__(self, *_: object) -> None:
        self._times += 1
        if self._times > 1:
            os.write(2, b"\ncitykit: ended; what was not committed is undone\n")
            _end_now()
        if self.cancel is None:
            raise _Interrupted(self.said)
        self.cancel()


_interrupts = _Interrupts()


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
        words = sys.argv[1:] if args is None else list(args)
        _given.clear()
        options["standalone_mode"] = False
        warnings.showwarning = lambda message, *_, **__: _say(str(message))
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # a StringIO, for example
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        code = 1
        try:
            returned = super().main(words or ["--help"], *rest, **options)
            _flush()
            sys.exit(returned or 0)
        except TyperException as exc:  # wrong words on the command line
            code, ctx = exc.exit_code, getattr(exc, "ctx", None)
            command = ctx.info_name if ctx and ctx.parent else ""
            command = command or next((word for word in words if word in self.commands), "")
            said = exc.format_message().replace("Value error, ", "", 1)  # which pydantic puts before ours
            if "unexpected extra argument" in said:
                said += ". Put a value with spaces in quotes"
            end = "" if said.endswith((".", "?")) else "."
            _say(f"{said}{end} See {' '.join(filter(None, ('citykit', command)))} --help.", command)
        except _Interrupted as exc:
            _say(str(exc))
            if "citykit.database" in sys.modules:
                from citykit.database import leave_embedded

                leave_embedded()
            _flush()
            _end_now()
        except typer.Abort:  # "no" or Ctrl-D at a confirmation
            _say("nothing was changed")
        except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as exc:
            if not _is_expected(exc):
                raise
            _say(str(getattr(exc, "orig", None) or exc))
        sys.exit(code)


def _flush() -> None:
    if sys.stdout:  # None where the process was started without it
        sys.stdout.flush()


def _end_now() -> None:
    """End by the default action of SIGINT, which waits for no thread (one may be reading stdin)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def _is_expected(exc: Exception) -> bool:
    """Tell whether an error is shown as its message alone, without a traceback."""
    from sqlalchemy.exc import SQLAlchemyError  # its import takes longer than --help may

    return isinstance(exc, (citykit.CitykitError, OSError, SQLAlchemyError, ValueError))


def _say(text: str, command: str = "") -> None:
    """Print a message in one line on stderr, with commands and options in place of Python."""
    for password in _PASSWORD.findall(text):  # also in a file name that a hint makes of the URL
        text = text.replace(f":{password}@", ":***@")
    parts = [re.sub(r"\s*\n\s*", " ", part) for part in _SERVERS.split(text)]
    parts[::2] = map(_as_typed, parts[::2])
    typer.echo(f"{f'citykit {command}'.strip()}: {_visible(''.join(parts).strip())}", err=True)


# The password of a URL, whose own @ may not be written as %40. Digits before a slash are a port, and
# `user:password` is the example that hints have.
_PASSWORD = re.compile(r"//[^:/?#\s@]*:(?!password@|\d+/)(\S+)@")
# In a message, what the server says and the SQL that it is about: nothing in them is a hint of citykit's.
_SERVERS = re.compile(r"^(.*\(SQLSTATE \w+\)|(?:line \d+|Detail|Hint): .*)", re.MULTILINE)


def _visible(text: str) -> str:
    """Return a text without the characters that a terminal would obey."""
    if text.isprintable():  # the import below brings pandas, which takes 0.4 s
        return text
    from citykit.files import visible

    return visible(text)


def _as_typed(text: str) -> str:
    """Return a message with commands and options in place of Python."""
    for in_python, typed in _TYPED.items():
        ours = typed.startswith("citykit ")
        text = text.replace(in_python, _here() + typed.removeprefix("citykit") if ours else typed)
    if "url" in _given:
        text = text.replace("CITYKIT_URL names another", "--url names another")
        text = text.replace("unset CITYKIT_URL", "leave out --url")
    text = _DOWNLOAD.sub(
        lambda call: "curl -L -o {1} {0}".format(*map(shlex.quote, ast.literal_eval(call[1]))), text
    )
    text = _CALL.sub("Add ", text)
    text = _CREATE.sub("Add --create, and it is made.", text)
    return _ARGUMENT.sub(_as_option, text)


# Python that messages tell the user to type, and the same as words of a command line.
_TYPED = {
    "await citykit.create_tables(engine, reset=True)": "citykit init --reset",
    "await citykit.create_tables(engine)": "citykit init",
    "; to wait longer: await citykit.connect(url, lock_timeout=120)": "",  # no command has such an option
    "; to wait longer: await citykit.connect(url, lock_timeout=120, connect_args={'server_settings': "
    "{'lock_timeout': '120s'}})": "",
    "min_population is": "--min-population is",
    "citykit.world_countries() lists the codes": "citykit countries lists those of the cities",
    "See citykit.last_rejects() for all": "--rejects FILE lists all",
    "await citykit.create_table(engine, name, frame)": "citykit load FILE --table NAME --create",
    "Create it from the frame: await citykit.create_table(": "create it: await citykit.create_table(",
    "Or create it from the frame: await citykit.create_table(": "create it: await citykit.create_table(",
    "Read it with citykit.read_file(": "citykit.read_file(",
}
# A keyword argument that is an option here, with the parenthesis or comma after it.
_ARGUMENT = re.compile(
    r"""\b(on_conflict|on_invalid|rename|columns|delimiter|encoding|decimal|thousands|compression|key)="""
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^{}]*\}|\[[^][]*\])[,)]?"""
)
_DOWNLOAD = re.compile(r"""urllib\.request\.urlretrieve(\("[^"]*", "[^"]*"\))""")
_CALL = re.compile(r"""citykit\.read_file\(("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|source)(, )?""")

_CREATE = re.compile(r"create it: await citykit\.create_table\(engine, .*?, frame\)", re.DOTALL)


def _as_option(argument: re.Match[str]) -> str:
    option = f"--{argument[1].replace('_', '-')}"
    try:
        value = ast.literal_eval(argument[2])
    except (SyntaxError, TypeError, ValueError):
        return f"{option} …" if argument[2] == "[…]" else argument[0]
    if isinstance(value, dict):
        return " ".join(f"{option} {shlex.quote(f'{old}={new}')}" for old, new in value.items())
    if argument[1] in ("columns", "key"):
        names = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(name, str) for name in names):
            return argument[0]
        value = ",".join(map(_listed, names))
    return f"{option} {shlex.quote(value)}" if isinstance(value, str) else argument[0]


def _listed(name: str) -> str:
    """Return a name as `_names` reads it in a list."""
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]|^\s|^$', name) else name


_given: dict[str, str] = {}  # of the options of the group, those that were typed


def _here() -> str:
    """Return the beginning of a command that runs this citykit on the same database."""
    beside = Path(sys.executable).with_name("citykit")
    found = shutil.which("citykit")
    name = "citykit" if found and beside == Path(found) else f"{shlex.quote(sys.executable)} -m citykit"
    name += " --url …" if "url" in _given else ""  # a URL may hold a password
    return name + (f" --database {shlex.quote(_given['database'])}" if "database" in _given else "")


def _use(param: typer.CallbackParam, value: str | None) -> None:
    """Put a URL or a database into the environment, for this process and those that it starts."""
    if value == "":
        raise typer.BadParameter("it is empty")
    if value is not None:
        _given[str(param.name)] = value
        os.environ[f"CITYKIT_{param.name}".upper()] = value
        if "database" not in _given:  # the one in the environment belongs to another URL
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


def _whole(low: float = -math.inf, high: float = math.inf) -> Callable[[object], int]:
    """Return a parser of whole numbers, which refuses points and commas: their meaning would be a guess."""

    def read(given: object) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", str(given)):
            raise ValueError(f"{str(given)!r} is no whole number: write digits alone, such as 5000")
        if not low <= int(str(given)) <= high:
            wanted = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"{given} is not {wanted}")
        return int(str(given))

    return read


def _number(given: object) -> float:
    try:
        return float(str(given))
    except ValueError:
        raise ValueError(f"{str(given)!r} is no number, such as 64.1") from None


Format = Literal["table", "csv", "json", "ndjson", "parquet"]
Count = Annotated[int, typer.Option("-n", "--count", metavar="N", parser=_whole(1), help="How many cities.")]
Country = Annotated[str | None, typer.Option(help="Only this country, spelled as stored (US).")]
MinPopulation = Annotated[
    int, typer.Option(metavar="N", parser=_whole(), help="Leave out smaller cities; 500 or more.")
]
Printed = Annotated[Format | None, typer.Option("--format", help="By default the suffix of -o, or a table.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write to this file, replacing it; - is stdout.",
        callback=lambda file: None if file == Path("-") else file,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def _ask(question: Callable[[AsyncEngine], Awaitable[T]], **options: Any) -> T:
    """Connect, and return the answer of the database to a question."""

    async def asked() -> T:
        engine = await citykit.connect(**options)
        try:
            answer = await question(engine)
            _interrupts.cancel, _interrupts.said = lambda: None, "interrupted"  # too late to cancel
        finally:
            await engine.dispose()
        return answer

    return _wait(asked)


def _wait(work: Callable[[], Awaitable[T]]) -> T:
    """Run work in an event loop; Ctrl-C cancels it."""
    import asyncio

    async def answered() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        loop = task.get_loop()
        _interrupts.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        return await work()

    runner = asyncio.Runner()
    try:
        answer = runner.run(answered())
    except asyncio.CancelledError as exc:  # runner.close() would wait for a thread that reads stdin
        raise _Interrupted(exc.args[0] if exc.args else _interrupts.said) from exc
    except BaseException:
        runner.close()
        raise
    finally:
        _interrupts.cancel = None
    runner.close()
    return answer


def _confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere `yes` has to be given."""
    if not yes and not sys.stdin.isatty():
        raise ValueError("stdin is no terminal; nothing was changed. Add --yes to go on without a question.")
    _interrupts.said = "interrupted; nothing was changed"
    if not yes and not typer.confirm(question):
        raise typer.Abort


@app.command()
def init(
    reset: Annotated[
        bool, typer.Option("--reset", help="Drop the table first, with all its cities.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Create the table of cities, unless it exists."""
    if reset:
        _confirm("Drop the table with all its cities?", yes)
    _ask(lambda engine: citykit.create_tables(engine, reset=reset))
    typer.echo("The table is empty and ready." if reset else "The table is ready.")


@app.command()
def seed(min_population: MinPopulation = 15_000) -> None:
    """Store real cities of the world (GeoNames); those already stored stay as they are."""
    frame = citykit.world_cities(min_population)

    async def stored(engine: AsyncEngine) -> citykit.LoadReport:
        await citykit.create_tables(engine)
        return await citykit.load_cities(engine, frame, on_conflict="skip")

    _echo_report(_ask(stored))
    typer.echo(f"Source: {frame.attrs['source']}")


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is a bad population, not an option
def add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    population: Annotated[int, typer.Argument(parser=_whole(), help="Persons.")],
    country: Annotated[str, typer.Option(help="Its country, as an ISO code (US).")] = "",
    region: Annotated[str, typer.Option(help="Its first-level division (IL).")] = "",
) -> None:
    """Store one city."""
    if name.startswith("-"):
        raise typer.BadParameter(f"No such option: {name}. There are --country and --region")
    city = _ask(lambda engine: citykit.add_city(engine, name, population, country=country, region=region))
    typer.echo(f"Stored {city!r}")


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="Its name, as it is stored.")],
    country: Annotated[str | None, typer.Option(help="Its country.")] = None,
    region: Annotated[str | None, typer.Option(help="Its first-level division.")] = None,
    yes: Yes = False,
) -> None:
    """Delete one city; of several with this name, --country and --region say which."""
    given = {key: value for key, value in (("country", country), ("region", region)) if value is not None}
    where = " AND ".join(f"{key} = :{key}" for key in ("name", *given))
    columns = ", ".join((*_CITY_KEY, "population", _HAS_NAMES))
    found = _ask(
        lambda engine: citykit.read_frame(
            engine,
            f"SELECT {columns} FROM cities WHERE {where} ORDER BY population DESC, country, region LIMIT 11",  # noqa: S608
            {"name": name, **given},
        )
    )
    cities = [_visible(", ".join(filter(None, row[:3]))) for row in found.itertuples(index=False)]
    if len(cities) != 1:
        several = f"several cities have this name ({'; '.join(cities[:10])}{'; …' * (len(cities) > 10)})"
        how = "Say which with --country and --region (an empty one is '')."
        missing = f"no city {name!r}{' of that country or region' if given else ''} is stored"
        raise ValueError(
            f"{several if cities else missing}; nothing was deleted. {how if cities else ''}".strip()
        )
    _confirm(f"Delete {cities[0]} ({found['population'].iloc[0]:,} persons)?", yes)
    key = dict(zip(_CITY_KEY, found.iloc[0], strict=False))
    this = "WHERE name = :name AND country = :country AND region = :region"
    sql = f"DELETE FROM cities {this}"  # noqa: S608
    if found["has_names"].item():  # if they stayed, a new city of this key would have them
        sql = f"WITH names AS (DELETE FROM city_names {this}) {sql}"  # noqa: S608
    deleted = _ask(lambda engine: citykit.execute(engine, sql, key))
    typer.echo(f"Deleted {cities[0]}" if deleted.rows else f"{cities[0]} was deleted by others.")


OnConflictOption = Annotated[
    Literal["error", "skip", "update"],
    typer.Option(help="A row whose key is already there: fail, keep what is there, or replace it."),
]
OnInvalidOption = Annotated[
    Literal["error", "skip"], typer.Option(help="A row with a bad value: fail, or leave it out.")
]


@app.command()
def load(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV, JSON, Parquet, …; - is stdin.")],
    table: Annotated[str, typer.Option(metavar="NAME", help="The table.")] = "cities",
    create: Annotated[bool, typer.Option("--create", help="Make the table, unless it exists.")] = False,
    key: Annotated[
        str | None, typer.Option(metavar="A,B", help="The columns that tell rows of the table apart.")
    ] = None,
    on_conflict: OnConflictOption = "error",
    on_invalid: OnInvalidOption = "error",
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the bad values here (.csv, .json, …).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all of it, and load nothing.")] = False,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="The table's name for a column of the file.")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="The columns to load; else all.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between fields of text. Default: found.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text, such as cp1252. Default: UTF-8.")] = None,
    decimal: Annotated[str | None, typer.Option(help="The decimal mark in text: , or .")] = None,
    thousands: Annotated[str | None, typer.Option(help="The mark between thousands. Default: none.")] = None,
    compression: Annotated[
        Literal["gzip", "zstd", "zip", "none"] | None, typer.Option(help="Default: what its content says.")
    ] = None,
) -> None:  # fmt: skip
    """Store the rows of a file, in the table of cities or another: all of them or none."""
    from citykit.files import FileSource, format_of

    if rejects is not None:
        format_of(rejects)
        if os.path.exists(file) and rejects.exists() and rejects.samefile(file):
            raise ValueError(
                f"--rejects {rejects} is the file to load; nothing was loaded. Give the name of another."
            )
        _check_writable(rejects, "nothing was loaded")
    renamed = _each_once("--rename", map(_pair, rename or []))
    options: dict[str, Any] = {
        "on_conflict": on_conflict, "on_invalid": on_invalid, "rename": renamed, "columns": _names(columns),
    }  # fmt: skip
    reading: dict[str, Any] = {
        "delimiter": "\t" if delimiter == "\\t" else delimiter, "encoding": encoding, "decimal": decimal,
        "thousands": thousands, "compression": compression,
        "called": "standard input" if file == "-" else file,
    }  # fmt: skip
    keys = _names(key)
    with _at_hand(file, again=rejects is not None) as path:
        source = FileSource(path, **reading)

        async def loaded(bind: AsyncEngine | AsyncConnection) -> citykit.LoadReport:
            if table == "cities" and not create and key is None:
                return await citykit.load_cities(bind, source, **options)
            return await citykit.load_frame(bind, source, table, key=keys, create=create, **options)

        async def checked(engine: AsyncEngine) -> citykit.LoadReport:
            async with engine.connect() as connection:  # closing it rolls back
                return await loaded(connection)

        def write_rejects(bad: pd.DataFrame) -> None:
            if rejects is not None:
                named = keys or (_CITY_KEY if table == "cities" else _ask(_primary_key(table)))
                _write_rejects(rejects, bad, file, path, named, {**reading, "rename": renamed})

        try:
            report = _ask(checked if dry_run else loaded)
        except citykit.InvalidFrameError as exc:
            write_rejects(exc.rejects)
            raise
        _echo_report(report, dry_run=dry_run)
        write_rejects(report.rejects)


def _pair(word: str) -> tuple[str, str]:
    old, equals, new = word.rpartition("=")
    if not (equals and old and new):
        raise typer.BadParameter(f"{word} is not OLD=NEW, such as --rename city=name")
    return old, new


def _each_once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return the values by their names, of which none may be given twice."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise typer.BadParameter(f"{option} gives {name} twice")
        found[name] = value
    return found


def _names(words: str | None) -> list[str] | None:
    """Return the names of a comma-separated list; a name with a comma in it stands in double quotes."""
    try:
        return None if words is None else next(csv.reader([words], skipinitialspace=True), [])
    except csv.Error as exc:  # a line break outside of quotes
        raise typer.BadParameter(
            f"{words!r} is no list of names: one with a line break stands in double quotes"
        ) from exc


@contextmanager
def _at_hand(file: str, *, again: bool) -> Iterator[str]:
    """Yield the path of a file; of standard input or a pipe that has to be read `again`, that of a copy.

    Until then temporary files go to a directory that is removed at the end, also after the first Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="citykit-") as tempfile.tempdir:
        try:
            if again and (file == "-" or Path(file).is_fifo()):
                with (
                    nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as given,
                    tempfile.NamedTemporaryFile(delete=False) as copy,
                ):
                    shutil.copyfileobj(given, copy)
                file = copy.name
            yield file
        finally:
            tempfile.tempdir = None


def _echo_report(report: citykit.LoadReport, *, dry_run: bool = False) -> None:
    would = "would be " if dry_run else ""
    counts = (
        f"{report.inserted:,} {would}inserted, {report.updated:,} {would}updated, {report.skipped:,} skipped"
    )
    typer.echo(f"{counts}; nothing was loaded." if dry_run else f"{counts}.")
    if report.left_out:
        typer.echo(f"Left out, because the database fills it: {_visible(', '.join(report.left_out))}")
    if count := len(report.rejects):
        from citykit.files import as_table

        bad = f"{count:,} bad value{'s' * (count > 1)}"
        typer.echo(f"{bad}; the rows with them {would or 'were '}left out:\n")
        shown = report.rejects.head(20)
        values: list[Any] = [_cut(value) for value in shown["value"]]
        typer.echo(as_table(shown.assign(value=values)))
        if count > len(shown):
            typer.echo(f"{len(shown)} of {count:,}; --rejects FILE writes all of them")


def _cut(value: object) -> str | None:
    """Return a value as text of at most 60 characters, as a terminal's tables have them."""
    text = str(value)
    return None if value is None else text if len(text) <= 60 else f"{text[:57]}..."


_CITY_KEY = ["name", "country", "region"]
_PRIMARY_KEY = """
SELECT a.attname FROM pg_catalog.pg_index i
CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = to_regclass(:name) AND i.indisprimary ORDER BY k.place
"""


def _primary_key(table: str) -> Callable[[AsyncEngine], Awaitable[list[str]]]:
    from citykit.load import parsed

    async def asked(engine: AsyncEngine) -> list[str]:
        name = engine.dialect.identifier_preparer.format_table(parsed(table))
        return list((await citykit.read_frame(engine, _PRIMARY_KEY, {"name": name}))["attname"])

    return asked


def _write_rejects(
    to: Path, rejects: pd.DataFrame, file: str, path: str, key: Sequence[str], reading: Mapping[str, Any]
) -> None:
    """Write bad values, each with the line of the file and the key of the row that it is in."""
    import pandas as pd

    from citykit.files import format_of, located, writing

    rows = sorted({row for row in rejects["row"] if row is not None})
    lines, keys = located(path, rows, key, **reading)
    frame = pd.DataFrame(
        {
            "file": file,
            "line": pd.array([lines.get(row) for row in rejects["row"]], "Int64"),
            "key": [keys.get(row) for row in rejects["row"]],
            "column": rejects["column"],
            "value": [None if value is None else str(value) for value in rejects["value"]],
            "reason": rejects["reason"],
        }
    )
    with writing(to, format_of(to)) as write:
        write(frame)
    typer.echo(f"Wrote {len(frame):,} bad value{'s' * (len(frame) != 1)} to {to}", err=True)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".csv, .json, .ndjson or .parquet.")],
    table: Annotated[str, typer.Option(metavar="NAME", help="The table.")] = "cities",
) -> None:
    """Write all cities, or the rows of another table, to a file."""
    from citykit.files import format_of, writing
    from citykit.load import parsed

    format_ = format_of(file)
    backend: Any = _backend(format_)

    async def exported(engine: AsyncEngine) -> int:
        name = engine.dialect.identifier_preparer.format_table(parsed(table))
        sql = f"TABLE {name}" if table != "cities" else await _cities(engine)
        rows = 0
        with writing(file, format_) as write:
            frames = citykit.stream_frames(engine, sql, dtype_backend=backend, numeric="decimal")
            async with aclosing(frames):
                async for frame in frames:
                    write(frame)
                    rows += len(frame)
        return rows

    typer.echo(f"Wrote {_ask(exported):,} rows to {file}")


async def _cities(engine: AsyncEngine) -> str:
    """Return the SELECT of the columns that `load` takes; of other names, if any are stored."""
    found = (await citykit.read_frame(engine, _NAMES_TABLE)).iloc[0]
    if found["there"] and not found["readable"]:
        _say("the other names of cities are left out: this role needs SELECT on the table city_names")
    elif found["there"] and (await citykit.read_frame(engine, _HAVE_OTHER_NAMES))["exists"].item():
        return _CITIES.format(", other_names", "LEFT JOIN city_names USING (name, country, region)")
    return _CITIES.format("", "")


# Largest first is the order of an index.
_CITIES = """SELECT name, country, region, population, latitude, longitude{} FROM cities {}
ORDER BY population DESC, name, country, region"""
# A database of an earlier version has no such table.
_NAMES_TABLE = """SELECT to_regclass('city_names') IS NOT NULL AS there,
    coalesce(has_table_privilege(to_regclass('city_names'), 'SELECT'), false) AS readable"""
_HAS_NAMES = """coalesce(has_table_privilege(to_regclass('city_names'), 'SELECT')
    AND has_table_privilege(to_regclass('city_names'), 'DELETE'), false) AS has_names"""
_HAVE_OTHER_NAMES = "SELECT EXISTS (SELECT FROM cities JOIN city_names USING (name, country, region))"


def _backend(format_: str) -> str:
    """Return the dtypes to write a format from: with those of Arrow, a date column without rows is typed."""
    return "pyarrow" if format_ == "parquet" else "numpy_nullable"


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement, or several: one transaction.")],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--param", metavar="NAME=VALUE", help="The value of :NAME: 42, 2.5, [1, 2], text."
        ),
    ] = None,
    format_: Printed = None,
    out: Out = None,
) -> None:
    """Run SQL, and print its rows, or the command tag of a statement without rows."""
    from citykit.database import Condition, sqlstate
    from citykit.read import Executed, param_of, parameter_names, run_cell

    try:
        params = _each_once("-p", map(param_of, param or []))
    except ValueError as exc:
        raise typer.BadParameter(f"-p {exc}") from exc
    wanted = list(parameter_names(sql))
    if differing := sorted({*params} ^ {*wanted}):
        of = "is no parameter of the SQL" if differing[0] in params else "needs a value: -p NAME=VALUE"
        raise typer.BadParameter(f":{differing[0]} {of}")
    format_ = _format(format_, out)
    backend: Any = _backend(format_)

    async def run(engine: AsyncEngine) -> pd.DataFrame | Executed:
        try:
            return (await run_cell(engine, sql, params, "decimal", backend))[0]
        except citykit.CitykitError as exc:
            # The server refuses VACUUM and the like in a transaction, before it does anything.
            if sqlstate(exc.__cause__ or exc) != Condition.ACTIVE_SQL_TRANSACTION:
                raise
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        return await citykit.execute(autocommit, sql, params)

    answer = _ask(run)
    if isinstance(answer, Executed):
        typer.echo(answer.tag + (f"; it returned no rows, and {out} was not written" if out else ""))
        return
    try:
        _print(answer, format_, out)
    except BrokenPipeError:
        raise
    except (citykit.CitykitError, OSError, ValueError) as exc:
        raise citykit.CitykitError(f"{exc}; the SQL was run, and what it changed is stored") from exc


@app.command()
def biggest(n: Count = 20, country: Country = None, format_: Printed = None, out: Out = None) -> None:
    """Print the most populated cities, largest first."""
    _print_cities(lambda engine: citykit.biggest_cities(engine, n, country=country), format_, out)


@app.command()
def find(
    text: Annotated[str, typer.Argument(metavar="NAME", help="A name, in any language, or a part of one.")],
    n: Count = 20,
    country: Country = None,
    format_: Printed = None,
    out: Out = None,
) -> None:
    """Find cities by name: wien finds Vienna."""
    _print_cities(lambda engine: citykit.find_cities(engine, text, n, country=country), format_, out)


@app.command(context_settings={"ignore_unknown_options": True})  # -21.9 is a longitude
def nearest(
    latitude: Annotated[float, typer.Argument(parser=_number, help="Degrees, -90 to 90.")],
    longitude: Annotated[float, typer.Argument(parser=_number, help="Degrees, -180 to 180.")],
    n: Count = 20,
    format_: Printed = None,
    out: Out = None,
) -> None:
    """Print the cities nearest to a point, and how far they are."""
    _print_cities(lambda engine: citykit.nearest_cities(engine, latitude, longitude, n), format_, out)


@app.command()
def countries(format_: Printed = None, out: Out = None) -> None:
    """Print the countries of the cities, the most populous first."""
    _print_cities(citykit.summarize_countries, format_, out)


def _print_cities(
    question: Callable[[AsyncEngine], Awaitable[pd.DataFrame]], format_: Format | None, out: Path | None
) -> None:
    format_ = _format(format_, out)
    frame = _ask(question)
    if frame.empty and format_ == "table":
        typer.echo(_nothing())
    else:
        _print(frame, format_, out, _FORMATTERS)


def _nothing() -> str:
    return f"No such cities are stored. {_here()} seed stores the world's; countries are codes such as US."


_FORMATTERS: dict[str, Callable[[Any], str]] = {
    "population": "{:,}".format, "cities": "{:,}".format, "total_population": "{:,}".format,
    "largest_population": "{:,}".format, "share": "{:.2%}".format, "distance_km": "{:,.1f}".format,
}  # fmt: skip


def _format(given: Format | None, out: Path | None) -> Format:
    """Return the format to print, having seen that this can be done: what is asked for may write."""
    from citykit.files import format_of

    try:
        format_ = given or (format_of(out) if out else "table")
    except ValueError as exc:
        raise typer.BadParameter(f"{exc}; else give --format") from exc
    if format_ == "parquet" and out is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is no text: write it to a file with -o FILE")
    if out:
        _check_writable(out, "nothing was run")
    return format_


class _CheckedError(Exception):
    """Leaves `writing` before it puts a file in the place of another."""


def _check_writable(path: Path, undone: str) -> None:
    """Raise the error of `writing` if a file cannot be written; one that is there stays as it is."""
    from citykit.files import writing

    if path.exists() and not (path.is_file() or path.is_dir()):  # closing a pipe would end it for its reader
        return
    try:
        with suppress(_CheckedError), writing(path, "csv"):
            raise _CheckedError
    except citykit.CitykitError as exc:
        raise citykit.CitykitError(f"{exc}; {undone}") from exc


def _print(
    frame: pd.DataFrame,
    format_: Format,
    out: Path | None,
    formatters: Mapping[str, Callable[[Any], str]] | None = None,
) -> None:
    """Print a frame, or write it to a file."""
    from citykit.files import as_table, write_bytes, writing

    buffer = io.BytesIO()
    if format_ == "table":
        text = as_table(frame, formatters, terminal=out is None and sys.stdout.isatty())
        buffer.write(f"{text}\n".encode())
    else:
        with writing(out or buffer, format_) as write:
            write(frame)
    if out is None and format_ == "table":
        typer.echo(buffer.getvalue().decode(), nl=False)  # in the encoding of the terminal
    elif out is None:
        typer.echo(buffer.getvalue(), nl=False)
    else:
        if format_ == "table":
            write_bytes(out, buffer.getvalue())
        typer.echo(f"Wrote {len(frame):,} rows to {out}")


@app.command()
def tables() -> None:
    """List the tables, how many rows they have (about, if they are large) and their size on disk."""
    from citykit.load import parsed, written

    async def listed(engine: AsyncEngine) -> list[tuple[str, str, str]]:
        found = []
        for name, schema, size, is_small, about in (await citykit.read_frame(engine, _TABLES)).itertuples(
            index=False
        ):
            shown = written(name, schema if isinstance(schema, str) else None)
            rows = "" if about < 0 else f"about {about:,}"
            if is_small:
                quoted = engine.dialect.identifier_preparer.format_table(parsed(shown))
                with suppress(citykit.CitykitError):  # no right to read it, or it was dropped meanwhile
                    counted = await citykit.read_frame(engine, f"SELECT count(*) FROM {quoted}")  # noqa: S608
                    rows = f"{counted['count'].iloc[0]:,}"
            found.append((_visible(shown), rows, size))
        return found

    found = _ask(listed)
    widths = [max((len(row[column]) for row in found), default=0) for column in range(3)]
    for name, rows, size in found:
        typer.echo(f"{name:<{widths[0]}}  {rows:>{widths[1]}}  {size:>{widths[2]}}")
    if not found:
        typer.echo(f"There are no tables; {_here()} init makes the table of cities.")


_TABLES = """
SELECT c.relname::text AS name, CASE WHEN NOT pg_table_is_visible(c.oid) THEN n.nspname::text END AS schema,
    pg_size_pretty(parts.size) AS size, parts.rows_size < 2^26 AS is_small, parts.about
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(sum(pg_total_relation_size(p.oid)), 0) AS size,
        coalesce(sum(pg_relation_size(p.oid)), 0) AS rows_size,
        CASE WHEN min(p.reltuples) < 0 THEN -1 ELSE coalesce(sum(p.reltuples), 0)::bigint END AS about
    FROM pg_catalog.pg_class p
    JOIN (SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid)) AS tree ON tree.oid = p.oid
    WHERE p.relkind <> 'p'
) AS parts
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY schema NULLS FIRST, name
"""


Kind = Literal["biggest", "countries", "rank-size", "map"]
# How many rows a chart has by default, and at most.
_LIMITS: dict[Kind, tuple[int, int]] = {
    "biggest": (20, 500), "countries": (20, 500), "rank-size": (1_000, 1_000_000), "map": (40_000, 1_000_000),
}  # fmt: skip


@app.command()
def chart(
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[
        Kind, typer.Option(help="Bars of cities or countries, sizes by rank, or a map.")
    ] = "biggest",
    n: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", parser=_whole(1), help="How many; of bars 500 at most."),
    ] = None,
    country: Country = None,
    title: Annotated[str | None, typer.Option(help="Above the chart.")] = None,
) -> None:
    """Draw the most populated cities or countries."""
    if not out.suffix:
        raise ValueError(f"{out} has no suffix, which gives the format of the picture, such as .png")
    count, most = _LIMITS[kind]
    if (n or count) > most:
        raise typer.BadParameter(f"-n {n}: a chart of this kind has at most {most:,}")
    if kind == "countries" and country is not None:
        raise typer.BadParameter("--country is for charts of cities")
    count = n or count

    async def asked(engine: AsyncEngine) -> pd.DataFrame:
        if kind == "countries":
            return (await citykit.summarize_countries(engine)).head(count)
        return await citykit.biggest_cities(engine, count, country=country)

    frame = _ask(asked)
    if frame.empty:
        raise ValueError(f"{_nothing()} Nothing was drawn.")
    _draw(kind, frame, out, title)
    typer.echo(f"Wrote {out}")


def _draw(kind: Kind, frame: pd.DataFrame, out: Path, title: str | None = None) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # a picture needs no screen
    plots = {
        "biggest": citykit.plot_biggest, "countries": citykit.plot_countries,
        "rank-size": citykit.plot_rank_size, "map": citykit.plot_map,
    }  # fmt: skip
    plots[kind](frame, title=title)
    try:
        pyplot.savefig(out, dpi=150)
    except OSError as exc:
        raise ValueError(f"{out} cannot be written: {exc.strerror or exc}") from exc


@app.command()
def demo() -> None:
    """Show all of it: start the database, store the world's cities, print and draw the biggest."""
    from citykit.files import as_table

    tutorial = None if os.environ.get("CITYKIT_URL") or os.environ.get("CITYKIT_DATABASE") else TUTORIAL
    database = os.environ.get("CITYKIT_DATABASE") or tutorial

    async def shown(engine: AsyncEngine) -> pd.DataFrame:
        with _step("Creating the table"):
            await citykit.create_tables(engine)
        with _step("Reading the world's cities"):
            cities = citykit.world_cities()
        with _step(f"Storing {len(cities):,} of them"):
            report = await citykit.load_cities(engine, cities, on_conflict="skip")
        with _step("Asking for the 20 biggest"):
            frame = await citykit.biggest_cities(engine, 20)
        frame.attrs["source"] = cities.attrs["source"]
        typer.echo()
        _echo_report(report)
        return frame

    async def started(_engine: AsyncEngine) -> None:
        """Do nothing: connecting has started the server, which ends with the last process that uses it."""

    with _step("Starting PostgreSQL"):
        _ask(started, database=database)
    frame = _ask(shown, database=database)
    picture = Path("biggest.png").resolve()
    typer.echo(f"\n{as_table(frame, _FORMATTERS)}\n")
    with _step("Drawing them"):
        _draw("biggest", frame, picture)
    if tutorial:
        _given["database"] = tutorial  # not the default one of a command
    typed = _here()
    place = f"the database {database}" if database else "the database of the URL"
    typer.echo(
        f"\nWrote {picture}\nSource: {frame.attrs['source']}\n\n"
        f"They are in {place}. Try next:\n"
        f"  {typed} biggest --country US\n"
        f"  {typed} find wien\n"
        f"  {typed} add Brigadoon 1000 --country GB --region SCT\n"
        f"  {typed} chart map.png --kind map\n"
        f"  {typed.partition(' --')[0]} lab  the same in notebooks"
    )


@app.command()
def databases() -> None:
    """List the databases of citykit's own PostgreSQL."""
    from citykit.database import list_databases

    found = [(_visible(each.name), each) for each in _wait(list_databases)]
    width = max(len(name) for name, _ in found)
    for name, each in found:
        in_use = f"  {each.connections} connected" if each.connections else ""
        typer.echo(f"{name:<{width}}  {each.size:>8}{in_use}")


@app.command()
def drop(name: Annotated[str, typer.Argument(help="The database.")], yes: Yes = False) -> None:
    """Drop a database of citykit's own PostgreSQL, with all that is in it."""
    from citykit.database import drop_database

    _confirm(f"Drop the database {name!r} with all that is in it?", yes)
    _interrupts.said = f"interrupted; {_here()} databases shows whether {name} is still there"
    _wait(lambda: drop_database(name))
    typer.echo(f"Dropped {name}")


@app.command()
def lab(
    directory: Annotated[
        Path, typer.Argument(help="Where your copies of the notebooks are, or are to be.")
    ] = Path("citykit-notebooks"),
) -> None:
    """Open JupyterLab on copies of the notebooks, with the same database."""
    from citykit.database import default_home, is_root

    originals = next(
        folder
        for folder in (Path(__file__).parent / "notebooks", Path(__file__).parents[1] / "notebooks")
        if folder.is_dir()
    )
    directory.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(originals.glob("*.ipynb")):
        if not (directory / notebook.name).exists():  # your own changes stay
            shutil.copy(notebook, directory)
    typer.echo(f"The notebooks are in {directory.resolve()}; Ctrl-C twice ends JupyterLab.")
    os.environ["CITYKIT_HOME"] = str(default_home())  # a kernel runs in another directory
    options = ["--allow-root"] if is_root() else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(directory), *options])  # noqa: S606


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", parser=_whole(0, 65535), help="The port; 0: a free one.")
    ] = 8000,
    max_body: Annotated[
        int, typer.Option(metavar="N", parser=_whole(1), help="The largest bulk body, in MiB.")
    ] = 1024,
) -> None:
    """Serve the cities over HTTP: a page, and JSON for programs (needs citykit[web])."""
    from citykit.web import serve as run

    run(host, port, max_body_bytes=max_body * 2**20, say=typer.echo)


@contextmanager
def _step(title: str) -> Iterator[None]:
    typer.echo(f"{title} ... ", nl=False)
    started = time.perf_counter()
    yield
    typer.echo(f"{time.perf_counter() - started:.2f} s")


def main() -> None:
    """Run the command line (the entry point ``citykit``)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup has it ignored
        signal.signal(signal.SIGINT, _interrupts)
    app()


if __name__ == "__main__":
    main()
