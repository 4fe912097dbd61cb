"""Which way rows take, and that nobody can tell from the table afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

import citykit
from citykit.load.join import Keys
from citykit.load.plan import FEW_ROWS
from citykit.load.source import CHUNK_ROWS
from tests.support.database import execute, scalar, stored
from tests.support.threads import calls_on_this_thread

MANY = 2 * FEW_ROWS


def many(count: int, first: int = 0) -> pd.DataFrame:
    numbers = np.arange(first, first + count)
    return pd.DataFrame({"name": [f"city {n}" for n in numbers], "population": numbers})


async def test_the_plan_follows_the_frame_and_the_table(engine: AsyncEngine) -> None:
    async def plan(frame: Any, **options: Any) -> str:
        return (await citykit.load_cities(engine, frame, **options)).plan

    assert await plan(many(10)) == "copy"
    assert await plan(many(10), on_conflict="skip") == "merge"
    assert await plan(many(MANY, 100)) == "copy and rebuild"
    assert await plan(many(MANY, 100), on_conflict="update") == "join"
    assert await plan(many(MANY, 100).assign(latitude=1), on_conflict="update") == "join and rebuild"
    assert await plan(many(FEW_ROWS, 10**6)) == "copy and rebuild"  # a third of what is there
    assert await plan(many(5 * MANY, 2 * 10**6)) == "copy and rebuild"
    assert await plan(many(FEW_ROWS, 10**7)) == "copy"  # a tenth
    await citykit.create_tables(engine, reset=True)
    assert await plan(many(MANY), on_conflict="update") == "copy and rebuild"
    await citykit.create_tables(engine, reset=True)
    assert await plan(pd.concat([many(MANY), many(1)]), on_conflict="skip") == "join and rebuild"


@pytest.mark.parametrize(
    ("names", "countries", "distinct"),
    [
        (["a", "a", "b"], ["x", "y", "x"], True),
        (["a", "b", "a"], ["x", "x", "x"], False),
        (["a", "a", None], [None, None, "x"], True),  # a NULL in a key equals no other
        (["a\x1fb", "a"], ["c", "b\x1fc"], False),  # cannot be told
        ([], [], False),
    ],
)
def test_keys_are_known_to_be_distinct_or_the_server_is_asked(
    names: list[str], countries: list[str], distinct: bool
) -> None:
    keys = Keys(("name", "country"))
    rows = pa.table({"name": pa.array(names, pa.string()), "country": pa.array(countries, pa.string())})
    for start in range(len(names)):
        keys.note(rows[start : start + 1])
    assert keys.distinct() is distinct


CATALOGUE = """
SELECT json_build_object(
  'indexes', (SELECT json_agg(row(pg_get_indexdef(i.indexrelid), indisunique, indisprimary, indisvalid,
      indisclustered, indisreplident, obj_description(i.indexrelid, 'pg_class'), x.reloptions, x.relname,
      (SELECT json_agg(row(attname, attstattarget)) FROM pg_attribute WHERE attrelid = x.oid))
      ORDER BY x.relname)
      FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid),
  'constraints', (SELECT json_agg(row(conname, contype, pg_get_constraintdef(k.oid), condeferrable,
      convalidated, conislocal, coninhcount, connoinherit, obj_description(k.oid, 'pg_constraint'))
      ORDER BY conname)
      FROM pg_constraint k WHERE c.oid IN (conrelid, confrelid)),
  'triggers', (SELECT json_agg(row(tgname, pg_get_triggerdef(t.oid), tgenabled) ORDER BY tgname)
      FROM pg_trigger t WHERE tgrelid = c.oid AND NOT tgisinternal),
  'columns', (SELECT json_agg(row(attname, atttypid, attnotnull, attstattarget, attidentity, attcollation,
      attacl, attstorage, col_description(c.oid, attnum)) ORDER BY attnum)
      FROM pg_attribute WHERE attrelid = c.oid),
  'statistics', (SELECT json_agg(row(stxname, pg_get_statisticsobjdef(oid), stxstattarget) ORDER BY stxname)
      FROM pg_statistic_ext WHERE stxrelid = c.oid),
  'table', row(c.oid, relowner, relacl, relpersistence, relreplident, relhasindex, relhastriggers,
      reloptions, obj_description(c.oid, 'pg_class')))::text
