"""Sending rows by COPY, into the table or into a temporary table from which they are merged."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa
from sqlalchemy import FromClause, Table, TableClause, cast, column, literal_column, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import driver_of, ended, local_setting, started
from citykit.encode import HEADER, POSITION, TRAILER, encode_binary, encode_csv
from citykit.load.named import ServerType

RowsDone: TypeAlias = Callable[[int], object]
Encoded: TypeAlias = bytes | memoryview
Arrange: TypeAlias = Callable[[pa.Table, int], pa.Table]  # a batch, the number of rows before it

WIDE_COLUMNS = 500  # of 16 bytes fill a page of 8 kB; a table has 1,600 at most
SENT_BYTES = 2**26  # in one CopyData message, which has 1 GB at most
# Encoded at once, at most: rows, which mostly fit into the processor's cache when the driver copies them, and
# bytes, which bound the memory where rows are long.
PART_ROWS, PART_BYTES = 16_384, 2**23
AHEAD = 2  # parts that are encoded while another one is sent


@dataclass(frozen=True)
class Target:
    """The table that is loaded: its columns that the rows have, and which of them are its key."""

    table: Table
    columns: tuple[str, ...]
    key: tuple[str, ...]
    nullable_key: bool = False  # a row with a NULL in its key equals no other
    nulls_equal: bool = False  # a NULL in its key equals a NULL (NULLS NOT DISTINCT)
    compared_as: Mapping[str, str] = field(default_factory=dict)  # columns: the SQL types that have an =
    types: tuple[str, ...] | None = None  # the server's, where rows can be sent in binary
    converted: Mapping[str, str] = field(default_factory=dict)  # columns staged as text: their SQL types
    # Makes the names of temporary tables and of their columns unique in the session.
    suffix: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def clause(self) -> TableClause:
        """The table without what SQLAlchemy would add to a statement (defaults of Python's)."""
        return table(self.table.name, *map(column, self.columns), schema=self.table.schema)

    @property
    def values(self) -> list[str]:
        """The columns that are not its key."""
        return [name for name in self.columns if name not in self.key]

    @property
    def staging(self) -> str:
        """The name of the temporary table in which its rows wait."""
        return f"citykit_staging_{self.suffix}"

    @property
    def position(self) -> str:
        """The column of that table which has each row's position in the frame."""
        return f"citykit_position_{self.suffix}"

    @property
    def wide(self) -> bool:
        """Whether a row may fill a page, without room for a position: its ctid serves as position."""
        return len(self.columns) >= WIDE_COLUMNS

    @property
    def position_sql(self) -> str:
        """The position in SQL; of a wide table a number made of the ctid, in the order of the rows."""
        ctid = "(CAST(CAST(ctid AS text) AS point))"
        return f"CAST({ctid}[0] * 65536 + {ctid}[1] AS bigint)" if self.wide else self.position

    @property
    def place(self) -> str:
        """The column of a temporary table that has the ctid of the row to update."""
        return f"citykit_place_{self.suffix}"

    def named(self, connection: AsyncConnection) -> str:
        """Return the name of the table as SQL has it."""
        return connection.dialect.identifier_preparer.format_table(self.table)


def staging_of(target: Target) -> FromClause:
    """Return the staged rows of a target: their positions, and their values as its columns have them."""
    stored = _stored(target)
    if not (target.wide or target.converted):
        return stored
    position: Any = literal_column(target.position_sql).label(target.position)
    values = (
        cast(stored.c[name], ServerType(target.converted[name])).label(name)
        if name in target.converted
        else stored.c[name]
        for name in target.columns
    )
    return select(position, *values).subquery("staging")


def _stored(target: Target) -> TableClause:
    """Return the temporary table of the staged rows."""
    own = [] if target.wide else [target.position]
    return table(target.staging, *map(column, [*own, *target.columns]), schema="pg_temp")


def in_utf8(connection: AsyncConnection) -> AbstractAsyncContextManager[None]:
    """Let the server take text as UTF-8 in a block, also in a session whose client_encoding is another.

    asyncpg sends SQL in UTF-8 in any case, and a binary COPY has its text so.
    """
    if driver_of(connection).get_settings().get_text_codec().name == "utf-8":
        return nullcontext()
    return local_setting(connection, "client_encoding", "UTF8")


async def stage(
    connection: AsyncConnection,
    target: Target,
    definitions: Mapping[str, str],
    batches: AsyncIterable[pa.Table],
    rows_done: RowsDone,
    arrange: Arrange | None = None,
) -> int:
    """Copy rows into a temporary table, whose columns are so defined; return how many there are."""
    quote = connection.dialect.identifier_preparer.quote
    columns = [] if target.wide else [f"{target.position} bigint"]
    columns += [f"{quote(name)} {definitions[name]}" for name in target.columns]
    await connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {target.staging} ({', '.join(columns)}) ON COMMIT DROP"
    )
    types = target.types if target.wide or not target.types else ("int8", *target.types)
    return await copy(connection, target, _stored(target), types, batches, rows_done, arrange)


