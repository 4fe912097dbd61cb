"""From many staged rows into the table, which nobody else may write meanwhile: one join says what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import ColumnClause, TableClause, and_, column, func, insert, or_, select, table, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.load.catalogue import Counter
from citykit.load.merge import Merge, OnConflict, refuse_duplicates
from citykit.load.staging import Target, staging_of

KEYS_BYTES = 64 * 2**20  # of keys that are kept to compare them: some 2,000,000 of the names of cities
_MEMORY = "128MB"  # for the join's hash table; the server's default of 4 MB would send it to the disk


def _named(name: str) -> ColumnClause[Any]:
    return column(name)


class Keys:
    """Tells whether the keys of rows are distinct, which takes the server six times as long.

    Keys that are equal have equal texts. Where two have equal texts they may differ: the server is asked.
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
        """Whether all were noted."""
        return 0 < self._kept < KEYS_BYTES

    def distinct(self) -> bool:
        """Return whether no two are equal; False also where that cannot be told."""
        if not self.known:
            return False
        whole = pa.chunked_array([chunk for texts in self._texts for chunk in texts.chunks])
        return len(pc.unique(whole)) == len(whole)


class Join:
    """What staged rows change in the table: a temporary table of them, written by one join, then applied.

    The caller holds a lock that keeps other writers away, and each of the table's rows in its place.
    """

    def __init__(self, merge: Merge, on_conflict: OnConflict, staged: int, keys: Keys | None = None) -> None:
        self.merge, self.connection, self.target = merge, merge.connection, merge.target
        self.on_conflict = on_conflict
        self.keys = keys or Keys(())  # of the staged rows, where they were noted
        self.staged = staged
        self.inserted = self.updated = 0
        self.memory = ""  # what the transaction had for a join before
        columns = (*self.target.columns, self.target.place)
        self.changes = table(f"citykit_changes_{self.target.suffix}", *map(_named, columns), schema="pg_temp")

    async def find(self) -> int:
        """Find the rows that change something; return how many they are."""
        self.memory = await self.connection.scalar(text("SELECT current_setting('work_mem')"))
        await self.connection.execute(text(f"SET LOCAL work_mem = '{_MEMORY}'"))
        written = distinct = False
        if self.keys.known:  # distinct, most likely: what that takes is done meanwhile
            telling = asyncio.ensure_future(asyncio.to_thread(self.keys.distinct))
            try:  # no task of its own for the statement: cancelled, it must end before the connection goes on
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
            raise refuse_duplicates(*await self.merge.conflicts(), "a key is there twice")
        if repeated and self.on_conflict == "update":
            self.updated += await self.connection.scalar(self.merge.changes_of_repeats()) or 0
            await self.drop()
            await self._write(self.merge.first_or_last(last=True).subquery("staged"))
        return self.inserted + self.updated

    @property
    def _stored(self) -> TableClause:
        """The table with the place of each row in its file."""
        columns = (*self.target.columns, "ctid")
        return table(self.target.table.name, *map(_named, columns), schema=self.target.table.schema)

    async def _write(self, source: Any) -> None:
        stored = self._stored
        same = [source.c[name] == stored.c[name] for name in self.target.key]
        new = stored.c["ctid"].is_(None)
        wanted = new if self.on_conflict != "update" else or_(new, self.merge.differs(source.c, stored.c))
        rows = (
            select(
                *(source.c[name] for name in self.target.columns), stored.c["ctid"].label(self.target.place)
            )
            .select_from(source.outerjoin(stored, and_(*same)))
            .where(wanted)
        )
        compiled = rows.compile(self.connection.sync_connection)
        create = f"CREATE TEMPORARY TABLE {self.changes.name} ON COMMIT DROP AS {compiled}"
        await self.connection.exec_driver_sql(create)

    async def apply(self) -> None:
        """Write the changes into the table, page by page."""
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
        await self.connection.execute(text("SELECT set_config('work_mem', :old, true)"), {"old": self.memory})

    async def drop(self) -> None:
        """Drop the temporary table, for the next load of the transaction."""
        await self.connection.execute(text(f"DROP TABLE pg_temp.{self.changes.name}"))


async def unload(connection: AsyncConnection, target: Target, counter: Counter | None) -> int:
    """Move the rows of a table, which a COPY has just filled, back into the staging table, in their order.

    That is the order of the counter, or where they have none the order of the table's file.
    """
    quote = connection.dialect.identifier_preparer.quote
    order = quote(counter.column) if counter else "ctid"
    columns, name = ", ".join(map(quote, target.columns)), target.named(connection)
    rows = f"SELECT row_number() OVER (ORDER BY {order}) - 1 AS {target.position}, {columns} FROM {name}"  # noqa: S608
    await connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {target.staging} ON COMMIT DROP AS {rows}")
    await connection.exec_driver_sql(f"TRUNCATE {name}")
    return await connection.scalar(select(func.count()).select_from(staging_of(target))) or 0
