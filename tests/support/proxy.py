"""A network between citykit and its server that does what networks and servers do seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

READY = b"Z\0\0\0\5"
CANCEL_REQUEST = (80877102).to_bytes(4, "big")  # after the length of the message
Passing = Callable[[bytes], tuple[list[bytes], bool]]


@asynccontextmanager
async def proxied(engine: AsyncEngine, passing: Passing, *, lost_cancels: int = 0) -> AsyncIterator[URL]:
    """Give the URL of a proxy of the engine's server.

    `passing` is given what the server says; it returns what goes on, in pieces that come one by one, and
    whether the connection ends then. The first `lost_cancels` CancelRequests do not reach the server.
    """
    url = engine.url

    async def upstream() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if url.host:
            return await asyncio.open_connection(url.host, url.port)
        return await asyncio.open_unix_connection(f"{url.query['host']}/.s.PGSQL.{url.query['port']}")

    serves = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        of_server, to_server = await upstream()

        async def ask() -> None:
            nonlocal lost_cancels
            with contextlib.suppress(ConnectionResetError):  # a pgbouncer that is killed
                while data := await reader.read(1 << 16):
                    if data[4:8] == CANCEL_REQUEST and lost_cancels:
                        lost_cancels -= 1
                        break
                    to_server.write(data)
            to_server.close()

        async def answer() -> None:
            ends = False
            while not ends and (data := await of_server.read(1 << 16)):
                pieces, ends = passing(data)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if len(pieces) > 1:
                        await asyncio.sleep(0.02)
            writer.close()

        serves.append(asyncio.gather(ask(), answer()))

    serving = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = serving.sockets[0].getsockname()[1]
        yield URL.create(
            url.drivername, url.username, url.password, "127.0.0.1", port, url.database, {"ssl": "disable"}
        )
    finally:
        serving.close()
        await asyncio.gather(*serves)
