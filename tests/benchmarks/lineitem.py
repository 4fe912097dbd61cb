"""TPC-H's lineitem, 16 columns of four types: what people bring, on a server with stock settings too.

The table has its key of two columns and one more index; every contender reaches the server over TCP. Where
a contender has numeric as text or as floats only, its column says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pyarrow import parquet
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.benchmarks.bench import Job, Target, mebibytes
from tests.benchmarks.servers import Processes

ROWS_OF_SCALE_ONE = 6_001_215
MONEY = ("l_quantity", "l_extendedprice", "l_discount", "l_tax")
DAYS = ("l_shipdate", "l_commitdate", "l_receiptdate")
TYPES = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"), "bigint"),
    **dict.fromkeys(MONEY, "numeric(15,2)"),
    **dict.fromkeys(("l_returnflag", "l_linestatus"), "text"),
    **dict.fromkeys(DAYS, "date"),
    **dict.fromkeys(("l_shipinstruct", "l_shipmode", "l_comment"), "text"),
}
KEY = ("l_orderkey", "l_linenumber")
NAMES = ", ".join(TYPES)
ALL = f"SELECT {NAMES} FROM lineitem"  # noqa: S608  constants, as below
FLOATS = ALL.replace(", ".join(MONEY), ", ".join(f"{name}::float8 AS {name}" for name in MONEY))
MADE = (
    "DROP TABLE IF EXISTS lineitem",
    f"CREATE TABLE lineitem ({', '.join(f'{name} {kind} NOT NULL' for name, kind in TYPES.items())}, "
    f"PRIMARY KEY ({', '.join(KEY)}))",
    "CREATE INDEX lineitem_part ON lineitem (l_partkey, l_suppkey)",
)


def duckdb(uri: str = "") -> Any:
    """Return a DuckDB with the extensions that are installed beside it, attached to a server as `pg`."""
    import duckdb as package
    import duckdb_extension_postgres_scanner as scanner
    import duckdb_extension_tpch as tpch

    database = package.connect(config={"allow_unsigned_extensions": "true"})
    for extension in (scanner, tpch):
        [path] = Path(str(extension.__file__)).parent.rglob("*.duckdb_extension")
        database.execute(f"LOAD '{path}'")
    if uri:
        database.execute(f"ATTACH '{uri}' AS pg (TYPE postgres)")
    return database


def rows_of(count: int, disk: Path) -> pa.Table:
    """Return so many rows of lineitem, in random order; made once, then read from `disk`."""
    path = disk / f"lineitem-{count}.parquet"
    if not path.exists():
        with duckdb() as database:
            database.execute(f"CALL dbgen(sf={count / ROWS_OF_SCALE_ONE * 1.02:.6f})")
            database.execute(
                f"COPY (SELECT {NAMES} FROM lineitem ORDER BY hash(l_orderkey, l_linenumber) LIMIT {count}) "  # noqa: S608
                f"TO '{path}' (FORMAT parquet)"
            )
    return parquet.read_table(path)


def a_tenth_changed_a_tenth_new(rows: pa.Table) -> pa.Table:
    """Return the rows of an upsert into `rows`: most are as they are stored."""
    random = np.random.default_rng(1)
    kind = random.random(rows.num_rows)
    price = rows["l_extendedprice"].cast(pa.float64()).to_numpy() + (kind < 0.1)
    line = rows["l_linenumber"].to_numpy() + np.where(kind > 0.9, 100, 0)
    price_type = rows.schema.field("l_extendedprice").type
    changed = {
        "l_extendedprice": pa.array(np.round(price, 2)).cast(price_type, safe=False),
        "l_linenumber": pa.array(line),
    }
    for name, values in changed.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.exec_driver_sql(statement)


def readers(uri: str, count: int, *, exact: bool) -> dict[str, Callable[[], Any]]:
    """Return how others read all rows to pandas; numeric as floats, or as exact Decimals."""

    def connectorx(partitions: int) -> Callable[[], Any]:
        def read() -> None:
            import connectorx as cx

            read_sql: Any = cx.read_sql
            several = {"partition_on": "l_orderkey", "partition_num": partitions} if partitions > 1 else {}
            assert len(read_sql(uri, ALL, return_type="pandas", **several)) == count

        return read

    def by_duckdb() -> None:
        with duckdb(uri) as database:
            assert len(database.execute("SELECT * FROM pg.lineitem").df()) == count

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(ALL if exact else FLOATS)
            table = cursor.fetch_arrow_table()
        if exact:  # it has them as text
            for name in MONEY:
                texts = table[name].cast(pa.string()) if table[name].type != pa.string() else table[name]
                table = table.set_column(
                    table.column_names.index(name), name, texts.cast(pa.decimal128(15, 2))
                )
        assert len(table.to_pandas()) == count

    def polars() -> None:
        assert len(pl.read_database_uri(FLOATS, uri, engine="adbc").to_pandas()) == count

    if exact:
        return {"ADBC": adbc}
    return {
        "ConnectorX": connectorx(1),
        "ConnectorX, 2 partitions": connectorx(2),
        "DuckDB": by_duckdb,
        "ADBC": adbc,
        "polars": polars,
    }


def readers_to_arrow(uri: str, count: int) -> dict[str, Callable[[], Any]]:
    """Return how others read all rows to pandas with Arrow's types; numeric as floats."""

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(FLOATS)
            assert len(cursor.fetch_arrow_table().to_pandas(types_mapper=pd.ArrowDtype)) == count

    def by_duckdb() -> None:
        with duckdb(uri) as database:
            table = database.execute("SELECT * FROM pg.lineitem").to_arrow_table()
            for name in MONEY:
                table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.float64()))
            assert len(table.to_pandas(types_mapper=pd.ArrowDtype)) == count

    return {"ADBC": adbc, "DuckDB": by_duckdb}


