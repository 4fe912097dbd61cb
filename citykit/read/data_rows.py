"""The rows of an answer, kept from the driver, which would make an object of each value."""

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
from citykit.decode import COPIED, ROW, SLACK, Bytes, Values, copied, decode, unpack, whole_copies, whole_rows
from citykit.errors import CitykitError
from citykit.pgtypes import Type

T = TypeVar("T")

CHUNK_BYTES = 1 << 20  # two milliseconds to unpack
ROOM_BYTES = 1 << 18  # for what the last piece of a chunk brings beyond it
HEAD_BYTES = 1 << 13  # for the beginning of a row, which the chunk before ends with
CHUNKS_WAITING = 2  # the server waits when nobody takes them
PATIENCE_SECONDS = 0.1  # that a few rows wait for more, or for the end of the answer, before they are taken
THREAD_BYTES = 1 << 16  # from here up, a chunk is unpacked in a thread
# The server sends 8 KiB at a time, and asyncio makes of each a turn of the event loop. Where pieces come as
# small as that, more of them gather in the socket while the loop's thread sleeps, for so short a time that
# the socket (0.2 MB on the same machine) does not get full: a quarter of the time for a large result.
PIECE_BYTES = 1 << 17
SLEEP_SECONDS = 0 if sys.platform == "win32" else 0.0004  # whose timers tick every 16 ms
_HEADER = 5  # of a message: its kind, and its size without the kind
_NOTHING: Bytes = np.zeros(SLACK, np.uint8)
_READY = b"Z\0\0\0\5"  # the last message of an answer begins so, and has one byte more


class Answer(Protocol):
    """What an answer of the server consists of: messages of one kind, a row or a line in each."""

    kind: int

    def whole(self, data: Bytes) -> tuple[Any, Any]:
        """Return where each of the whole messages begins and ends that `data` begins with."""

    def take(self, data: Bytes) -> tuple[list[Values], int]:
        """Return the columns of those messages, and where they end."""


@dataclass
class Rows:
    """The answer to a statement whose columns are of `pgtypes.EXACT`: DataRow messages, in binary."""

    oids: Sequence[int]
    kind: int = ROW

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
    kind: int = COPIED
    _begun: bytes = b""  # of a line whose end has not come yet

    def whole(self, data: Bytes) -> tuple[Any, Any]:
        """See `Answer`."""
        return whole_copies(data)

    def take(self, data: Bytes) -> tuple[list[Values], int]:
        """See `Answer`."""
        lines, used = copied(data)
        if self._begun or not lines.endswith(b"\n"):
            lines = self._begun + lines
            end = lines.rfind(b"\n") + 1
            lines, self._begun = lines[:end], lines[end:]
        return decode(lines, self.types), used