FROM pg_class c WHERE c.oid = 'cities'::regclass
"""

DECORATIONS = (
    "COMMENT ON TABLE cities IS 'of the world'",
    "COMMENT ON INDEX cities_biggest IS 'it''s the \"biggest\" $1 %s :name'",
    "COMMENT ON CONSTRAINT cities_key ON cities IS E'back\\\\slash'",
    "COMMENT ON COLUMN cities.name IS 'its name'",
    'CREATE INDEX "odd \'name""" ON cities (lower(name), (population + 1) DESC NULLS LAST) '
    "INCLUDE (region) WITH (fillfactor = 70) WHERE population > 5",
    "CREATE INDEX hashed ON cities USING hash (name)",
    "CREATE INDEX brin ON cities USING brin (population) WITH (pages_per_range = 8)",
    'CREATE INDEX patterns ON cities (name text_pattern_ops, country COLLATE "POSIX")',
    "CREATE INDEX measured ON cities ((latitude + 1))",
    "ALTER INDEX measured ALTER COLUMN 1 SET STATISTICS 500",
    "CREATE INDEX clustered ON cities (longitude)",
    "ALTER TABLE cities CLUSTER ON clustered",
    "CREATE UNIQUE INDEX replica ON cities (population, name, country, region)",
    "ALTER TABLE cities ALTER COLUMN population SET STATISTICS 1000",
    "ALTER TABLE cities ADD CONSTRAINT late UNIQUE (region, country, name) DEFERRABLE INITIALLY DEFERRED",
    "ALTER TABLE cities ADD CONSTRAINT packed UNIQUE (country, region, name) WITH (fillfactor = 50)",
    "CREATE STATISTICS together (dependencies) ON country, region FROM cities",
    "GRANT SELECT ON cities TO PUBLIC",
    "CREATE OR REPLACE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER watched BEFORE INSERT ON cities FOR EACH ROW EXECUTE FUNCTION watch()",
    "ALTER TABLE cities DISABLE TRIGGER watched",
)


@pytest.mark.parametrize("referred", [False, True], ids=["", "with a foreign key to it"])
async def test_a_rebuild_leaves_the_catalogue_as_it_was(engine: AsyncEngine, referred: bool) -> None:
    await execute(engine, *DECORATIONS)
    if referred:
        await execute(engine, "CREATE TABLE visits (city bigint REFERENCES cities (id))")
    before = await scalar(engine, CATALOGUE)
    try:
        plans = []
        for frame, policy in (
            (many(MANY), "error"),
            (many(MANY).assign(latitude=1.0), "update"),
            (many(MANY, MANY), "skip"),
        ):
            options: dict[str, Any] = {"on_conflict": policy}
            plans.append((await citykit.load_cities(engine, frame, **options)).plan)
            assert await scalar(engine, CATALOGUE) == before
        assert plans == ["copy and rebuild", "join and rebuild", "join and rebuild"]
        keys = "SELECT count(*) FROM (SELECT FROM cities GROUP BY name, country, region) AS keys"
        assert await scalar(engine, keys) == 2 * MANY
    finally:
        await execute(engine, "DROP TABLE IF EXISTS visits")


VISIBLE = {
    "publication of the table": ("CREATE PUBLICATION news FOR TABLE cities", "DROP PUBLICATION news"),
    "publication of its schema": (
        "CREATE PUBLICATION news FOR TABLES IN SCHEMA public",
        "DROP PUBLICATION news",
    ),
    "publication of all tables": ("CREATE PUBLICATION news FOR ALL TABLES", "DROP PUBLICATION news"),
    "publication without truncate": (
        "CREATE PUBLICATION news FOR TABLE cities WITH (publish = 'insert, update')",
        "DROP PUBLICATION news",
    ),
    "inheritance": ("CREATE TABLE heirs () INHERITS (cities)", "DROP TABLE heirs"),
    "event trigger": (
        "CREATE FUNCTION watch_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION watch_ddl()",
        "DROP EVENT TRIGGER watching; DROP FUNCTION watch_ddl()",
    ),
}


