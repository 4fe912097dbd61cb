"""Takes DataRow and CopyData messages off a connection before asyncpg does.

asyncpg would make a Python object of each value. All other messages are forwarded to it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from citykit.database import ConnectionLostError, ended, started
from citykit.decode import (
    COPIED,
    ROW,
    SLACK,
    Bytes,
    Values,
    copied_lines,
    decode,
    unpack,
    whole_copies,
    whole_rows,
)
from citykit.errors import CitykitError
from citykit.pgtypes import Type

T = TypeVar("T")

CHUNK_BYTES = 1 << 20  # two milliseconds to unpack, of up to CHUNK_COLUMNS
CHUNK_COLUMNS = 32  # for each so many more a chunk is larger: unpacking a column of a few rows does not pay
MOST_CHUNK_BYTES = 1 << 23
ROOM_BYTES = 1 << 18  # in a buffer after a chunk, for the last read from the socket
HEAD_BYTES = 1 << 13  # in a buffer before the chunk, for an incomplete row at the end of the previous chunk
CHUNKS_WAITING = 2  # at most; then reading from the socket pauses, and the server waits
PATIENCE_SECONDS = 0.1  # after which a chunk that is not full is taken
THREAD_BYTES = 1 << 16  # from this size a chunk is unpacked in a thread
# The server sends 8 KiB at a time, and asyncio runs a turn of the event loop for each. Once PIECE_BYTES have
# come, a short sleep after each smaller read lets more collect in the socket's buffer (0.2 MB on the same
# machine) without filling it: a large result takes a quarter of the time.
PIECE_BYTES = 1 << 17
SLEEP_SECONDS = 0 if sys.platform == "win32" else 0.0004  # Windows' timers tick every 16 ms
_HEADER = 5  # bytes of a message: its type, and its length without the type
_NOTHING: Bytes = np.zeros(SLACK, np.uint8)
_READY = b"Z\0\0\0\5"  # how ReadyForQuery begins; one byte follows


class Answer(Protocol):
    """The type of message that an answer's rows come in, and how such messages are decoded."""

    kind: int

    @property
    def columns(self) -> int:
        """How many there are."""

    def whole(self, data: Bytes) -> tuple[Any, Any]:
        """Return where each whole message at the beginning of `data` begins and ends."""

    def take(self, data: Bytes) -> tuple[list[Values], int]:
        """Return the columns of the whole messages at the beginning of `data`, and where those end."""


@dataclass
class Rows:
    """The answer to a statement whose columns are of `pgtypes.EXACT`: DataRow messages, in binary."""

    oids: Sequence[int]
    kind: int = ROW

    @property
    def columns(self) -> int:
        """See `Answer`."""
        return len(self.oids)

    def whole(self, data: Bytes) -> tuple[Any, Any]:
        """See `Answer`."""
        return whole_rows(data, len(self.oids))

    def take(self, data: Bytes) -> tuple[list[Values], int]:
        """See `Answer`."""
        return unpack(data, self.oids)


@dataclass
class Lines:
    """The answer to ``COPY … TO STDOUT (FORMAT text)``: CopyData messages."""

    types: Sequence[Type]
    lost: dict[int, str]
    kind: int = COPIED
    _begun: bytes = b""  # the beginning of a line whose end has not come

    @property
    def columns(self) -> int:
        """See `Answer`."""
        return len(self.types)

    def whole(self, data: Bytes) -> tuple[Any, Any]:
        """See `Answer`."""
        return whole_copies(data)

    def take(self, data: Bytes) -> tuple[list[Values], int]:
        """See `Answer`."""
        lines, used = copied_lines(data)
        if self._begun or not lines.endswith(b"\n"):
            lines = self._begun + lines
            end = lines.rfind(b"\n") + 1
            lines, self._begun = lines[:end], lines[end:]
        return decode(lines, self.types, self.lost), used


async def rows_out(
    raw: Any, transport: Any, operation: Coroutine[Any, Any, T], answer: Answer, tag: Callable[[T], str]
) -> AsyncGenerator[list[Values]]:
    """Start an operation of asyncpg and yield the rows of its answer in batches; at least one.

    asyncpg sees no row. `tag` returns the command tag (``SELECT 10``) from the operation's result.
    Closing the generator early cancels the operation on the server.
    """
    rows = 0
    async with started(raw, operation) as asking:
        diverted = _Diverted(transport, asking, answer)
        async with aclosing(diverted.batches()) as batches:
            async for batch in batches:
                rows += len(batch[0])
                yield batch
        result = await ended(asking, raw)
        if diverted.discarding:
            raise ConnectionLostError("the connection was closed before all rows were taken")
    check_complete(tag(result), rows)


