"""Loading: the table is citykit's own, with its keys and indexes; the data are the same for all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.encode.copy_format import encode_csv
from tests.benchmarks.bench import Job, Target

COLUMNS = ["name", "country", "region", "population", "latitude", "longitude"]
NAMES = ", ".join(COLUMNS)
INGEST = ("ADBC", "polars", "sqlspec", "psycopg COPY", "asyncpg COPY")


def cities(count: int, prefix: str = "", seed: int = 1) -> pd.DataFrame:
    """Return GeoNames' cities, repeated under names made unique, with Pareto populations, in random order."""
    world = citykit.world_cities(500, other_names=False)
    random = np.random.default_rng(seed)
    place = np.arange(count)
    frame = world.iloc[place % len(world)].reset_index(drop=True)
    frame["name"] = (prefix + frame["name"] + " #" + pd.Series(place // len(world)).astype("str")).astype(
        "str"
    )
    frame["population"] = np.minimum(random.pareto(1.1, count) * 1000, 2e7).astype("int64")
    frame.attrs = {}
    return frame.iloc[random.permutation(count)].reset_index(drop=True)


class Server:
    """A server, for citykit's engine and for the drivers of others; without `uri`, the embedded one."""

    def __init__(self, engine: AsyncEngine, disk: Path, uri: str = "") -> None:
        self.engine = engine
        self.disk = disk  # which the server reads, too
        if not uri:
            host, port = (str(engine.url.query[name]) for name in ("host", "port"))
            url = engine.url
            uri = f"postgresql:///{url.database}?host={quote(host)}&port={port}&user={url.username}"
        self.uri = uri

    async def fill(self, frame: pd.DataFrame | None) -> None:
        """Make the table anew, with these rows and the statistics of the planner."""
        await citykit.create_tables(self.engine, reset=True)
        if frame is not None:
            await citykit.load_cities(self.engine, frame)
        await self.execute("VACUUM ANALYZE cities")
        await self.execute("CHECKPOINT")

    async def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        async with self.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def count(self) -> int:
        async with self.engine.connect() as connection:
            return int(await connection.scalar(text("SELECT count(*) FROM cities")) or 0)


def peers(server: Server, frame: pd.DataFrame) -> dict[str, Any]:
    """Return how others append a frame to the table."""
    narrow = frame.astype({"population": "int32"})
    arrow = pa.Table.from_pandas(narrow, preserve_index=False)

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(server.uri) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("cities", arrow, mode="append")
            connection.commit()

    def polars() -> None:
        import polars as pl

        frame_of_polars: Any = pl.from_arrow(arrow)
        frame_of_polars.write_database("cities", server.uri, engine="adbc", if_table_exists="append")

    async def sqlspec() -> None:
        from sqlspec import SQLSpec
        from sqlspec.adapters.asyncpg import AsyncpgConfig

        config = AsyncpgConfig(connection_config={"dsn": server.uri})
        spec = SQLSpec()
        spec.add_config(config)
        async with spec.provide_session(config) as session:
            await session.load_from_arrow("cities", arrow)
        await config.close_pool()

    def psycopg() -> None:
        import psycopg as driver

        statement = f"COPY cities ({NAMES}) FROM STDIN (FORMAT binary)"
        with (
            driver.connect(server.uri) as connection,
            connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            copy.set_types(["text", "text", "text", "int4", "float8", "float8"])
            for row in narrow.itertuples(index=False, name=None):
                copy.write_row(row)

    async def asyncpg() -> None:
        import asyncpg as driver

        connection = await driver.connect(server.uri)
        await connection.copy_records_to_table(
            "cities", columns=COLUMNS, records=narrow.itertuples(index=False, name=None)
        )
        await connection.close()

    return {
        "ADBC": adbc,
        "polars": polars,
        "sqlspec": sqlspec,
        "psycopg COPY": psycopg,
        "asyncpg COPY": asyncpg,
    }


def server_alone(server: Server, frame: pd.DataFrame) -> Any:
    """Return the physical limit: COPY from a file on the server's disk, then the indexes."""
    path = server.disk / "rows.csv"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with path.open("wb") as file:
        for batch in table.to_batches(65_536):
            file.write(encode_csv(batch))
    path.chmod(stat.S_IMODE(os.stat(path).st_mode) | 0o444)

    async def alone() -> None:
        async with server.engine.begin() as connection:
            for statement in (
                "TRUNCATE cities",
                "ALTER TABLE cities DROP CONSTRAINT cities_pkey, DROP CONSTRAINT cities_key",
                "DROP INDEX cities_biggest, cities_biggest_by_country",
                f"COPY cities ({NAMES}) FROM '{path}' (FORMAT csv)",
                "ALTER TABLE cities ADD CONSTRAINT cities_pkey PRIMARY KEY (id)",
                "ALTER TABLE cities ADD CONSTRAINT cities_key UNIQUE (name, country, region)",
                "CREATE INDEX cities_biggest ON cities (population DESC, name)",
                "CREATE INDEX cities_biggest_by_country ON cities (country, population DESC, name)",
            ):
                await connection.exec_driver_sql(statement)

    return alone


def staging_by_hand(server: Server, frame: pd.DataFrame) -> Any:
    """Return the upsert as everyone writes it."""
    narrow = frame.astype({"population": "int32"})
    update = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[3:])

    async def by_hand() -> None:
        import asyncpg as driver

        connection = await driver.connect(server.uri)
        async with connection.transaction():
            await connection.execute("CREATE TEMP TABLE staging (LIKE cities) ON COMMIT DROP")
            await connection.execute("ALTER TABLE staging DROP COLUMN id")
            await connection.copy_records_to_table(
                "staging", columns=COLUMNS, records=narrow.itertuples(index=False, name=None)
            )
            await connection.execute(
                f"INSERT INTO cities ({NAMES}) SELECT {NAMES} FROM staging "  # noqa: S608
                f"ON CONFLICT (name, country, region) DO UPDATE SET {update}"
            )
        await connection.close()

    return by_hand


def half_new_a_quarter_changed(frame: pd.DataFrame) -> pd.DataFrame:
    random = np.random.default_rng(2)
    stored = frame.sample(frac=0.5, random_state=3)
    changed = stored["population"] + (random.random(len(stored)) < 0.5)
    new = frame.sample(frac=0.5, random_state=4)
    both = pd.concat([stored.assign(population=changed), new.assign(name="new " + new["name"])])
    return both.sample(frac=1, random_state=5, ignore_index=True)


def jobs(server: Server, rows: int, ratio: float) -> list[Job]:
    """Return the jobs over a table of so many rows; `ratio` is the target of the large ones."""
    frame = cities(rows)
    update = half_new_a_quarter_changed(frame)
    thousand = frame.sample(1_000, random_state=6, ignore_index=True)
    ten_thousand = cities(10_000, "more ")
    small = frame.head(100_000)

    def ours(given: pd.DataFrame, policy: Any) -> Any:
        async def load() -> None:
            await citykit.load_cities(server.engine, given, on_conflict=policy)

        return load

    async def empty() -> None:
        await server.fill(None)

    async def full() -> None:
        await server.fill(frame)

    turns = iter(range(10**6))

    async def thousand_changed() -> None:
        if next(turns) == 0:
            await full()
        thousand["population"] += 1

    async def without_the_ten_thousand() -> None:
        if await server.count() != rows:
            await full()
        await server.execute("CHECKPOINT")

    def to_sql() -> None:
        import sqlalchemy as sa

        engine = sa.create_engine(server.uri.replace("postgresql:", "postgresql+psycopg:"))
        small.to_sql("cities", engine, if_exists="append", index=False)
        engine.dispose()

    async def pangres() -> None:
        from pangres import aupsert

        await aupsert(
            con=server.engine, df=small.set_index(["name", "country", "region"]), table_name="cities",
            if_row_exists="update", create_table=False, chunksize=5_000,
        )  # fmt: skip

    alone = {"the server alone": server_alone(server, frame)}
    load = {"citykit": ours(frame, "error"), **peers(server, frame), **alone}
    many = f"{rows:,}"
    return [
        Job(
            f"Load {many} rows into the empty table", load,
            [Target("best", ratio), Target("the server alone", 1.2)], empty, INGEST,
        ),
        Job(
            f"Upsert {many} rows in random order (half new, a quarter changed) into {many}",
            {"citykit": ours(update, "update"), "staging by hand": staging_by_hand(server, update)},
            [Target("staging by hand", ratio)], full,
        ),
        Job(
            f"Upsert {many} unchanged rows",
            {"citykit": ours(frame, "update"), "staging by hand": staging_by_hand(server, frame)},
            [Target("staging by hand", 0.25)], full,
        ),
        Job(
            f"Upsert 1,000 rows into {many}",
            {
                "citykit": lambda: ours(thousand, "update")(),
                "staging by hand": lambda: staging_by_hand(server, thousand)(),
            },
            [Target("staging by hand", 1.1)], thousand_changed, rounds=15,
        ),
        Job(
            f"Load 10,000 rows into {many}",
            {"citykit": ours(ten_thousand, "error"), "ADBC": peers(server, ten_thousand)["ADBC"]},
            [Target("ADBC", 1.1)], without_the_ten_thousand, rounds=5,
        ),
        Job(
            "Load 100,000 rows into the empty table",
            {"citykit": ours(small, "update"), "pandas to_sql": to_sql, "pangres aupsert": pangres},
            [Target("pandas to_sql", 0.1), Target("pangres aupsert", 0.1)], empty,
        ),
    ]  # fmt: skip
