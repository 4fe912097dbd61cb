"""The result of a statement: its columns' names and types before it runs, then its rows in batches."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pyarrow as pa

from citykit.database import Condition, ConnectionLostError, Numeric, set_local, sqlstate, transport_of
from citykit.decode import (
    DtypeBackend,
    UnfitColumnError,
    UnfitValueError,
    Values,
    decode,
    objects,
    parsed,
    values_of,
)
from citykit.errors import CitykitError
from citykit.pgtypes import DESCRIBE, EXACT, KNOWN, SETTINGS, TEXT, Setting, Type, type_from, whole_json
from citykit.read.copy_out import copy_out
from citykit.read.messages import Lines, Rows, check_complete, rows_out
from citykit.read.prepared import Prepared, named
from citykit.read.statement import Query, column_name, type_name

THREAD_BYTES = 1 << 16  # from this size a chunk is decoded in a thread

_ARRAY_NULLS = Setting("array_nulls", re.compile("on$"), "on")  # off: NULL in an array is read as a string
_TOO_LARGE = (Condition.OUT_OF_MEMORY, Condition.PROGRAM_LIMIT_EXCEEDED, Condition.INTERNAL_ERROR)


@dataclass(frozen=True)
class Result:
    """A statement's result: each column's name and type, and batches of rows (one array for each column)."""

    names: Sequence[str]
    types: Sequence[Type]
    batches: AsyncGenerator[list[Values]]
    # Of numerics read as floats: column number to the first value whose whole part a float does not hold.
    lost: Mapping[int, str]


async def result_of(asked: Prepared, numeric: Numeric, backend: DtypeBackend) -> Result:
    """Choose how the rows of a prepared statement are fetched.

    As DataRow messages in binary, where every column has an exact binary form; else as the text of COPY;
    where COPY cannot run the statement, as asyncpg's records. The batches have to be read, or closed,
    before the connection is used for anything else.
    """
    raw, query = asked.raw, asked.query
    names, oids = _columns(asked.statement)
    lost: dict[int, str] = {}
    with named(query):
        types = await _types(raw, oids)
        if numeric == "float":
            types = [type_.rounded() for type_ in types]
        elif backend == "pyarrow":
            types = [type_.in_arrow() for type_ in types]
        transport = transport_of(raw)
        if EXACT.issuperset(oids) and transport and _is_utf8(raw.get_settings().client_encoding):
            batches = _binary_rows(raw, transport, asked.statement, query, names, oids)
        elif query.can_copy:
            batches = _text_rows(asked, names, types, lost)
        else:
            batches = _records(asked.statement, query, names, types, lost)
    return Result(names, types, batches, lost)


def _is_utf8(encoding: str) -> bool:
    """Tell whether text comes as UTF-8; behind pgbouncer the setting has another spelling."""
    try:
        return codecs.lookup(encoding.strip("'")).name == "utf-8"
    except LookupError:
        return False


def _columns(prepared: Any) -> tuple[list[str], list[int]]:
    attributes = prepared.get_attributes()
    if not attributes:
        raise CitykitError(
            "The statement returns no rows, so there is nothing to read; it was not run. Run it with "
            "await citykit.execute(engine, …), or let it return rows: INSERT, UPDATE, DELETE … RETURNING *"
        )
    return [attribute.name for attribute in attributes], [a.type.oid for a in attributes]


async def _types(raw: Any, oids: Sequence[int]) -> list[Type]:
    unknown = sorted({oid for oid in oids if oid not in KNOWN})
    rows = await raw.fetch(DESCRIBE, unknown) if unknown else []
    types = {**KNOWN, **{row["asked"]: type_from(row) for row in rows}}
    return [types.get(oid, Type("text")) for oid in oids]


async def _records(
    prepared: Any, query: Query, names: Sequence[str], types: Sequence[Type], lost: dict[int, str]
) -> AsyncGenerator[list[Values]]:
    with named(query, reads=True), _large_rows_named(query, names, types, lambda: 0):
        try:
            rows = await prepared.fetch(*query.args)
        except (RecursionError, ValueError) as exc:  # of json.loads, in which asyncpg reads no position
            json = [column_name(n) for n, t in zip(names, types, strict=True) if t.row.is_json]
            if not json or isinstance(exc, asyncpg.InterfaceError):
                raise
            raise CitykitError(
                f"Of {', '.join(json)} the result has a value that a JSON value of Python cannot hold; "
                f"nothing was changed. Select it as text in the query itself: {json[0]}::text"
            ) from exc
        check_complete(prepared.get_statusmsg() or "", len(rows))
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    batch = []
    for number, column in enumerate(zip(columns, names, types, strict=True)):
        try:
            batch.append(_values(*column, partial(lost.setdefault, number)))
        except UnfitValueError as exc:
            raise unfit(UnfitColumnError(number, exc), names, types, 0) from exc
    yield batch


async def _binary_rows(
    raw: Any, transport: Any, prepared: Any, query: Query, names: Sequence[str], oids: Sequence[int]
) -> AsyncGenerator[list[Values]]:
    rows = 0
    types = [KNOWN[oid] for oid in oids]
    with named(query, reads=True), _large_rows_named(query, names, types, lambda: rows):
        answer = rows_out(
            raw, transport, prepared.fetch(*query.args), Rows(oids), lambda _: prepared.get_statusmsg() or ""
        )
        async with aclosing(answer) as batches:
            async for batch in batches:
                yield batch
                rows += len(batch[0])


def _values(values: Sequence[Any], name: str, type_: Type, lost: Callable[[str], object]) -> Values:
    """Return the array that `decode` would return, from values that asyncpg has read."""
    row = type_.row
    if (row.is_csv or row.is_exact) and row.arrow != TEXT and not type_.array:
        return pa.array(values, row.arrow)
    if row.is_json and not type_.array:
        return objects(parsed(values, whole_json))  # SQLAlchemy has made asyncpg parse it
    try:
        texts = pa.array([str(v) if isinstance(v, Decimal | UUID) else v for v in values], TEXT)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as exc:
        raise CitykitError(
            f"Column {name!r} has a type that can only be read from the query itself (SELECT, WITH, VALUES, "
            "INSERT … RETURNING), not by way of FETCH, EXECUTE or CALL; nothing was changed."
        ) from exc
    return values_of(texts, type_, lost)


async def _with_literals(raw: Any, query: Query, parameters: Sequence[Any]) -> str:
    """Return the statement with its values as literals, quoted by the server: COPY takes no parameters."""
    types = [type_name(parameter) for parameter in parameters]
    quoted = ", ".join(f"quote_nullable(${n}::{type_}::text)" for n, type_ in enumerate(types, 1))
    # In one array: a row has at most 1,664 columns.
    literals = await raw.fetchval(f"SELECT ARRAY[{quoted}]", *query.args)
    return query.with_literals(
        [f"CAST({literal} AS {type_})" for literal, type_ in zip(literals, types, strict=True)]
    )


async def _text_rows(
    asked: Prepared, names: Sequence[str], types: Sequence[Type], lost: dict[int, str]
) -> AsyncGenerator[list[Values]]:
    connection, raw, query, session = asked.connection, asked.raw, asked.query, asked.session
    parameters = asked.statement.get_parameters()
    # The text of the parameters' values depends on the settings, as that of the result's does.
    settings = {*SETTINGS, _ARRAY_NULLS} if parameters else {t.row.setting for t in types if t.row.setting}
    changed = {s.name: s.value for s in settings if not s.kept.match(getattr(session, s.name))}
    for setting, value in changed.items():
        await set_local(connection, setting, value)
    rows = 0
    with named(query, reads=True), _large_rows_named(query, names, types, lambda: rows, by_copy=True):
        sql = await _with_literals(raw, query, parameters) if parameters else query.sql
        async with aclosing(_copied_lines(raw, sql, types, lost)) as batches:
            try:
                async for batch in batches:
                    yield batch
                    rows += len(batch[0])
            except UnfitColumnError as exc:
                raise unfit(exc, names, types, rows) from exc
    for setting in changed:
        await set_local(connection, setting, getattr(session, setting))


async def _copied_lines(
    raw: Any, sql: str, types: Sequence[Type], lost: dict[int, str]
) -> AsyncGenerator[list[Values]]:
    """Run a statement by COPY and yield its rows in batches."""
    transport = transport_of(raw)
    if transport is not None:
        copy = raw.copy_from_query(f"\n{sql}\n", output=_nowhere, format="text", encoding="utf8")
        async with aclosing(rows_out(raw, transport, copy, Lines(types, lost), str)) as batches:
            async for batch in batches:
                yield batch
        return
    rows = 0
    async with aclosing(copy_out(raw, sql)) as chunks:
        async for chunk, tag in chunks:
            if len(chunk) < THREAD_BYTES:
                batch = decode(chunk, types, lost)
            else:
                batch = await asyncio.to_thread(decode, chunk, types, lost)
            rows += len(batch[0])
            check_complete(tag, rows)
            yield batch


async def _nowhere(data: bytes) -> None:
    """Refuse a line of a COPY: asyncpg should see none, as `messages` takes them all."""
    raise ConnectionLostError(f"asyncpg received {len(data)} bytes of rows that citykit should have taken")


def unfit(exc: UnfitColumnError, names: Sequence[str], types: Sequence[Type], rows: int) -> CitykitError:
    """Return the error for a value that pandas cannot hold: its column, and its row, after `rows` others."""
    name = names[exc.column]
    instead = (
        'Read it exactly with numeric="decimal", or select' if types[exc.column].row.is_rounded else "Select"
    )
    return CitykitError(
        f"Column {name!r} has in row {rows + exc.position} of the result the value {exc}; "
        f"nothing was changed. {instead} it as text ({column_name(name)}::text), or something in its place."
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
    """Add to the error for a row over 1 GB, which the server cannot send, what to select instead.

    `rows` returns the number of rows before it. The server has no SQLSTATE for this alone.
    """
    try:
        yield
    except asyncpg.PostgresError as exc:
        columns = [*zip(map(column_name, names), types, strict=True)]
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
