"""Storing the other names of cities, in the transaction that stores the cities."""

# ruff: noqa: S608  the names of citykit's own tables and columns

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.cities.folding import NAMES_INDEX, folded_names
from citykit.cities.model import CITIES, CITY_NAMES, KEY, same_city
from citykit.database import Condition, driver_of, lock, locked_by, sqlstate
from citykit.encode import Rule, rules_of
from citykit.errors import MissingTableError
from citykit.load import OnConflict, Target

OTHER_NAMES = "other_names"
MANY = 5_000  # cities from which dropping the index is faster; the next search makes it again

_KEY = ", ".join(KEY)
# What `write_names` takes for one city: its key and its names as parameters.
ONE_CITY = f"(VALUES ($1::text, $2::text, $3::text, $4::text[])) AS given ({_KEY}, {OTHER_NAMES})"


def rule_of_names() -> Rule:
    """Return the rule of a list of other names: each has the limits of a city's name."""
    [own] = (rule for rule in rules_of(CITIES) if rule.name == "name")
    [names] = (rule for rule in rules_of(CITY_NAMES) if rule.name == OTHER_NAMES)
    assert names.item is not None  # noqa: S101  it is an array
    item = replace(names.item, nullable=False, low=own.low, high=own.high)
    return replace(names, nullable=True, needed=False, item=item)


@dataclass
class OtherNames:
    """The column ``other_names`` of cities that are loaded (a `Beside` of the load)."""

    rule: Rule = field(default_factory=rule_of_names)

    async def prepare(self, connection: AsyncConnection, rows: Target, on_conflict: OnConflict) -> None:
        """Copy the stored cities that have the keys of the rows, with their names, to a temporary table."""
        self.connection, self.rows, self.on_conflict = connection, rows, on_conflict
        self.staged, self.before = f"pg_temp.{rows.staging}", f"pg_temp.{rows.staging}_before"
        await check_table(connection, "nothing was loaded")
        if on_conflict == "error":  # a stored city would fail the load
            return
        await self._lock()
        await self._execute(f"ANALYZE {self.staged}")
        await self._execute(
            f"CREATE TEMPORARY TABLE {rows.staging}_before ON COMMIT DROP AS "
            f"SELECT {', '.join(f'c.{name}' for name in self._city)}, n.{OTHER_NAMES} "
            f"FROM cities c LEFT JOIN city_names n USING ({_KEY}) "
            f"WHERE ({', '.join(f'c.{name}' for name in KEY)}) IN (SELECT {_KEY} FROM {self.staged})"
        )

    async def _lock(self) -> None:
        """Wait for writers of cities: the copy of them must stay true until the rows are loaded.

        A role that may not lock the table loads without the lock.
        """
        try:
            async with self.connection.begin_nested():
                await self._execute(f"LOCK TABLE {CITIES.name} IN SHARE ROW EXCLUSIVE MODE")
        except DBAPIError as exc:
            if sqlstate(exc) != Condition.INSUFFICIENT_PRIVILEGE:
                raise

    async def store(self, refused: Collection[int]) -> int:
        """Store the names; return how many rows changed nothing else of their city."""
        position = self.rows.position
        if refused:
            await self._execute(
                f"DELETE FROM {self.staged} WHERE {position} = ANY($1::bigint[])", sorted(refused)
            )
        changed = await self._changed_in_names_only() if self.on_conflict == "update" else 0
        # Of rows with one key, "skip" keeps the first and "update" the last.
        last = "DESC" if self.on_conflict == "update" else ""
        new = f"WHERE NOT EXISTS (SELECT FROM {self.before} b WHERE {same_city('b', 's')})"
        final = (
            f"SELECT DISTINCT ON ({_KEY}) {_KEY}, coalesce({OTHER_NAMES}, '{{}}') AS {OTHER_NAMES} "
            f"FROM {self.staged} s {new if self.on_conflict == 'skip' else ''} "
            f"ORDER BY {_KEY}, {position} {last}"
        )
        names = f"{self.rows.staging}_names"
        await self._execute(
            f"CREATE TEMPORARY TABLE {names} ON COMMIT DROP AS SELECT s.* FROM ({final}) s "
            f"LEFT JOIN city_names n USING ({_KEY}) "
            f"WHERE coalesce(n.{OTHER_NAMES}, '{{}}') IS DISTINCT FROM s.{OTHER_NAMES}"
        )
        count = (await self.connection.exec_driver_sql(f"SELECT count(*) FROM pg_temp.{names}")).scalar_one()
        if count >= MANY and await lock(self.connection, CITY_NAMES.name, "ACCESS EXCLUSIVE", 0):
            await locked_by(self.connection, f"DROP INDEX IF EXISTS {NAMES_INDEX}", 0)
        await write_names(self.connection, f"(SELECT * FROM pg_temp.{names} ORDER BY {_KEY}) AS given")
        dropped = [self.staged, f"pg_temp.{names}", *([] if self.on_conflict == "error" else [self.before])]
        await self._execute(f"DROP TABLE {', '.join(dropped)}")  # a caller's transaction would keep them
        return changed

    async def _changed_in_names_only(self) -> int:
        """Count the rows that change only the names of their city, as it is before each row."""
        position, window = self.rows.position, "OVER one_by_one"
        values = [name for name in self._city if name not in KEY]
        same = " AND ".join(f"{name} IS NOT DISTINCT FROM lag({name}) {window}" for name in values)
        names = f"coalesce({OTHER_NAMES}, '{{}}')"
        columns = ", ".join((*KEY, *values, OTHER_NAMES))
        rows = await self.connection.exec_driver_sql(
            f"SELECT count(*) FILTER (WHERE changed) FROM (SELECT row_number() {window} > 1 AND {same} "
            f"AND {names} <> lag({names}) {window} AS changed FROM ("
            f"SELECT {columns}, -1 AS {position} FROM {self.before} UNION ALL "
            f"SELECT {columns}, {position} FROM {self.staged}) AS rows "
            f"WINDOW one_by_one AS (PARTITION BY {_KEY} ORDER BY {position})) AS compared"
        )
        return int(rows.scalar_one())

    @property
    def _city(self) -> tuple[str, ...]:
        return tuple(name for name in self.rows.columns if name != OTHER_NAMES)

    async def _execute(self, sql: str, *args: Any) -> None:
        await self.connection.exec_driver_sql(sql, args)


