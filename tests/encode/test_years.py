"""Dates and times at the limits of PostgreSQL, of Arrow and of Python, on their way in and out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from citykit.pgtypes import DtypeBackend
from tests.support.tables import created

TYPES: dict[str, Any] = {
    "date": sa.Date(), "timestamp": sa.DateTime(), "timestamptz": sa.DateTime(timezone=True), "time": sa.Time(),  # noqa: E501
}  # fmt: skip
# As PostgreSQL writes them in UTC.
DATES = ["2024-02-29", "0001-01-01", "9999-12-31", "10000-01-01", "0001-12-31 BC", "0044-03-15 BC",
         "4714-11-24 BC", "5874897-12-31", "0401-02-28 BC", "12000-02-29"]  # fmt: skip
STAMPS = ["2024-02-29 01:02:03.000004", "9999-12-31 23:59:59.999999", "10000-01-01 00:00:00",
          "0001-12-31 23:59:59.999999 BC", "4714-11-24 00:00:00 BC", "294247-01-10 04:00:54.775807"]  # fmt: skip  # noqa: E501
WRITTEN: dict[str, list[str]] = {
    "date": DATES,
    "timestamp": STAMPS,
    "timestamptz": [
        " ".join([*(words := stamp.split(" "))[:1], words[1] + "+00", *words[2:]]) for stamp in STAMPS
    ],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00"],
}
ARROW = {"date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"),
         "time": pa.time64("us")}  # fmt: skip
# The number that Arrow holds, by the server's own arithmetic.
NUMBERS = {
    "date": "SELECT (CAST(:text AS date) - date '1970-01-01')::bigint",
    "timestamp": "SELECT (extract(julian FROM CAST(:text AS timestamp)::date) - 2440588)::bigint * 86400000000 "  # noqa: E501
    "+ (extract(epoch FROM CAST(:text AS timestamp)::time) * 1000000)::bigint",
    "time": "SELECT (extract(epoch FROM CAST(:text AS time)) * 1000000)::bigint",
}
NUMBERS["timestamptz"] = NUMBERS["timestamp"]


async def numbers(engine: AsyncEngine, name: str) -> list[int]:
    async with engine.connect() as connection:
        sql = NUMBERS[name].replace(":text", "CAST(:text AS text)")
        return [await connection.scalar(text(sql), {"text": one}) or 0 for one in WRITTEN[name]]


def table_of(name: str) -> sa.Table:
    return sa.Table(
        "years", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", TYPES[name]), sa.Column("many", sa.ARRAY(TYPES[name])),
    )  # fmt: skip


def in_arrow(rows: pa.Table) -> Any:
    return rows


def in_pandas(rows: pa.Table) -> Any:
    return rows.to_pandas(types_mapper=pd.ArrowDtype)


def in_polars(rows: pa.Table) -> Any:
    return pl.from_arrow(rows)


def chunked(rows: pa.Table) -> Any:
    return pa.concat_tables([rows[:1], rows[1:]])


@pytest.mark.parametrize("count", [20, FEW_ROWS + 1])
@pytest.mark.parametrize("made", [in_arrow, in_pandas, in_polars, chunked])
@pytest.mark.parametrize("name", TYPES)
async def test_every_value_that_postgresql_has_is_stored_as_it_is(
    engine: AsyncEngine, name: str, made: Callable[[pa.Table], Any], count: int
) -> None:
    if name == "time" and made is in_polars:
        expected_of, held = WRITTEN[name][:2], (await numbers(engine, name))[:2]  # polars has no 24:00
    else:
        expected_of, held = WRITTEN[name], await numbers(engine, name)
    column = pa.array([held[n % len(held)] for n in range(count)], pa.int64())
    column = (column.cast(pa.int32()) if name == "date" else column).cast(ARROW[name])
    many = pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), column)
    rows = pa.table({"key": pa.array(range(count), pa.int32()), "one": column, "many": many})
    async with created(engine, table_of(name)), engine.connect() as connection:
        for setting in ("TimeZone = 'UTC'", "DateStyle = 'ISO, DMY'"):
            await connection.execute(text(f"SET {setting}"))
        report = await citykit.load_frame(connection, made(rows), table_of(name), on_invalid="skip")
        assert report.rejects.empty
        found = await connection.execute(text("SELECT one::text, many[1]::text FROM years ORDER BY key"))
        expected = [expected_of[n % len(held)] for n in range(count)]
        assert [tuple(row) for row in found] == [(one, one) for one in expected]
        await connection.invalidate()


DAY = 86_400
BEYOND: list[tuple[str, pa.Array]] = [
    ("date", pa.array([-2_440_589], pa.int32()).cast(pa.date32())),
    ("date", pa.array([2**31 - 1], pa.int32()).cast(pa.date32())),
    ("date", pa.array([2**62], pa.int64()).cast(pa.timestamp("s"))),
    ("timestamp", pa.array([2**31 - 1], pa.int32()).cast(pa.date32())),
    ("timestamp", pa.array([2**62], pa.int64()).cast(pa.timestamp("s"))),
    ("timestamp", pa.array([-(2**62)], pa.int64()).cast(pa.timestamp("ms"))),
    ("timestamp", pa.array([-(2**63)], pa.int64()).cast(pa.timestamp("us"))),
    ("timestamptz", pa.array([-(2**62)], pa.int64()).cast(pa.timestamp("s", "UTC"))),
    ("time", pa.array([DAY * 10**6 + 1], pa.int64()).cast(pa.time64("us"))),
    ("time", pa.array([-1], pa.int64()).cast(pa.time64("us"))),
    ("time", pa.array([DAY + 1], pa.int32()).cast(pa.time32("s"))),
]
# Values that the column could hold, of a type that it does not take.
OF_ANOTHER_TYPE: list[tuple[str, pa.Array]] = [
    ("time", pa.array([4_000_000], pa.int32()).cast(pa.date32())),
    ("timestamptz", pa.array([2**61], pa.int64()).cast(pa.timestamp("us"))),
]


@pytest.mark.parametrize(("name", "values"), BEYOND, ids=str)
async def test_what_postgresql_does_not_have_is_a_reject(
    engine: AsyncEngine, name: str, values: pa.Array
) -> None:
    for many in (False, True):
        column = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values) if many else values
        rows = pa.table({"key": [1], "many" if many else "one": column})
        async with created(engine, table_of(name)):
            for source in (rows, rows.to_pandas(types_mapper=pd.ArrowDtype)):
                report = await citykit.load_frame(engine, source, table_of(name), on_invalid="skip")
                assert (report.inserted, len(report.rejects)) == (0, 1)
                assert str(report.rejects)
                assert report._repr_html_()
                with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded"):
                    await citykit.load_frame(engine, source, table_of(name))


@pytest.mark.parametrize(("name", "values"), OF_ANOTHER_TYPE, ids=str)
async def test_a_column_of_another_type_is_one_reject_whatever_its_years(
    engine: AsyncEngine, name: str, values: pa.Array
) -> None:
    for many in (False, True):
        column = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values) if many else values
        rows = pa.table({"key": [1], "many" if many else "one": column})
        async with created(engine, table_of(name)):
            for source in (rows, rows.to_pandas(types_mapper=pd.ArrowDtype)):
                with pytest.raises(citykit.InvalidFrameError, match=r"dtype .*nothing was loaded") as caught:
                    await citykit.load_frame(engine, source, table_of(name), on_invalid="skip")
                assert caught.value.rejects["row"].tolist() == [None]


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("date", np.datetime64("12000-01-01"), "12000-01-01"),
        ("date", pd.Timestamp("2024-01-01").as_unit("s").replace(year=9999), "9999-01-01"),
        ("date", np.datetime64("-0043-03-15"), "0044-03-15 BC"),
        ("timestamp", np.datetime64("12000-01-01T01:02:03"), "12000-01-01 01:02:03"),
        ("timestamp", np.datetime64("-4000-01-01T01:02:03"), "4001-01-01 01:02:03 BC"),
        ("timestamp", np.datetime64("292000000000-01-01", "s"), None),
        ("date", np.datetime64("9000000-01-01"), None),
        ("date", np.datetime64("12000-01-01T01"), None),
        ("timestamp", np.datetime64(10**6, "ps"), "1970-01-01 00:00:00.000001"),
        ("timestamp", np.datetime64(1, "ps"), None),
        ("date", np.datetime64(-1, "ps"), None),
    ],
    ids=str,
)
async def test_objects_beyond_pythons_years(
    engine: AsyncEngine, name: str, value: Any, written: str | None
) -> None:
    frame = pd.DataFrame({"key": [1, 2]})
    frame["one"] = pd.Series([value, None], dtype=object)
    frame["many"] = pd.Series([[value, None], None], dtype=object)
    async with created(engine, table_of(name)), engine.connect() as connection:
        report = await citykit.load_frame(connection, frame, table_of(name), on_invalid="skip")
        found = await connection.execute(text("SELECT one::text, many[1]::text FROM years WHERE key = 1"))
        assert [tuple(row) for row in found] == ([] if written is None else [(written, written)])
        assert len(report.rejects) == (0 if written else 2)


@pytest.mark.parametrize("backend", ["numpy_nullable", "numpy", "pyarrow"])
@pytest.mark.parametrize("array", [False, True], ids=["", "array"])
@pytest.mark.parametrize("name", ["date", "timestamp", "timestamptz"])
async def test_a_frame_that_is_read_can_be_shown_or_the_error_names_column_and_row(
    engine: AsyncEngine, name: str, array: bool, backend: DtypeBackend
) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET TimeZone = 'America/New_York'"))
        for written in ["9999-12-31 23:59:59", "10000-01-01", "0044-03-15 BC", "2024-02-29", "0001-01-01"]:
            value = f"'{written}'::{name}"
            value = f"ARRAY[{value}, NULL]" if array else value
            sql = f"SELECT NULL AS x, 1 AS n UNION ALL SELECT {value}, 2 ORDER BY n"
            try:
                frame = await citykit.read_frame(connection, sql, dtype_backend=backend)
            except citykit.CitykitError as exc:
                assert "Column 'x' has in row 1" in str(exc)  # noqa: PT017
                assert "x::text" in str(exc)  # noqa: PT017
                assert written not in ("2024-02-29", "0001-01-01")
                continue
            assert repr(frame)
            assert frame._repr_html_()  # type: ignore[operator]
            assert frame.to_csv()
            pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(frame)), frame)  # noqa: S301
        await connection.invalidate()


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
async def test_timestamps_without_a_zone_of_any_year_are_read_and_loaded_again(
    engine: AsyncEngine, backend: DtypeBackend
) -> None:
    table = table_of("timestamp")
    async with created(engine, table):
        values = ", ".join(f"({n}, '{stamp}'::timestamp)" for n, stamp in enumerate(STAMPS[:-1]))
        sql = f"SELECT * FROM (VALUES {values}) AS v (key, one)"  # noqa: S608
        frame = await citykit.read_frame(engine, sql, dtype_backend=backend)
        assert (await citykit.load_frame(engine, frame, table)).inserted == len(frame)
        again = await citykit.read_frame(engine, "SELECT one::text FROM years ORDER BY key")
        assert again["one"].tolist() == STAMPS[:-1]