@pytest.mark.parametrize("what", VISIBLE)
async def test_nothing_is_truncated_or_rebuilt_where_that_shows_elsewhere(
    engine: AsyncEngine, what: str
) -> None:
    version = await scalar(engine, "SELECT current_setting('server_version_num')::int")
    if version < 150_000 and "SCHEMA" in VISIBLE[what][0]:
        pytest.skip("PostgreSQL 14 publishes no schemas: CITYKIT_TEST_URL of PostgreSQL 15 or newer")
    make, undo = VISIBLE[what]
    await execute(engine, *make.split("; "))
    files = (
        "SELECT array_agg(relfilenode ORDER BY oid) FROM pg_class WHERE oid = 'cities'::regclass "
        "OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'cities'::regclass)"
    )
    before = await scalar(engine, files)
    try:
        for frame, policy in (
            (many(MANY), "error"),
            (many(MANY).assign(latitude=1.0), "update"),
            (pd.concat([many(MANY, MANY), many(1)]), "skip"),
        ):
            options: dict[str, Any] = {"on_conflict": policy}
            await citykit.load_cities(engine, frame, **options)
            assert await scalar(engine, files) == before
    finally:
        await execute(engine, *undo.split("; "))


async def test_rebuilt_indexes_stay_in_their_tablespace(
    engine: AsyncEngine, database: dict[str, str]
) -> None:
    if "CITYKIT_URL" in database:
        pytest.skip("the directory is made for the embedded server: .venv/bin/pytest -k tablespace")
    space = Path(database["CITYKIT_HOME"]) / "space"
    space.mkdir(mode=0o700)
    owner = os.stat(f"{database['CITYKIT_HOME']}/postgres")
    os.chown(space, owner.st_uid, owner.st_gid)
    await execute(engine, "CREATE INDEX more ON cities (latitude)")
    catalogue = await scalar(engine, CATALOGUE)
    places = "SELECT array_agg(reltablespace ORDER BY relname) FROM pg_class WHERE relname LIKE 'cities%'"
    before = await scalar(engine, places)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SET LOCAL default_tablespace = elsewhere")
            plan = (await citykit.load_cities(connection, many(MANY))).plan
            assert plan == "copy and rebuild"
            assert await connection.scalar(text("SHOW default_tablespace")) == "elsewhere"
        assert await scalar(engine, places) == before
        assert await scalar(engine, CATALOGUE) == catalogue
    finally:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("DROP TABLE cities")
            await connection.exec_driver_sql("DROP TABLESPACE elsewhere")
        space.rmdir()


ENDS = {
    "few": many(10),
    "many": many(MANY),
    "a repeated key": pd.concat([many(MANY), many(1)]),
    "few with a repeated key": pd.concat([many(5), many(1)]),
}


@pytest.mark.parametrize("raises", [False, True], ids=["whole", "the source raises"])
@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("policy", ["error", "skip", "update"])
async def test_a_transaction_loads_again_after_every_end_of_a_load(
    engine: AsyncEngine, kind: str, policy: Any, raises: bool
) -> None:
    def source() -> Iterator[pd.DataFrame]:
        yield ENDS[kind]
        if raises:
            raise OSError("the file ends here")

    left = "SELECT string_agg(relname, ', ') FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
    async with engine.connect() as connection:
        await connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE citykit_staging ON COMMIT DROP AS SELECT 1 AS n"
        )
        for _ in range(2):
            with contextlib.suppress(OSError, citykit.DuplicateCityError):
                await citykit.load_cities(connection, source(), on_conflict=policy)
            assert await connection.scalar(text(left)) == "citykit_staging"
        await connection.exec_driver_sql("DELETE FROM cities")
        assert (await citykit.load_cities(connection, many(7), on_conflict=policy)).inserted == 7
        assert await connection.scalar(text("SELECT n FROM citykit_staging")) == 1


