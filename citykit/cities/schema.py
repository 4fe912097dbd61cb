"""Creating the tables."""

from __future__ import annotations

from sqlalchemy import Connection, Table, UniqueConstraint, func, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.cities.model import Base
from citykit.database import (
    CREATING,
    Bind,
    Condition,
    in_transaction,
    lock_bound,
    lock_without_queueing,
    server_message,
    sqlstate,
)
from citykit.errors import CitykitError
from citykit.runtime import says_await

UNDONE = "nothing was changed"
# The right to create a table, for a role that lacks it in the schema where tables are created.
_GRANT = text("""
SELECT format('GRANT CREATE, USAGE ON SCHEMA %I TO %I', current_schema(), current_user)
WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
""")


@says_await
async def create_tables(bind: Bind, *, reset: bool = False) -> None:
    """Create the tables and indexes that do not exist yet.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine commits; with a connection or a session, the caller does.
    reset : bool
        Drop the tables first, **with every row in them**.

    Raises
    ------
    CitykitError
        If a table of that name exists that is not citykit's (it lacks columns or the key), if the role may
        not create tables, or if others hold the table for longer than the engine waits for a lock (30 s;
        while `reset` waits, readers go on, but for 2 s if it ends an autovacuum); nothing is changed.

    Examples
    --------
    >>> await citykit.create_tables(engine)
    """

    async def work(connection: AsyncConnection) -> None:
        first = connection.dialect.identifier_preparer.format_table(Base.metadata.sorted_tables[0])
        async with lock_bound(connection, first, UNDONE) as seconds, connection.begin_nested():
            await create(connection, seconds)

    async def create(connection: AsyncConnection, seconds: float) -> None:
        # Held until the commit: two notebooks may create the tables at the same time.
        await connection.execute(select(func.pg_advisory_xact_lock(CREATING)))
        if reset:
            if stored := await connection.run_sync(_stored):
                await lock_without_queueing(connection, stored, seconds, UNDONE)
            await connection.run_sync(Base.metadata.drop_all)
            await _create_all(connection, checkfirst=False)
        else:
            await _create_all(connection, checkfirst=True)
            await _check_columns(connection)
            await connection.run_sync(_create_missing_indexes)

    await in_transaction(bind, work, repeatable=lambda: True)


def _stored(connection: Connection) -> list[str]:
    """Return the tables that exist, as SQL writes their names."""
    preparer, inspector = connection.dialect.identifier_preparer, inspect(connection)
    return [
        preparer.format_table(table)
        for table in Base.metadata.sorted_tables
        if inspector.has_table(table.name, schema=table.schema)
    ]


async def _create_all(connection: AsyncConnection, *, checkfirst: bool) -> None:
    try:
        async with connection.begin_nested():
            await connection.run_sync(Base.metadata.create_all, checkfirst=checkfirst)
    except DBAPIError as exc:
        if sqlstate(exc) == Condition.INSUFFICIENT_PRIVILEGE and (grant := await connection.scalar(_GRANT)):
            raise CitykitError(
                f"{server_message(exc)}; {UNDONE}. Its owner gives the right with SQL: {grant}"
            ) from exc
        raise


def _create_missing_indexes(connection: Connection) -> None:
    """Create the indexes that an earlier version's table lacks (`create_all` makes them with tables only)."""
    for table in Base.metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


async def _check_columns(connection: AsyncConnection) -> None:
    for table in Base.metadata.sorted_tables:
        found = await connection.run_sync(_column_names, table)
        missing = [f"column {column.name!r}" for column in table.columns if column.name not in found]
        unique = await connection.run_sync(_unique_columns, table)
        for constraint in table.constraints:
            if isinstance(constraint, UniqueConstraint) and not missing:
                key = constraint.columns.keys()
                missing += [] if frozenset(key) in unique else [f"unique key ({', '.join(key)})"]
        if missing:
            raise CitykitError(
                f"a table {table.name!r} that is not citykit's exists: it has no {', no '.join(missing)}; "
                "nothing was changed. Use another database, or replace it and lose its rows: "
                "await citykit.create_tables(engine, reset=True)"
            )


def _column_names(connection: Connection, table: Table) -> set[str]:
    return {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}


def _unique_columns(connection: Connection, table: Table) -> set[frozenset[str | None]]:
    indexes = inspect(connection).get_indexes(table.name, schema=table.schema)
    return {frozenset(index["column_names"]) for index in indexes if index["unique"]}
