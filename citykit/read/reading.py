"""A statement's rows as one frame or as a stream of frames, typed by the server's column types."""

from __future__ import annotations

import asyncio
import numbers
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from typing import Any

import pandas as pd
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.database import NUMERIC_OPTION, Bind, Numeric, cancelled, in_transaction, option
from citykit.decode import DtypeBackend, UnfitColumnError, Values, shown, to_frame
from citykit.errors import check_choice, say_interrupted, shown_outside
from citykit.read.forbidden import check_runs
from citykit.read.prepared import Prepared, prepared, similar_tables_named
from citykit.read.result import Result, result_of, unfit
from citykit.read.statement import Statement
from citykit.runtime import BETWEEN_FRAMES, WORKING, Progress, reporting, says_await, warn_at_caller

SILENCE_SECONDS = 0.2  # without new rows, after which a frame is yielded with those received so far
THREAD_ROWS = 10_000  # from this size a frame is made in a thread, so that the event loop goes on


@says_await
async def read_frame(
    bind: Bind,
    statement: Statement,
    params: Mapping[str, Any] | None = None,
    *,
    dtype_backend: DtypeBackend = "numpy_nullable",
    numeric: Numeric | None = None,
    progress: Progress = None,
) -> pd.DataFrame:
    """Run a statement and return its rows as a frame, typed by the server's column types.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine: a transaction of its own, committed. It is run again, at most twice, if the connection is
        lost before the COMMIT or the transaction conflicts with another (SQLSTATE 40001, 40P01). A connection
        or a session: a savepoint in the caller's transaction.
    statement : str or sqlalchemy.Executable
        SQL text with ``:named`` parameters, or a ``select()``, ``text()``, …; one statement that returns
        rows: ``SELECT``, ``VALUES``, ``WITH``, ``SHOW``, ``INSERT … RETURNING``, ….
    params : mapping, optional
        The value of each parameter. None: there are none. Each is sent with the type of its Python value:
        bool, int (as the digits in SQL: integer, bigint or numeric), float (double precision), Decimal,
        bytes, date, datetime, time, timedelta, UUID, dict (jsonb), lists, arrays and Series (an array of
        the server's, for ``= ANY (:list)`` and ``IN :list``, or JSON where the statement takes that); the
        value of an Enum's member. Text, in a list too, is read as the type that the statement takes there,
        as a literal in quotes is: as JSON for jsonb and jsonb[]. NA, NaT and None are NULL.
    dtype_backend : {"numpy_nullable", "numpy", "pyarrow"}
        Which family of pandas dtypes; the README has the table. They never depend on values: no rows, NULL
        and values give the same.
    numeric : {"float", "decimal"}, optional
        How numerics are read. "float": double precision, as float() reads their text; a warning names
        the columns with a value whose whole part does not fit (beyond 2**53). "decimal": exactly, as
        Decimals. None: as the engine says (``connect(numeric=…)``), else "float".
    progress : bool or callable, optional
        None: a bar from 200,000 rows up, in terminals and notebooks. A callable gets
        ``(rows_done, None)`` while rows arrive: the total is known only at the end.

    Returns
    -------
    DataFrame, shape (rows, columns of the statement)
        Columns as the server names them; a repeated name stays repeated.

    Raises
    ------
    CitykitError
        What the server says about the statement, with the line, a caret and its hint; a parameter
        without a value or a value without a parameter; a value that pandas, or a float, cannot hold.
    MissingTableError
        If it names a table that does not exist.

    Examples
    --------
    >>> frame = await citykit.read_frame(
    ...     engine, "SELECT name, population FROM cities WHERE country = :country LIMIT 1", {"country": "MC"}
    ... )
    >>> frame.dtypes.astype(str).to_dict()
    {'name': 'string', 'population': 'Int32'}
    """
    _check_choices(dtype_backend, numeric)

    async def work(connection: AsyncConnection) -> tuple[pd.DataFrame, str]:
        asked = await _prepared(bind, connection, statement, params)
        return await read(asked, dtype_backend, numeric, progress)

    async with similar_tables_named(bind):
        frame, warning = await in_transaction(bind, work, effect="any")
    if warning:
        warn_at_caller(warning)
    return frame