async def test_a_table_of_partitions_is_loaded(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
        await connection.execute(
            text(
                "CREATE TABLE cities (id bigint GENERATED BY DEFAULT AS IDENTITY, name text, country text, "
                "region text, population integer, UNIQUE (name, country, region)) PARTITION BY HASH (name)"
            )
        )
        for n in range(2):
            await connection.execute(
                text(f"CREATE TABLE part{n} PARTITION OF cities FOR VALUES WITH (MODULUS 2, REMAINDER {n})")
            )
    await citykit.load_cities(engine, many(MANY))
    report = await citykit.load_cities(engine, many(MANY + 5).assign(population=1), on_conflict="update")
    assert (report.inserted, report.updated, report.skipped) == (5, MANY - 1, 1)


# Beside others


async def reading(engine: AsyncEngine) -> AsyncConnection:
    """A connection in whose transaction the table has been read."""
    connection = await engine.connect()
    await connection.execute(text("SELECT count(*) FROM cities"))
    return connection


async def test_a_reader_in_an_open_transaction_is_not_waited_for(engine: AsyncEngine) -> None:
    reader = await reading(engine)
    try:
        report = await asyncio.wait_for(citykit.load_cities(engine, many(MANY)), 30)
        assert report.plan == "copy"
        assert await reader.scalar(text("SELECT count(*) FROM cities")) == MANY
    finally:
        await reader.close()


async def test_a_writer_in_an_open_transaction_is_not_waited_for_long(engine: AsyncEngine) -> None:
    async with engine.connect() as writer:
        await citykit.add_city(writer, "another", 1)
        report = await asyncio.wait_for(citykit.load_cities(engine, many(MANY), on_conflict="update"), 30)
        assert report.plan == "merge"
        await writer.commit()
    assert len(await stored(engine)) == MANY + 1


async def test_a_small_load_and_readers_do_not_wait_for_each_other(engine: AsyncEngine) -> None:
    await citykit.load_cities(engine, many(MANY))
    reader = await reading(engine)
    try:
        async with engine.connect() as loader:
            policies: list[Any] = ["error", "skip", "update"]
            for n, policy in enumerate(policies):
                await citykit.load_cities(loader, many(100, (n + 1) * 10**6), on_conflict=policy)
            # Not committed: whoever reads now reads beside it.
            assert len(await asyncio.wait_for(citykit.biggest_cities(engine, 5), 10)) == 5
            await loader.commit()
    finally:
        await reader.close()


async def test_eight_large_updates_at_once_end_as_if_one_after_the_other(engine: AsyncEngine) -> None:
    frames = [many(FEW_ROWS).sample(frac=1, random_state=n).assign(population=n) for n in range(4)]
    frames += [many(500).sample(frac=1, random_state=n).assign(population=n) for n in range(4, 8)]
    done = await asyncio.gather(*(citykit.load_cities(engine, f, on_conflict="update") for f in frames))
    assert sum(report.inserted for report in done) == FEW_ROWS
    rows = await stored(engine)
    assert len({rows[f"city {n}", "", ""][0] for n in range(500)}) == 1
    assert len({rows[f"city {n}", "", ""][0] for n in range(500, FEW_ROWS)}) == 1


async def is_waited_for(engine: AsyncEngine, table: str) -> None:
    """Return once a session waits for a lock on a table."""
    asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass(:table)::oid"
    asked += " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    async with asyncio.timeout(20):
        while not await scalar(engine, asked, table=table):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [3, MANY])
async def test_what_another_session_commits_meanwhile_is_kept(engine: AsyncEngine, count: int) -> None:
    await execute(
        engine, "DROP TABLE IF EXISTS late", "CREATE TABLE late (k int, v int, UNIQUE (k) DEFERRABLE)"
    )
    repeatable_read = await citykit.connect(isolation_level="REPEATABLE READ")
    frame = pd.DataFrame({"k": range(count), "v": 1})
    async with engine.connect() as other:
        await other.execute(text("INSERT INTO late VALUES (-1, 1)"))
        loading = asyncio.create_task(citykit.load_frame(repeatable_read, frame, "late", on_conflict="skip"))
        await is_waited_for(engine, "late")
        await other.commit()
    assert (await loading).inserted == count
    assert await scalar(engine, "SELECT count(*) FROM late") == count + 1
    await repeatable_read.dispose()
    await execute(engine, "DROP TABLE late")


CHANGES = {
    "altered": ["ALTER TABLE changing ALTER v TYPE float8"],
    "replaced": ["DROP TABLE changing", "CREATE TABLE changing (k int PRIMARY KEY, v smallint)"],
    "dropped": ["ALTER TABLE changing DROP v"],
    "numbered": ["ALTER TABLE changing ALTER id TYPE bigint"],
}
UNRELATED = {
    "added": ["ALTER TABLE changing ADD more int NOT NULL DEFAULT 5"],
    "dropped": ["ALTER TABLE changing DROP other"],
    "altered": ["ALTER TABLE changing ALTER other TYPE int USING 0"],
}
ISOLATIONS: list[Any] = ["READ COMMITTED", "REPEATABLE READ"]


