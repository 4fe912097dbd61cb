"""asyncpg's own connection: how its statements are ended, and the private names of it that are used."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database.server_errors import ConnectionLostError, is_closed
from citykit.errors import WrongLoopError

T = TypeVar("T")

# A peer that vanished silently (a firewall, a lost route) is noticed after 30 s of silence and three
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


def keep_alive(connection: Any, options: Mapping[str, int]) -> None:
    """Set the keepalive options of a TCP socket; do nothing on a Unix socket, or without options."""
    transport = transport_of(connection.driver_connection)
    connected = transport.get_extra_info("socket") if transport else None
    if not options or connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        with contextlib.suppress(AttributeError, OSError):  # macOS has fewer
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@asynccontextmanager
async def started(raw: Any, operation: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run an operation of asyncpg's connection as a task, which has ended when the block has.

    If the block is left early, the operation is cancelled: asyncpg sends a CancelRequest, and its next
    statement begins by waiting for the server's ReadyForQuery. The operation is also cancelled when the
    connection ends, because asyncpg would wait without end for room in the buffer of a COPY.
    """
    task = asyncio.ensure_future(operation)

    def give_up(_: object) -> None:
        # Later, so that asyncpg can first raise the last error that the server sent.
        asyncio.get_running_loop().call_soon(task.cancel)

    raw.add_termination_listener(give_up)
    try:
        yield task
    finally:
        raw.remove_termination_listener(give_up)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            await cancelled_on_server(raw)
        if not task.cancelled():
            task.exception()  # retrieved, also where the block was left without awaiting it


async def cancelled_on_server(raw: Any) -> None:
    """Wait until the server has ended a cancelled statement; close the connection if it has not within 2 s.

    The next statement of asyncpg waits for the ReadyForQuery of the cancelled one. No ReadyForQuery comes
    after a COPY that had failed just before it was cancelled; the connection is then closed. Meanwhile the
    CancelRequest is sent again: the server ignores one that comes between Bind and Execute, and PostgreSQL 15
    one that comes while it compiles a statement for the first time (JIT). If asyncpg no longer has
    `_cancel_current_command`, it is not sent again.
    """
    send = getattr(raw, "_cancel_current_command", None)
    asking = asyncio.ensure_future(raw.execute("SELECT", timeout=CANCEL_SECONDS))
    try:
        await asyncio.wait([asking], timeout=CANCEL_AGAIN_SECONDS)
        while not asking.done():
            sent = asyncio.get_running_loop().create_future()
            if send:
                send(sent)  # starts a task of the connection, which ends with it
                # A CancelRequest that is still on its way could end a later statement.
                await asyncio.wait([sent], timeout=CANCEL_SECONDS)
            await asyncio.wait([asking], timeout=CANCEL_AGAIN_SECONDS)
        if not isinstance(asking.exception(), asyncpg.PostgresError | None):
            raw.terminate()
    finally:
        asking.cancel()


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


def hang_up(raw: Any) -> None:
    """End a connection whose loop does not run; the shutdown of its socket tells the server at once.

    The file descriptor is closed when the loop runs again or, if that is closed, when Python collects the
    transport, with a ResourceWarning. If asyncpg no longer has `_transport`, the server learns of it then.
    """
    transport: Any = transport_of(raw)
    with contextlib.suppress(AttributeError, OSError):
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def check_loop(connection: AsyncConnection) -> None:
    """Refuse a connection that another loop has opened, before anything is sent over it."""
    opened = connection.sync_connection
    if opened is None or opened.closed or opened.invalidated:
        return  # SQLAlchemy's own error says which
    owner = getattr(opened.connection.driver_connection, "_loop", None)
    if owner is not None and owner is not asyncio.get_running_loop():
        raise WrongLoopError(
            "This connection was opened in another event loop (another thread, another asyncio.run, another "
            "citykit.run), and nothing was sent over it. Open one in this loop: an engine from "
            "citykit.connect() has connections for every loop, async with engine.connect() as connection."
        )
