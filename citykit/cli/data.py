"""Commands for any table: load a file, export, query, list the tables."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import citykit
from citykit.cli.group import app
from citykit.cli.interrupts import ask
from citykit.cli.messages import say, this_command, visible
from citykit.cli.options import OnConflictOption, OnInvalidOption, Out, Printed, each_once, names_of, pair
from citykit.cli.output import check_writable, echo_report, print_frame, wanted_format

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


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
    from citykit.cities import KEY
    from citykit.files import FileSource, format_of

    if rejects is not None:
        format_of(rejects)
        if os.path.exists(file) and rejects.exists() and rejects.samefile(file):
            raise ValueError(
                f"--rejects {rejects} is the file to load; nothing was loaded. Give the name of another."
            )
        check_writable(rejects, "nothing was loaded")
    renamed = each_once("--rename", map(pair, rename or []))
    options: dict[str, Any] = {
        "on_conflict": on_conflict, "on_invalid": on_invalid, "rename": renamed, "columns": names_of(columns),
    }  # fmt: skip
    reading: dict[str, Any] = {
        "delimiter": "\t" if delimiter == "\\t" else delimiter, "encoding": encoding, "decimal": decimal,
        "thousands": thousands, "compression": compression,
        "called": "standard input" if file == "-" else file,
    }  # fmt: skip
    keys = names_of(key)
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
                named = keys or (KEY if table == "cities" else ask(_primary_key(table)))
                _write_rejects(rejects, bad, file, path, named, {**reading, "rename": renamed})

        try:
            report = ask(checked if dry_run else loaded)
        except citykit.InvalidFrameError as exc:
            write_rejects(exc.rejects)
            raise
        echo_report(report, dry_run=dry_run)
        write_rejects(report.rejects)


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

    typer.echo(f"Wrote {ask(exported):,} rows to {file}")


async def _cities(engine: AsyncEngine) -> str:
    """Return the SELECT of the columns that `load` takes; of other names, if any are stored."""
    found = (await citykit.read_frame(engine, _NAMES_TABLE)).iloc[0]
    if found["there"] and not found["readable"]:
        say("the other names of cities are left out: this role needs SELECT on the table city_names")
    elif found["there"] and (await citykit.read_frame(engine, _HAVE_OTHER_NAMES))["exists"].item():
        return _CITIES.format(", other_names", "LEFT JOIN city_names USING (name, country, region)")
    return _CITIES.format("", "")


# Largest first is the order of an index.
_CITIES = """SELECT name, country, region, population, latitude, longitude{} FROM cities {}
ORDER BY population DESC, name, country, region"""
# A database of an earlier version has no such table.
_NAMES_TABLE = """SELECT to_regclass('city_names') IS NOT NULL AS there,
    coalesce(has_table_privilege(to_regclass('city_names'), 'SELECT'), false) AS readable"""
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
        params = each_once("-p", map(param_of, param or []))
    except ValueError as exc:
        raise typer.BadParameter(f"-p {exc}") from exc
    wanted = list(parameter_names(sql))
    if differing := sorted({*params} ^ {*wanted}):
        of = "is no parameter of the SQL" if differing[0] in params else "needs a value: -p NAME=VALUE"
        raise typer.BadParameter(f":{differing[0]} {of}")
    format_ = wanted_format(format_, out)
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

    answer = ask(run)
    if isinstance(answer, Executed):
        typer.echo(answer.tag + (f"; it returned no rows, and {out} was not written" if out else ""))
        return
    try:
        print_frame(answer, format_, out)
    except BrokenPipeError:
        raise
    except (citykit.CitykitError, OSError, ValueError) as exc:
        raise citykit.CitykitError(f"{exc}; the SQL was run, and what it changed is stored") from exc


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
            found.append((visible(shown), rows, size))
        return found

    found = ask(listed)
    widths = [max((len(row[column]) for row in found), default=0) for column in range(3)]
    for name, rows, size in found:
        typer.echo(f"{name:<{widths[0]}}  {rows:>{widths[1]}}  {size:>{widths[2]}}")
    if not found:
        typer.echo(f"There are no tables; {this_command()} init makes the table of cities.")


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
