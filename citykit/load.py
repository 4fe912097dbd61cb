"""Loading a frame into a table: staged by COPY, merged by the rule for conflicts, in one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
import pyarrow as pa
from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Table,
    and_,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import Insert, distinct_on, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateTable, DropTable

from citykit.engine import Bind, server_message, sqlstate, transaction
from citykit.errors import DuplicateKeyError
from citykit.frames import POSITION, rules_of, validate
from citykit.progress import Progress, reporting
from citykit.rejects import refuse
from citykit.wire import encode_csv

OnConflict: TypeAlias = Literal["error", "skip", "update"]
OnInvalid: TypeAlias = Literal["error", "skip"]

CHUNK_ROWS = 65_536  # rows encoded at a time: a few megabytes, a few milliseconds


@dataclass(frozen=True)
class LoadReport:
    """What a load did, by the database's own count and after the commit.

    Attributes
    ----------
    inserted, updated, skipped : int
        Rows; together, the valid rows of the frame. A row that changed nothing counts as skipped.
    rejects : DataFrame, shape (number of bad values, 4)
        ``row`` (the frame's index label), ``column``, ``value``, ``reason``; empty when all were valid.
    seconds : float
        From the call to the end of the transaction (to the end of the work, in a caller's own one).
    """

    inserted: int
    updated: int
    skipped: int
    rejects: pd.DataFrame = field(repr=False, compare=False)
    seconds: float = field(compare=False)

    def _counts(self) -> dict[str, int]:
        counts = {"inserted": self.inserted, "updated": self.updated, "skipped": self.skipped}
        return {**counts, "bad values": len(self.rejects)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {word}" for word, count in self._counts().items())
        return f"<LoadReport: {counts} in {self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{word}</th>" for word in (*self._counts(), "seconds"))
        cells = "".join(f"<td>{count:,}</td>" for count in self._counts().values())
        table = f"<table><tr>{heads}</tr><tr>{cells}<td>{self.seconds:.2f}</td></tr></table>"
        return table + (self.rejects.to_html(index=False, max_rows=10) if len(self.rejects) else "")


async def load_frame(
    bind: Bind,
    frame: pd.DataFrame,
    table: Table,
    *,
    key: Sequence[str],
    on_conflict: OnConflict = "error",
    on_invalid: OnInvalid = "error",
    progress: Progress = None,
) -> LoadReport:
    """Load `frame` into `table`, whose unique columns are `key`, as if row by row and in order."""
    _check_choice("on_conflict", on_conflict, OnConflict)
    _check_choice("on_invalid", on_invalid, OnInvalid)
    started = time.perf_counter()
    rules = rules_of(table)
    rows, rejects = await asyncio.to_thread(validate, frame, rules)
    if len(rejects) and on_invalid == "error":
        raise refuse(rejects, {rule.name: rule.meaning for rule in rules})
    async with transaction(bind) as connection:
        # Held to the end, so that a reset that waits for it meanwhile cannot come in between.
        name = connection.dialect.identifier_preparer.format_table(table)
        await connection.execute(text(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE"))
        staging = await _stage(connection, rows, table, progress)
        merge = _Merge(connection, staging, table, list(key))
        inserted, updated = await merge.run(on_conflict)
        await connection.execute(DropTable(staging))  # the caller's transaction may load again
    skipped = rows.num_rows - inserted - updated
    return LoadReport(inserted, updated, skipped, rejects, time.perf_counter() - started)


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}, not {value!r}")


async def _stage(connection: AsyncConnection, rows: pa.Table, table: Table, progress: Progress) -> Table:
    """Copy the rows into a temporary table that has the columns of the frame and the types of `table`."""
    columns = [Column(name, table.columns[name].type) for name in rows.column_names if name != POSITION]
    staging = Table(
        "citykit_staging",
        MetaData(schema="pg_temp"),
        Column(POSITION, BigInteger),
        *columns,
        postgresql_on_commit="DROP",
    )
    # The statement also begins the transaction: COPY goes past SQLAlchemy, which would not (asyncpg dialect).
    await connection.execute(CreateTable(staging))
    with reporting(progress, rows.num_rows) as report:
        await _copy(connection, staging, rows, report)
    return staging


async def _copy(
    connection: AsyncConnection, staging: Table, rows: pa.Table, report: Callable[[int], object]
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        done = 0
        for batch in rows.to_batches(CHUNK_ROWS):
            yield await asyncio.to_thread(encode_csv, batch)
            done += batch.num_rows
            report(done)

    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None  # noqa: S101  a connection that is open has one
    copying = asyncio.ensure_future(
        raw.copy_to_table(
            staging.name,
            schema_name=staging.schema,
            columns=rows.column_names,
            format="csv",
            encoding="utf8",
            source=chunks(),
        )
    )

    def give_up(_: object) -> None:
        copying.cancel()

    # asyncpg waits forever for a server that vanished while its buffer was full.
    raw.add_termination_listener(give_up)
    try:
        await copying
    except BaseException as exc:
        lost = raw.is_closed()
        if isinstance(exc, Exception) and not lost:
            raise  # the server's or the callback's: the COPY has ended there, the connection is in order
        # A COPY given up half way can leave a connection that hangs: nobody gets it again.
        raw.terminate()
        await connection.invalidate()
        task = asyncio.current_task()
        if lost and isinstance(exc, asyncio.CancelledError) and not (task and task.cancelling()):
            raise ConnectionResetError("the server closed the connection") from exc
        raise
    finally:
        raw.remove_termination_listener(give_up)


@dataclass(frozen=True)
class _Merge:
    """From the staged rows into the table. Every statement goes by key order, so that two never deadlock."""

    connection: AsyncConnection
    staging: Table
    table: Table
    key: list[str]

    async def run(self, on_conflict: OnConflict) -> tuple[int, int]:
        """Return how many rows were inserted and how many updated."""
        if on_conflict == "error":
            return await self._insert_or_refuse(), 0
        if on_conflict == "skip":
            return await self._insert_new(), 0
        return await self._upsert()

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.staging.columns if column.name != POSITION]

    @property
    def _staged_key(self) -> list[Any]:
        return [self.staging.columns[name] for name in self.key]

    def _insert(self, *, latest: bool = False, only_repeated: bool = False) -> Insert:
        """INSERT one staged row of each key, the earliest or the latest in the frame."""
        position = self.staging.columns[POSITION]
        order = position.desc() if latest else position
        columns = [self.staging.columns[name] for name in self._names]
        rows = select(*columns).ext(distinct_on(*self._staged_key)).order_by(*self._staged_key, order)
        if only_repeated:
            repeated = select(*self._staged_key).group_by(*self._staged_key).having(func.count() > 1)
            rows = rows.where(tuple_(*self._staged_key).in_(repeated))
        return insert(self.table).from_select(self._names, rows, include_defaults=False)

    async def _insert_or_refuse(self) -> int:
        columns = [self.staging.columns[name] for name in self._names]
        every = select(*columns).order_by(*self._staged_key)
        statement = insert(self.table).from_select(self._names, every, include_defaults=False)
        try:
            async with self.connection.begin_nested():
                return (await self.connection.execute(statement)).rowcount
        except IntegrityError as exc:
            if sqlstate(exc) != "23505":
                raise
            keys = await self._conflicts()
            raise DuplicateKeyError(
                _duplicates_message(keys) or f"{server_message(exc)}; nothing was loaded", keys
            ) from exc

    async def _conflicts(self) -> list[tuple[Any, ...]]:
        stored = and_(*(self.table.columns[name] == self.staging.columns[name] for name in self.key))
        statement = (
            select(*self._staged_key)
            .outerjoin_from(self.staging, self.table, stored)
            .group_by(*self._staged_key)
            .having(or_(func.count() > 1, func.count(self.table.columns[self.key[0]]) > 0))
            .order_by(func.min(self.staging.columns[POSITION]))
        )
        return [tuple(row) for row in await self.connection.execute(statement)]

    async def _insert_new(self) -> int:
        statement = self._insert().on_conflict_do_nothing(index_elements=self.key)
        return (await self.connection.execute(statement)).rowcount

    async def _upsert(self) -> tuple[int, int]:
        """Merge the earliest row of each key, which the database counts; then what repeats them.

        Once the earliest are in, no other transaction can change these rows, so that what the repeats
        would have done one by one follows from the frame alone, and only the latest need be written.
        """
        merged = self._or_update(self._insert()).returning(literal_column("xmax = 0").label("fresh")).cte()
        fresh = merged.columns["fresh"]
        counts = select(func.count().filter(fresh), func.count().filter(~fresh)).select_from(merged)
        inserted, updated = (await self.connection.execute(counts)).one()
        repeated, changed = (await self.connection.execute(self._count_repeats())).one()
        if repeated:
            await self.connection.execute(self._or_update(self._insert(latest=True, only_repeated=True)))
        return inserted, updated + changed

    def _or_update(self, statement: Insert) -> Insert:
        values = [name for name in self._names if name not in self.key]
        if not values:
            return statement.on_conflict_do_nothing(index_elements=self.key)
        new = {name: statement.excluded[name] for name in values}
        differs = or_(*(self.table.columns[name].is_distinct_from(new[name]) for name in values))
        return statement.on_conflict_do_update(index_elements=self.key, set_=new, where=differs)

    def _count_repeats(self) -> Any:
        """Count the rows after the first of their key, and those of them that differ from the one before."""
        key, position = self._staged_key, self.staging.columns[POSITION]
        values = [self.staging.columns[name] for name in self._names if name not in self.key]
        before = func.row_number().over(partition_by=key, order_by=position) > 1
        differs = [
            value.is_distinct_from(func.lag(value).over(partition_by=key, order_by=position))
            for value in values
        ]
        rows = select(before.label("repeats"), or_(False, *differs).label("changes")).subquery()
        repeats = rows.columns["repeats"]
        return select(
            func.count().filter(repeats), func.count().filter(and_(repeats, rows.columns["changes"]))
        ).select_from(rows)


def _duplicates_message(keys: Sequence[tuple[Any, ...]]) -> str:
    if not keys:
        return ""
    shown = ", ".join(map(repr, keys[:5])) + (f" and {len(keys) - 5:,} more" if len(keys) > 5 else "")
    rows = "1 row is" if len(keys) == 1 else f"{len(keys):,} rows are"
    return (
        f"{rows} already there, in the table or earlier in the frame: {shown}; nothing was loaded.\n"
        "on_conflict='skip' keeps what is there, on_conflict='update' replaces it."
    )
