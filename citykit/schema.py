"""Creating the tables."""

from __future__ import annotations

from sqlalchemy import Connection, Table, UniqueConstraint, func, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.awaiting import says_await
from citykit.engine import Bind, sqlstate, transaction
from citykit.errors import CitykitError
from citykit.folding import FOLDING_ENCODINGS, SEARCH_INDEX, folded
from citykit.models import Base

# Whoever creates tables holds this lock until the commit, so that two notebooks can start at once.
_LOCK = 0x6369_7479_6B69_74  # "citykit"


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
        If a table of that name exists that is not citykit's (it lacks columns or the key); nothing is
        changed.

    Examples
    --------
    >>> await citykit.create_tables(engine)
    """
    async with transaction(bind) as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        if reset:
            await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
        await _check_columns(connection)
        await connection.run_sync(_create_missing_indexes)
        await _create_search_index(connection)


def _create_missing_indexes(connection: Connection) -> None:
    """Create the indexes that an earlier version's table lacks (`create_all` makes them with tables only)."""
    for table in Base.metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


async def _create_search_index(connection: AsyncConnection) -> None:
    """Create what answers `find_cities` at once; without the extension or the right to it, go without."""
    encoding = await connection.scalar(text("SELECT current_setting('server_encoding')"))
    available = text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
    exists = select(func.to_regclass(SEARCH_INDEX).is_not(None))
    if await connection.scalar(exists) or encoding not in FOLDING_ENCODINGS:
        return
    if not await connection.scalar(available):
        return
    try:
        async with connection.begin_nested():
            await connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
            await connection.exec_driver_sql(
                f"CREATE INDEX {SEARCH_INDEX} ON cities USING gin ({folded('name')} gin_trgm_ops)"
            )
    except DBAPIError as exc:
        # No right to create the extension, its library is missing, or it is in a schema not searched.
        if sqlstate(exc) not in ("42501", "58P01", "42704"):
            raise


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
