"""Creating the tables, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support.database import execute, scalar

AUTOVACUUM = "SELECT FROM pg_stat_progress_vacuum WHERE relid = 'cities'::regclass"


@pytest.fixture
async def own_tables(engine: AsyncEngine) -> AsyncIterator[dict[str, sa.Table]]:
    """Tables of one's own on `citykit.Base`, by their names as SQL has to quote them."""
    metadata = citykit.Base.metadata
    await execute(engine, 'DROP SCHEMA IF EXISTS "Own places" CASCADE', 'CREATE SCHEMA "Own places"')
    tables = {
        quoted: sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), schema=schema)
        for quoted, name, schema in (
            ('"Visits"', "Visits", None),
            ('"user"', "user", None),
            ('"Own places"."Visits"', "Visits", "Own places"),
        )
    }
    yield tables
    for table in tables.values():
        metadata.remove(table)
    await execute(engine, 'DROP TABLE IF EXISTS "Visits", "user"', 'DROP SCHEMA "Own places" CASCADE')


async def test_a_reset_locks_and_empties_tables_of_ones_own_whatever_their_names(
    engine: AsyncEngine, own_tables: dict[str, sa.Table]
) -> None:
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    await citykit.create_tables(engine)
    async with engine.begin() as connection:
        for table in own_tables.values():
            await connection.execute(sa.insert(table), {"id": 1})
    await citykit.create_tables(engine, reset=True)
    lock = [sql for sql in statements if sql.startswith("LOCK TABLE ")][-1]
    names = lock.removeprefix("LOCK TABLE ").partition(" IN ")[0].split(", ")
    assert sorted(names) == sorted([*own_tables, "cities", "city_names"])
    async with engine.connect() as connection:
        for table in own_tables.values():
            assert await connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0


async def test_a_role_that_may_not_create_tables_is_told_the_grant_that_lets_it(engine: AsyncEngine) -> None:
    await execute(
        engine,
        'DROP SCHEMA IF EXISTS "Own places" CASCADE',
        'DROP ROLE IF EXISTS "citykit Newcomer"',
        'CREATE SCHEMA "Own places"',
        'CREATE ROLE "citykit Newcomer"',
        'GRANT USAGE ON SCHEMA "Own places" TO "citykit Newcomer"',
    )
    settings = {"role": "citykit Newcomer", "search_path": '"Own places"'}
    newcomer = await citykit.connect(engine.url, connect_args={"server_settings": settings})
    try:
        with pytest.raises(citykit.CitykitError, match=r"permission denied.*nothing was changed") as caught:
            await citykit.create_tables(newcomer)
        await execute(engine, str(caught.value).rpartition(": ")[2])
        await citykit.create_tables(newcomer)
        await citykit.add_city(newcomer, "a", 1)
        assert len(await citykit.biggest_cities(newcomer)) == 1
    finally:
        await newcomer.dispose()
        await execute(engine, 'DROP SCHEMA "Own places" CASCADE', 'DROP ROLE "citykit Newcomer"')


@pytest.mark.slow
async def test_a_reset_ends_an_autovacuum_of_the_table(engine: AsyncEngine) -> None:
    """Which would take minutes here, and which a lock with NOWAIT alone does not end."""
    await execute(
        engine,
        "INSERT INTO cities (name, population) SELECT 'city ' || n, 1 FROM generate_series(1, 50000) AS n",
        "ALTER TABLE cities SET (autovacuum_vacuum_insert_threshold = 0, autovacuum_vacuum_cost_limit = 1, "
        "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_cost_delay = 100)",
    )
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    await execute(alone, "ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(60):
            while not await scalar(engine, f"SELECT EXISTS ({AUTOVACUUM})"):  # noqa: ASYNC110  the server decides
                await asyncio.sleep(0.05)
        bounded = await citykit.connect(engine.url, lock_timeout=10)
        await citykit.create_tables(bounded, reset=True)
        await bounded.dispose()
    finally:
        await execute(alone, "ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0
