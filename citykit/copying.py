"""COPY out of the server: whole lines as they arrive, and an end that leaves a usable connection."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.engine import driver_of
from citykit.stopping import stop

CHUNK_BYTES = 2 << 20  # a few milliseconds to decode
# The server sends 8 KiB at a time, and asyncpg makes of each a turn of the event loop. Where pieces come as
# small as that, more of them gather in the socket while we pause: a third of our time for a large result.
PIECE_BYTES = 1 << 17
PAUSE_SECONDS = 0 if sys.platform == "win32" else 0.001  # whose timers tick every 16 ms
CHUNKS_WAITING = 2  # the server waits when nobody takes them


class _Sink:
    """Takes what asyncpg hands over, and hands it on in chunks of whole lines."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.room = asyncio.Semaphore(CHUNKS_WAITING)
        self.discarding = False
        self._pieces: list[bytes] = []
        self._size = 0

    async def take(self, data: bytes) -> None:
        if self.discarding:
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= CHUNK_BYTES and (end := data.rfind(b"\n") + 1):  # text has it as \n, in two letters
            self._pieces[-1], rest = data[:end], data[end:]
            chunk = b"".join(self._pieces)
            self._pieces, self._size = [rest], len(rest)
            await self.room.acquire()
            self.chunks.put_nowait(chunk)
        elif len(data) < PIECE_BYTES <= self._size:
            await asyncio.sleep(PAUSE_SECONDS)

    def end(self) -> None:
        self.chunks.put_nowait(b"".join(self._pieces))
        self.chunks.put_nowait(None)

    def discard(self) -> None:
        self.discarding = True
        self.room.release()


async def copy_out(connection: AsyncConnection, sql: str, server_pid: int) -> AsyncGenerator[bytes]:
    """Run ``COPY (sql) TO STDOUT (FORMAT text)`` and yield its lines in chunks; the last may be empty.

    Closing it early cancels the statement on the server. The connection can be used again after that, or
    is invalidated.
    """
    raw = await driver_of(connection)
    sink = _Sink()
    copying = asyncio.ensure_future(
        raw.copy_from_query(f"\n{sql}\n", output=sink.take, format="text", encoding="utf8")
    )

    def ended(_: object) -> None:
        if not copying.cancelled():
            copying.exception()  # has been seen, also where nobody waits for it any more
        sink.end()

    copying.add_done_callback(ended)

    def give_up(_: object) -> None:
        copying.cancel()

    raw.add_termination_listener(give_up)  # asyncpg would wait forever for a server that vanished meanwhile
    try:
        while (chunk := await sink.chunks.get()) is not None:
            if not copying.done() or (not copying.cancelled() and not copying.exception()):
                yield chunk
                sink.room.release()
        if copying.cancelled():
            raise ConnectionResetError("the server closed the connection")
        await copying  # the server's error, if there was one
    finally:
        raw.remove_termination_listener(give_up)
        if not copying.done():
            sink.discard()
            await stop(connection, raw, copying, server_pid)
