"""Which way rows go into a table, by what the catalogue says of it, and the way itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypeVar

import asyncpg
import pyarrow as pa
from sqlalchemy import JSON, Table, exists, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, lock, sqlstate
from citykit.encode import POSITION, refuse, types_in_binary
from citykit.errors import CitykitError
from citykit.load.catalogue import Facts, facts_of
from citykit.load.indexes import build_indexes, drop_indexes
from citykit.load.join import Join, Keys, unload
from citykit.load.merge import Merge, OnConflict, refuse_duplicates
from citykit.load.order import AS_THEY_COME, Arrangement, dearest, go_on, numbered
from citykit.load.refusals import REFUSALS, find_violations, violated_by
from citykit.load.source import Rows
from citykit.load.staging import Report, Target, copy, stage

Plan: TypeAlias = Literal["copy", "copy and rebuild", "merge", "join", "join and rebuild"]
Outcome: TypeAlias = tuple[int, int, Plan]  # rows inserted, rows updated, and how
REFUSED = (DBAPIError, asyncpg.PostgresError)
T = TypeVar("T")

FEW_ROWS = 20_000  # below, nothing is asked of the catalogue, and nobody is kept out of the table
REBUILD_SHARE = 0.25  # of a table's rows: to write so many takes longer than to build its indexes again
LOCK_MILLISECONDS = 2_000  # that a large load waits for other writers before it goes in beside them
STREAM_ROWS = 2**40  # at most, of what has no length
REFUSED_ROUNDS = 20  # of finding rows that only the server refuses, before it gives up


@dataclass
class Load:
    """One load: its rows and where they go."""

    rows: Rows
    table: Table
    key: tuple[str, ...]
    on_conflict: OnConflict
    connection: AsyncConnection
    report: Report
    target: Target = field(init=False)
    by: list[str] = field(default_factory=list)  # columns by which each batch is sorted

    async def run(self) -> Outcome:
        """Load the rows by the plan that suits them and the table."""
        async with aclosing(self.rows.batches()) as batches:
            first = await anext(batches, None)
            self.rows.refuse()
            if first is None:
                return 0, 0, "copy"
            self.target = _target(self.table, self.key, first)
            source = _chain(first, batches)
            if self.rows.can_repeat and self.rows.valid < FEW_ROWS:
                return await self._few(source)
            facts = await facts_of(self.connection, self.target)
            # Without the constraint, only the statement of the few would say that it is missing.
            if facts is None or not (facts.alone and facts.fresh and frozenset(self.key) in facts.keys):
                return await self._few(source)
            types = types_in_binary(self.target.columns, self.rows.rules, facts.types)
            self.target = replace(self.target, types=types)
            self.by = await asyncio.to_thread(dearest, first, facts.orders)
            return await self._many(facts, source)

    async def _few(self, source: AsyncIterator[pa.Table]) -> Outcome:
        """Load beside other writers of the table, in the order of the keys."""
        # Held to the end, so that a reset that waits for it meanwhile cannot come in between.
        await self._execute(f"LOCK TABLE {self.target.named(self.connection)} IN ROW EXCLUSIVE MODE")
        few = self.rows.can_repeat and self.rows.valid < FEW_ROWS
        if self.on_conflict == "error" and few and self._compares_alike():
            copied = await self._tried(lambda: self._copy(_sorted(source, self.key)))
            if copied is not None:
                return copied, 0, "copy"
            source = self.rows.batches()
        return await self._staged(source, self._merge)

    async def _many(self, facts: Facts, source: AsyncIterator[pa.Table]) -> Outcome:
        """Keep other writers out if they let us, and readers too where that pays."""
        if not await lock(
            self.connection, self.target.named(self.connection), "SHARE ROW EXCLUSIVE", LOCK_MILLISECONDS
        ):
            return await self._few(source)
        if await self._may_fill(facts):
            filled = await self._tried(lambda: self._fill(facts, source))
            if filled is not None:
                return filled
            source = self.rows.batches()
        elif self.on_conflict == "error" and self.rows.can_repeat:
            rebuild = await self._may_rebuild(facts, self.rows.valid)
            copied = await self._tried(lambda: self._copy_beside(facts, source, rebuild=rebuild))
            if copied is not None:
                return copied, 0, "copy and rebuild" if rebuild else "copy"
            source = self.rows.batches()

        keys = Keys(self.key)

        async def way(staged: int) -> Outcome:
            return await (self._merge(staged) if staged < FEW_ROWS else self._join(facts, staged, keys))

        return await self._staged(_noted(source, keys) if self._compares_alike() else source, way)

    async def _may_fill(self, facts: Facts) -> bool:
        """Tell whether the table is empty and, from now on, ours alone."""
        owners = (self.table, *self.table.columns)
        checked = {c.name for owner in owners for c in owner.constraints if c.info.get("checked")}
        # What only the server can refuse can only be explained with rows that can be sent again.
        explained = self.rows.can_repeat or (facts.plain and facts.checks <= checked)
        if not (facts.exact and facts.truncatable and explained):
            return False
        stored = select(exists(select(text("1")).select_from(self.target.clause)))
        if await self.connection.scalar(stored):
            return False
        return await lock(self.connection, self.target.named(self.connection), "ACCESS EXCLUSIVE", 0)

    async def _may_rebuild(self, facts: Facts, written: int) -> bool:
        """Tell whether so many rows are worth a rebuild that nobody has to wait for before it begins."""
        worth = written >= max(FEW_ROWS, REBUILD_SHARE * (facts.rows + written))
        return (
            facts.exact
            and worth
            and await lock(self.connection, self.target.named(self.connection), "ACCESS EXCLUSIVE", 0)
        )

    async def _tried(self, way: Callable[[], Awaitable[T]]) -> T | None:
        """Go one way; None where the server refused the rows, which another way is to explain."""
        try:
            async with self.connection.begin_nested():
                return await way()
        except REFUSED as exc:
            code = sqlstate(exc) or ""
            if self.rows.can_repeat and (
                code.startswith(REFUSALS) or code == Condition.FEATURE_NOT_SUPPORTED
            ):
                return None
            if code == Condition.UNIQUE_VIOLATION:
                raise await self._duplicates(exc, staged=False) from exc
            raise

    async def _copy(self, source: AsyncIterator[pa.Table], arranged: Arrangement = AS_THEY_COME) -> int:
        into = arranged.into(self.target)
        return await copy(self.connection, into.clause, into.types, source, self.report, arranged.of)

    async def _numbered(self, facts: Facts) -> Arrangement:
        most = self.rows.valid if self.rows.can_repeat else STREAM_ROWS
        return await numbered(self.connection, self.target, facts, self.by, most)

    async def _copy_beside(self, facts: Facts, source: AsyncIterator[pa.Table], *, rebuild: bool) -> int:
        if not rebuild:
            return await self._copy(source)
        indexes = await drop_indexes(self.connection, self.target)
        arranged = await self._numbered(facts)
        copied = await self._copy(source, arranged)
        await build_indexes(self.connection, self.target, indexes)
        await go_on(self.connection, arranged, self.rows.valid)
        return copied

    async def _fill(self, facts: Facts, source: AsyncIterator[pa.Table]) -> Outcome:
        """Copy straight into the empty table; where keys repeat, sort that out afterwards."""
        indexes = await drop_indexes(self.connection, self.target)
        # A file of its own: what this transaction has made need not go through the log (wal_level minimal).
        await self._execute(f"TRUNCATE {self.target.named(self.connection)}")
        arranged = await self._numbered(facts)
        copied = await self._copy(source, arranged)
        self.rows.refuse()
        try:
            async with self.connection.begin_nested():
                await build_indexes(self.connection, self.target, indexes)
                await go_on(self.connection, arranged, self.rows.valid)
            return copied, 0, "copy and rebuild"
        except DBAPIError as exc:
            if sqlstate(exc) != Condition.UNIQUE_VIOLATION:
                raise
        staged = await unload(self.connection, self.target, arranged.counter)
        join = Join(self._merging(), self.on_conflict, staged)
        await join.find()
        await join.apply()
        await build_indexes(self.connection, self.target, indexes)
        await join.drop()
        await self._unstaged()
        return join.inserted, join.updated, "join and rebuild"

    async def _staged(
        self, source: AsyncIterator[pa.Table], way: Callable[[int], Awaitable[Outcome]]
    ) -> Outcome:
        """Stage the rows and go on from there; rows that the server refuses are found and become rejects."""
        staged = await stage(self.connection, self.target, source, self.report, Arrangement(self.by).of)
        self.rows.refuse()
        for _ in range(REFUSED_ROUNDS):
            try:
                async with self.connection.begin_nested():
                    outcome = await way(staged)
                await self._unstaged()
                return outcome
            except DBAPIError as exc:
                if sqlstate(exc) == Condition.UNIQUE_VIOLATION:
                    raise await self._duplicates(exc) from exc
                if not (sqlstate(exc) or "").startswith(REFUSALS):
                    raise
                found = await find_violations(self.connection, self.target)
                if not found:
                    raise
                self.rows.reject(found)
                self.rows.refuse(exc)
                staged -= await self._unstage({position for position, *_ in found})
        raise refuse(self.rows.rejects, {})

    def _merging(self) -> Merge:
        return Merge(self.connection, self.target)

    async def _merge(self, staged: int) -> Outcome:
        return *(await self._merging().run(self.on_conflict, staged)), "merge"

    async def _join(self, facts: Facts, staged: int, keys: Keys) -> Outcome:
        join = Join(self._merging(), self.on_conflict, staged, keys)
        changes = await join.find()
        rebuild = await self._may_rebuild(facts, changes)
        indexes = await drop_indexes(self.connection, self.target) if rebuild else []
        await join.apply()
        await build_indexes(self.connection, self.target, indexes)
        await join.drop()
        return join.inserted, join.updated, "join and rebuild" if rebuild else "join"

    async def _duplicates(self, exc: BaseException, *, staged: bool = True) -> CitykitError:
        """Return the error of rows that are not unique: by the key, another constraint or a number."""
        name = self.target.named(self.connection)
        violated = await violated_by(self.connection, name, exc)
        if behind := violated.behind(name, self.target.columns, "nothing was loaded"):
            return behind
        by_key = violated.columns in (frozenset(self.key), frozenset())
        keys = await self._merging().conflicts() if staged and by_key and self.on_conflict == "error" else []
        return refuse_duplicates(keys, violated.said)

    async def _unstaged(self) -> None:
        """Leave nothing in the caller's transaction; where a load fails, its savepoint sees to that."""
        await self._execute(f"DROP TABLE pg_temp.{self.target.staging}")

    async def _unstage(self, positions: set[int]) -> int:
        statement = text(f"DELETE FROM pg_temp.{self.target.staging} WHERE {POSITION} = ANY(:positions)")  # noqa: S608
        return (await self.connection.execute(statement, {"positions": sorted(positions)})).rowcount

    async def _execute(self, sql: str) -> None:
        await self.connection.exec_driver_sql(sql)

    def _compares_alike(self) -> bool:
        alike = {rule.name: rule.compared_alike for rule in self.rows.rules}
        return all(
            alike[name] == "always"
            or (
                alike[name] == "in the C collation"
                and getattr(self.table.c[name].type, "collation", None) == "C"
            )
            for name in self.key
        )


def _target(table: Table, key: tuple[str, ...], first: pa.Table) -> Target:
    columns = tuple(name for name in first.column_names if name != POSITION)
    nullable = any(column.nullable for column in table.columns if column.name in key)
    types = {column.name: getattr(column.type, "item_type", column.type) for column in table.columns}
    without_equality = (
        n for n, type_ in types.items() if isinstance(type_, JSON) and not isinstance(type_, JSONB)
    )
    return Target(table, columns, key, nullable, frozenset(without_equality))


async def _chain(first: pa.Table, rest: AsyncIterator[pa.Table]) -> AsyncIterator[pa.Table]:
    yield first
    async for batch in rest:
        yield batch


async def _noted(source: AsyncIterator[pa.Table], keys: Keys) -> AsyncIterator[pa.Table]:
    async for batch in source:
        await asyncio.to_thread(keys.note, batch)
        yield batch


async def _sorted(source: AsyncIterator[pa.Table], key: tuple[str, ...]) -> AsyncIterator[pa.Table]:
    """Bring (few) rows into the order of their keys, so that two loads at once do not deadlock."""
    whole = pa.concat_tables([batch async for batch in source])
    yield await asyncio.to_thread(whole.sort_by, [(name, "ascending") for name in key])