async def load_while_it_changes(
    engine: AsyncEngine, isolation: Any, count: int, changes: list[str]
) -> citykit.LoadReport:
    """Load into a table that another session changes while the load waits for its lock."""
    await execute(
        engine,
        "DROP TABLE IF EXISTS changing",
        "CREATE TABLE changing (k int PRIMARY KEY, v bigint, other text, "
        "id int GENERATED ALWAYS AS IDENTITY)",
    )
    table = sa.Table(
        "changing", sa.MetaData(), sa.Column("k", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", sa.BigInteger),
    )  # fmt: skip
    frame = pd.DataFrame({"k": range(count), "v": 70_000})
    isolated = await citykit.connect(isolation_level=isolation)
    try:
        async with engine.connect() as other:
            await other.execute(text("LOCK TABLE changing IN SHARE ROW EXCLUSIVE MODE"))
            loading = asyncio.create_task(citykit.load_frame(isolated, frame, table))
            await is_waited_for(engine, "changing")
            for statement in changes:
                await other.exec_driver_sql(statement)
            await other.commit()
        return await loading
    finally:
        await isolated.dispose()


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", CHANGES)
async def test_rows_do_not_go_into_a_table_that_got_other_types_meanwhile(
    engine: AsyncEngine, change: str, isolation: str
) -> None:
    count = MANY if change == "numbered" else 1
    with pytest.raises(
        citykit.CitykitError, match=r"changing was altered meanwhile; nothing was loaded\. Run it again"
    ):
        await load_while_it_changes(engine, isolation, count, CHANGES[change])
    assert await scalar(engine, "SELECT count(*) FROM changing") == 0
    await execute(engine, "DROP TABLE changing")


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", UNRELATED)
async def test_rows_go_into_a_table_whose_other_columns_changed_meanwhile(
    engine: AsyncEngine, change: str, isolation: str
) -> None:
    report = await load_while_it_changes(engine, isolation, 3, UNRELATED[change])
    assert report.inserted == await scalar(engine, "SELECT count(*) FROM changing WHERE v = 70000") == 3
    await execute(engine, "DROP TABLE changing")


async def test_a_table_that_the_caller_is_reading_is_loaded(engine: AsyncEngine) -> None:
    await citykit.load_cities(engine, many(MANY))
    sources: list[Any] = [many(MANY, MANY), iter([many(MANY, 2 * MANY)])]
    for source in sources:
        async with engine.connect() as connection:
            read = await connection.stream(text("SELECT name FROM cities"))
            assert await read.fetchone()
            assert (await citykit.load_cities(connection, source)).inserted == MANY
            await read.close()
            await connection.rollback()


async def test_a_sessions_own_lock_timeout_stays_and_is_said(engine: AsyncEngine) -> None:
    async with engine.connect() as holder, engine.connect() as loader:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        await loader.execute(text("SET LOCAL lock_timeout = '100ms'"))
        for frame in (many(5), many(MANY)):
            with pytest.raises(
                citykit.CitykitError, match=r"0\.1 s.*nothing was loaded.*run it again.*server_settings"
            ):
                await citykit.load_cities(loader, frame)
        await holder.rollback()
        await citykit.load_cities(loader, many(5))
        assert await loader.scalar(text("SHOW lock_timeout")) == "100ms"


WAITING: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "a few": lambda bind: citykit.load_cities(bind, many(5)),
    "a few, merged": lambda bind: citykit.load_cities(bind, many(5), on_conflict="update"),
    "many": lambda bind: citykit.load_cities(bind, many(MANY)),
    "one": lambda bind: citykit.add_city(bind, "one", 1),
    "create": lambda bind: citykit.create_tables(bind),
    "reset": lambda bind: citykit.create_tables(bind, reset=True),
}
HELD = {"SHARE": ("a few", "a few, merged", "many", "one", "reset"), "ACCESS SHARE": ("reset",)}


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
@pytest.mark.parametrize(("mode", "what"), [(mode, what) for mode in HELD for what in HELD[mode]])
async def test_a_wait_for_a_lock_is_bounded_and_says_who_holds_it(
    engine: AsyncEngine, kind: str, mode: str, what: str
) -> None:
    await citykit.add_city(engine, "before", 1)
    bounded = engine.execution_options(citykit_lock_timeout=0.3)
    async with engine.connect() as holder, bounded.connect() as connection:
        await holder.execute(text("SET LOCAL application_name = 'the holder'"))
        pid = await holder.scalar(text("SELECT pg_backend_pid()"))
        await holder.execute(text(f"LOCK TABLE cities IN {mode} MODE"))
        async with AsyncSession(connection) as session, asyncio.timeout(30):
            bind: Any = {"engine": bounded, "connection": connection, "session": session}[kind]
            with pytest.raises(citykit.CitykitError) as caught:
                await WAITING[what](bind)
            said = str(caught.value)
            for part in (
                "table cities",
                "0.3 s",
                f"process {pid} (the holder)",
                "nothing was",
                "await citykit.connect(url, lock_timeout=",
            ):
                assert part in said
            await holder.rollback()
            await WAITING[what](bind)
            if kind != "engine":
                asked = bind if kind == "connection" else await session.connection()
                assert await asked.scalar(text("SHOW lock_timeout")) == "0"