async def _prepared(
    bind: Bind, connection: AsyncConnection, statement: Statement, params: Mapping[str, Any] | None
) -> Prepared:
    asked = await prepared(connection, statement, params)
    if not asked.returns_rows:  # refused here as `execute` refuses it, which the error would name
        check_runs(asked.query, on_engine=isinstance(bind, AsyncEngine))
    return asked


async def read(
    asked: Prepared, dtype_backend: DtypeBackend, numeric: Numeric | None, progress: Progress
) -> tuple[pd.DataFrame, str]:
    """Run a prepared statement; return its rows, and a warning for the caller to issue ('' if none)."""
    result = await result_of(asked, _numeric(asked, numeric), dtype_backend)
    columns: list[list[Values]] = [[] for _ in result.types]
    rows = 0
    with reporting(progress, None, "reading") as report:
        async with aclosing(result.batches) as batches:
            async for batch in batches:
                for parts, part in zip(columns, batch, strict=True):
                    parts.append(part)
                rows += len(batch[0])
                report.advance(rows)
    return await _framed(result, columns, rows, dtype_backend), _warning(result, result.lost)


def _numeric(asked: Prepared, numeric: Numeric | None) -> Numeric:
    wanted: Numeric = option(asked.connection, NUMERIC_OPTION, "float") if numeric is None else numeric
    check_choice("numeric", wanted, Numeric)
    return wanted


def _warning(result: Result, lost: Iterable[int]) -> str:
    """Return the warning about numerics that lost digits as floats; '' if none did."""
    values = [f"{result.names[number]!r} ({shown(result.lost[number])})" for number in lost]
    if not values:
        return ""
    return (
        f"column{'s' * (len(values) > 1)} {', '.join(values)}: a whole number beyond 2**53 was rounded, "
        'because numerics are read as floats, which keep 15 to 17 digits. All digits: numeric="decimal"'
    )