async def rows_out(
    raw: Any, transport: Any, operation: Coroutine[Any, Any, T], answer: Answer, tag: Callable[[T], str]
) -> AsyncGenerator[list[Values]]:
    """Start an operation of the driver and yield the rows of its answer in batches; at least one.

    The driver is told of no row. `tag` is called with what it returns, for the answer's command tag, which
    tells how many rows there were. Closing it early cancels the operation on the server.
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
            f"The server sent {int(number):,} rows, of which {rows:,} arrived: the driver lost the others "
            "to what else the server said between them; nothing was changed. Read them without its notices: "
            "SET client_min_messages = error"
        )


class _Diverted(asyncio.BufferedProtocol):
    """Stands between a connection and its driver for one answer of the server, and keeps the rows of it.

    All other messages of the server are forwarded to the driver, in order.
    """

    def __init__(self, transport: Any, asking: asyncio.Future[Any], answer: Answer) -> None:
        self.discarding = False
        self._transport, self._asking, self._answer = transport, asking, answer
        self._driver: Any = None
        self._diverting = False
        self._chunks: deque[tuple[Bytes, int]] = deque()
        self._news = asyncio.Event()  # a chunk, or the end
        self._paused = False
        self._begun = [_NOTHING[:0]]  # all that was taken from the chunks, from the first message not told
        self._needed = 0  # bytes for that message to be whole, as far as it is known
        self._spare: list[Bytes] = []  # fresh memory takes long
        self._buffer = np.empty(HEAD_BYTES + CHUNK_BYTES + ROOM_BYTES + SLACK, np.uint8)
        self._end = HEAD_BYTES  # of what is in the buffer
        self._received = 0
        # After the first step of `asking`, which sends the statement or fails.
        asyncio.get_running_loop().call_soon(self._begin)
        asking.add_done_callback(self._ended)

    def _begin(self) -> None:
        if not self._asking.done():
            self._driver = self._transport.get_protocol()
            self._transport.set_protocol(self)
            self._diverting = True

    def _ended(self, _: object) -> None:
        if not self._asking.cancelled():
            self._asking.exception()  # retrieved, so that asyncio does not complain of it
        if self._diverting:  # asyncpg has given up before the server's last word
            self.discard()
        self._news.set()

    async def batches(self) -> AsyncGenerator[list[Values]]:
        """Yield the rows as columns, in the batches in which they come; at least one, but for a failure."""
        rows = False
        while chunk := await self._taken():
            buffer, end = chunk
            data = self._joined(buffer, end)
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
                    left = left[self._tell(left.data, size) :]
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

    async def _taken(self) -> tuple[Bytes, int] | None:
        """Return the next chunk and its end, None after the last."""
        while not self._chunks:
            if self._asking.done() or self.discarding:
                return None
            self._news.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._hand_over()
        chunk = self._chunks.popleft()
        self._go_on()
        return chunk

    def _joined(self, buffer: Bytes, end: int) -> Bytes | None:
        """Return a chunk behind what has begun before it, and `SLACK`; None while no message is whole."""
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
        """Keep no row any more, neither what waits here nor what the server still sends."""
        self.discarding = True
        self._begun += self._waiting()
        self._needed = 0
        self._skip()
        self._news.set()
        self._go_on()

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
                left = left[self._tell(left.data, size) :]
        self._begun, self._needed = [left], size

    def _tell(self, data: memoryview, size: int) -> int:
        """Tell the driver the first message, after the last one everything; return how much that was."""
        if data[: len(_READY)] == _READY:
            self._diverting = False
            self._transport.set_protocol(self._driver)
            self._driver.data_received(b"".join(map(bytes, (data, *self._waiting()))))
            return len(data)
        self._driver.data_received(bytes(data[:size]))
        return size

    def _waiting(self) -> list[Bytes]:
        """Return what nobody has taken, of the chunks and of the one that is being filled."""
        self._hand_over()
        pieces = [buffer[HEAD_BYTES:end] for buffer, end in self._chunks]
        self._chunks.clear()
        return pieces

    def _hand_over(self) -> None:
        """Begin another chunk, if there is anything in this one."""
        if self._end > HEAD_BYTES:
            self._chunks.append((self._buffer, self._end))
            self._buffer = self._spare.pop() if self._spare else np.empty(len(self._buffer), np.uint8)
            self._end = HEAD_BYTES
            self._news.set()

    def _go_on(self) -> None:
        if self._paused and len(self._chunks) < CHUNKS_WAITING:
            self._paused = False
            self._transport.resume_reading()

    # What asyncio calls

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next piece goes."""
        return self._buffer[self._end : -SLACK].data

    def buffer_updated(self, nbytes: int) -> None:
        """Take a piece."""
        self._end += nbytes
        self._received += nbytes
        if self.discarding:
            self._begun.append(self._buffer[HEAD_BYTES : self._end].copy())
            self._end = HEAD_BYTES
            self._skip()
        elif self._buffer[self._end - len(_READY) - 1 : self._end - 1].tobytes() == _READY:
            self._hand_over()
        elif self._end >= HEAD_BYTES + CHUNK_BYTES:
            self._hand_over()
            if len(self._chunks) >= CHUNKS_WAITING:
                self._paused = True
                self._transport.pause_reading()
        elif nbytes < PIECE_BYTES <= self._received:
            time.sleep(SLEEP_SECONDS)

    def eof_received(self) -> Any:
        """Tell the driver."""
        return self._driver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the driver, after what the server has said before."""
        self._paused = False
        if self._diverting:
            self.discard()
        self._diverting = False
        self._driver.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the driver."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """Tell the driver."""
        self._driver.resume_writing()


def _size(data: Bytes | memoryview) -> int:
    """Return the size of the message that `data` begins with; 0: that has not come yet."""
    return 1 + int.from_bytes(bytes(data[1:_HEADER]), "big") if len(data) >= _HEADER else 0