def check_complete(tag: str, rows: int) -> None:
    """Compare the rows of an answer with the number in its command tag (``SELECT 10``), if it has one."""
    number = tag.split(" ")[-1]
    if number.isdecimal() and int(number) != rows:
        raise CitykitError(
            f"The server sent {int(number):,} rows, of which {rows:,} arrived: asyncpg drops buffered rows "
            "when a NOTICE comes between them; nothing was changed. Read without notices: await citykit."
            "connect(url, connect_args={'server_settings': {'client_min_messages': 'error'}})"
        )


class _Diverted(asyncio.BufferedProtocol):
    """The transport's protocol during one answer: keeps its rows, forwards all other messages to asyncpg.

    Chunks of what was received wait in `_chunks` until `batches` takes them.
    """

    def __init__(self, transport: Any, asking: asyncio.Future[Any], answer: Answer) -> None:
        self.discarding = False
        self._transport, self._asking, self._answer = transport, asking, answer
        self._asyncpg: Any = None
        self._diverting = False
        self._chunks: deque[tuple[Bytes, int]] = deque()
        self._news = asyncio.Event()  # there is another chunk, or the answer has ended
        self._paused = False
        self._begun = [_NOTHING[:0]]  # the beginning of a message that is not whole yet
        self._needed = 0  # the size of that message; 0: its length has not come yet
        self._spare: list[Bytes] = []  # buffers to use again: fresh memory costs page faults
        self._chunk = min(CHUNK_BYTES * (1 + answer.columns // CHUNK_COLUMNS), MOST_CHUNK_BYTES)
        self._buffer = np.empty(HEAD_BYTES + self._chunk + ROOM_BYTES + SLACK, np.uint8)
        self._end = HEAD_BYTES  # where the next bytes go in the buffer
        self._received = 0
        # Called after the first step of `asking`, which sends the statement or fails.
        asyncio.get_running_loop().call_soon(self._begin)
        asking.add_done_callback(self._ended)

    def _begin(self) -> None:
        if not self._asking.done():
            self._asyncpg = self._transport.get_protocol()
            self._transport.set_protocol(self)
            self._diverting = True

    def _ended(self, _: object) -> None:
        if not self._asking.cancelled():
            self._asking.exception()  # else asyncio logs that it was never retrieved
        if self._diverting:  # asyncpg ended it before ReadyForQuery: a cancel, a timeout
            self.discard()
        self._news.set()

    async def batches(self) -> AsyncGenerator[list[Values]]:
        """Yield the columns of each chunk's rows; at least one batch, unless the statement fails."""
        rows = False
        while chunk := await self._next_chunk():
            buffer, end = chunk
            data = self._with_begun(buffer, end)
            if data is None:
                continue
            left = data[:-SLACK]
            while 0 < (size := _size(left)) <= len(left):
                self._begun = [left]
                if left[0] == self._answer.kind:
                    batch, used = await self._read(data[-len(left) - SLACK :])
                    if self.discarding:
                        return
                    left, rows = left[used:], True
                    self._begun = [left]
                    yield batch
                    if self.discarding:
                        return
                else:
                    left = left[self._forward(left.data, size) :]
            self._needed = size
            self._begun = [left.copy()]
            self._spare.append(buffer)
        if not rows and not self.discarding:
            yield self._answer.take(_NOTHING)[0]

    async def _read(self, data: Bytes) -> tuple[list[Values], int]:
        if len(data) < THREAD_BYTES:
            batch, used = self._answer.take(data)
        else:
            batch, used = await asyncio.to_thread(self._answer.take, data)
        if not used:
            raise ConnectionLostError("the server sent a row that has another number of columns")
        return batch, used

    async def _next_chunk(self) -> tuple[Bytes, int] | None:
        """Return the next chunk and its end, None after the last."""
        while not self._chunks:
            if self._asking.done() or self.discarding:
                return None
            self._news.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._queue_chunk()
        chunk = self._chunks.popleft()
        self._resume_reading()
        return chunk

    def _with_begun(self, buffer: Bytes, end: int) -> Bytes | None:
        """Return the begun message, the chunk and `SLACK` as one array; None while no message is whole."""
        begun = sum(map(len, self._begun))
        if begun + end - HEAD_BYTES < self._needed:  # a row larger than a chunk
            self._begun.append(buffer[HEAD_BYTES:end])
            return None
        if begun > HEAD_BYTES:
            return np.concatenate([*self._begun, buffer[HEAD_BYTES : end + SLACK]])
        data = buffer[HEAD_BYTES - begun : end + SLACK]
        data[:begun] = np.concatenate(self._begun)
        return data

    def discard(self) -> None:
        """Drop the rows that wait here and all that the server still sends; forward the other messages."""
        self.discarding = True
        self._begun += self._waiting()
        self._needed = 0
        self._skip()
        self._news.set()
        self._resume_reading()

    def _skip(self) -> None:
        if sum(map(len, self._begun)) < self._needed:
            return
        data = np.concatenate([*self._begun, _NOTHING])
        left = data[:-SLACK]
        while 0 < (size := _size(left)) <= len(left):
            if left[0] == self._answer.kind:
                _, ends = self._answer.whole(data[-len(left) - SLACK :])
                left = left[ends[-1] if len(ends) else size :]
            else:
                left = left[self._forward(left.data, size) :]
        self._begun, self._needed = [left], size

    def _forward(self, data: memoryview, size: int) -> int:
        """Forward one message to asyncpg; on ReadyForQuery hand the transport back with all that is buffered.

        Returns how many bytes were forwarded.
        """
        if data[: len(_READY)] == _READY:
            self._diverting = False
            self._transport.set_protocol(self._asyncpg)
            self._asyncpg.data_received(b"".join(map(bytes, (data, *self._waiting()))))
            return len(data)
        self._asyncpg.data_received(bytes(data[:size]))
        return size

    def _waiting(self) -> list[Bytes]:
        """Remove and return all that was received and not taken."""
        self._queue_chunk()
        pieces = [buffer[HEAD_BYTES:end] for buffer, end in self._chunks]
        self._chunks.clear()
        return pieces

    def _queue_chunk(self) -> None:
        """Append the chunk that is being filled to those that wait, if anything is in it."""
        if self._end > HEAD_BYTES:
            self._chunks.append((self._buffer, self._end))
            self._buffer = self._spare.pop() if self._spare else np.empty(len(self._buffer), np.uint8)
            self._end = HEAD_BYTES
            self._news.set()

    def _resume_reading(self) -> None:
        if self._paused and len(self._chunks) < CHUNKS_WAITING:
            self._paused = False
            self._transport.resume_reading()

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return the memory that the next bytes are read into."""
        return self._buffer[self._end : -SLACK].data

    def buffer_updated(self, nbytes: int) -> None:
        """Note that bytes were read into the buffer; see `PIECE_BYTES` for the sleep."""
        self._end += nbytes
        self._received += nbytes
        if self.discarding:
            self._begun.append(self._buffer[HEAD_BYTES : self._end].copy())
            self._end = HEAD_BYTES
            self._skip()
        elif self._buffer[self._end - len(_READY) - 1 : self._end - 1].tobytes() == _READY:
            self._queue_chunk()
        elif self._end >= HEAD_BYTES + self._chunk:
            self._queue_chunk()
            if len(self._chunks) >= CHUNKS_WAITING:
                self._paused = True
                self._transport.pause_reading()
        elif nbytes < PIECE_BYTES <= self._received:
            time.sleep(SLEEP_SECONDS)

    def eof_received(self) -> Any:
        """Forward it to asyncpg."""
        return self._asyncpg.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward it to asyncpg, after the messages that came before."""
        self._paused = False
        if self._diverting:
            self.discard()
        self._diverting = False
        self._asyncpg.connection_lost(exc)

    def pause_writing(self) -> None:
        """Forward it to asyncpg."""
        self._asyncpg.pause_writing()

    def resume_writing(self) -> None:
        """Forward it to asyncpg."""
        self._asyncpg.resume_writing()


def _size(data: Bytes | memoryview) -> int:
    """Return the size of the message that `data` begins with; 0 where its length has not come yet."""
    return 1 + int.from_bytes(bytes(data[1:_HEADER]), "big") if len(data) >= _HEADER else 0