async def stream_frames(
    bind: Bind,
    statement: Statement,
    params: Mapping[str, Any] | None = None,
    *,
    chunk_rows: int = 100_000,
    dtype_backend: DtypeBackend = "numpy_nullable",
    numeric: Numeric | None = None,
) -> AsyncGenerator[pd.DataFrame, None]:
    """Run a statement and yield its rows in frames, with no more than a few chunks in memory.

    Parameters
    ----------
    bind, statement, params, dtype_backend, numeric
        As for :func:`read_frame`. The transaction lasts as long as the loop.
    chunk_rows : int
        Rows of each frame, 1 or more. A frame has fewer if it is the last, or if no more rows came from the
        server for 0.2 s.

    Yields
    ------
    DataFrame, shape (≤ chunk_rows, columns of the statement)
        The index goes on from frame to frame. At least one frame, which may have no rows.

    Notes
    -----
    The server sends rows in blocks of 8 kB, and the rest at the end: a slow statement with short rows yields
    its first frame only when a block is full.

    Leaving the loop early cancels the statement on the server. After ``break``, Python does that as soon
    as nothing refers to the iterator; ``async with contextlib.aclosing(frames)`` waits for it.

    Examples
    --------
    >>> rows = 0
    >>> async for frame in citykit.stream_frames(engine, "SELECT name FROM cities", chunk_rows=10_000):
    ...     rows += len(frame)
    >>> rows
    33839
    """
    with shown_outside:
        _check_choices(dtype_backend, numeric)
        whole = isinstance(chunk_rows, numbers.Integral) and not isinstance(chunk_rows, bool)
        if not whole or chunk_rows < 1:
            raise ValueError(f"chunk_rows is the number of rows in a frame, 1 or more, not {chunk_rows!r}")
        size = int(chunk_rows)
    frames: asyncio.Queue[tuple[pd.DataFrame, str]] = asyncio.Queue(1)
    queued = False

    async def work(connection: AsyncConnection) -> None:
        nonlocal queued
        start = 0
        asked = await _prepared(bind, connection, statement, params)
        result = await result_of(asked, _numeric(asked, numeric), dtype_backend)
        warned: set[int] = set()
        async with aclosing(result.batches), aclosing(_cut(result, size)) as chunks:
            async for columns, rows in chunks:
                frame = await _framed(result, columns, rows, dtype_backend, start)
                frame.index = pd.RangeIndex(start, start + rows)
                start += rows
                lost = result.lost.keys() - warned
                warned |= lost
                queued = True
                await frames.put((frame, _warning(result, sorted(lost))))

    try:
        reading = asyncio.create_task(
            in_transaction(bind, work, effect="any", repeatable=lambda: not queued, task_name=None),
            name=WORKING,
        )
        reading.add_done_callback(lambda it: it.cancelled() or it.exception())  # else asyncio logs it
        while not reading.done() or not frames.empty():
            taking = asyncio.ensure_future(frames.get())
            try:
                await asyncio.wait([taking, reading], return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    frame, warning = taking.result()
                    if warning:
                        warn_at_caller(warning)
                    reading.set_name(BETWEEN_FRAMES)
                    # In a caller's transaction the rollback ends the read.
                    with _ending_with_this_task(reading) if isinstance(bind, AsyncEngine) else nullcontext():
                        yield frame
                    reading.set_name(WORKING)
            finally:
                taking.cancel()
        async with similar_tables_named(bind):
            await reading  # raises unless the transaction has committed
    except asyncio.CancelledError as exc:
        await cancelled(reading)
        say_interrupted(exc, _how_it_ended(reading))
        raise
    finally:
        await cancelled(reading)


@contextmanager
def _ending_with_this_task(reading: asyncio.Future[None]) -> Iterator[None]:
    """Cancel a read if the task that takes its frames is cancelled, or fails, between two of them.

    Such a task may leave the generator open: StreamingResponse does when the client leaves.
    """

    def end(consumer: asyncio.Task[Any]) -> None:
        if consumer.cancelled() or consumer.get_stack(limit=1):  # empty: it has returned
            reading.cancel()

    consumer = asyncio.current_task()
    if consumer:
        consumer.add_done_callback(end)
    try:
        yield
    finally:
        if consumer:
            consumer.remove_done_callback(end)


def _how_it_ended(reading: asyncio.Future[None]) -> str:
    if reading.cancelled():
        try:
            reading.result()
        except asyncio.CancelledError as ended:
            return str(ended)
    return "the stream was interrupted when its statement had ended"


async def _cut(result: Result, size: int) -> AsyncGenerator[tuple[list[list[Values]], int]]:
    """Yield the parts of the columns of `size` rows, or of fewer when no more come for `SILENCE_SECONDS`."""
    columns: list[list[Values]] = [[] for _ in result.types]
    rows = 0
    yielded = False
    try:
        coming = asyncio.ensure_future(anext(result.batches))
        while True:
            await asyncio.wait([coming], timeout=SILENCE_SECONDS if rows else None)
            if not coming.done():
                yield columns, rows
                columns, rows, yielded = [[] for _ in result.types], 0, True
                continue
            try:
                batch = coming.result()
            except StopAsyncIteration:
                break
            start = 0
            while start < len(batch[0]) or not len(batch[0]):
                end = min(len(batch[0]), start + size - rows)
                for parts, part in zip(columns, batch, strict=True):
                    parts.append(part[start:end])
                rows, start = rows + end - start, end
                if rows == size:
                    yield columns, rows
                    columns, rows, yielded = [[] for _ in result.types], 0, True
                if start == len(batch[0]):
                    break
            coming = asyncio.ensure_future(anext(result.batches))
        if rows or not yielded:
            yield columns, rows
    finally:
        await cancelled(coming)


async def _framed(
    result: Result, columns: list[list[Values]], rows: int, dtype_backend: DtypeBackend, start: int = 0
) -> pd.DataFrame:
    try:
        if rows < THREAD_ROWS:
            return to_frame(result.names, result.types, columns, dtype_backend)
        return await asyncio.to_thread(to_frame, result.names, result.types, columns, dtype_backend)
    except UnfitColumnError as exc:
        raise unfit(exc, result.names, result.types, start) from exc


def _check_choices(dtype_backend: object, numeric: object) -> None:
    if numeric is not None:
        check_choice("numeric", numeric, Numeric)
    check_choice("dtype_backend", dtype_backend, DtypeBackend)
