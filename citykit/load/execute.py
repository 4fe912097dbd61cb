"""A load in its transaction: facts are read, a plan is chosen and followed, one function for each plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias

import asyncpg
import pyarrow as pa
from sqlalchemy import FromClause, RowMapping, Table, column, exists, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, driver_of, lock, server_message, sqlstate
from citykit.encode import POSITION, Rule, in_encoding, rejects_frame
from citykit.errors import CitykitError, InvalidFrameError
from citykit.load.catalogue import Facts, Mode, facts_of, is_still
from citykit.load.indexes import build_indexes, drop_indexes, memory
from citykit.load.join import MEMORY, Join, Keys, unload
from citykit.load.merge import Merge, OnConflict, refused_duplicates
from citykit.load.order import Arrangement, Given, costliest, numbered
from citykit.load.plan import (
    EXCLUSIVE,
    STAGED,
    Limits,
    Plan,
    Wanted,
    choose,
    first_lock,
    is_worth_a_rebuild,
    may_rebuild,
    needs_order,
)
from citykit.load.preconditions import check_possible
from citykit.load.refusals import Violation, find_violations, is_raised, refuses_rows
from citykit.load.row_by_row import add_one_by_one, may_not_loop, take_turn
from citykit.load.server_types import comparable, is_converted, rules_of_the_server, sorted_alike, wider
from citykit.load.source import Rows
from citykit.load.staging import Target, copy, stage
from citykit.load.table_errors import violated_by
from citykit.load.unfit_texts import find_unfit, refuses_a_text
from citykit.runtime import Meter

PlanName: TypeAlias = Literal["copy", "copy and rebuild", "merge", "join", "join and rebuild"]
Outcome: TypeAlias = tuple[int, int, PlanName]  # rows inserted, rows updated, and how
SERVER_ERRORS = (DBAPIError, asyncpg.PostgresError)

LOCK_MILLISECONDS = 2_000  # that a large load waits for other writers; then it loads while they write
STREAM_ROWS = 2**40  # a stream is assumed to have no more

_NOT_BY_COPY = (Condition.FEATURE_NOT_SUPPORTED, Condition.WRONG_OBJECT_TYPE)  # it takes INSERT, but no COPY

# By which an index refuses rows when it is built: keys that repeat, a value that is too large for it.
_BY_AN_INDEX = (Condition.UNIQUE_VIOLATION, Condition.PROGRAM_LIMIT_EXCEEDED)


class Beside(Protocol):
    """A column of the source that is stored in a second table, in the transaction of the load."""

    rule: Rule

    async def prepare(self, connection: AsyncConnection, rows: Target, on_conflict: OnConflict) -> None:
        """Keep what is stored before the load changes it; the rows are in the staging table of `rows`."""

    async def store(self, refused: Collection[int]) -> int:
        """Store the column of the rows, without those at the positions that were refused.

        Return how many rows changed nothing but this column.
        """


@dataclass
class Load:
    """One load: its rows, where they go, and how far it has come."""

    rows: Rows
    table: Table
    key: tuple[str, ...]
    on_conflict: OnConflict
    connection: AsyncConnection
    meter: Meter
    callers: bool  # the transaction is the caller's
    limits: Limits
    beside: Beside | None = None
    # Known once the first batch is there:
    target: Target = field(init=False)
    wanted: Wanted = field(init=False)
    facts: Facts = field(init=False)
    by: list[str] = field(default_factory=list)  # columns by which each batch is sorted
    check: str | None = None  # the statement that checks deferred constraints; None: they are not
    given: Given = field(init=False)
    keys: Keys = field(init=False)
    _first: AsyncIterator[pa.Table] | None = field(init=False)  # the batches, until they were sent once
    staged: int = 0  # rows in the temporary table
    positions: dict[int, int] = field(default_factory=dict)  # of a wide table: staged to original position

    async def run(self) -> Outcome:
        """Load the rows by the first plan that is possible and that the server lets through."""
        facts = await facts_of(self.connection, self._name)
        if facts is None:
            await self.rows.check_by(self.rows.rules)  # bad values of a frame are said first
            facts = await self._look_up()
        encoding = driver_of(self.connection).get_settings().server_encoding
        await self.rows.check_by(in_encoding(rules_of_the_server(self.rows.rules, facts), encoding))
        async with aclosing(self.rows.batches()) as batches:
            first = await anext(batches, None)
            self.rows.refuse()
            if first is None:
                return 0, 0, "copy"
            self.beside = self.beside if self.beside and self.beside.rule.name in first.column_names else None
            every = [first, *[batch async for batch in batches]] if self.beside else []
            self.rows.refuse()
            first = self._without_beside(first)
            self._first = (
                _each([self._without_beside(batch) for batch in every]) if every else _chain(first, batches)
            )
            columns = tuple(name for name in first.column_names if name != POSITION)
            self.target = Target(self.table, columns, self.key)
            self._plan_by(facts)
            if self.beside:
                staged = await self._stage_beside(self.beside.rule.name, every)
                await self.beside.prepare(self.connection, staged, self.on_conflict)
            held = await self._lock()
            while held and not await is_still(self.connection, self._name, self.facts, self._filled):
                self._plan_by(await self._look_up())  # it was replaced before the lock was granted
            if held == "SHARE ROW EXCLUSIVE" and not self.target.wide:
                self.by = await asyncio.to_thread(costliest, first, self.facts.orders)
            inserted, updated, plan = await self._follow(held)
            await self.given.settle(self.connection)
            if self.beside:
                updated += await self.beside.store(self.rows.refused)
            return inserted, updated, plan

    def _plan_by(self, facts: Facts) -> None:
        """Note what the choice of the plan, and the plans themselves, need to know of the table."""
        rules = {rule.name: rule for rule in rules_of_the_server(self.rows.rules, facts)}
        self.facts = facts
        known = [facts.columns[name] for name in self.target.columns if name in facts.columns]
        converted = {c.name: c.definition for c in known if is_converted(rules[c.name], c)}
        compared_as = {c.name: type_ for c in known if (type_ := comparable(c))}
        nullable = any(c.nullable for c in self.table.columns if c.name in self.key)
        nulls_equal = nullable and frozenset(self.key) in facts.nulls_equal
        self.target = replace(
            self.target,
            converted=converted,
            compared_as=compared_as,
            nullable_key=nullable and not nulls_equal,
            nulls_equal=nulls_equal,
        )
        self.wanted = Wanted(
            columns=self.target.columns,
            key=self.key,
            on_conflict=self.on_conflict,
            rows=self.rows.valid if self.rows.can_repeat else None,
            repeatable=self.rows.can_repeat,
            callers=self.callers,
            sortable=bool(self.key)
            and all(sorted_alike(rules[name], facts.columns.get(name)) for name in self.key)
            and converted.keys().isdisjoint(self.key),
            wide=self.target.wide,
            converted=bool(converted),
            rounded=any(wider(facts.columns[name]) for name in converted),
            checked=frozenset(
                constraint.name
                for owner in (self.table, *self.table.columns)
                for constraint in owner.constraints
                if constraint.info.get("checked") and isinstance(constraint.name, str)
            ),
            not_null=frozenset(rule.name for rule in self.rows.rules if not rule.nullable or rule.missing),
        )
        check_possible(facts, self.wanted, self._name, self.connection.dialect.identifier_preparer.quote)
        self.keys = Keys(self.key if self.wanted.sortable else ())
        sequences = {name: facts.columns[name].sequence for name in self.target.columns}
        self.given = Given({name: sequence for name, sequence in sequences.items() if sequence})
        types = tuple(rules[name].binary or "" for name in self.target.columns)
        self.target = replace(self.target, types=types if all(types) else None)

    async def _look_up(self) -> Facts:
        """Return the facts of the table; raise the server's error (42P01) if there is none."""
        facts = await facts_of(self.connection, self._name)
        if facts is None:
            await self._execute(f"SELECT FROM {self._name} LIMIT 0")  # succeeds if it was replaced just now
            facts = await facts_of(self.connection, self._name)
        if facts is None:  # a transaction that is not READ COMMITTED still sees the old catalogue
            raise CitykitError(f"table {self._name} was altered meanwhile; nothing was loaded. Run it again")
        return facts

    @property
    def _filled(self) -> list[str]:
        """The columns whose types a load relies on: those it sends, its key, and the one it may number."""
        counter = [self.facts.counter.column] if self.facts.counter else []
        return list(dict.fromkeys([*self.target.columns, *self.key, *counter]))

    async def _lock(self) -> Mode | None:
        """Lock the table, if the role may, until the transaction ends, so that it cannot be replaced."""
        asked = first_lock(self.facts, self.wanted, self.limits)
        if asked.mode == "SHARE ROW EXCLUSIVE" and not asked.required:
            if await lock(self.connection, self._name, asked.mode, LOCK_MILLISECONDS):
                return asked.mode
            asked = replace(asked, mode="ROW EXCLUSIVE")
        if asked.mode:
            await self._execute(f"LOCK TABLE {self._name} IN {asked.mode} MODE")
        return asked.mode

    async def _follow(self, held: Mode | None) -> Outcome:
        """Try one plan after the other until one succeeds; the last, "merge", names the refused rows."""
        in_savepoint: dict[Plan, Callable[[], Awaitable[Outcome | None]]] = {
            "fill": partial(self._rebuild, fill=True),
            "copy and rebuild": self._rebuild,
            "copy": self._copy,
            "join": self._join,
        }
        self.check = await self._checks_deferred()
        empty = held == "SHARE ROW EXCLUSIVE" and self.facts.selectable and await self._is_empty()
        ruled_out: set[Plan] = set()
        refused: BaseException | None = None
        while plan := choose(self.facts, self.wanted, held, ruled_out, self.limits, empty=empty):
            if plan in STAGED and not self.wanted.staged:
                await self._stage()
                continue  # choose again: the number of rows of a stream is known now
            if plan in EXCLUSIVE and not await lock(self.connection, self._name, "ACCESS EXCLUSIVE", 0):
                ruled_out.add(plan)
                continue
            if plan == "merge":
                return await self._merge()
            try:
                async with self.connection.begin_nested():
                    outcome = await in_savepoint[plan]()
            except SERVER_ERRORS as exc:
                if not self._another_plan_may_help(exc):
                    raise
                outcome, refused = None, exc
            if outcome is not None:
                return outcome
            ruled_out.add(plan)
        raise await self._unexplained(refused) from refused

    def _another_plan_may_help(self, exc: BaseException) -> bool:
        """Tell whether another plan may load the rows, or name those that the server refuses."""
        if sqlstate(exc) == Condition.OBJECT_IN_USE:
            return True  # a cursor of the session is open on the table: it was said before a row was sent
        at_hand = self.wanted.repeatable or self.wanted.staged
        refused = refuses_rows(exc, self.facts) or sqlstate(exc) in _NOT_BY_COPY
        refused = refused or (self.wanted.converted and refuses_a_text(exc))
        return refused and (at_hand or not self.facts.temporary)

    # The plans

    async def _rebuild(self, *, fill: bool = False) -> Outcome | None:
        """COPY with the indexes dropped; None if an index refuses rows of a stream: they are staged then."""
        indexes = await drop_indexes(self.connection, self.target)
        if fill:  # into the new file of a TRUNCATE, COPY writes no WAL where wal_level is minimal
            await self._execute(f"TRUNCATE {self._name}")
        arranged = await self._numbered()
        into = arranged.into(self.target)
        copied = await copy(
            self.connection, into, into.clause, into.types, self._source(), self.meter.advance, arranged.of
        )
        self.rows.refuse()
        await self._check_deferred()
        try:
            async with self.connection.begin_nested():
                await self._build(indexes)
        except DBAPIError as exc:
            # If a trigger may have changed the rows, they are sent again and not taken from the table.
            again = self.wanted.repeatable and (self.target.wide or not self.facts.only_keys_refuse)
            if again or not (fill and self.facts.temporary and sqlstate(exc) in _BY_AN_INDEX):
                raise
        else:
            self.given.number(arranged, self.rows.valid)  # also those that a trigger has dropped
            return copied, 0, "copy and rebuild"
        self.staged = await unload(self.connection, self.target, arranged.counter)
        self.wanted = replace(self.wanted, rows=self.staged, staged=True)
        await self._build(indexes)
        return None

    async def _copy(self) -> Outcome:
        source = self._source()
        if self.wanted.sortable and self.wanted.rows is not None and self.wanted.rows < self.limits.few_rows:
            source = _sorted(source, self.key)
        copied = await copy(
            self.connection, self.target, self.target.clause, self.target.types, source, self.meter.advance
        )
        await self._check_deferred()
        self.rows.refuse()
        return copied, 0, "copy"

    async def _join(self) -> Outcome:
        self.meter.begin("merging")
        join = Join(self._merging(), self.on_conflict, self.staged, self.keys)
        async with memory(self.connection, "work_mem", MEMORY):
            changes = await join.find()
            rebuild = (
                is_worth_a_rebuild(self.facts, changes, self.limits)
                and may_rebuild(self.facts, self.wanted)
                and await lock(self.connection, self._name, "ACCESS EXCLUSIVE", 0)
            )
            indexes = await drop_indexes(self.connection, self.target) if rebuild else []
            await join.apply()
        await self._check_deferred()
        await self._build(indexes)
        await join.drop()
        await self._drop_staging()
        return join.inserted, join.updated, "join and rebuild" if rebuild else "join"

    async def _merge(self) -> Outcome:
        """Merge the staged rows; those that the server refuses become rejects."""
        self.meter.begin("merging")
        in_order = needs_order(self.facts, self.wanted)
        merge = replace(self._merging(), in_order=in_order)
        alike = False  # a trigger has made two keys alike
        while True:
            one_by_one = alike or (in_order and not await merge.keeps_order(self.staged))
            if one_by_one and not self.facts.loops:
                raise may_not_loop(self.facts, "what is unique in the table depends on the order of the rows")
            if in_order or one_by_one:
                await take_turn(self.connection, self.facts)
            check = None
            try:
                async with self.connection.begin_nested():
                    if one_by_one:
                        inserted, updated = await add_one_by_one(merge, self.on_conflict)
                    else:
                        inserted, updated = await merge.run(self.on_conflict, self.staged)
                    check = self.check
                    await self._check_deferred()
                await self._drop_staging()
                return inserted, updated, "merge"
            except DBAPIError as exc:
                if sqlstate(exc) == Condition.CARDINALITY_VIOLATION and not one_by_one:
                    alike = True
                    continue
                if sqlstate(exc) == Condition.UNIQUE_VIOLATION and not is_raised(exc):
                    raise await self._duplicates(exc) from exc
                if not refuses_rows(exc, self.facts):
                    raise
                if not self.facts.loops:
                    raise may_not_loop(self.facts, server_message(exc)) from exc
                found = await find_violations(
                    merge, self.on_conflict, self.facts, check, one_by_one=one_by_one
                )
                if not found:
                    raise
                await self._reject(found, exc)

    # Steps of the plans

    async def _build(self, indexes: Sequence[RowMapping]) -> None:
        if indexes:
            self.meter.begin("indexing")
        await build_indexes(self.connection, self.target, indexes)

    def _source(self) -> AsyncIterator[pa.Table]:
        """Return the batches from the first on; again, where they can be sent again."""
        source, self._first = self._first or self._batches(), None
        self.meter.begin("sending")
        return self.given.noted(source)

    async def _batches(self) -> AsyncIterator[pa.Table]:
        async with aclosing(self.rows.batches()) as batches:
            async for batch in batches:
                yield self._without_beside(batch)

    def _without_beside(self, rows: pa.Table) -> pa.Table:
        return rows.drop_columns(self.beside.rule.name) if self.beside else rows

    async def _stage_beside(self, name: str, batches: Iterable[pa.Table]) -> Target:
        """Copy the rows into a temporary table of their own, with the column that another table stores."""
        columns, suffix = (*self.target.columns, name), f"{self.target.suffix}_beside"
        target = replace(self.target, columns=columns, types=None, suffix=suffix)
        definitions = {**self._definitions, name: "text[]"}
        await stage(self.connection, target, definitions, _each(batches), lambda _: None)
        return target

    async def _stage(self) -> None:
        source = self._source()
        if self.wanted.sortable:
            source = _noted(source, self.keys)
        sent: list[int] = []
        if self.target.wide:
            source = _with_positions(source, sent)
        self.staged = await stage(
            self.connection,
            self.target,
            self._definitions,
            source,
            self.meter.advance,
            Arrangement(self.by).of,
        )
        if self.target.wide:
            position = self._merging().staging.c[self.target.position]
            staged = await self.connection.scalars(select(position).order_by(position))
            self.positions = dict(zip(staged, sent, strict=True))
        self.rows.refuse()
        await self._reject(await find_unfit(self._merging(), self.facts))
        self.wanted = replace(self.wanted, rows=self.staged, staged=True)

    async def _numbered(self) -> Arrangement:
        most = self.rows.valid if self.rows.can_repeat else STREAM_ROWS
        return await numbered(self.connection, self.target, self.facts, self.by, most)

    async def _is_empty(self) -> bool:
        stored = select(exists(select(text("1")).select_from(self.target.clause)))
        return not await self.connection.scalar(stored)

    async def _checks_deferred(self) -> str | None:
        """Return the statement that checks deferred constraints at once; None if there are none.

        In a caller's transaction: those of this table only, and None if rows that the caller has written
        break them for now.
        """
        if not self.callers:
            return "SET CONSTRAINTS ALL IMMEDIATE" if self.facts.deferred or self.facts.kind != "r" else None
        if not self.facts.deferred:
            return None
        check = f"SET CONSTRAINTS {', '.join(self.facts.deferred)} IMMEDIATE"
        try:
            await self._check_and_defer(check)
        except DBAPIError as exc:
            if not refuses_rows(exc, self.facts):
                raise
            return None
        return check

    async def _check_deferred(self) -> None:
        if self.check and self.callers:
            await self._check_and_defer(self.check)
        elif self.check:
            await self._execute(self.check)

    async def _check_and_defer(self, check: str) -> None:
        """Check constraints, and leave them as the caller had them: a rollback defers them again."""
        savepoint = await self.connection.begin_nested()
        try:
            await self._execute(check)
        finally:
            await savepoint.rollback()

    def _merging(self) -> Merge:
        return Merge(
            self.connection,
            self.target,
            arbiter=self.facts.keys.get(frozenset(self.key)) is not False
            and not self.facts.instead
            and self.table.name != "excluded",  # which ON CONFLICT calls the row that it would insert
            system_columns=self.facts.kind == "r" and self.facts.selectable,
            parent=self.facts.kind == "r" and self.facts.inherited,
        )

    async def _duplicates(self, exc: BaseException) -> CitykitError:
        """Return the error of rows that are not unique: by the key, another constraint or a number."""
        violated = await violated_by(self.connection, self._name, exc)
        if behind := violated.behind(self._name, self.target.columns, "nothing was loaded"):
            return behind
        by_key = violated.columns in (frozenset(self.key), frozenset())
        readable = all("SELECT" in self.facts.columns[name].granted for name in self.key)
        if not (self.key and by_key and readable and self.on_conflict == "error"):
            return refused_duplicates([], 0, violated.said)
        merge = self._merging()
        if not self.wanted.staged:
            if not self.wanted.repeatable:
                return refused_duplicates([], 0, violated.said)
            merge = replace(merge, staging=await self._keys_as_parameters())
        return refused_duplicates(*await merge.conflicts(), violated.said)

    async def _keys_as_parameters(self) -> FromClause:
        """Return the keys of the rows as a subquery, where the role may make no temporary table."""
        async with aclosing(self.rows.batches()) as batches:
            keys = pa.concat_tables([batch.select(self.key) async for batch in batches])
        quote = self.connection.dialect.identifier_preparer.quote
        cast = ", ".join(
            f"CAST(key{n} AS {column.definition}){column.collation} AS {quote(column.name)}"
            for n, column in enumerate(self.facts.columns[name] for name in self.key)
        ).replace(":", "\\:")
        names = [f"key{n}" for n in range(len(self.key))]
        given = ", ".join(f"CAST(:{name} AS text[])" for name in names)
        texts = dict(zip(names, (column.cast(pa.large_string()).to_pylist() for column in keys), strict=True))
        return (
            text(
                f"SELECT position AS {self.target.position}, {cast} "  # noqa: S608  quoted names
                f"FROM unnest({given}) WITH ORDINALITY AS given ({', '.join(names)}, position)"
            )
            .bindparams(**texts)
            .columns(column(self.target.position), *map(column, self.key))
            .subquery("staging")
        )

    async def _unexplained(self, exc: BaseException | None) -> CitykitError:
        """Return the error of rows that are refused where the role may make no temporary table."""
        grant = (
            f"nothing was loaded. Let the role make temporary tables, by which refused rows are found: "
            f"GRANT TEMPORARY ON DATABASE {self.facts.database} TO {self.facts.role}"
        )
        if exc is None:
            return CitykitError(
                f"table {self._name} takes no COPY, so that a load needs a temporary table; {grant}"
            )
        if sqlstate(exc) == Condition.UNIQUE_VIOLATION:
            error = await self._duplicates(exc)
            return error if getattr(error, "keys", None) else type(error)(f"{error}\n{grant}")
        said = server_message(exc)
        return InvalidFrameError(f"{said}; {grant}", rejects_frame([(None, "", None, said)]))

    async def _drop_staging(self) -> None:
        """Drop the temporary table, which a caller's transaction would keep until it ends."""
        await self._execute(f"DROP TABLE pg_temp.{self.target.staging}")

    async def _reject(self, found: Sequence[Violation], exc: BaseException | None = None) -> None:
        """Delete staged rows and count them among the rejects; raise if one reject refuses the load."""
        if not found:
            return
        self.rows.reject([(self.positions.get(place, place), *what) for place, *what in found])
        self.rows.refuse(exc)
        table, position = f"pg_temp.{self.target.staging}", self.target.position_sql
        places = sorted({place for place, *_ in found})
        statement = text(f"DELETE FROM {table} WHERE {position} = ANY(:places)")  # noqa: S608
        self.staged -= (await self.connection.execute(statement, {"places": places})).rowcount

    async def _execute(self, sql: str) -> None:
        await self.connection.exec_driver_sql(sql)

    @property
    def _name(self) -> str:
        return self.connection.dialect.identifier_preparer.format_table(self.table)

    @property
    def _definitions(self) -> dict[str, str]:
        converted = self.target.converted
        return {
            column.name: "text" if column.name in converted else column.definition + column.collation
            for column in self.facts.columns.values()
        }


async def _chain(first: pa.Table, rest: AsyncIterator[pa.Table]) -> AsyncIterator[pa.Table]:
    yield first
    async for batch in rest:
        yield batch


async def _each(batches: Iterable[pa.Table]) -> AsyncIterator[pa.Table]:
    for batch in batches:
        yield batch


async def _noted(source: AsyncIterator[pa.Table], keys: Keys) -> AsyncIterator[pa.Table]:
    async for batch in source:
        await asyncio.to_thread(keys.note, batch)
        yield batch


async def _with_positions(source: AsyncIterator[pa.Table], sent: list[int]) -> AsyncIterator[pa.Table]:
    async for batch in source:
        sent += batch[POSITION].to_pylist()
        yield batch


async def _sorted(source: AsyncIterator[pa.Table], key: tuple[str, ...]) -> AsyncIterator[pa.Table]:
    """Bring (few) rows into the order of their keys, so that two loads at once do not deadlock."""
    whole = pa.concat_tables([batch async for batch in source])
    yield await asyncio.to_thread(whole.sort_by, [(name, "ascending") for name in key])
