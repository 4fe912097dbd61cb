"""Many staged rows into a table that is locked against other writers: one join finds what to change."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import TableClause, column, func, insert, or_, select, table, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.load.catalogue import Counter
from citykit.load.merge import Merge, OnConflict, refused_duplicates
from citykit.load.staging import Target, staging_of

KEYS_BYTES = 64 * 2**20  # of keys that are kept to compare them: some 2,000,000 of the names of cities
MEMORY = 128 * 2**20  # for the join's hash table; the server's default of 4 MB would send it to the disk


class Keys:
    """Tells whether the keys of rows are distinct, in a sixth of the time that the server takes.

    Equal keys have equal texts. Two keys with equal texts may still differ: then the server is asked.
    """

    def __init__(self, key: tuple[str, ...]) -> None:
        self._key = key
        self._texts: list[pa.ChunkedArray] = []
        self._kept = 0

    def note(self, rows: pa.Table) -> None:
        """Remember the keys of rows."""
        if self._kept < KEYS_BYTES:
            texts = [rows[name].cast(pa.large_string()) for name in self._key]
            joined = pc.binary_join_element_wise(*texts, pa.scalar("\x1f", pa.large_string()))
            self._texts.append(joined.drop_null())  # a NULL in a key equals no other
            self._kept += joined.nbytes

    @property
    def known(self) -> bool:
        """Whether all keys were kept."""
        return 0 < self._kept < KEYS_BYTES

    def distinct(self) -> bool:
        """Return whether all keys are distinct; False also if they were not all kept."""
        if not self.known:
            return False
        whole = pa.chunked_array([chunk for texts in self._texts for chunk in texts.chunks])
        return len(pc.unique(whole)) == len(whole)


class Join:
    """Finds the staged rows that change the table, writes them to a temporary table, and applies them.

    The temporary table has the ctid of the stored row. The caller's lock keeps rows in their places.
    """

    def __init__(self, merge: Merge, on_conflict: OnConflict, staged: int, keys: Keys) -> None:
        self.merge, self.connection, self.target = merge, merge.connection, merge.target
        self.on_conflict = on_conflict
        self.keys = keys  # of the staged rows, where they were noted
        self.staged = staged
        self.inserted = self.updated = 0
        columns = (*self.target.columns, self.target.place)
        self.changes = table(f"citykit_changes_{self.target.suffix}", *map(column, columns), schema="pg_temp")

    async def find(self) -> int:
        """Find the rows that change something; return how many they are."""
        written = distinct = False
        if self.keys.known:  # write the changes as if they were distinct, while a thread finds out
            telling = asyncio.ensure_future(asyncio.to_thread(self.keys.distinct))
            try:  # the statement is awaited here: cancelled, it must end before the connection is used
                await self._write(self.merge.staging)
                distinct = await telling
            finally:
                telling.cancel()
            written = True
        keys = select(func.count()).select_from(self.merge.keys().subquery())
        repeated = not distinct and await self.connection.scalar(keys) != self.staged
        if repeated and written:
            await self.drop()
        if repeated or not written:
            first = self.merge.first_or_last().subquery("staged")
            await self._write(first if repeated else self.merge.staging)
        place = self.changes.c[self.target.place]
        counts = select(func.count().filter(place.is_(None)), func.count().filter(place.is_not(None)))
        self.inserted, self.updated = (await self.connection.execute(counts)).one()
        if self.on_conflict == "error" and self.inserted != self.staged:
            raise refused_duplicates(*await self.merge.conflicts(), "a key is there twice")
        if repeated and self.on_conflict == "update":
            self.updated += await self.connection.scalar(self.merge.changes_of_repeats()) or 0
            await self.drop()
            await self._write(self.merge.first_or_last(last=True).subquery("staged"))
        return self.inserted + self.updated

    @property
    def _stored(self) -> TableClause:
        """The table with the place of each row in its file."""
        columns = (*self.target.columns, "ctid")
        return table(self.target.table.name, *map(column, columns), schema=self.target.table.schema)

    async def _write(self, source: Any) -> None:
        stored = self._stored
        new = stored.c["ctid"].is_(None)
        wanted = new if self.on_conflict != "update" else or_(new, self.merge.differs(source.c, stored.c))
        rows = (
            select(
                *(source.c[name] for name in self.target.columns), stored.c["ctid"].label(self.target.place)
            )
            .select_from(source.outerjoin(stored, self.merge.equal(source.c, stored.c)))
            .where(wanted)
        )
        compiled = rows.compile(self.connection.sync_connection)
        create = f"CREATE TEMPORARY TABLE {self.changes.name} ON COMMIT DROP AS {compiled}"
        await self.connection.exec_driver_sql(create)

    async def apply(self) -> None:
        """Write the changes into the table: updates in the order of the stored rows' places."""
        columns = self.target.columns
        place = self.changes.c[self.target.place]
        # Also for no rows: a published table without a replica identity refuses the UPDATE (SQLSTATE 55000).
        if self.on_conflict == "update" and self.target.values:
            stored = self._stored
            ordered = select(self.changes).where(place.is_not(None)).order_by(place).subquery()
            values = {name: ordered.c[name] for name in self.target.values}
            await self.connection.execute(
                update(stored).values(values).where(stored.c["ctid"] == ordered.c[self.target.place])
            )
        if self.inserted:
            new = select(*(self.changes.c[name] for name in columns)).where(place.is_(None))
            statement = insert(self.merge.table).from_select(list(columns), new)
            self.inserted = (await self.connection.execute(statement)).rowcount

    async def drop(self) -> None:
        """Drop the temporary table, for the next load of the transaction."""
        await self.connection.execute(text(f"DROP TABLE pg_temp.{self.changes.name}"))


async def unload(connection: AsyncConnection, target: Target, counter: Counter | None) -> int:
    """Move the rows that a COPY has just written to an empty table into the staging table; return how many.

    Their positions follow the counter, or without one their places in the table's file.
    """
    quote = connection.dialect.identifier_preparer.quote
    order = quote(counter.column) if counter else "ctid"
    columns, name = ", ".join(map(quote, target.columns)), target.named(connection)
    rows = f"SELECT row_number() OVER (ORDER BY {order}) - 1 AS {target.position}, {columns} FROM {name}"  # noqa: S608
    await connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {target.staging} ON COMMIT DROP AS {rows}")
    await connection.exec_driver_sql(f"TRUNCATE {name}")
    return await connection.scalar(select(func.count()).select_from(staging_of(target))) or 0
