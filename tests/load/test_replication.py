"""A published table: subscribers keep their own rows, and what cannot be published is said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.database import embedded
from citykit.load.plan import FEW_ROWS
from tests.load.test_plan import many
from tests.support.database import copy_home, execute, scalar, stored

MANY = FEW_ROWS + 5_000
SLOT = "citykit_news"
PUBLICATIONS = {
    "table": "FOR TABLE cities",
    "schema": "FOR TABLES IN SCHEMA public",
    "all tables": "FOR ALL TABLES",
}


@pytest.fixture(scope="module")
def publishing(
    database: dict[str, str], initialised: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[URL]:
    """The URL of a server whose log can be decoded (``wal_level = logical``)."""

    async def found() -> URL:
        engine = await citykit.connect()
        level = await scalar(engine, "SHOW wal_level")
        if level != "logical":
            pytest.skip("CITYKIT_TEST_URL of a server with wal_level = logical; or without it: pytest")
        await engine.dispose()
        return engine.url

    if "CITYKIT_URL" in database:
        yield asyncio.run(found())
        return
    home = tmp_path_factory.mktemp("publishing") / "home"
    copy_home(initialised, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITYKIT_HOME", str(home))
        patch.setitem(embedded.SETTINGS, "wal_level", "logical")
        patch.setitem(embedded.SETTINGS, "max_wal_senders", "10")
        yield asyncio.run(found())
    embedded._servers.pop(home).leave()


@pytest.fixture
async def publisher(publishing: URL) -> AsyncIterator[AsyncEngine]:
    engine = await citykit.connect(publishing)
    await citykit.create_tables(engine, reset=True)
    yield engine
    await engine.dispose()


@pytest.fixture
async def subscriber(publisher: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """Another database of the server, with a table of its own."""
    async with publisher.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("DROP DATABASE IF EXISTS citykit_subscriber WITH (FORCE)"))
        await connection.execute(text("CREATE DATABASE citykit_subscriber"))
        engine = await citykit.connect(publisher.url.set(database="citykit_subscriber"))
        await citykit.create_tables(engine)
        yield engine
        await engine.dispose()
        await connection.execute(text("DROP DATABASE citykit_subscriber WITH (FORCE)"))


@pytest.fixture(params=PUBLICATIONS)
async def subscribed(
    publisher: AsyncEngine, subscriber: AsyncEngine, request: pytest.FixtureRequest
) -> AsyncIterator[None]:
    version = await scalar(publisher, "SELECT current_setting('server_version_num')::int")
    if request.param == "schema" and version < 150_000:
        pytest.skip("PostgreSQL 14 publishes no schemas: CITYKIT_TEST_URL of PostgreSQL 15 or newer")
    url = publisher.url
    place: dict[str, Any] = {"host": url.host, "port": url.port, **url.query}
    place |= {"dbname": url.database, "user": url.username, "password": url.password}
    conninfo = " ".join(f"{name}='{value}'" for name, value in place.items() if value is not None)
    await execute(publisher, f"CREATE PUBLICATION news {PUBLICATIONS[request.param]}")
    await scalar(publisher, f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    await execute(
        subscriber,
        f"""CREATE SUBSCRIPTION news CONNECTION '{conninfo.replace("'", "''")}' PUBLICATION news
            WITH (create_slot = false, slot_name = {SLOT}, copy_data = false)""",
    )
    yield
    await execute(subscriber, "ALTER SUBSCRIPTION news DISABLE")
    await execute(subscriber, "ALTER SUBSCRIPTION news SET (slot_name = NONE)", "DROP SUBSCRIPTION news")
    in_use = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'"  # noqa: S608
    async with asyncio.timeout(60):
        while await scalar(publisher, in_use):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await scalar(publisher, f"SELECT pg_drop_replication_slot('{SLOT}')")
    await execute(publisher, "DROP PUBLICATION news")


@pytest.mark.usefixtures("subscribed")
@pytest.mark.parametrize("rows", [10, MANY])
@pytest.mark.parametrize("policy", ["error", "skip", "update"])
async def test_a_subscriber_keeps_its_own_rows_and_gets_those_that_are_loaded(
    publisher: AsyncEngine, subscriber: AsyncEngine, policy: Any, rows: int
) -> None:
    own = "SELECT -n, 'own ' || n, n FROM generate_series(1, 1000) AS n"
    await execute(subscriber, f"INSERT INTO cities (id, name, population) {own}")
    expected = await stored(subscriber)
    repeated = many(rows) if policy == "error" else pd.concat([many(rows), many(1).assign(population=7)])
    other = many(rows, rows if policy == "error" else rows // 2).assign(population=3, latitude=1.0)
    for frame in (repeated, other):
        await citykit.load_cities(publisher, frame, on_conflict=policy)
    await citykit.add_city(publisher, "the last", 1)
    async with asyncio.timeout(60):
        while not await scalar(subscriber, "SELECT count(*) FROM cities WHERE name = 'the last'"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    expected |= await stored(publisher)
    assert await stored(subscriber) == expected
    assert len(expected) == 1_001 + (2 * rows if policy == "error" else rows + rows // 2)


IDENTITIES = {
    "nothing": ("ALTER TABLE cities REPLICA IDENTITY NOTHING", "DEFAULT"),
    "no primary key": ("ALTER TABLE cities DROP CONSTRAINT cities_pkey", "FULL"),
    "a primary key that is deferred": (
        "ALTER TABLE cities DROP CONSTRAINT cities_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "FULL",
    ),
}


@pytest.fixture
async def published(engine: AsyncEngine) -> AsyncIterator[None]:
    await execute(engine, "CREATE PUBLICATION news FOR ALL TABLES")
    yield
    await execute(engine, "DROP PUBLICATION news")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("before", ["nothing", "other rows", "these rows"])
@pytest.mark.parametrize("rows", [10, MANY])
@pytest.mark.parametrize("identity", IDENTITIES)
async def test_an_update_of_a_published_table_without_a_replica_identity_says_what_to_type(
    engine: AsyncEngine, identity: str, rows: int, before: str
) -> None:
    lose, found = IDENTITIES[identity]
    await execute(engine, lose)
    if before != "nothing":
        first = rows if before == "other rows" else 0
        await citykit.load_cities(engine, many(rows, first).assign(population=1))
    stood = await stored(engine)
    async with engine.connect() as connection:
        for bind in (engine, connection):
            with pytest.raises(citykit.CitykitError, match=r"table cities.*nothing was loaded") as caught:
                await citykit.load_cities(bind, many(rows), on_conflict="update")
        assert await stored(engine) == stood
        assert (await citykit.load_cities(connection, many(rows), on_conflict="skip")).inserted in (0, rows)
    typed = re.search(r"ALTER TABLE \S+ REPLICA IDENTITY (\w+)", str(caught.value))
    assert typed
    assert typed[1] == found
    await execute(engine, typed[0])
    await citykit.load_cities(engine, many(rows), on_conflict="update")
    written = await stored(engine)
    assert [written[f"city {n}", "", ""][0] for n in range(rows)] == list(range(rows))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("rows", [10, MANY])
async def test_a_published_table_without_a_replica_identity_takes_new_rows(
    engine: AsyncEngine, rows: int
) -> None:
    await execute(engine, IDENTITIES["nothing"][0])
    assert (await citykit.load_cities(engine, many(rows))).inserted == rows
    assert (await citykit.load_cities(engine, many(rows + 1), on_conflict="skip")).inserted == 1


PARTS = {
    "rows": "FOR TABLE cities WHERE (population > 5)",
    "columns": "FOR TABLE cities (name, population)",
    "rows and columns": "FOR TABLE cities (name, population) WHERE (population > 5)",
}


@pytest.mark.parametrize("rows", [10, MANY])
@pytest.mark.parametrize("part", PARTS)
async def test_an_update_of_a_table_that_is_published_in_part_says_what_to_type(
    engine: AsyncEngine, part: str, rows: int
) -> None:
    if await scalar(engine, "SELECT current_setting('server_version_num')::int") < 150_000:
        pytest.skip("PostgreSQL 14 publishes whole tables: CITYKIT_TEST_URL of PostgreSQL 15 or newer")
    published = PARTS[part]
    await citykit.load_cities(engine, many(rows).assign(population=1))
    await execute(engine, f"CREATE PUBLICATION news {published}")
    try:
        with pytest.raises(citykit.CitykitError, match="nothing was loaded") as caught:
            await citykit.load_cities(engine, many(rows), on_conflict="update")
        await execute(engine, *str(caught.value).partition("With SQL: ")[2].split("; "))
        await citykit.load_cities(engine, many(rows), on_conflict="update")
        assert (await stored(engine))[f"city {rows - 1}", "", ""][0] == rows - 1
        shown = "SELECT rowfilter FROM pg_publication_tables WHERE pubname = 'news'"
        assert (await scalar(engine, shown) is None) == ("WHERE" not in published)
    finally:
        await execute(engine, "DROP PUBLICATION news")