def loaders(uri: str, table: str, rows: pa.Table) -> dict[str, Callable[[], Any]]:
    """Return how others append Arrow data to a table."""

    def adbc() -> None:
        import adbc_driver_postgresql.dbapi as dbapi

        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode="append")
            connection.commit()

    def polars() -> None:
        frame: Any = pl.from_arrow(rows)
        frame.write_database(table, uri, engine="adbc", if_table_exists="append")

    def by_duckdb() -> None:
        with duckdb(uri) as database:
            database.register("rows", rows)
            names = ", ".join(rows.column_names)
            database.execute(f"INSERT INTO pg.{table} ({names}) SELECT {names} FROM rows")  # noqa: S608

    return {"ADBC": adbc, "polars": polars, "DuckDB": by_duckdb}


def staging_by_hand(uri: str, rows: pa.Table) -> Callable[[], Awaitable[Any]]:
    """Return the upsert as everyone writes it."""
    frame = rows.to_pandas()
    update = ", ".join(f"{name} = excluded.{name}" for name in TYPES if name not in KEY)

    async def by_hand() -> None:
        import asyncpg

        connection = await asyncpg.connect(uri)
        async with connection.transaction():
            await connection.execute("CREATE TEMP TABLE staging (LIKE lineitem) ON COMMIT DROP")
            await connection.copy_records_to_table(
                "staging", columns=list(TYPES), records=frame.itertuples(index=False, name=None)
            )
            await connection.execute(
                f"INSERT INTO lineitem ({NAMES}) SELECT {NAMES} FROM staging "  # noqa: S608
                f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {update}"
            )
        await connection.close()

    return by_hand


def jobs(engine: AsyncEngine, uri: str, server: Processes, rows: pa.Table, where: str) -> list[Job]:
    """Return the jobs over the rows of lineitem, on a server that `where` describes."""
    count = rows.num_rows
    objects = rows.to_pandas()  # Decimals and dates as objects
    floats = objects.astype(dict.fromkeys(MONEY, "float64"))
    for name in DAYS:
        floats[name] = pd.to_datetime(floats[name])
    of_polars = pl.from_arrow(rows)
    changed = a_tenth_changed_a_tenth_new(rows)
    full = False

    def load(given: Any, policy: Any = "error") -> Callable[[], Awaitable[Any]]:
        async def ours() -> None:
            await citykit.load_frame(engine, given, "lineitem", on_conflict=policy)

        return ours

    def read(**options: Any) -> Callable[[], Awaitable[Any]]:
        async def ours() -> pd.DataFrame:
            frame = await citykit.read_frame(engine, ALL, **options)
            assert len(frame) == count
            return frame

        return ours

    async def empty() -> None:
        nonlocal full
        full = False
        await execute(engine, *MADE, "CHECKPOINT")

    async def filled() -> None:
        nonlocal full
        if not full:
            await execute(engine, *MADE)
            await citykit.load_frame(engine, rows, "lineitem")
            await execute(engine, "VACUUM ANALYZE lineitem", "CHECKPOINT")
            full = True

    async def filled_anew() -> None:
        nonlocal full
        full = False
        await filled()
        full = False

    others = loaders(uri, "lineitem", rows)
    n = f"{count:,} rows of lineitem"
    return [
        Job(
            f"Read {n} to pandas, numeric as floats ({where})",
            {"citykit": read(numeric="float"), **readers(uri, count, exact=False)},
            [Target("best", 0.8)], filled, rounds=5, server=server,
        ),
        Job(
            f"Read {n} to pandas, numeric as Decimals ({where})",
            {"citykit": read(numeric="decimal"), **readers(uri, count, exact=True)},
            [Target("ADBC", 1.0)], filled, rounds=5, server=server,
        ),
        Job(
            f"Read {n} to pandas of Arrow's types ({where})",
            {"citykit": read(dtype_backend="pyarrow"), **readers_to_arrow(uri, count)},
            [Target("best", 0.9)], filled, rounds=5, server=server,
        ),
        Job(
            f"Load {n} from Arrow ({where})", {"citykit": load(rows), **others},
            [Target("best", 0.6)], empty, rounds=5, server=server, source=mebibytes(rows),
        ),
        Job(
            f"Load {n} from pandas, Decimals and dates as objects ({where})",
            {"citykit": load(objects), **others},
            [Target("best", 0.7)], empty, rounds=5, server=server, source=mebibytes(objects),
        ),
        Job(
            f"Load {n} from pandas, floats and datetimes ({where})",
            {"citykit": load(floats), **others},
            [Target("best", 0.7)], empty, rounds=5, server=server, source=mebibytes(floats),
        ),
        Job(
            f"Load {n} from polars ({where})",
            {"citykit": load(of_polars), **others},
            [Target("best", 0.7)], empty, rounds=5, server=server, source=mebibytes(rows),
        ),
        Job(
            f"Upsert {n} (a tenth changed, a tenth new) into as many ({where})",
            {"citykit": load(changed, "update"), "staging by hand": staging_by_hand(uri, changed)},
            [Target("staging by hand", 0.3)], filled_anew, rounds=5, server=server,
        ),
    ]  # fmt: skip
