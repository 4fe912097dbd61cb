"""Statements that return no rows, and the statements of a cell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlalchemy import Insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.database import (
    LOCK_OPTION,
    LOCK_SECONDS,
    Bind,
    Condition,
    Numeric,
    in_transaction,
    option,
    server_errors_named,
    sqlstate,
)
from citykit.decode import DtypeBackend
from citykit.errors import CitykitError
from citykit.read.forbidden import check_runs
from citykit.read.prepared import prepared, similar_tables_named
from citykit.read.reading import read
from citykit.read.statement import Statement
from citykit.read.tokens import parameter_names, statements
from citykit.runtime import says_await

_BOUND_LOCKS = "SELECT set_config('lock_timeout', $1, true) WHERE current_setting('lock_timeout') = '0'"
# Unless the statement itself has set another.
_UNBOUND_LOCKS = "SELECT set_config('lock_timeout', '0', true) WHERE current_setting('lock_timeout') = $1"


@dataclass(frozen=True, repr=False)
class Executed:
    """The command tag of a statement that the server has run.

    Attributes
    ----------
    tag : str
        The server's command tag: ``DELETE 3``, ``INSERT 0 3``, ``CREATE TABLE``. Of several statements in a
        cell: all of them.
    rows : int or None
        The number of rows that it changed; None where the tag has none.
    """

    tag: str

    @property
    def rows(self) -> int | None:
        """The number in the tag."""
        number = self.tag.rpartition(" ")[2]
        return int(number) if number.isdecimal() and ";" not in self.tag else None

    def __repr__(self) -> str:
        return self.tag


@says_await
async def execute(bind: Bind, statement: Statement, params: Mapping[str, Any] | None = None) -> Executed:
    """Run a statement that returns no rows: ``CREATE``, ``ALTER``, ``INSERT``, ``UPDATE``, ``DELETE``, ….

    It is sent only once. In a transaction each wait for a lock ends after the seconds of
    ``connect(lock_timeout=…)``, unless the session has a ``lock_timeout`` of its own.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine: a transaction of its own, committed. A connection or a session: a savepoint in the
        caller's transaction. ``VACUUM``, ``CREATE DATABASE`` and ``CREATE INDEX CONCURRENTLY`` cannot run
        in a transaction: give ``engine.execution_options(isolation_level="AUTOCOMMIT")`` or a connection of
        that engine, where each statement commits by itself.
    statement : str or sqlalchemy.Executable
        One statement: SQL text with ``:named`` parameters, or an ``insert()``, ``update()``, ``delete()``,
        ``text()``, ….
    params : mapping, optional
        The value of each parameter, as for :func:`read_frame`. The server takes them in ``INSERT``,
        ``UPDATE``, ``DELETE``, ``MERGE`` and ``CREATE TABLE AS``, and not in other DDL.

    Returns
    -------
    Executed
        ``tag``: the server's command tag; ``rows``: the number of rows in it, or None.

    Raises
    ------
    CitykitError
        What the server says about the statement, with the line and a caret. Before it is run: the statement
        returns rows (:func:`read_frame` reads them); it would end the transaction (``COMMIT``, …) or change
        one of the engine's connections (``SET``); a parameter without a value.
    DatabaseUnavailableError
        If the connection is lost; ``in_doubt`` where it may have had its effect.

    Examples
    --------
    >>> async with engine.connect() as connection:
    ...     await citykit.execute(connection, "DELETE FROM cities WHERE country = :c", {"c": "MC"})
    DELETE 2
    """
    if isinstance(statement, Insert):
        statement = statement.inline()  # else SQLAlchemy adds RETURNING for the primary key
    sent = False

    async def work(connection: AsyncConnection) -> Executed:
        nonlocal sent
        async with _lock_bound(connection):
            asked = await prepared(connection, statement, params)
            check_runs(asked.query, on_engine=isinstance(bind, AsyncEngine))
            if asked.returns_rows:
                raise CitykitError(
                    "The statement returns rows, which would be lost; it was not run. "
                    "Read them: await citykit.read_frame(engine, …)"
                )
            sent = True
            return Executed(await asked.run())

    async with similar_tables_named(bind):
        return await in_transaction(bind, work, effect="one statement", repeatable=lambda: not sent)


async def run_cell(
    bind: Bind,
    sql: str,
    params: Mapping[str, Any],
    numeric: Numeric | None,
    dtype_backend: DtypeBackend = "numpy_nullable",
) -> tuple[pd.DataFrame | Executed, str]:
    """Run the statements of a cell; return what the cell shows, and a warning ('' if none).

    One statement: as :func:`read_frame` or :func:`execute` do. Several: one transaction; the rows of the last
    that returns any are shown, else all command tags.
    """

    async def look(connection: AsyncConnection) -> bool:
        async with _lock_bound(connection):
            return (await prepared(connection, sql, params)).returns_rows

    async with similar_tables_named(bind):
        if len(statements(sql)) > 1 or await in_transaction(bind, look, effect="any"):
            return await _run_all(bind, sql, params, numeric, dtype_backend)
    return await execute(bind, sql, params), ""


async def _run_all(
    bind: Bind, sql: str, params: Mapping[str, Any], numeric: Numeric | None, dtype_backend: DtypeBackend
) -> tuple[pd.DataFrame | Executed, str]:
    sent = False

    async def work(connection: AsyncConnection) -> tuple[pd.DataFrame | Executed, str]:
        nonlocal sent
        tags: list[str] = []
        shown: tuple[pd.DataFrame, str] | None = None
        setting = await connection.exec_driver_sql("SHOW standard_conforming_strings")
        conforming = setting.scalar() == "on"
        async with _lock_bound(connection):
            for statement in statements(sql, conforming):
                # If it is off, there may be other parameters than the caller found; `prepared` refuses those.
                names = parameter_names(statement, conforming)
                given = {name: params[name] for name in names if name in params}
                asked = await prepared(connection, statement, given)
                check_runs(asked.query, on_engine=isinstance(bind, AsyncEngine))
                if asked.returns_rows:
                    shown = await read(asked, dtype_backend, numeric, None)
                else:
                    sent = True
                    tags.append(await asked.run())
        return shown or (Executed("; ".join(tags)), "")

    return await in_transaction(bind, work, effect="any", repeatable=lambda: not sent)


@asynccontextmanager
async def _lock_bound(connection: AsyncConnection) -> AsyncIterator[None]:
    """Bound each wait for a lock in a transaction, unless the session's own lock_timeout does."""
    seconds = option(connection, LOCK_OPTION, LOCK_SECONDS)
    bounds = await connection.exec_driver_sql(_BOUND_LOCKS, (f"{max(1, round(seconds * 1000))}ms",))
    bound = bounds.scalar()  # as the server writes it, or None
    try:
        with server_errors_named(connection):
            yield
    except CitykitError as exc:
        if not bound or sqlstate(exc.__cause__ or exc) != Condition.LOCK_NOT_AVAILABLE:
            raise
        raise CitykitError(
            f"A lock was not granted at once (NOWAIT) or within {seconds:g} s (lock_timeout): another "
            "session holds it; nothing was changed. When that session has ended its transaction, run it "
            "again; to wait longer: await citykit.connect(url, lock_timeout=120)"
        ) from exc
    if bound and connection.in_nested_transaction():  # the caller's transaction goes on without the bound
        await connection.exec_driver_sql(_UNBOUND_LOCKS, (bound,))
