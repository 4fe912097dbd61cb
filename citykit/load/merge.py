"""Staged rows into a table that others use meanwhile, by INSERT … ON CONFLICT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    Select,
    TableClause,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.errors import DuplicateKeyError
from citykit.load.named import ServerType
from citykit.load.staging import Target, staging_of

OnConflict: TypeAlias = Literal["error", "skip", "update"]


@dataclass
class Merge:
    """The statements over a target and its staged rows.

    Each inserts in the order of the keys, so that two loads at the same time wait for each other and do not
    deadlock; with `in_order`, in that of the frame.
    """

    connection: AsyncConnection
    target: Target
    arbiter: bool = True  # ON CONFLICT takes its key
    system_columns: bool = True  # xmax and ctid can be read
    parent: bool = False  # other tables inherit from it, whose rows its key does not hold for
    in_order: bool = False  # inserts in the order of the frame; then no key may repeat
    staging: Any = None  # the temporary table, or some of its rows
    table: TableClause = field(init=False)

    def __post_init__(self) -> None:
        self.table = self.target.clause
        if self.staging is None:
            self.staging = staging_of(self.target)

    async def run(self, on_conflict: OnConflict, staged: int) -> tuple[int, int]:
        """Return how many rows were inserted and how many updated."""
        if on_conflict == "error":
            return (await self.connection.execute(self._insert_all())).rowcount, 0
        if on_conflict == "skip":
            return (await self.connection.execute(self._insert_new())).rowcount, 0
        return await self._upsert(staged)

    async def conflicts(self) -> tuple[list[tuple[Any, ...]], int]:
        """Return the keys that staged rows share with each other or with the table, and a number of rows.

        It counts the rows that on_conflict='skip' would skip: of a new key, all but the first.
        """
        keys = (self.table.c[name] for name in self.target.key)
        stored = self._only(select(*keys, literal_column("true").label(self.target.place))).subquery("stored")
        there = func.count(stored.c[self.target.place]) > 0
        statement = (
            select(func.count() - case((there, 0), else_=1), *self._key)
            .outerjoin_from(self.staging, stored, self.equal(stored.c, self.staging.c))
            .where(*(column.is_not(None) for column in self._key if not self.target.nulls_equal))
            .group_by(*self._key)
            .having(or_(func.count() > 1, there))
            .order_by(func.min(self.staging.c[self.target.position]))
        )
        found = (await self.connection.execute(statement)).all()
        return [tuple(key) for _, *key in found], sum(row[0] for row in found)

    @property
    def _key(self) -> list[Any]:
        return [self.staging.c[name] for name in self.target.key]

    @property
    def _columns(self) -> list[Any]:
        return [self.staging.c[name] for name in self.target.columns]

    @property
    def _same(self) -> list[Any]:
        """The columns that are equal in two staged rows exactly if both are the same row of the table."""
        if not self.target.nullable_key:
            return self._key
        # A NULL in a key equals no other NULL: such a row is one of its own.
        lacking = or_(*(column.is_(None) for column in self._key))
        return [*self._key, case((lacking, self.staging.c[self.target.position]), else_=null())]

    def equal(self, one: Any, other: Any) -> Any:
        """Compare the keys of two rows; with OR, which an index serves, and not with IS NOT DISTINCT FROM."""
        pairs = [self._comparable(name, one, other) for name in self.target.key]
        if not self.target.nulls_equal:
            return and_(*(left == right for left, right in pairs))
        return and_(*(or_(left == right, and_(left.is_(None), right.is_(None))) for left, right in pairs))

    def keys(self) -> Select[Any]:
        """SELECT each staged key once."""
        return select(*(column.label(f"key{n}") for n, column in enumerate(self._same))).distinct()

    def first_or_last(self, *, last: bool = False, only_repeated: bool = False) -> Select[Any]:
        """SELECT one staged row of each key, the first or the last, in the order of the keys.

        The last row has the key of the first: equal keys may differ (0.0 and -0.0), and an update keeps the
        one that is there.
        """
        if only_repeated:  # not by IN, which finds no NULL
            times = func.count().over(partition_by=self._same).label(self.target.place)
            counted = select(self.staging, times).subquery("counted")
            rows = replace(self, staging=counted).first_or_last(last=last)
            return rows.where(counted.c[self.target.place] > 1)
        position = self.staging.c[self.target.position]
        order, columns = position, self._columns
        if last:
            order = position.desc()
            columns = [
                self._first(name) if name in self.target.key else self.staging.c[name]
                for name in self.target.columns
            ]
        return select(*columns).ext(distinct_on(*self._same)).order_by(*self._same, order)

    def _first(self, name: str) -> Any:
        """Return a column as the first row of each key has it."""
        position, values = self.staging.c[self.target.position], self.staging.c[name]
        return func.first_value(values).over(partition_by=self._same, order_by=position).label(name)

    def _insert_all(self) -> Insert:
        order = self._key or [self.staging.c[self.target.position]]
        every = select(*self._columns).order_by(*order)
        return insert(self.table).from_select(list(self.target.columns), every)

    def _insert(self, **which: bool) -> Insert:
        rows = self.first_or_last(**which)
        if self.in_order:
            rows = select(*self._columns).order_by(self.staging.c[self.target.position])
        return insert(self.table).from_select(list(self.target.columns), rows)

    def _insert_new(self) -> Insert:
        """INSERT the first row of each key that the table does not have."""
        if self.arbiter:
            return self._insert().on_conflict_do_nothing(index_elements=self.target.key)
        first = self.first_or_last().subquery("staged")
        new = select(*(first.c[name] for name in self.target.columns)).where(~self.stored(first.c))
        return insert(self.table).from_select(list(self.target.columns), new)

    async def _upsert(self, staged: int) -> tuple[int, int]:
        """Merge the first row of each key, then the last row of the keys that repeat.

        Once the first rows are written, no other transaction can change them. Of the later rows only the last
        of each key is written; the changes of those before it are counted in the staging table.
        """
        inserted, updated, keys = await self._upsert_first()
        if keys == staged:
            return inserted, updated
        changed = (await self.connection.execute(self.changes_of_repeats())).scalar_one()
        if self.arbiter:
            await self.connection.execute(self.or_update(self._insert(last=True, only_repeated=True)))
        else:
            await self._update_different(self.first_or_last(last=True, only_repeated=True))
        return inserted, updated + changed

    async def _upsert_first(self) -> tuple[int, int, int]:
        """Merge the first row of each key; return how many were inserted and updated, and how many keys."""
        distinct = select(func.count()).select_from(self.keys().subquery())
        if self.arbiter and self.system_columns:
            merged = self.or_update(self._insert()).returning(literal_column("xmax = 0").label("fresh")).cte()
            fresh = merged.c["fresh"]
            counts = select(
                func.count().filter(fresh), func.count().filter(~fresh), distinct.scalar_subquery()
            ).select_from(merged)
            inserted, updated, keys = (await self.connection.execute(counts)).one()
            return inserted, updated, keys
        keys = await self.connection.scalar(distinct) or 0
        inserted = (await self.connection.execute(self._insert_new())).rowcount
        return inserted, await self._update_different(self.first_or_last()), keys

    async def _update_different(self, rows: Select[Any]) -> int:
        """UPDATE the stored rows that differ from these staged ones; return how many they are."""
        if not self.target.values:
            return 0
        return (await self.connection.execute(self.replacement(rows.subquery("staged").c))).rowcount

    def replacement(self, given: Any) -> Any:
        """UPDATE the stored rows that differ from given ones: columns of a statement, or values."""
        values = {name: given[name] for name in self.target.values}
        same = self.equal(self.table.c, given)
        statement = update(self.table).values(values).where(same, self.differs(self.table.c, given))
        return statement.with_hint("ONLY", dialect_name="postgresql") if self.parent else statement

    def stored(self, given: Any) -> Any:
        """Tell in SQL whether the table has the key of a given row."""
        key: Any = literal_column("1")
        rows = select(key).select_from(self.table).where(self.equal(self.table.c, given))
        return self._only(rows).exists()

    def _only(self, statement: Select[Any]) -> Select[Any]:
        """Leave out the rows of tables that inherit from this one."""
        return statement.with_hint(self.table, "ONLY", "postgresql") if self.parent else statement

    async def keeps_order(self, staged: int) -> bool:
        """Tell whether one statement can merge so many rows in the order of the frame: no key repeats."""
        distinct = select(func.count()).select_from(self.keys().subquery())
        return self.arbiter and self.system_columns and await self.connection.scalar(distinct) == staged

    def or_update(self, statement: Insert) -> Insert:
        """Let an INSERT replace the values of a stored row that has the key, where they differ."""
        if not self.target.values:
            return statement.on_conflict_do_nothing(index_elements=self.target.key)
        new = {name: statement.excluded[name] for name in self.target.values}
        differs = self.differs(self.table.c, new)
        return statement.on_conflict_do_update(index_elements=self.target.key, set_=new, where=differs)

    def differs(self, one: Any, other: Any) -> Any:
        """Compare the columns that are not the key."""
        pairs = (self._comparable(name, one, other) for name in self.target.values)
        return or_(False, *(left.is_distinct_from(right) for left, right in pairs))

    def _comparable(self, name: str, one: Any, other: Any) -> tuple[Any, Any]:
        """Return a column of two rows, each as a type that has an equality operator."""
        if type_ := self.target.compared_as.get(name):
            return cast(one[name], ServerType(type_)), cast(other[name], ServerType(type_))
        return one[name], other[name]

    def changes_of_repeats(self) -> Select[Any]:
        """Count the rows after the first of their key that differ from the one before."""
        position = self.staging.c[self.target.position]
        # A window function for each column would be more columns than a SELECT may have.
        before = func.lag(position).over(partition_by=self._same, order_by=position).label(self.target.place)
        repeats, earlier = select(self.staging, before).subquery("repeats"), self.staging.alias("earlier")
        follows = repeats.c[self.target.place] == earlier.c[self.target.position]
        return select(func.count()).where(follows, self.differs(repeats.c, earlier.c))


def refused_duplicates(keys: Sequence[tuple[Any, ...]], rows: int, said: str) -> DuplicateKeyError:
    """Return the error that names the keys of rows; where none is known, it says what the server `said`."""
    if not keys:
        return DuplicateKeyError(f"{said}; nothing was loaded", keys)
    shown = ", ".join(map(repr, keys[:5])) + (f" and {len(keys) - 5:,} more keys" if len(keys) > 5 else "")
    words = "1 row is" if rows == 1 else f"{rows:,} rows are"
    return DuplicateKeyError(
        f"{words} already there, in the table or earlier in the frame: {shown}; nothing was loaded.\n"
        "on_conflict='skip' keeps what is there, on_conflict='update' replaces it.",
        keys,
    )
