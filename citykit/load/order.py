"""The order in which rows are sent, so that indexes are built faster, and the numbers that they get."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import locked_by
from citykit.load.catalogue import Counter, Facts
from citykit.load.staging import Target

SEQUENCE_MILLISECONDS = 100  # to wait for a session that has locked the sequence by hand
REPEATED = 10  # rows per distinct value of a column, from which on sorting by it pays off


def costliest(rows: pa.Table, orders: Sequence[Sequence[str]]) -> list[str]:
    """Return the first columns, two at most, of the index that takes the longest to build.

    It is the one whose first column has the fewest distinct values: comparing two entries mostly needs the
    second column too. If each batch is sorted by it, the server builds it in two thirds of the time.
    """
    distinct = {
        order[0]: pc.count_distinct(rows[order[0]]).as_py() for order in orders if _sorts(rows, order)
    }
    first = min(distinct, key=distinct.__getitem__, default="")
    if not first or distinct[first] * REPEATED > rows.num_rows:
        return []
    chosen = max((order for order in orders if order[0] == first), key=len)
    return [name for name in chosen[:2] if _sorts(rows, [name])]


def _sorts(rows: pa.Table, order: Sequence[str]) -> bool:
    return order[0] in rows.column_names and not pa.types.is_nested(rows[order[0]].type)


@dataclass(frozen=True)
class Arrangement:
    """What is done to each batch before it is sent."""

    by: Sequence[str] = ()  # columns to sort it by
    counter: Counter | None = None
    next: int = 0  # number of the counter

    def of(self, rows: pa.Table, before: int) -> pa.Table:
        """Return rows that come after so many others, numbered in their order, then sorted."""
        if self.counter:
            numbers = np.arange(self.next + before, self.next + before + rows.num_rows)
            rows = rows.append_column(self.counter.column, pa.array(numbers, pa.int64()))
        return rows.sort_by([(name, "ascending") for name in self.by]) if self.by else rows

    def into(self, target: Target) -> Target:
        """Return the target with the column that is numbered."""
        if not self.counter:
            return target
        types = target.types and (*target.types, self.counter.type)
        return replace(target, columns=(*target.columns, self.counter.column), types=types)


async def numbered(
    connection: AsyncConnection, target: Target, facts: Facts, by: Sequence[str], rows: int
) -> Arrangement:
    """Return how to send at most so many rows into a table that is locked: numbered here, and then sorted.

    A nextval() for each row would take a fifth of the time of a COPY. Rows that cannot be numbered here are
    not sorted either: only their place in the table's file would tell their order.
    """
    counter = facts.counter
    if counter is None or counter.column in target.columns:
        return Arrangement()
    # There is no LOCK for a sequence. This statement keeps others from nextval() until the transaction ends,
    # and changes nothing. ALTER SEQUENCE … RESTART would give it a new file, which wal_level = minimal does
    # not log.
    locking = f"ALTER SEQUENCE {counter.sequence} OWNER TO {counter.owner}"
    if not await locked_by(connection, locking, SEQUENCE_MILLISECONDS):
        return Arrangement()
    state = f"SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM {counter.sequence}"  # noqa: S608
    first = int((await connection.exec_driver_sql(state)).scalar_one())
    return Arrangement(by, counter, first) if first + rows <= counter.highest else Arrangement()


@dataclass
class Given:
    """The lowest and the highest value that rows give to each column that a sequence numbers."""

    sequences: dict[str, str]  # by column, their names in SQL
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)

    def number(self, arrangement: Arrangement, rows: int) -> None:
        """Note the numbers that were given to so many rows."""
        if (counter := arrangement.counter) and rows:
            self.sequences[counter.column] = counter.sequence
            self.limits[counter.column] = arrangement.next, arrangement.next + rows - 1

    async def noted(self, batches: AsyncIterator[pa.Table]) -> AsyncIterator[pa.Table]:
        """Yield the batches, and note their values."""
        async for rows in batches:
            for name in self.sequences:
                known = self.limits.get(name, ())
                found = pc.min_max(rows[name]).as_py() if pa.types.is_integer(rows[name].type) else {}
                if values := [*known, *(value for value in found.values() if value is not None)]:
                    self.limits[name] = min(values), max(values)
            yield rows

    async def settle(self, connection: AsyncConnection) -> None:
        """Set each sequence past those values, unless it is already, or the role may not set it."""
        for name, (lowest, highest) in self.limits.items():
            sequence = self.sequences[name]
            rights = (await connection.execute(_RIGHTS, {"sequence": sequence})).one()
            if rights.may_set and (rights.may_read or rights.may_use):
                given = {"sequence": sequence, "lowest": lowest, "highest": highest}
                await connection.execute(_go_past(sequence, readable=rights.may_read), given)


_RIGHTS = text("""
SELECT has_sequence_privilege(name, 'UPDATE') AS may_set, has_sequence_privilege(name, 'SELECT') AS may_read,
       has_sequence_privilege(name, 'USAGE') AS may_use
FROM CAST(:sequence AS text) AS name
""")
# The last value of a sequence that the role may not SELECT from. It is NULL before the first nextval(), also
# after setval(…, false): that is called now.
_LAST = """LATERAL (
    SELECT coalesce(pg_sequence_last_value(seqrelid), nextval(seqrelid::regclass)) AS last_value,
           true AS is_called
)"""


def _go_past(sequence: str, *, readable: bool) -> TextClause:
    """Return the statement that sets a sequence, by its name in SQL, past a value that was given."""
    state = sequence.replace(":", "\\:") if readable else _LAST  # text() would take : for a parameter
    return text(f"""
SELECT setval(seqrelid::regclass, given) FROM (
    SELECT *, CASE WHEN seqincrement > 0 THEN CAST(:highest AS bigint) ELSE CAST(:lowest AS bigint) END given
    FROM pg_catalog.pg_sequence WHERE seqrelid = CAST(CAST(:sequence AS text) AS regclass)
) sequence CROSS JOIN {state} AS state
WHERE given BETWEEN seqmin AND seqmax
  AND sign(given - last_value + CASE WHEN is_called THEN 0 ELSE seqincrement END) = sign(seqincrement)
""")  # noqa: S608  the server's own name


async def settle_numbers(connection: AsyncConnection, table: str) -> None:
    """Write to the WAL where a sequence of a table stands, if the transaction has made that sequence.

    nextval() writes to the WAL only every 32 numbers, and where wal_level is minimal not for a new sequence:
    after a crash it would give the same numbers again. setval() writes. No other session can have taken a
    number meanwhile, because this one holds a lock on the sequence.
    """
    await connection.execute(_SETTLE, {"name": table})


_SETTLE = text("""
WITH own AS MATERIALIZED (
    SELECT s.oid FROM pg_catalog.pg_class s JOIN pg_catalog.pg_depend d ON d.objid = s.oid
    WHERE s.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = to_regclass(:name)
      AND d.deptype IN ('a', 'i') AND current_setting('wal_level') = 'minimal'
)
SELECT setval(own.oid::regclass, pg_sequence_last_value(own.oid)) FROM own
WHERE pg_sequence_last_value(own.oid) IS NOT NULL AND has_sequence_privilege(own.oid, 'UPDATE')
  AND EXISTS (SELECT FROM pg_catalog.pg_locks l
              WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = own.oid
                AND l.granted AND l.mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock'))
""")
