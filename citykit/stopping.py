"""An end for a statement that nobody waits for any more, which leaves a usable connection."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

STOP_SECONDS = 5.0  # for the server to end it
AGAIN_SECONDS = 0.25  # after which it is told again: what comes while it compiles a query (JIT) may be lost


async def stop(connection: AsyncConnection, raw: Any, asking: asyncio.Future[Any], server_pid: int) -> None:
    """End what `asking` waits for by cancelling it on the server; if that fails, with the connection.

    Cancelling the task would take asyncpg's own way: that counts the next data of a COPY that arrives as the
    answer to the cancel request, and leaves a connection that says another operation is in progress.
    """
    try:
        async with asyncio.timeout(STOP_SECONDS):
            while not asking.done():
                await connection.run_sync(_cancel_on_server, server_pid)
                await asyncio.wait([asking], timeout=AGAIN_SECONDS)
    except (TimeoutError, OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pass
    finally:
        if not asking.done():
            asking.cancel()
            raw.terminate()
            await connection.invalidate()


def _cancel_on_server(connection: Connection, server_pid: int) -> None:
    pool = connection.engine.pool.recreate()  # a connection beside those of the pool, which may be exhausted
    other = pool.connect()
    try:
        other.cursor().execute("SELECT pg_cancel_backend($1)", (server_pid,))
    finally:
        other.close()
        pool.dispose()
