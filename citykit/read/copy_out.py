"""COPY out of the server, as asyncpg's public interface has it: for where its messages cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from citykit.database import ended, started

CHUNK_BYTES = 2 << 20  # a few milliseconds to decode
PATIENCE_SECONDS = 0.1  # that lines wait for more before they are handed over


async def copy_out(raw: Any, sql: str) -> AsyncGenerator[tuple[bytes, str]]:
    """Run ``COPY (sql) TO STDOUT (FORMAT text)``; yield its whole lines in chunks, and last its command tag.

    asyncpg drops what it has buffered when the server says something else between two lines (a NOTICE): the
    tag tells how many there were.
    """
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)  # the server waits when nobody takes them
    rest = bytearray()

    async def take(data: bytes) -> None:
        rest.extend(data)
        if len(rest) >= CHUNK_BYTES and (end := rest.rfind(b"\n") + 1):  # in a value it is written as \\n
            chunk = bytes(rest[:end])
            del rest[:end]
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
                    yield getting.result(), ""
                elif not copying.done() and (end := rest.rfind(b"\n") + 1):
                    chunk = bytes(rest[:end])
                    del rest[:end]
                    yield chunk, ""
            finally:
                getting.cancel()
        tag = await ended(copying, raw)
    yield bytes(rest), tag