async def copy(
    connection: AsyncConnection,
    target: Target,
    into: TableClause,
    types: Sequence[str] | None,
    batches: AsyncIterable[pa.Table],
    rows_done: RowsDone,
    arrange: Arrange | None = None,
) -> int:
    """Send rows by COPY into a target's table or into its temporary table; return how many were taken.

    They are sent in binary if `types` are given.

    A statement must have been executed in the transaction before: COPY goes past SQLAlchemy, which
    would not begin one for it (asyncpg dialect).
    """
    taken = [*([POSITION] if target.position in into.c else []), *target.columns]

    raw = driver_of(connection)
    copy = raw.copy_to_table(
        into.name,
        schema_name=into.schema,
        columns=list(into.c.keys()),
        format="binary" if types else "csv",
        encoding=None if types else "utf8",
        source=_encoded(batches, taken, types, rows_done, arrange),
    )
    try:
        async with started(raw, copy) as copying:
            status: str = await ended(copying, raw)
    except asyncio.CancelledError:
        # A cancelled COPY can leave a connection on which the next statement hangs: close it.
        await connection.invalidate()
        raise
    return int(status.split()[-1])


async def _encoded(
    batches: AsyncIterable[pa.Table],
    columns: Sequence[str],
    types: Sequence[str] | None,
    rows_done: RowsDone,
    arrange: Arrange | None,
) -> AsyncIterator[Encoded]:
    """Yield the data of COPY, of which a few parts are encoded ahead, in threads."""

    def encode(rows: pa.Table) -> list[Encoded]:
        whole = encode_binary(rows, types) if types else encode_csv(rows)
        return [whole[start : start + SENT_BYTES] for start in range(0, len(whole), SENT_BYTES)]

    done = 0
    # Parts encoded ahead; with the last part of a batch, the number of rows that are then sent.
    ahead = deque[tuple[asyncio.Future[list[Encoded]], int | None]]()

    def sent() -> None:
        _, after = ahead.popleft()
        if after is not None:
            rows_done(after)

    if types:
        yield HEADER
    try:
        async for batch in batches:
            rows = (await asyncio.to_thread(arrange, batch, done) if arrange else batch).select(columns)
            done += rows.num_rows
            count = max(1, min(PART_ROWS, PART_BYTES * rows.num_rows // max(1, rows.nbytes)))
            for start in range(0, rows.num_rows, count):
                encoding = asyncio.to_thread(encode, rows.slice(start, count))
                is_last = start + count >= rows.num_rows
                ahead.append((asyncio.ensure_future(encoding), done if is_last else None))
                if len(ahead) > AHEAD:
                    for part in await ahead[0][0]:
                        yield part
                    sent()
        while ahead:
            for part in await ahead[0][0]:
                yield part
            sent()
    finally:
        for encoded, _ in ahead:
            encoded.cancel()
    if types:
        yield TRAILER
