"""The databases of the embedded PostgreSQL: listing and dropping them. `connect` creates them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database.engine import connect
from citykit.database.server_errors import server_errors_named, sqlstate
from citykit.database.sqlstates import Condition
from citykit.database.urls import DATABASE, can_name_database, quoted
from citykit.errors import CitykitError, did_you_mean

_KEPT = (DATABASE, "template0", "template1")  # the default one, and the templates of CREATE DATABASE
_LIST = text("""
SELECT datname::text AS name, pg_size_pretty(pg_database_size(oid)) AS size,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a
        WHERE a.datid = d.oid AND a.pid <> pg_backend_pid()) AS connections
FROM pg_catalog.pg_database d WHERE NOT datistemplate ORDER BY datname
""")
_CONNECTED = text("""
SELECT pid, application_name AS application, state, to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS') AS since
FROM pg_catalog.pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid() ORDER BY pid LIMIT 4
""")


@dataclass(frozen=True)
class Database:
    """A database of the embedded PostgreSQL."""

    name: str
    size: str  # with its unit, as PostgreSQL shows it
    connections: int  # that are open to it


async def list_databases() -> list[Database]:
    """Return the databases of the embedded PostgreSQL, by name.

    Raises
    ------
    CitykitError
        If CITYKIT_URL names another server.
    """
    async with _administering() as connection:
        return [Database(*row) for row in await connection.execute(_LIST)]


async def drop_database(name: str) -> None:
    """Drop a database of the embedded PostgreSQL, with all that is in it.

    Raises
    ------
    CitykitError
        If there is none of that name, it is PostgreSQL's own, or others are connected to it.
    """
    if not can_name_database(name):
        raise CitykitError(
            f"there is no database {name!r}: a name has 1 to 63 bytes, no NUL and no lone surrogate; "
            "nothing was dropped."
        )
    if name in _KEPT:
        raise CitykitError(f"the database {name!r} belongs to the server itself; nothing was dropped.")
    async with _administering() as connection:
        try:
            await connection.exec_driver_sql(f"DROP DATABASE {quoted(name)}")
        except DBAPIError as exc:
            if sqlstate(exc) == Condition.OBJECT_IN_USE:
                raise await _in_use(connection, name) from exc
            if sqlstate(exc) != Condition.INVALID_CATALOG_NAME:
                raise
            names = [row.name for row in await connection.execute(_LIST)]
            near = did_you_mean(name, names) or f". There are {', '.join(map(repr, names))}."
            raise CitykitError(f"there is no database {name!r}; nothing was dropped{near}") from exc


async def _in_use(connection: AsyncConnection, name: str) -> CitykitError:
    found = (await connection.execute(_CONNECTED, {"name": name})).all()
    shown = "; ".join(
        f"server process {row.pid}" + (f" ({row.application})" if row.application else "")
        + (f", {row.state}" if row.state else "") + f", connected since {row.since}" for row in found
    )  # fmt: skip
    return CitykitError(
        f"the database {name!r} is in use{': ' + shown if shown else ''}; nothing was dropped. End the "
        "notebooks and programs that use it, or close their connections: await engine.dispose()"
    )


@asynccontextmanager
async def _administering() -> AsyncIterator[AsyncConnection]:
    """Open a connection on which each statement is a transaction by itself, to the default database."""
    if os.environ.get("CITYKIT_URL"):
        raise CitykitError(
            "CITYKIT_URL names another server, and this is for the embedded PostgreSQL: unset CITYKIT_URL"
        )
    engine = await connect(database=DATABASE, isolation_level="AUTOCOMMIT")
    try:
        with server_errors_named():
            async with engine.connect() as connection:
                yield connection
    finally:
        await engine.dispose()
