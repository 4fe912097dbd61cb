"""A statement that the server has parsed: the types of its parameters, and the errors about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import (
    IN_AUTOCOMMIT,
    OF_VALUES,
    WITHOUT_TABLE,
    Bind,
    Condition,
    ConditionClass,
    driver_of,
    in_transaction,
    server_errors_named,
    shortened,
    similar_tables,
    sqlstate,
)
from citykit.errors import CitykitError, MissingTableError
from citykit.pgtypes import PGTYPES
from citykit.read.parameters import JSON_ARRAY, UNKNOWN, UNKNOWN_ARRAY
from citykit.read.statement import Query, Statement, compiled

# Run through SQLAlchemy, it also begins the transaction, which a statement of asyncpg's own would not.
_SESSION = """
SELECT pg_catalog.current_setting('DateStyle') AS "DateStyle",
    pg_catalog.current_setting('IntervalStyle') AS "IntervalStyle",
    pg_catalog.current_setting('extra_float_digits') AS extra_float_digits,
    pg_catalog.current_setting('array_nulls') AS array_nulls,
    pg_catalog.current_setting('standard_conforming_strings') = 'on' AS conforming
"""


# The classes of SQLSTATE for which the statement itself is to blame.
_BLAMED = (
    *OF_VALUES,
    ConditionClass.FEATURE_NOT_SUPPORTED,
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE,
    ConditionClass.PROGRAM_LIMIT_EXCEEDED,
    Condition.ACTIVE_SQL_TRANSACTION,
    Condition.INVALID_TRANSACTION_TERMINATION,
)
# About prepared statements; asyncpg gives these errors a hint about poolers in place of the server's.
_OF_PREPARED = (Condition.INVALID_SQL_STATEMENT_NAME, Condition.DUPLICATE_PREPARED_STATEMENT)
_ALONE = (Condition.ACTIVE_SQL_TRANSACTION, Condition.INVALID_TRANSACTION_TERMINATION)
_AUTOCOMMIT = "engine.execution_options(isolation_level='AUTOCOMMIT')"
_RUN_ALONE = f"await citykit.execute({_AUTOCOMMIT}, …)"
_READ_ALONE = (
    f"async with {_AUTOCOMMIT}.connect() as connection: "
    "rows = (await connection.execute(sqlalchemy.text(…))).all()"
)
# For these the type of a value may be to blame.
_OF_TYPES = (Condition.UNDEFINED_FUNCTION, Condition.DATATYPE_MISMATCH, Condition.CANNOT_COERCE)
# For these a text that the server reads as another type may be.
_OF_TEXTS = (
    Condition.INVALID_TEXT_REPRESENTATION,
    Condition.INVALID_DATETIME_FORMAT,
    Condition.DATETIME_FIELD_OVERFLOW,
    Condition.INVALID_TIME_ZONE_DISPLACEMENT_VALUE,
    Condition.INTERVAL_FIELD_OVERFLOW,
)

_UNREADABLE = (
    "The statement has a column, or a parameter, of a type that the driver cannot read (anyarray, as "
    "most_common_vals of pg_stats has); it was not run, and nothing was changed. Name the columns, and "
    "select those of such a type as text: SELECT most_common_vals::text FROM pg_stats"
)


@dataclass(frozen=True)
class Prepared:
    """A statement that the server has parsed, with its values.

    `raw` is asyncpg's connection, `session` the row of `_SESSION`, `statement` asyncpg's PreparedStatement.
    """

    connection: AsyncConnection
    raw: Any
    session: Any
    query: Query
    statement: Any

    @property
    def returns_rows(self) -> bool:
        """Whether it returns rows, or could."""
        return bool(self.statement.get_attributes())

    async def run(self) -> str:
        """Run it, once; return the server's command tag (``DELETE 3``)."""
        autocommits = not self.raw.is_in_transaction()
        undone = IN_AUTOCOMMIT if autocommits else "nothing was changed"
        with (
            server_errors_named(self.connection, in_doubt=autocommits, undone=undone),
            named(self.query, undone=undone),
        ):
            if autocommits:  # a pooler may have prepared it on another connection than it runs it on
                return str(await self.raw.execute(self.query.sql, *self.query.args))
            await self.statement.fetch(*self.query.args)
            return str(self.statement.get_statusmsg())


async def prepared(
    connection: AsyncConnection, statement: Statement, params: Mapping[str, Any] | None
) -> Prepared:
    """Have the server parse a statement with the types of its values; text gets the type that it infers."""
    session = (await connection.exec_driver_sql(_SESSION)).one()
    raw = driver_of(connection)
    query = compiled(statement, params, session.conforming)
    return Prepared(connection, raw, session, *await _parsed(connection, raw, query))