async def check_table(connection: AsyncConnection, undone: str) -> None:
    """Raise the error that names `create_tables` if the table of other names is missing."""
    if await connection.scalar(text(f"SELECT to_regclass('{CITY_NAMES.name}') IS NULL")):
        raise MissingTableError(
            f"there is no table {CITY_NAMES.name} for other names yet; {undone}. Create it first: "
            f"{CITY_NAMES.info['create']}"
        )


async def write_names(connection: AsyncConnection, given: str, *args: Any) -> None:
    """Replace the other names of cities by those of a table or subquery called ``given``."""
    await connection.exec_driver_sql(
        f"DELETE FROM city_names n USING {given} "
        f"WHERE {same_city('n', 'given')} AND given.{OTHER_NAMES} = '{{}}'",
        args,
    )
    encoding = driver_of(connection).get_settings().server_encoding
    names = folded_names(f"given.{OTHER_NAMES}", encoding)
    await connection.exec_driver_sql(
        f"INSERT INTO city_names ({_KEY}, {OTHER_NAMES}, folded, compact) "
        f"SELECT given.*, names.* FROM {given}, LATERAL {names} AS names WHERE {OTHER_NAMES} <> '{{}}' "
        f"ON CONFLICT ({_KEY}) DO UPDATE SET ({OTHER_NAMES}, folded, compact) "
        f"= (excluded.{OTHER_NAMES}, excluded.folded, excluded.compact)",
        args,
    )
