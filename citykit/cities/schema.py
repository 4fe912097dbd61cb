"""Creating the tables."""

from __future__ import annotations

from sqlalchemy import Connection, Table, UniqueConstraint, func, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities.folding import FOLDING_ENCODINGS, SEARCH_INDEX, indexed_name
from citykit.cities.model import Base
from citykit.database.locks import CREATING, lock_bound, lock_without_queueing
from citykit.database.server_errors import sqlstate
from citykit.database.transactions import Bind, in_transaction
from citykit.errors import CitykitError
from citykit.runtime.awaiting import says_await


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
        If a table of that name exists that is not citykit's (it lacks columns or the key), or others hold
        the table for longer than the engine waits for a lock (30 s; while `reset` waits, readers go on);
        nothing is changed.

    Examples
    --------
    >>> await citykit.create_tables(engine)
    """

    async def work(connection: AsyncConnection) -> None:
        first = Base.metadata.sorted_tables[0].name
        async with lock_bound(connection, first, UNDONE) as seconds, connection.begin_nested():
            await create(connection, seconds)

    async def create(connection: AsyncConnection, seconds: float) -> None:
        # Held until the commit, so that two notebooks can start at once.
        await connection.execute(select(func.pg_advisory_xact_lock(CREATING)))
        if reset:
            if stored := await connection.run_sync(_stored):
                await lock_without_queueing(connection, stored, seconds, UNDONE)
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all, checkfirst=False)
        else:
            await connection.run_sync(Base.metadata.create_all)
            await _check_columns(connection)
            await connection.run_sync(_create_missing_indexes)

    await in_transaction(bind, work, repeatable=lambda: True)


UNDONE = "nothing was changed"


def _stored(connection: Connection) -> list[str]:
    """Return which of the tables there are."""
    return [table.name for table in Base.metadata.sorted_tables if inspect(connection).has_table(table.name)]


def _create_missing_indexes(connection: Connection) -> None:
    """Create the indexes that an earlier version's table lacks (`create_all` makes them with tables only)."""
    for table in Base.metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


async def create_search_index(engine: AsyncEngine) -> None:
    """Create what answers `find_cities` at once, if the table is large, ours and not being written.

    It is made by the first search and not with the table: it would make every load of a table that nobody
    searches take half as long again.
    """

    async def wanted(connection: AsyncConnection) -> bool:
        args = (SEARCH_INDEX, _LARGE_BYTES, list(FOLDING_ENCODINGS))
        return bool((await connection.exec_driver_sql(_WANTS_SEARCH_INDEX, args)).scalar())

    async def create(connection: AsyncConnection) -> None:
        index = f"INDEX IF NOT EXISTS {SEARCH_INDEX} ON cities USING gin ({indexed_name()} gin_trgm_ops)"
        try:
            async with connection.begin_nested():
                # Readers go on.
                await connection.exec_driver_sql("LOCK TABLE cities IN SHARE ROW EXCLUSIVE MODE NOWAIT")
                await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                await connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
                await connection.exec_driver_sql(f"CREATE {index}")
        except DBAPIError as exc:
            if sqlstate(exc) not in _WITHOUT_SEARCH_INDEX:
                raise

    if await in_transaction(engine, wanted, effect="reads"):
        await in_transaction(engine, create)


_LARGE_BYTES = 1_000_000  # some 10,000 cities, which one pass looks through in 5 ms
_WANTS_SEARCH_INDEX = """
SELECT CASE WHEN to_regclass($1) IS NOT NULL OR pg_relation_size(oid) < $2 THEN false ELSE
    current_setting('server_encoding') = ANY($3::text[])
    AND current_setting('transaction_read_only') = 'off'
    AND pg_has_role(relowner, 'USAGE')
    AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm' AND (
        installed_version IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')
    ))
END FROM pg_class WHERE oid = to_regclass('cities')
"""
_WITHOUT_SEARCH_INDEX = (
    "55P03",  # somebody writes: the next search will see
    "42501",  # no right to create the extension after all
    "58P01",  # its library is missing
    "42704",  # it is in a schema that is not searched
    "42710",  # somebody else created it just now
    "23505",
)


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
