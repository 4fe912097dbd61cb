"""Rows on their way to the server: COPY, and the temporary table in which they wait for a merge."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pyarrow as pa
from sqlalchemy import Table, TableClause, column, table
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import driver_of, ended, started
from citykit.encode import HEADER, POSITION, TRAILER, encode_binary, encode_csv

Report: TypeAlias = Callable[[int], object]
Encoded: TypeAlias = bytes | memoryview
Arrange: TypeAlias = Callable[[pa.Table, int], pa.Table]  # of a batch, after so many rows

SENT_ROWS = 16_384  # encoded at once: it fits into the processor's cache, and the driver copies no more


@dataclass(frozen=True)
class Target:
    """The table that is loaded: its columns that the rows have, and which of them are its key."""

    table: Table
    columns: tuple[str, ...]
    key: tuple[str, ...]
    nullable_key: bool = False  # a row with a NULL in its key equals no other
    as_text: frozenset[str] = frozenset()  # columns of a type that has no equality
    types: tuple[str, ...] | None = None  # the server's, where rows can be sent in binary
    # Makes the names of temporary tables this load's own: a session may load again, or have such tables.
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
    def place(self) -> str:
        """The column of a temporary table that has the ctid of the row to update."""
        return f"citykit_place_{self.suffix}"

    def named(self, connection: AsyncConnection) -> str:
        """Return the name of the table as SQL has it."""
        return connection.dialect.identifier_preparer.format_table(self.table)


def staging_of(target: Target) -> TableClause:
    """Return the staging table of a target's rows."""
    return table(target.staging, column(target.position), *map(column, target.columns), schema="pg_temp")


async def stage(
    connection: AsyncConnection,
    target: Target,
    definitions: Mapping[str, str],
    batches: AsyncIterable[pa.Table],
    report: Report,
    arrange: Arrange | None = None,
) -> int:
    """Copy rows into a temporary table, whose columns are so defined; return how many there are."""
    quote = connection.dialect.identifier_preparer.quote
    columns = "".join(f", {quote(name)} {definitions[name]}" for name in target.columns)
    await connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {target.staging} ({target.position} bigint{columns}) ON COMMIT DROP"
    )
    types = ("int8", *target.types) if target.types else None
    return await copy(connection, target, staging_of(target), types, batches, report, arrange)


async def copy(
    connection: AsyncConnection,
    target: Target,
    into: TableClause,
    types: Sequence[str] | None,
    batches: AsyncIterable[pa.Table],
    report: Report,
    arrange: Arrange | None = None,
) -> int:
    """Send a target's rows into it, or into its temporary table, by COPY; return how many were taken.

    They are sent in binary where the `types` are given.

    A statement must have been executed in the transaction before: COPY goes past SQLAlchemy, which
    would not begin one for it (asyncpg dialect).
    """
    columns = list(into.c.keys())
    taken = [*([POSITION] if into.name == target.staging else []), *target.columns]

    def encode(rows: pa.Table, before: int) -> list[Encoded]:
        rows = (arrange(rows, before) if arrange else rows).select(taken)
        parts = (rows.slice(start, SENT_ROWS) for start in range(0, rows.num_rows, SENT_ROWS))
        return [encode_binary(part, types) if types else encode_csv(part) for part in parts]

    async def chunks() -> AsyncIterator[Encoded]:
        begun = done = 0
        ahead: list[tuple[int, asyncio.Future[list[Encoded]]]] = []  # one is made while another is sent
        if types:
            yield HEADER
        try:
            async for batch in batches:
                begun, before = begun + batch.num_rows, begun
                ahead.append((begun, asyncio.ensure_future(asyncio.to_thread(encode, batch, before))))
                if len(ahead) > 1:
                    done, parts = ahead.pop(0)
                    for part in await parts:
                        yield part
                    report(done)
            for done, parts in ahead:
                for part in await parts:
                    yield part
                report(done)
        finally:
            for _, parts in ahead:
                parts.cancel()
        if types:
            yield TRAILER

    raw = driver_of(connection)
    copy = raw.copy_to_table(
        into.name,
        schema_name=into.schema,
        columns=columns,
        format="binary" if types else "csv",
        encoding=None if types else "utf8",
        source=chunks(),
    )
    try:
        async with started(raw, copy) as copying:
            status: str = await ended(copying, raw)
    except asyncio.CancelledError:
        # A cancelled COPY can leave a connection on which the next statement hangs: close it.
        await connection.invalidate()
        raise
    return int(status.split()[-1])