async def _parsed(connection: AsyncConnection, raw: Any, query: Query) -> tuple[Query, Any]:
    if query.has_lists:
        # A list is tried as an array first, then as JSON; a savepoint keeps a transaction usable between.
        between: AbstractAsyncContextManager[Any] = (
            connection.begin_nested() if raw.is_in_transaction() else nullcontext()
        )
        try:
            async with between:
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
    with named(cast):
        try:
            prepared = await raw.prepare(cast.sql, name="")  # unnamed: no cached plan can go stale
        except asyncpg.InternalClientError as exc:
            if raw.is_closed():
                raise
            raise CitykitError(_UNREADABLE) from exc
    inferred = prepared.get_parameters()
    if len(inferred) < len(query.args):  # the server does not analyse DDL before it runs it
        raise CitykitError(
            f"The server takes no parameters in {next(query.words, '').upper()}; it was not run. Write the "
            f"value of {', '.join(f':{name}' for name in query.names)} into the statement: 5, or 'text' in "
            "quotes, with each quote in it doubled."
        )
    resolved = cast.resolved(inferred)
    if resolved.sql != cast.sql:
        with named(resolved):
            prepared = await raw.prepare(resolved.sql, name="")
    return resolved, prepared


@contextmanager
def named(query: Query, *, undone: str = "nothing was changed", reads: bool = False) -> Iterator[None]:
    """Raise the server's errors about a statement as CitykitError, with the line and a caret.

    `undone`: what a statement that fails leaves behind. `reads`: it returns rows, which `execute` refuses.
    """
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
        is_callers_own = code in _OF_PREPARED and next(query.words, "") in (
            "prepare",
            "execute",
            "deallocate",
        )
        blamed = code.startswith(_BLAMED) and code not in (Condition.INSUFFICIENT_PRIVILEGE, *_OF_PREPARED)
        if not (blamed or is_callers_own):
            raise
        said = _said(exc, query, code, undone, reads)
        if code != Condition.UNDEFINED_TABLE:
            raise CitykitError(said) from exc
        missing = MissingTableError(said)
        missing.table = query.table_at(int(exc.position)) if exc.position else None
        raise missing from exc


@asynccontextmanager
async def similar_tables_named(bind: Bind) -> AsyncIterator[None]:
    """Name in the error for a missing table those with a similar name; the block runs a statement."""
    try:
        yield
    except MissingTableError as exc:
        if exc.table and (similar := await _similar(bind, exc.table)):
            said, _, how_to_create = str(exc).rpartition("\n")
            exc.args = (f"{said}\nDid you mean {' or '.join(similar)}?\n{how_to_create}",)
        raise


async def _similar(bind: Bind, table: str) -> list[str]:
    """Return the tables with a name like this one's, as SQL writes them."""

    async def look(connection: AsyncConnection) -> list[str]:
        preparer = connection.dialect.identifier_preparer
        similar = await similar_tables(connection, table)
        return [preparer.format_table(Table(name, MetaData(), schema=schema)) for name, schema in similar]

    with suppress(CitykitError):  # what is raised then is the first error
        return await in_transaction(bind, look, effect="reads")
    return []


def _said(exc: Any, query: Query, code: str, undone: str, reads: bool) -> str:
    said = [f"{shortened(exc.args[0])} (SQLSTATE {code}); {undone}."]
    if exc.position:
        said.append(query.shown_at(int(exc.position)))
    hint = None if code in _OF_PREPARED else exc.hint
    more = (("Detail", exc.detail), ("Hint", hint))
    said += [f"{word}: {shortened(text)}" for word, text in more if text]
    if code in _OF_TEXTS:
        said += [
            f"The statement reads the text of parameter {name!r} as {wanted}: give a value of that type."
            for name, type_, wanted in zip(query.names, query.types, query.wanted, strict=False)
            if (type_ == UNKNOWN and wanted != "text")
            or (type_ in (UNKNOWN_ARRAY, JSON_ARRAY) and wanted.endswith("[]") and wanted != "text[]")
        ]
    if code == Condition.INDETERMINATE_DATATYPE:
        said += [
            f"Nothing in the statement tells the type of parameter {name!r} (${number}), a text or NULL: "
            f"CAST(:{name} AS text)."
            for number, name in enumerate(query.names, 1)
            if re.search(rf"\${number}\b", exc.args[0])
        ]
    if code in _OF_TYPES:
        said += [
            f"Parameter {name!r} is sent as {_sql_name(type_)}, the type of its Python value: give one of "
            f"the type that the statement takes there, or cast it: CAST(:{name} AS …)."
            for name, type_ in zip(query.names, query.types, strict=True)
            if type_ not in (None, UNKNOWN, UNKNOWN_ARRAY)
        ]
    if code == Condition.SYNTAX_ERROR and exc.position and (at := query.parameter_at(int(exc.position))):
        name, follows_in = at
        said.append(
            f"IN takes a list: params={{{name!r}: [{shortened(repr(query.args[query.names.index(name)]))}]}}."
            if follows_in
            else "A parameter stands for a value where the server takes an expression: not for the name of a "
            "table or a column, and not in DDL. Write that into the statement."
        )
    if code == Condition.SYNTAX_ERROR and query.lone_name:
        said.append(f"The rows of a table: SELECT * FROM {query.lone_name}")  # noqa: S608  shown
    if code in _ALONE:
        said.append(f"Run it outside of a transaction: {_READ_ALONE if reads else _RUN_ALONE}")
    if code == Condition.UNDEFINED_TABLE:
        said.append(WITHOUT_TABLE)
    return "\n".join(said)


def _sql_name(type_: str | None) -> str:
    """Return the name that SQL has for a type of `parameters.typed`."""
    name = str(type_).rpartition(".")[2]
    base = name.removesuffix("[]")
    return (PGTYPES[base].sql if base in PGTYPES else base) + name[len(base) :]
