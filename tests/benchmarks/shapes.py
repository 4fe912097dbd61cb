"""Wide and odd shapes of frames, and small work that is done often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import citykit
from tests.benchmarks.bench import Job, Target, mebibytes
from tests.benchmarks.lineitem import duckdb, execute, loaders
from tests.benchmarks.servers import Processes


def wide(rows: int) -> pa.Table:
    """Return 200 columns: integers, floats and short texts in turns."""
    random = np.random.default_rng(1)
    texts = pa.array([f"text {number}" for number in range(1_000)])

    def column(number: int) -> pa.Array:
        if number % 3 == 0:
            return pa.array(random.integers(-(10**9), 10**9, rows))
        if number % 3 == 1:
            return pa.array(random.normal(size=rows))
        return texts.take(pa.array(random.integers(0, 1_000, rows)))

    return pa.table({f"c{number}": column(number) for number in range(200)})


def long_texts(rows: int) -> pa.Table:
    """Return 20 columns of texts of 1,000 characters, with quotes, backslashes and breaks of lines."""
    random = np.random.default_rng(2)
    alphabet = np.array([*"abcdefghijklmnopqrstuvwxyz éöü城", '"', "\\", "\n", "\t", ","])
    texts = pa.array(["".join(random.choice(alphabet, 1_000)) for _ in range(500)])
    return pa.table(
        {f"c{number}": texts.take(pa.array(random.integers(0, 500, rows))) for number in range(20)}
    )


def mostly_null(rows: int) -> pa.Table:
    """Return 30 columns, of which one value in a hundred is there."""
    random = np.random.default_rng(3)
    values = [random.integers(0, 10**9, rows), random.normal(size=rows)]

    def column(number: int) -> pa.Array:
        return pa.array(values[number % 2], mask=random.random(rows) > 0.01)

    return pa.table({"c0": pa.array(np.arange(rows)), **{f"c{n}": column(n) for n in range(1, 30)}})


def dictionaries(rows: int) -> pa.Table:
    """Return three dictionary-encoded columns of few distinct texts."""
    random = np.random.default_rng(4)
    return pa.table(
        {
            f"c{number}": pa.DictionaryArray.from_arrays(
                pa.array(random.integers(0, distinct, rows), pa.int32()),
                pa.array([f"category {each}" for each in range(distinct)]),
            )
            for number, distinct in enumerate((3, 50, 1_000))
        }
    )


def readers(uri: str, count: int) -> dict[str, Callable[[], Any]]:
    """Return how others read all of `shape` to pandas."""

    def connectorx() -> None:
        import connectorx as cx

        read_sql: Any = cx.read_sql
        assert len(read_sql(uri, "SELECT * FROM shape", return_type="pandas")) == count

    def by_duckdb() -> None:
        with duckdb(uri) as database:
            assert len(database.execute("SELECT * FROM pg.shape").df()) == count

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM shape")
            assert len(cursor.fetch_arrow_table().to_pandas()) == count

    return {"ConnectorX": connectorx, "DuckDB": by_duckdb, "ADBC": adbc}


def of_shape(engine: AsyncEngine, uri: str, server: Processes, name: str, rows: pa.Table) -> Iterator[Job]:
    """Yield the jobs that load rows into a table without a key, and read them."""
    plain = pa.table(
        [
            column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for column in rows.columns
        ],
        rows.column_names,
    )  # for those who would make an enum of a dictionary

    async def empty() -> None:
        await citykit.create_table(engine, "shape", rows, if_exists="replace")
        await execute(engine, "CHECKPOINT")

    async def filled() -> None:
        async with engine.connect() as connection:
            exists = await connection.scalar(sa.text("SELECT to_regclass('shape') IS NOT NULL"))
            found = await connection.scalar(sa.text("SELECT count(*) FROM shape")) if exists else None
        if found != rows.num_rows:
            await empty()
            await citykit.load_frame(engine, rows, "shape")

    async def load() -> None:
        await citykit.load_frame(engine, rows, "shape")

    async def read() -> pd.DataFrame:
        frame = await citykit.read_frame(engine, "SELECT * FROM shape")
        assert len(frame) == rows.num_rows
        return frame

    yield Job(
        f"Load {name}", {"citykit": load, **loaders(uri, "shape", plain)}, [Target("best", 1.0)],
        empty, rounds=5, server=server, source=mebibytes(rows),
    )  # fmt: skip
    yield Job(
        f"Read {name}", {"citykit": read, **readers(uri, rows.num_rows)}, [Target("best", 1.0)],
        filled, rounds=5, server=server,
    )  # fmt: skip


def stream(engine: AsyncEngine, uri: str, server: Processes, count: int, each: int) -> Job:
    """Return the job that loads frames from a stream; the others load them one after the other."""
    frame = wide(each).select([f"c{number}" for number in range(6)])
    frames = [frame.to_pandas() for _ in range(count)]
    one = loaders(uri, "shape", frame)

    async def empty() -> None:
        await citykit.create_table(engine, "shape", frame, if_exists="replace")
        await execute(engine, "CHECKPOINT")

    async def load() -> None:
        report = await citykit.load_frame(engine, iter(frames), "shape")
        assert report.inserted == count * each

    def in_turns(contender: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count):
                contender()

        return run

    return Job(
        f"Load a stream of {count} frames of {each:,} rows",
        {"citykit": load, **{name: in_turns(contender) for name, contender in one.items()}},
        [Target("best", 1.0)], empty, rounds=5, server=server,
    )  # fmt: skip


def small(engine: AsyncEngine, uri: str, server: Processes) -> list[Job]:
    """Return the jobs of small work."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "id": np.arange(10_000),
            "name": pd.Series([f"name {number}" for number in range(10_000)]).astype("str"),
            "value": random.normal(size=10_000),
        }
    )

    async def empty() -> None:
        await citykit.create_table(engine, "small", frame, key="id", if_exists="replace")

    async def load() -> None:
        await citykit.load_frame(engine, frame, "small")

    async def by_asyncpg() -> None:
        import asyncpg

        connection = await asyncpg.connect(uri)
        await connection.copy_records_to_table(
            "small", columns=list(frame), records=frame.itertuples(index=False, name=None)
        )
        await connection.close()

    async def no_city() -> None:
        await citykit.create_tables(engine, reset=True)

    async def add() -> None:
        for number in range(1_000):
            await citykit.add_city(engine, f"city {number}", number)

    async def by_session() -> None:
        for number in range(1_000):
            async with AsyncSession(engine) as session:
                session.add(citykit.City(name=f"city {number}", population=number))
                await session.commit()

    return [
        Job(
            "Load 10,000 rows of 3 columns into a small table",
            {"citykit": load, "asyncpg copy_records_to_table": by_asyncpg},
            [Target("asyncpg copy_records_to_table", 1.0)], empty, rounds=15, server=server,
        ),
        Job(
            "Add 1,000 cities, one by one", {"citykit": add, "SQLAlchemy session": by_session},
            [Target("SQLAlchemy session", 1.3)], no_city, rounds=5, server=server,
        ),
    ]  # fmt: skip


def jobs(engine: AsyncEngine, uri: str, server: Processes, rows: int) -> Iterator[Job]:
    """Yield the jobs one by one: each shape is made when it is its turn."""
    yield from small(engine, uri, server)
    yield stream(engine, uri, server, 50, rows // 50)
    for name, shape in (
        (f"{rows // 10:,} rows of 200 columns", wide(rows // 10)),
        (f"{rows // 50:,} rows of 20 long texts", long_texts(rows // 50)),
        (f"{rows // 2:,} rows that are mostly NULL", mostly_null(rows // 2)),
        (f"{rows:,} rows of 3 dictionary-encoded columns", dictionaries(rows)),
    ):
        yield from of_shape(engine, uri, server, name, shape)
