"""COPY out of the server by asyncpg's public methods, if its transport has no known name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from citykit.database import ended, started

CHUNK_BYTES = 2 << 20  # a few milliseconds to decode
PATIENCE_SECONDS = 0.1  # after which the lines of a chunk that is not full are yielded


async def copy_out(raw: Any, sql: str) -> AsyncGenerator[tuple[bytes, str]]:
    """Run ``COPY (sql) TO STDOUT (FORMAT text)``; yield chunks of whole lines, the last with the command tag.

    asyncpg drops buffered lines when a NOTICE comes between two of them: the caller compares the number of
    rows with that in the tag.
    """
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)  # while it is full, the server waits
    rest = bytearray()
    coming = 0  # chunks that are in the queue or wait for room in it: they are yielded before `rest`

    async def take(data: bytes) -> None:
        nonlocal coming
        rest.extend(data)
        if len(rest) >= CHUNK_BYTES and (end := rest.rfind(b"\n") + 1):  # in a value a newline is escaped
            chunk = bytes(rest[:end])
            del rest[:end]
            coming += 1
            await chunks.put(chunk)

    copy = raw.copy_from_query(f"\n{sql}\n", output=take, format="text", encoding="utf8")
    async with started(raw, copy) as copying:
        while not copying.done() or not chunks.empty():
            getting = asyncio.ensure_future(chunks.get())
            try:
                await asyncio.wait(
                    [getting, copying], timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if getting.done():
                    coming -= 1
                    yield getting.result(), ""
                elif not coming and not copying.done() and (end := rest.rfind(b"\n") + 1):
                    chunk = bytes(rest[:end])
                    del rest[:end]
                    yield chunk, ""
            finally:
                getting.cancel()
        tag = await ended(copying, raw)
    yield bytes(rest), tag