async def test_a_reset_that_waits_keeps_no_reader_waiting(engine: AsyncEngine) -> None:
    reader = await reading(engine)
    resetting = asyncio.create_task(citykit.create_tables(engine, reset=True))
    try:
        async with asyncio.timeout(20):
            for _ in range(50):
                assert await scalar(engine, "SELECT count(*) FROM cities") == 0
                await asyncio.sleep(0.01)
            assert not resetting.done()
            await reader.rollback()
            await resetting
    finally:
        resetting.cancel()
        await reader.close()


# Many sources


def pieces(count: int) -> list[pd.DataFrame]:
    whole = many(count)
    return [whole.iloc[start : start + 999] for start in range(0, count, 999)]


async def asynchronous(frames: list[pd.DataFrame]) -> AsyncIterator[pd.DataFrame]:
    for frame in frames:
        await asyncio.sleep(0)
        yield frame


def generated(frames: list[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    yield from frames


class Foreign:
    """What another library's frame shows of itself to Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


SOURCES: dict[str, Any] = {
    "list": lambda count: pieces(count),
    "generator": lambda count: generated(pieces(count)),
    "async generator": lambda count: asynchronous(pieces(count)),
    "Arrow table": lambda count: pa.Table.from_pandas(many(count)),
    "record batch": lambda count: pa.RecordBatch.from_pandas(many(count)),
    "reader": lambda count: pa.Table.from_pandas(many(count)).to_reader(999),
    "batches": lambda count: pa.Table.from_pandas(many(count)).to_batches(999),
    "foreign": lambda count: Foreign(pa.Table.from_pandas(many(count), preserve_index=False)),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("count", [2_000, MANY])
async def test_every_source_is_one_load(engine: AsyncEngine, kind: str, count: int) -> None:
    def source() -> Any:
        made = SOURCES[kind](count)
        return made.select(["name", "population"]) if kind == "Arrow table" else made

    heard: list[tuple[int, int | None]] = []
    first = await citykit.load_cities(engine, source(), progress=lambda *rows: heard.append(rows))
    assert first.plan in ("copy", "copy and rebuild")
    assert heard[-1] == (count, count if kind in ("Arrow table", "record batch") else None)
    assert await stored(engine) == {(f"city {n}", "", ""): (n, None, None) for n in range(count)}
    report = await citykit.load_cities(engine, source(), on_conflict="update")
    assert (report.inserted, report.updated, report.skipped) == (0, 0, count)
    with pytest.raises(citykit.DuplicateCityError) as caught:
        await citykit.load_cities(engine, source())
    assert len(caught.value.keys) == count
    assert caught.value.keys[0] == ("city 0", "", "")


@pytest.mark.parametrize("policy", ["error", "skip", "update"])
async def test_a_stream_whose_keys_repeat_follows_the_rule(engine: AsyncEngine, policy: Any) -> None:
    frames = [many(MANY), many(3).assign(population=[7, 1, 2]), many(1).assign(population=9)]
    if policy == "error":
        with pytest.raises(citykit.DuplicateCityError) as caught:
            await citykit.load_cities(engine, frames)
        assert caught.value.keys == [(f"city {n}", "", "") for n in range(3)]
        assert await stored(engine) == {}
        return
    report = await citykit.load_cities(engine, iter(frames), on_conflict=policy)
    updated = 2 if policy == "update" else 0
    assert (report.inserted, report.updated, report.skipped) == (MANY, updated, 4 - updated)
    assert (await stored(engine))["city 0", "", ""][0] == (9 if policy == "update" else 0)


@pytest.mark.parametrize("arrow", [False, True])
async def test_bad_rows_of_a_stream_are_all_named(engine: AsyncEngine, arrow: bool) -> None:
    frames = [f.assign(population=f["population"].where(f.index % 500 != 499, -1)) for f in pieces(2_500)]
    source = [pa.Table.from_pandas(f, preserve_index=False) for f in frames] if arrow else frames
    with pytest.raises(citykit.InvalidFrameError, match="5 negative values") as caught:
        await citykit.load_cities(engine, source)
    assert caught.value.rejects["row"].tolist() == [499, 999, 1499, 1999, 2499]
    assert await stored(engine) == {}
    report = await citykit.load_cities(engine, source, on_invalid="skip")
    assert (report.inserted, report.rejects["row"].tolist()) == (2_495, [499, 999, 1499, 1999, 2499])


async def test_an_empty_stream_loads_nothing(engine: AsyncEngine) -> None:
    assert (await citykit.load_cities(engine, [])).inserted == 0
    assert (await citykit.load_cities(engine, [many(0)])).inserted == 0


async def test_chunks_of_other_columns_are_refused(engine: AsyncEngine) -> None:
    frames = [many(5), many(5, 5).assign(latitude=1.0)]
    with pytest.raises(citykit.InvalidFrameError, match=r"row 5.*other columns.*latitude"):
        await citykit.load_cities(engine, frames)
    assert await stored(engine) == {}


async def test_an_error_of_the_source_leaves_nothing(engine: AsyncEngine) -> None:
    def broken() -> Iterator[pd.DataFrame]:
        yield many(3 * CHUNK_ROWS)
        raise OSError("the file ends here")

    for _ in range(2):
        with pytest.raises(OSError, match="the file ends here"):
            await citykit.load_cities(engine, broken())
        assert await stored(engine) == {}
    assert (await citykit.load_cities(engine, many(3))).inserted == 3


# The loop


async def test_the_loop_stays_alive_while_rows_load(engine: AsyncEngine) -> None:
    """Its thread converts no row: it calls `encode` for four chunks of rows as often as for two."""
    await citykit.load_cities(engine, many(1))  # which imports what it needs
    called: list[Counter[str]] = []
    for count in (2 * CHUNK_ROWS, 4 * CHUNK_ROWS):
        await citykit.create_tables(engine, reset=True)
        frame = many(count)
        with calls_on_this_thread("encode") as calls:
            await citykit.load_cities(engine, frame)
            await citykit.load_cities(engine, frame.assign(population=1), on_conflict="update")
        called.append(calls)
    assert called[0] == called[1]


# Trouble


@pytest.fixture
async def small_disk(engine: AsyncEngine, database: dict[str, str], tmp_path: Path) -> AsyncIterator[None]:
    """The table on a disk of 12 MB, its rows kept."""
    if os.geteuid() or "CITYKIT_URL" in database:
        pytest.skip("a small disk is made by root for the embedded server: sudo .venv/bin/pytest -k disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    for folder in (disk, *disk.parents):
        if folder != Path("/") and folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    await asyncio.to_thread(subprocess.run, mount, check=True)
    try:
        space = disk / "space"
        space.mkdir(0o700)
        owner = os.stat(f"{database['CITYKIT_HOME']}/postgres")
        os.chown(space, owner.st_uid, owner.st_gid)
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{space}'")
            await connection.exec_driver_sql("ALTER TABLE cities SET TABLESPACE small")
            yield
            await connection.exec_driver_sql("DROP TABLE cities")
            await connection.exec_driver_sql("CHECKPOINT")
            await connection.exec_driver_sql("DROP TABLESPACE small")
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(disk)], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_is_said_and_leaves_the_table_as_it_was(engine: AsyncEngine) -> None:
    frame = many(300_000)
    for stored_before in (0, 1_000):
        await citykit.load_cities(engine, many(stored_before))
        policies: list[Any] = ["error", "skip", "update"]
        for policy in policies:
            given = frame.iloc[stored_before:] if policy == "error" else frame.assign(population=1)
            with pytest.raises(citykit.CitykitError, match=r"nothing was changed. The server's disk is full"):
                await citykit.load_cities(engine, given, on_conflict=policy)
            assert len(await stored(engine)) == stored_before
    assert (await citykit.load_cities(engine, many(10), on_conflict="update")).skipped == 10


@pytest.mark.parametrize("policy", ["error", "update"])
async def test_a_large_load_cancelled_at_any_moment_is_all_or_nothing(
    engine: AsyncEngine, policy: Any
) -> None:
    """Before, while and after indexes are rebuilt."""
    frame, catalogue = many(2 * MANY), await scalar(engine, CATALOGUE)
    started = time.perf_counter()
    await citykit.load_cities(engine, frame)
    seconds = time.perf_counter() - started
    for part in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        before = await scalar(engine, "SELECT count(*) FROM cities")
        given = frame.assign(name="more " + frame["name"], latitude=part)
        loading = asyncio.create_task(citykit.load_cities(engine, given, on_conflict=policy))
        await asyncio.wait([loading], timeout=2 * part * seconds)
        loading.cancel()
        [done] = await asyncio.gather(loading, return_exceptions=True)
        count = await scalar(engine, "SELECT count(*) FROM cities")
        # Cancelled while the commit is on its way, it may have happened; but all of it.
        assert count in {before, len(frame), 2 * len(frame)}
        assert isinstance(done, (asyncio.CancelledError, citykit.LoadReport, citykit.DuplicateCityError))
        assert await scalar(engine, CATALOGUE) == catalogue


class CancelsAt:
    """Cancels the task that sends the statement of this number, so many seconds after it is sent."""

    def __init__(self, number: int, seconds: float) -> None:
        self.number, self.seconds, self.sent = number, seconds, 0

    def __call__(self, *_: Any) -> None:
        self.sent += 1
        task = asyncio.current_task()
        if self.sent == self.number and task:
            asyncio.get_running_loop().call_later(self.seconds, task.cancel)


@pytest.mark.parametrize("seconds", [0, 0.002])
@pytest.mark.parametrize(("rows", "policy"), [(1_000, "update"), (FEW_ROWS, "update"), (FEW_ROWS, "error")])
async def test_a_load_cancelled_at_any_of_its_statements_says_so_and_lets_go_of_the_table(
    engine: AsyncEngine, rows: int, policy: Any, seconds: float
) -> None:
    before = FEW_ROWS // 2
    await citykit.load_cities(engine, many(before))
    names = ("before_cursor_execute", "savepoint", "release_savepoint", "commit")
    for number in range(1, 90):
        given = many(rows, before if policy == "error" else before - 500).assign(latitude=number)
        cancels = CancelsAt(number, seconds)
        for name in names:
            event.listen(engine.sync_engine, name, cancels)
        loading = citykit.load_cities(engine, given, on_conflict=policy)
        done: Any = (await asyncio.gather(loading, return_exceptions=True))[0]
        for name in names:
            event.remove(engine.sync_engine, name, cancels)
        await execute(engine, "SET lock_timeout = '10s'", "LOCK TABLE cities IN ACCESS EXCLUSIVE MODE")
        count = await scalar(engine, "SELECT count(*) FROM cities WHERE latitude = :at", at=number)
        if isinstance(done, citykit.LoadReport):  # the cancel came too late
            assert count == rows
        else:
            assert isinstance(done, asyncio.CancelledError), done
            # Cancelled while the commit is on its way, it may have happened; but all of it.
            assert count in {0, rows}
        if number > cancels.sent:
            return
        await execute(engine, f"DELETE FROM cities WHERE population >= {before}")  # noqa: S608
    pytest.fail("a load of so many statements")


async def test_a_load_in_a_transaction_that_is_broken_is_refused(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.exec_driver_sql("SELECT 1/0")
        for frame in (many(1), many(MANY)):
            with pytest.raises(citykit.CitykitError, match=r"await connection.rollback\(\)"):
                await citykit.load_cities(connection, frame)
        await connection.rollback()
        assert (await citykit.load_cities(connection, many(MANY))).inserted == MANY


async def test_a_large_load_in_the_callers_transaction_is_the_callers_to_commit(engine: AsyncEngine) -> None:
    catalogue = await scalar(engine, CATALOGUE)
    async with engine.connect() as connection:
        assert (await citykit.load_cities(connection, many(MANY))).plan == "copy and rebuild"
        again = many(2 * MANY).assign(latitude=1)
        assert (await citykit.load_cities(connection, again, on_conflict="update")).plan == "join and rebuild"
        with pytest.raises(citykit.DuplicateCityError):
            await citykit.load_cities(connection, again)
        assert (await citykit.load_cities(connection, again, on_conflict="skip")).skipped == 2 * MANY
        await connection.rollback()
    assert await stored(engine) == {}
    assert await scalar(engine, CATALOGUE) == catalogue
