"""asyncpg's own connection: how a statement of it ends, and the names of it that are not public."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.server_errors import DRIVER_ERRORS, ConnectionLostError, is_closed

T = TypeVar("T")

# A peer that is gone without a word (a firewall, a lost route) is noticed after 30 s of silence and three
# unanswered probes, or after 60 s in which nothing that was sent is acknowledged.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}

CANCEL_SECONDS = 2.0  # for the server to end a cancelled statement
CANCEL_AGAIN_SECONDS = 0.1


def driver_of(connection: AsyncConnection) -> Any:
    """Return asyncpg's connection, for what SQLAlchemy has no method for."""
    if is_closed(connection):
        raise ConnectionLostError("it was closed since it was last used")
    assert connection.sync_connection is not None  # noqa: S101  for the type checker: it is not closed
    return connection.sync_connection.connection.driver_connection


def transport_of(raw: Any) -> asyncio.Transport | None:
    """Return the transport of asyncpg's connection; None where asyncpg does not have it under that name."""
    transport: asyncio.Transport | None = getattr(raw, "_transport", None)
    return transport


def keep_alive(raw: Any) -> None:
    """Let the operating system notice a peer that is gone (`KEEPALIVE`); nothing on a Unix socket."""
    transport = transport_of(raw)
    connected = transport.get_extra_info("socket") if transport else None
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        with contextlib.suppress(AttributeError, OSError):  # macOS has fewer
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@asynccontextmanager
async def started(raw: Any, operation: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Start an operation of asyncpg's connection, which has ended when the block has.

    Left early, the operation is cancelled: asyncpg sends a CancelRequest, and lets the next statement wait
    for the server's ReadyForQuery. It is cancelled as well when the connection ends: asyncpg would wait
    without end for room in the buffer of a COPY.
    """
    task = asyncio.ensure_future(operation)

    def give_up(_: object) -> None:
        # After the driver has raised what the server said last, where it does.
        asyncio.get_running_loop().call_soon(task.cancel)

    raw.add_termination_listener(give_up)
    try:
        yield task
    finally:
        raw.remove_termination_listener(give_up)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            await _acknowledged(raw)
        if not task.cancelled():
            task.exception()  # has been seen, also where the block was left without awaiting it


async def _acknowledged(raw: Any) -> None:
    """Wait until the server has answered a cancelled statement, by an empty one that has to wait for that.

    Where no answer comes within 2 s, asyncpg closes the connection. None comes for a COPY that had failed on
    the server just before it was cancelled: asyncpg waits for a second ReadyForQuery.
    """
    empty = asyncio.ensure_future(raw.execute("", timeout=CANCEL_SECONDS))
    again = getattr(raw, "_cancel", None)
    sent_again = False
    while not empty.done():
        await asyncio.wait([empty], timeout=CANCEL_AGAIN_SECONDS)
        if again and not empty.done():
            # PostgreSQL 15 loses a CancelRequest that comes while it compiles a statement for the first time
            # (JIT). Without asyncpg's name for this, it takes the 2 s.
            sending = asyncio.ensure_future(again(asyncio.get_running_loop().create_future()))
            await asyncio.wait([sending], timeout=CANCEL_SECONDS)
            sending.cancel()
            sent_again = True
    if not empty.cancelled():
        empty.exception()  # has been seen
    if sent_again:
        with contextlib.suppress(TimeoutError, *DRIVER_ERRORS):
            await raw.execute("", timeout=CANCEL_SECONDS)  # meets a CancelRequest that comes late


async def ended(task: asyncio.Task[T], raw: Any) -> T:
    """Return the result of a `started` operation.

    Raises
    ------
    ConnectionLostError
        If it was cancelled because the connection ended.
    """
    await asyncio.wait([task])
    if task.cancelled() and raw.is_closed():
        raise ConnectionLostError("the server closed the connection")
    return task.result()
