"""The result of a statement: its columns' names and types before it runs, then its rows in batches."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pyarrow as pa
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, ConditionClass, ConnectionLostError, driver_of, sqlstate, transport_of
from citykit.decode import UnfitColumnError, Values, decode, objects, values_of
from citykit.errors import CitykitError, MissingTableError
from citykit.pgtypes import DESCRIBE, EXACT, KNOWN, SETTINGS, TEXT, Setting, Type, type_from
from citykit.read.copy_out import copy_out
from citykit.read.messages import Lines, Rows, check_complete, rows_out
from citykit.read.parameters import UNKNOWN
from citykit.read.statement import Query, Statement, compiled, type_name

THREAD_BYTES = 1 << 16  # from here up, a chunk is decoded in a thread

# Run through SQLAlchemy, it also begins the transaction, which a statement of asyncpg's own would not.
_SESSION = """
SELECT pg_catalog.current_setting('DateStyle') AS "DateStyle",
    pg_catalog.current_setting('IntervalStyle') AS "IntervalStyle",
    pg_catalog.current_setting('extra_float_digits') AS extra_float_digits,
    pg_catalog.current_setting('array_nulls') AS array_nulls,
    pg_catalog.current_setting('standard_conforming_strings') = 'on' AS conforming
"""
_ARRAY_NULLS = Setting("array_nulls", re.compile("on$"), "on")  # else NULL in an array's text is a text
# The classes of SQLSTATE for which the statement itself is to blame.
_BLAMED = (
    ConditionClass.FEATURE_NOT_SUPPORTED,
    ConditionClass.CASE_NOT_FOUND,
    ConditionClass.CARDINALITY_VIOLATION,
    ConditionClass.DATA_EXCEPTION,
    ConditionClass.INTEGRITY_CONSTRAINT_VIOLATION,
    ConditionClass.SQL_ROUTINE_EXCEPTION,
    ConditionClass.EXTERNAL_ROUTINE_EXCEPTION,
    ConditionClass.EXTERNAL_ROUTINE_INVOCATION_EXCEPTION,
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE,
    ConditionClass.WITH_CHECK_OPTION_VIOLATION,
    ConditionClass.PROGRAM_LIMIT_EXCEEDED,
    ConditionClass.PLPGSQL_ERROR,
)


_TOO_LARGE = (Condition.OUT_OF_MEMORY, Condition.PROGRAM_LIMIT_EXCEEDED, Condition.INTERNAL_ERROR)


@dataclass(frozen=True)
class Result:
    """A statement's result: each column's name and type, and batches of rows (one array for each column)."""

    names: Sequence[str]
    types: Sequence[Type]
    batches: AsyncGenerator[list[Values]]


async def described(
    connection: AsyncConnection, statement: Statement, params: Mapping[str, Any] | None
) -> Result:
    """Prepare a statement and choose how its rows come.

    As DataRow messages in binary, where every column has an exact binary form; else as the text of COPY;
    where COPY cannot run the statement, as asyncpg's records. The batches have to be read, or closed,
    before the connection is used for anything else.
    """
    session = (await connection.exec_driver_sql(_SESSION)).one()
    raw = driver_of(connection)
    query = compiled(statement, params, session.conforming)
    query, prepared = await _prepared(connection, raw, query)
    with _named(query):
        names, oids = _columns(prepared)
        types = await _types(raw, oids)
        transport = transport_of(raw)
        if EXACT.issuperset(oids) and transport and _is_utf8(raw.get_settings().client_encoding):
            return Result(names, types, _binary_rows(raw, transport, prepared, query, names, oids))
        if not query.can_copy:
            return Result(names, types, _records(prepared, query, names, types))
    return Result(
        names, types, _text_rows(connection, query, prepared.get_parameters(), session, names, types)
    )


def _is_utf8(encoding: str) -> bool:
    """Tell whether text comes as UTF-8; behind pgbouncer the setting has another spelling."""
    try:
        return codecs.lookup(encoding.strip("'")).name == "utf-8"
    except LookupError:
        return False


async def _prepared(connection: AsyncConnection, raw: Any, query: Query) -> tuple[Query, Any]:
    """Prepare a statement with the types of its values; text gets the type that the server infers."""
    if query.has_lists:
        # A list is tried as an array first, then as JSON; the savepoint keeps the transaction usable between.
        try:
            async with connection.begin_nested():
                return await _resolved(raw, query)
        except CitykitError as exc:
            if not str(sqlstate(exc.__cause__ or exc)).startswith(ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE):
                raise
            try:
                return await _resolved(raw, query.with_lists_read_otherwise())
            except CitykitError:
                raise exc from exc.__cause__
    return await _resolved(raw, query)


async def _resolved(raw: Any, query: Query) -> tuple[Query, Any]:
    cast = query.cast()
    with _named(cast):
        prepared = await raw.prepare(cast.sql, name="")  # unnamed: there is nothing to go stale
    resolved = cast.resolved(prepared.get_parameters())
    if resolved.sql != cast.sql:
        with _named(resolved):
            prepared = await raw.prepare(resolved.sql, name="")
    return resolved, prepared


def _columns(prepared: Any) -> tuple[list[str], list[int]]:
    attributes = prepared.get_attributes()
    if not attributes:
        raise CitykitError(
            "The statement returns no rows, so there is nothing to read; it was not run. Run it with "
            "await connection.execute(sqlalchemy.text(…)), or let it return rows: … RETURNING *"
        )
    return [attribute.name for attribute in attributes], [a.type.oid for a in attributes]


async def _types(raw: Any, oids: Sequence[int]) -> list[Type]:
    unknown = sorted({oid for oid in oids if oid not in KNOWN})
    rows = await raw.fetch(DESCRIBE, unknown) if unknown else []
    types = {**KNOWN, **{row["asked"]: type_from(row) for row in rows}}
    return [types.get(oid, Type("text")) for oid in oids]


async def _records(
    prepared: Any, query: Query, names: Sequence[str], types: Sequence[Type]
) -> AsyncGenerator[list[Values]]:
    with _named(query), _large_rows_named(query, names, types, lambda: 0):
        rows = await prepared.fetch(*query.args)
        check_complete(prepared.get_statusmsg() or "", len(rows))
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    yield [_values(*column) for column in zip(columns, names, types, strict=True)]


async def _binary_rows(
    raw: Any, transport: Any, prepared: Any, query: Query, names: Sequence[str], oids: Sequence[int]
) -> AsyncGenerator[list[Values]]:
    rows = 0
    with _named(query), _large_rows_named(query, names, [KNOWN[oid] for oid in oids], lambda: rows):
        answer = rows_out(
            raw, transport, prepared.fetch(*query.args), Rows(oids), lambda _: prepared.get_statusmsg() or ""
        )
        async with aclosing(answer) as batches:
            async for batch in batches:
                yield batch
                rows += len(batch[0])


def _values(values: Sequence[Any], name: str, type_: Type) -> Values:
    """Return the array that `decode` would return, from values that asyncpg has read."""
    row = type_.row
    if (row.is_csv or row.is_exact) and row.arrow != TEXT and not type_.array:
        return pa.array(values, row.arrow)
    if row.is_json and not type_.array:
        return objects(values)  # SQLAlchemy has made asyncpg parse it
    try:
        texts = pa.array([str(v) if isinstance(v, Decimal | UUID) else v for v in values], TEXT)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as exc:
        raise CitykitError(
            f"Column {name!r} has a type that can only be read from the query itself (SELECT, WITH, VALUES, "
            "INSERT … RETURNING), not by way of FETCH, EXECUTE or CALL; nothing was changed."
        ) from exc
    return values_of(texts, type_)


async def _with_literals(raw: Any, query: Query, parameters: Sequence[Any]) -> str:
    """Return the statement with its values as literals, quoted by the server: COPY takes no parameters."""
    types = [type_name(parameter) for parameter in parameters]
    quoted = ", ".join(f"quote_nullable(${n}::{type_}::text)" for n, type_ in enumerate(types, 1))
    literals = await raw.fetchrow(f"SELECT {quoted}", *query.args)
    return query.with_literals(
        [f"CAST({literal} AS {type_})" for literal, type_ in zip(literals, types, strict=True)]
    )


async def _text_rows(
    connection: AsyncConnection,
    query: Query,
    parameters: Sequence[Any],
    session: Any,
    names: Sequence[str],
    types: Sequence[Type],
) -> AsyncGenerator[list[Values]]:
    # The text of the parameters' values depends on the settings, as that of the result's does.
    settings = {*SETTINGS, _ARRAY_NULLS} if parameters else {t.row.setting for t in types if t.row.setting}
    changed = {s.name: s.value for s in settings if not s.kept.match(getattr(session, s.name))}
    for setting, value in changed.items():
        await connection.exec_driver_sql("SELECT set_config($1, $2, true)", (setting, value))
    rows = 0
    raw = driver_of(connection)
    with _named(query), _large_rows_named(query, names, types, lambda: rows, by_copy=True):
        sql = await _with_literals(raw, query, parameters) if parameters else query.sql
        async with aclosing(_copied_lines(raw, sql, types)) as batches:
            try:
                async for batch in batches:
                    yield batch
                    rows += len(batch[0])
            except UnfitColumnError as exc:
                raise unfit(exc, names, rows) from exc
    for setting in changed:
        await connection.exec_driver_sql(
            "SELECT set_config($1, $2, true)", (setting, getattr(session, setting))
        )


async def _copied_lines(raw: Any, sql: str, types: Sequence[Type]) -> AsyncGenerator[list[Values]]:
    """Run a statement by COPY and yield its rows in batches."""
    transport = transport_of(raw)
    if transport is not None:
        copy = raw.copy_from_query(f"\n{sql}\n", output=_nowhere, format="text", encoding="utf8")
        async with aclosing(rows_out(raw, transport, copy, Lines(types), str)) as batches:
            async for batch in batches:
                yield batch
        return
    rows = 0
    async with aclosing(copy_out(raw, sql)) as chunks:
        async for chunk, tag in chunks:
            if len(chunk) < THREAD_BYTES:
                batch = decode(chunk, types)
            else:
                batch = await asyncio.to_thread(decode, chunk, types)
            rows += len(batch[0])
            check_complete(tag, rows)
            yield batch


async def _nowhere(data: bytes) -> None:
    """Refuse a line of a COPY: asyncpg should see none, as `messages` takes them all."""
    raise ConnectionLostError(f"asyncpg received {len(data)} bytes of rows that citykit should have taken")


def unfit(exc: UnfitColumnError, names: Sequence[str], rows: int) -> CitykitError:
    """Return the error for a value that pandas cannot hold: its column, and its row, after `rows` others."""
    name = names[exc.column]
    return CitykitError(
        f"Column {name!r} has in row {rows + exc.position} of the result the value {exc}; "
        f"nothing was changed. Select it as text ({name}::text), or something in its place."
    )


@contextmanager
def _large_rows_named(
    query: Query,
    names: Sequence[str],
    types: Sequence[Type],
    rows: Callable[[], int],
    *,
    by_copy: bool = False,
) -> Iterator[None]:
    """Say what to select instead of a row that the server cannot send: it builds each in 1 GB of memory.

    `rows` tells how many came before it. The server has no SQLSTATE for this alone.
    """
    try:
        yield
    except asyncpg.PostgresError as exc:
        columns = [*zip(map(_quoted, names), types, strict=True)]
        parts = [_part(name, type_) for name, type_ in columns if type_.array or type_.row.has_any_size]
        given = [n for n, v in zip(query.names, query.args, strict=True) if isinstance(v, str | bytes | list)]
        if sqlstate(exc) not in _TOO_LARGE or not (parts or given):
            raise
        said = [
            f"{exc.args[0]} (SQLSTATE {sqlstate(exc)}), in a row after the first {rows():,}; "
            "nothing was changed.",
            "PostgreSQL sends at most 1 GB a row.",
        ]
        others = [name for name, type_ in columns if type_.array or not type_.row.is_exact]
        if by_copy and others:
            said.append(
                f"Beside {', '.join(others)} this row comes as text, in which a bytea is twice as large: "
                f"select {', '.join(f'{name}::text' for name in others)} to have it come in binary."
            )
        if parts:
            said.append(f"Or select a part of a large value: {', '.join(parts)}.")
        if given:
            said.append(f"Or give a smaller value for {', '.join(f':{name}' for name in given)}.")
        raise CitykitError(" ".join(said)) from exc


def _part(name: str, type_: Type) -> str:
    """Return SQL that selects a part of a value, instead of all of it."""
    if type_.array:
        return f"({name})[1:10]"
    return f"substring({name}{'::text' if type_.row.is_json else ''} from 1 for 100000000)"


def _quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


@contextmanager
def _named(query: Query) -> Iterator[None]:
    """Raise the server's errors about a statement as CitykitError, with the line and a caret."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        code = sqlstate(exc) or ""
        # asyncpg's own refusal of a value has a SQLSTATE too; the number is in its text only.
        if unsent := re.match(r"invalid input for query argument \$(\d+): (.*)", str(exc), re.DOTALL):
            number = int(unsent[1]) - 1
            raise CitykitError(
                f"Parameter {query.names[number]!r} cannot be sent: {unsent[2]}; nothing was changed. "
                f"The statement takes {query.wanted[number]} there."
            ) from exc
        if not code.startswith(_BLAMED) or code == Condition.INSUFFICIENT_PRIVILEGE:
            raise
        raise (MissingTableError if code == Condition.UNDEFINED_TABLE else CitykitError)(
            _said(exc, query, code)
        ) from exc


def _said(exc: Any, query: Query, code: str) -> str:
    said = [f"{exc.args[0]} (SQLSTATE {code}); nothing was changed."]
    if exc.position:
        said.append(query.shown_at(int(exc.position)))
    said += [f"{word}: {text}" for word, text in (("Detail", exc.detail), ("Hint", exc.hint)) if text]
    if code.startswith(ConditionClass.DATA_EXCEPTION):
        said += [
            f"The statement reads the text of parameter {name!r} as {wanted}: give a value of that type."
            for name, type_, wanted in zip(query.names, query.types, query.wanted, strict=False)
            if type_ == UNKNOWN and wanted != "text"
        ]
    if code == Condition.UNDEFINED_TABLE:
        said.append("citykit's own table is made by: await citykit.create_tables(engine)")
    return "\n".join(said)
