"""Loading into tables of any shape, against a real server."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from tests.support.database import execute, scalar
from tests.support.tables import Colour, created, every_type

UTC = dt.UTC
typed: Any = pd.array  # whose stubs do not know all that pandas takes
series: Any = pd.Series
A_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
MOMENT = dt.datetime(2026, 3, 29, 1, 30, 0, 123456)

# Values of each type as Python has them, which is also how asyncpg reads them back.
VALUES: dict[str, list[Any]] = {
    "smallint": [-32768, 32767],
    "integer": [-(2**31), 2**31 - 1],
    "bigint": [-(2**63), 2**63 - 1],
    "real": [1.5, float("-inf")],
    "double": [0.1, 5e-324, -0.0, float("inf"), 1.7976931348623157e308],
    "numeric": [Decimal("0.1"), Decimal("1E+50"), Decimal("-123456789012345678901234567890.123456789")],
    "numeric_10_2": [Decimal("99999999.99"), Decimal("-0.01")],
    "boolean": [True, False],
    "text": ["", "NULL", "a\"b,c\nd\\e\t'", "東京 🏙", "\\.", "\\N"],
    "varchar_5": ["", "12345", "東京東京東"],
    "char_3": ["abc"],
    "uuid": [A_UUID],
    "date": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "time": [dt.time(0), dt.time(23, 59, 59, 999999)],
    "timestamp": [MOMENT, dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)],
    "timestamptz": [MOMENT.replace(tzinfo=UTC)],
    "interval": [dt.timedelta(0), dt.timedelta(days=-1, microseconds=1), dt.timedelta(days=40, hours=3)],
    "json": [{"a": [1, None, "x"]}, "text", 1, True, [], "null"],
    "jsonb": [{"a": [1, None, "x\\u0000"]}, "text", 1.5, False, {}],
    "bytea": [b"", b"\x00\xff\\"],
    "colour": [Colour.RED, Colour.BLUE],
    "mood": ["happy", "it's \"sad\", \\ {so}"],
    "integers": [[], [1, None, -3]],
    "texts": [[], ["", "NULL", None, 'a"b\\c,{}', "é\n"]],
    "doubles": [[0.1, None, float("inf")]],
    "times": [[MOMENT.replace(tzinfo=UTC), None]],
    "bytes": [[b"", b"\x00\\", None]],
    "objects": [[{"a": 'b"c'}, [1], "x", None]],
}  # fmt: skip


async def rows_of(engine: AsyncEngine, table: sa.Table) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(table).order_by(table.c[0]))
        return [dict(row) for row in rows.mappings()]


async def test_every_type_is_stored_as_what_it_is(engine: AsyncEngine) -> None:
    table = every_type()
    height = max(map(len, VALUES.values())) + 1
    columns = {name: values + [None] * (height - len(values)) for name, values in VALUES.items()}
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame.insert(0, "key", range(height))
    async with created(engine, table):
        report = await citykit.load_frame(engine, frame, table)
        assert report.inserted == height
        stored = await rows_of(engine, table)
        for name, values in columns.items():
            assert [row[name] for row in stored] == values, name
        # The same through the staging table, where nothing has changed.
        again = await citykit.load_frame(engine, frame, table, on_conflict="update")
        assert (again.updated, again.skipped) == (0, height)


BINARY = (
    "smallint", "integer", "bigint", "real", "double", "boolean", "text", "varchar_5", "char_3",
    "date", "time", "timestamp", "timestamptz", "json", "bytea",
)  # fmt: skip


async def test_what_is_sent_in_binary_is_what_is_sent_as_text(engine: AsyncEngine) -> None:
    table, few = (every_type(*BINARY, name=name) for name in ("every_type", "few"))
    values = {name: [*VALUES[name], None] for name in BINARY}
    columns = {name: [column[n % len(column)] for n in range(FEW_ROWS)] for name, column in values.items()}
    frame = pd.DataFrame({name: series(column, dtype=object) for name, column in columns.items()})
    frame.insert(0, "key", range(FEW_ROWS))
    async with created(engine, table), created(engine, few):
        assert (await citykit.load_frame(engine, frame, table)).plan == "copy and rebuild"
        assert (await citykit.load_frame(engine, frame.head(500), few)).plan == "copy"
        assert await rows_of(engine, few) == (stored := await rows_of(engine, table))[:500]
        for name, column in columns.items():
            assert [row[name] for row in stored] == column, name
        again = await citykit.load_frame(engine, frame, table, on_conflict="update")
        assert (again.plan, again.skipped) == ("join", FEW_ROWS)


DECIMALS = pd.ArrowDtype(pa.decimal128(5, 1))
NANOSECONDS = pd.ArrowDtype(pa.time64("ns"))
MINUTES = pd.date_range("2026-01-01", periods=3, freq="min")


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("date", pd.date_range("2026-01-01", periods=3), [dt.date(2026, 1, d) for d in (1, 2, 3)]),
        ("timestamp", MINUTES.as_unit("ns"), [dt.datetime(2026, 1, 1, 0, m) for m in range(3)]),
        ("timestamp", MINUTES.as_unit("s"), [dt.datetime(2026, 1, 1, 0, m) for m in range(3)]),
        ("timestamp", [dt.date(2026, 1, 1)] * 3, [dt.datetime(2026, 1, 1)] * 3),
        (
            "timestamptz",
            MINUTES.tz_localize("Europe/Berlin"),
            [dt.datetime(2025, 12, 31, 23, m, tzinfo=UTC) for m in range(3)],
        ),
        (
            "interval",
            pd.to_timedelta(["1us", "-1us", "1D 1us"]),
            [dt.timedelta(0, 0, 1), dt.timedelta(0, 0, -1), dt.timedelta(1, 0, 1)],
        ),
        ("numeric", series([0.1, 1e300, -2.5]), [Decimal("0.1"), Decimal("1e300"), Decimal("-2.5")]),
        ("numeric_10_2", series([0.29, 1.1, 9999999.99]), list(map(Decimal, ["0.29", "1.1", "9999999.99"]))),
        ("numeric_10_2", series([1, 2, 3]), [1, 2, 3]),
        ("numeric_10_2", typed(["1.5", "2", "3"], dtype=DECIMALS), [Decimal("1.5"), 2, 3]),
        ("real", series([0.1, 16777216.0, 3.4e38]), [np.float32(v) for v in (0.1, 16777216.0, 3.4e38)]),
        ("boolean", typed([True, None, False], dtype="boolean"), [True, None, False]),
        ("smallint", typed([1, None, 3], dtype="Int8"), [1, None, 3]),
        ("bigint", series([1.0, np.nan, -3.0]), [1, None, -3]),
        ("bigint", series([2**63 - 1, 0, 1], dtype="uint64"), [2**63 - 1, 0, 1]),
        ("uuid", [A_UUID.hex, None, str(A_UUID)], [A_UUID, None, A_UUID]),
        ("mood", pd.Categorical(["happy", None, "happy"]), ["happy", None, "happy"]),
        ("colour", ["RED", None, "BLUE"], [Colour.RED, None, Colour.BLUE]),
        ("integers", [np.array([1, 2]), (3,), None], [[1, 2], [3], None]),
        ("integers", typed([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), [[1], None, []]),
        ("bytea", typed([b"a", None, b""], dtype=pd.ArrowDtype(pa.binary())), [b"a", None, b""]),
        ("time", typed([dt.time(1), None, dt.time(2)], dtype=NANOSECONDS), [dt.time(1), None, dt.time(2)]),
        ("json", [np.int64(5), {"a": np.array([1])}, None], [5, {"a": [1]}, None]),
    ],
)  # fmt: skip
async def test_dtypes_of_pandas_and_arrow(
    engine: AsyncEngine, column: str, values: Any, expected: list[Any]
) -> None:
    table = every_type()
    async with created(engine, table):
        await citykit.load_frame(engine, pd.DataFrame({"key": range(3), column: values}), table)
        assert [row[column] for row in await rows_of(engine, table)] == expected


# Reasons that hold for every value of a type.
OF_A_TYPE = {
    "neither True nor False", "not a UUID", "with a time zone", "without a time zone", "not a date",
    "not a time of day", "not a date or time", "not a duration", "not bytes", "not text", "not a list",
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("smallint", 32768, "above 32,767"),
        ("smallint", -32769.0, "below -32,768"),
        ("bigint", 2**63, "above 9,223,372,036,854,775,807"),
        ("bigint", 2.0**63, "above 9,223,372,036,854,775,807"),
        ("bigint", np.uint64(2**63), "above 9,223,372,036,854,775,807"),
        ("integer", Decimal("1.5"), "fractional"),
        ("integer", np.inf, "infinite"),
        ("real", 0.123456789, "not exact in single precision"),
        ("real", 1e39, "not exact in single precision"),
        ("real", 16777217, "not exact in single precision"),
        ("double", 2**53 + 1, "not exact in double precision"),
        ("double", 10**400, "too large for double precision"),
        ("numeric", "one", "not a number"),
        ("numeric", Decimal("1E+200000"), "with more than 131,072 digits before the point"),
        ("numeric_10_2", 0.001, "with more than 2 digits after the point"),
        ("numeric_10_2", Decimal("100000000"), "with more than 8 digits before the point"),
        ("numeric_10_2", Decimal("Infinity"), "infinite"),
        ("numeric_10_2", 10**8, "with more than 8 digits before the point"),
        ("boolean", 1, "neither True nor False"),
        ("boolean", "yes", "neither true nor false"),
        ("text", "a\0", "with a NUL character"),
        ("varchar_5", "123456", "longer than 5 characters"),
        ("char_3", "1234", "longer than 3 characters"),
        ("uuid", "1234", "not a UUID"),
        ("uuid", 5, "not a UUID"),
        ("date", MOMENT, "with a time of day"),
        ("date", pd.Timestamp("2026-01-01", tz="UTC"), "with a time zone"),
        ("date", "1.1.2026", "not a date such as 2024-01-31"),
        ("time", MOMENT, "not a time of day"),
        ("time", dt.time(1, tzinfo=UTC), "with a time zone"),
        ("timestamp", MOMENT.replace(tzinfo=UTC), "with a time zone"),
        ("timestamp", pd.Timestamp("2026-01-01 00:00:00.000000001"), "finer than a microsecond"),
        ("timestamp", "noon", "not a timestamp such as 2024-01-31 12:30:00"),
        ("timestamptz", MOMENT, "without a time zone"),
        ("interval", pd.Timedelta(1, "ns"), "finer than a microsecond"),
        ("interval", 5, "not a duration"),
        ("json", {1, 2}, "not JSON (set is no type of JSON's)"),
        ("json", {"a": float("nan")}, None),
        ("jsonb", "a\0b", "with a NUL character"),
        ("jsonb", ["\ud800"], None),
        ("bytea", "text", "not bytes"),
        ("colour", "GREEN", "not one of 'RED', 'BLUE'"),
        ("colour", 1, "not text"),
        ("integers", 5, "not a list"),
        ("integers", [1, 2.5], "element 1 fractional"),
        ("integers", [[1]], "element 0 not a number"),
        ("texts", ["a", 5, 6], "element 1 not text"),
    ],
)
async def test_values_that_do_not_fit_are_rejects(
    engine: AsyncEngine, column: str, value: Any, reason: str | None
) -> None:
    table = every_type()
    good = VALUES[column][0]
    for values in ([good, value], [value]):  # beside another, and alone, where a dtype may be inferred
        frame = pd.DataFrame({"key": range(len(values))}, index=[f"row {n}" for n in range(len(values))])
        frame[column] = pd.Series(values, dtype=object, index=frame.index)
        if len(values) == 1:
            frame[column] = frame[column].infer_objects()
        with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
            await citykit.load_frame(engine, frame, table)  # there is no such table: nothing was sent
        [reject] = caught.value.rejects.to_dict("records")
        if reject["row"] is None:  # alone, it says that the whole column is of a wrong type
            assert len(values) == 1
            assert "of dtype" in reject["reason"]
            assert reason in OF_A_TYPE
            continue
        assert (reject["row"], reject["column"]) == (f"row {len(values) - 1}", column)
        assert reason in (None, reject["reason"])
        assert reject["reason"]


@pytest.mark.parametrize(
    "frame",
    [None, 5, {"key": [1]}, pd.Series([1]), b"key\n1\n", [{"key": 1}], [None], object],
    ids=repr,
)
async def test_what_is_no_frame(engine: AsyncEngine, frame: Any) -> None:
    table = every_type()
    async with created(engine, table):
        with pytest.raises(TypeError, match="a pandas DataFrame is needed"):
            await citykit.load_frame(engine, frame, table)
        assert await rows_of(engine, table) == []


# Tables and keys


async def test_a_mapped_class_and_its_table_are_the_same(engine: AsyncEngine) -> None:
    frame = pd.DataFrame({"name": ["a"], "population": [1]})
    await citykit.load_frame(engine, frame, citykit.City)
    report = await citykit.load_frame(engine, frame, citykit.City.__table__, on_conflict="skip")
    assert (report.inserted, report.skipped) == (0, 1)
    with pytest.raises(citykit.DuplicateKeyError, match=r"\('a', '', ''\)") as caught:
        await citykit.load_frame(engine, frame, citykit.City)
    assert caught.value.keys == [("a", "", "")]


@pytest.mark.parametrize("table", [None, b"cities", citykit.load_cities, citykit.Base])
async def test_what_is_no_table(engine: AsyncEngine, table: Any) -> None:
    with pytest.raises(TypeError, match=r"a mapped class, a sqlalchemy\.Table or a table's name"):
        await citykit.load_frame(engine, pd.DataFrame({"a": [1]}), table)


def keyed(*constraints: sa.schema.SchemaItem) -> sa.Table:
    columns = [sa.Column(name, sa.Integer) for name in ("a", "b")]
    return sa.Table(
        "keyed", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns, *constraints
    )


@pytest.mark.parametrize(
    ("constraints", "key", "said"),
    [
        ([sa.UniqueConstraint("a"), sa.UniqueConstraint("b", "a")], None, r"2 unique constraints: \(.*key="),
        ([sa.UniqueConstraint("a")], ["b"], r"\(b\) is no unique constraint of table 'keyed'; it has: \(a\)"),
        ([sa.UniqueConstraint("a")], ["x"], r"\(x\) is no unique constraint"),
        ([sa.UniqueConstraint("a")], ["a", "a"], "names a column twice: a, a; nothing was loaded"),
    ],
)
async def test_a_key_that_is_none_is_refused_with_those_that_are(
    engine: AsyncEngine, constraints: list[Any], key: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        await citykit.load_frame(engine, pd.DataFrame({"a": [1]}), keyed(*constraints), key=key)


@pytest.mark.parametrize(
    ("constraints", "key"),
    [
        ([sa.UniqueConstraint("a")], None),
        ([sa.Index("one", "a", unique=True)], None),
        ([sa.UniqueConstraint("a"), sa.UniqueConstraint("b")], "a"),
        ([sa.UniqueConstraint("a", "b")], ["b", "a"]),
        ([], ["id"]),
    ],
)
async def test_a_key_that_is_unique_serves(engine: AsyncEngine, constraints: list[Any], key: Any) -> None:
    table = keyed(*constraints)
    frame = pd.DataFrame({"a": [1, 2], "b": [5, 6]})
    if key == ["id"]:
        frame["id"] = [7, 8]
    async with created(engine, table):
        await citykit.load_frame(engine, frame, table, key=key)
        report = await citykit.load_frame(engine, frame, table, key=key, on_conflict="update")
        assert report.skipped == 2
        assert len(await rows_of(engine, table)) == 2


async def test_rows_with_null_in_their_key_equal_no_other(engine: AsyncEngine) -> None:
    table = keyed(sa.UniqueConstraint("a"))
    frame = pd.DataFrame({"a": pd.array([1, None, None, 1], dtype="Int64"), "b": [1, 2, 3, 4]})
    async with created(engine, table):
        for policy, inserted in (("update", 3), ("skip", 2)):
            options: dict[str, Any] = {"on_conflict": policy}
            assert (await citykit.load_frame(engine, frame, table, **options)).inserted == inserted
        rows = [(row["a"], row["b"]) for row in await rows_of(engine, table)]
        assert sorted(rows, key=str) == sorted([(1, 4), *2 * [(None, 2), (None, 3)]], key=str)


@pytest.mark.parametrize("count", [4, FEW_ROWS])
async def test_rows_with_null_in_a_key_that_does_not_tell_nulls_apart_are_one(
    engine: AsyncEngine, count: int
) -> None:
    if await scalar(engine, "SELECT current_setting('server_version_num')::int") < 150_000:
        pytest.skip("PostgreSQL 14 has no such key: CITYKIT_TEST_URL of PostgreSQL 15 or newer")
    table = keyed(sa.UniqueConstraint("a", postgresql_nulls_not_distinct=True))
    numbers = pd.array([1, None, None, *range(2, count)], dtype="Int64")
    frame = pd.DataFrame({"a": numbers, "b": range(count + 1)})
    async with created(engine, table):
        report = await citykit.load_frame(engine, frame, table, on_conflict="update")
        assert (report.inserted, report.updated, report.skipped) == (count, 1, 0)
        assert await scalar(engine, "SELECT sum(b) FROM keyed WHERE a IS NULL") == 2
        report = await citykit.load_frame(engine, frame[1:], table, on_conflict="update")
        assert (report.inserted, report.updated, report.skipped) == (0, 2, count - 2)
        report = await citykit.load_frame(engine, frame, table, on_conflict="skip")
        assert (report.inserted, report.skipped) == (0, count + 1)


NULLS_EQUAL = {
    "partitions": [
        "CREATE TABLE nulls (k int, v int, UNIQUE NULLS NOT DISTINCT (k)) PARTITION BY LIST (k)",
        "CREATE TABLE nulls_rest PARTITION OF nulls DEFAULT",
    ],
    "deferrable": ["CREATE TABLE nulls (k int, v int, UNIQUE NULLS NOT DISTINCT (k) DEFERRABLE)"],
    "plain": ["CREATE TABLE nulls (k int, v int, UNIQUE NULLS NOT DISTINCT (k))"],
}


@pytest.mark.parametrize("kind", NULLS_EQUAL)
async def test_a_stored_row_with_null_in_a_key_that_does_not_tell_nulls_apart_is_found(
    engine: AsyncEngine, kind: str
) -> None:
    if await scalar(engine, "SELECT current_setting('server_version_num')::int") < 150_000:
        pytest.skip("PostgreSQL 14 has no such key: CITYKIT_TEST_URL of PostgreSQL 15 or newer")
    stored = "INSERT INTO nulls VALUES (NULL, 1), (1, 1)"
    await execute(engine, "DROP TABLE IF EXISTS nulls", *NULLS_EQUAL[kind], stored)
    frame = pd.DataFrame({"k": pd.array([None, 2, None], dtype="Int64"), "v": [2, 2, 3]})
    with pytest.raises(citykit.DuplicateKeyError, match=r"^2 rows are already there") as caught:
        await citykit.load_frame(engine, frame, "nulls")
    assert caught.value.keys == [(None,)]
    report = await citykit.load_frame(engine, frame[:1], "nulls", on_conflict="skip")
    assert (report.inserted, report.updated, report.skipped) == (0, 0, 1)
    report = await citykit.load_frame(engine, frame, "nulls", on_conflict="update")
    assert (report.inserted, report.updated, report.skipped) == (1, 2, 0)
    assert await scalar(engine, "SELECT array_agg(v ORDER BY k) FROM nulls") == [1, 2, 3]
    await execute(engine, "DELETE FROM nulls")
    with pytest.raises(citykit.DuplicateKeyError, match=r"^1 row is already there") as caught:
        await citykit.load_frame(engine, frame, "nulls")
    assert caught.value.keys == [(None,)]
    await execute(engine, "DROP TABLE nulls")


async def test_columns_that_the_frame_lacks_keep_their_server_defaults(engine: AsyncEngine) -> None:
    table = sa.Table(
        "Select", sa.MetaData(),
        sa.Column("Order by", sa.Text, primary_key=True),
        sa.Column("when", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("five", sa.Integer, server_default="5", nullable=False),
        sa.Column("doubled", sa.Integer, sa.Computed("five * 2", persisted=True)),
        sa.Column("address", pg.TSVECTOR),
    )  # fmt: skip
    async with created(engine, table):
        await citykit.load_frame(engine, pd.DataFrame({"Order by": ['"; DROP TABLE "Select"; --']}), table)
        [row] = await rows_of(engine, table)
        assert (row["Order by"], row["five"], row["doubled"]) == ('"; DROP TABLE "Select"; --', 5, 10)
        assert row["when"] is not None
        frame = pd.DataFrame({"Order by": ["x"], "five": [None]})
        with pytest.raises(citykit.InvalidFrameError, match=r"'five' has 1 missing value"):
            await citykit.load_frame(engine, frame, table)
        with pytest.raises(
            citykit.InvalidFrameError, match=r"column 'address': .*TSVECTOR.* none of the types"
        ):
            await citykit.load_frame(engine, pd.DataFrame({"Order by": ["x"], "address": [1]}), table)
        report = await citykit.load_frame(engine, pd.DataFrame({"Order by": ["x"], "doubled": [1]}), table)
        assert report.left_out == ("doubled",)


# What only the server can see


def guarded() -> list[sa.Table]:
    metadata = sa.MetaData()
    countries = sa.Table("countries", metadata, sa.Column("code", sa.Text, primary_key=True))
    towns = sa.Table(
        "towns", metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("country", sa.Text, sa.ForeignKey("countries.code")),
        sa.Column("twin", sa.Integer, sa.ForeignKey("towns.id")),
        sa.Column("low", sa.Integer), sa.Column("high", sa.Integer, server_default="10"),
        sa.CheckConstraint("low <= high", name="in_order"),
    )  # fmt: skip
    return [towns, countries]


@pytest.mark.parametrize("count", [10, 25_000])
@pytest.mark.parametrize("streamed", [False, True])
async def test_rows_that_only_the_server_refuses_are_named(
    engine: AsyncEngine, count: int, streamed: bool
) -> None:
    towns, countries = guarded()
    frame = pd.DataFrame(
        {"id": range(count), "country": "IS", "twin": [*range(1, count), 0], "low": 5},
        index=[f"row {n}" for n in range(count)],
    )
    frame.loc["row 3", "country"] = "XX"
    frame.loc["row 5", "low"] = 11
    frame.loc["row 8", "twin"] = -1
    async with created(engine, towns, countries):
        await citykit.load_frame(engine, pd.DataFrame({"code": ["IS"]}), countries)
        given = [frame.iloc[:7], frame.iloc[7:]] if streamed else frame
        with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
            await citykit.load_frame(engine, given, towns)
        rejects = caught.value.rejects
        assert rejects[["row", "column", "value"]].to_numpy().tolist() == [
            ["row 3", "country", "XX"],
            ["row 5", "low, high", (11, 10)],
            ["row 8", "twin", -1],
        ]
        assert rejects["reason"][0] == "not in countries (code)"
        assert "in_order" in rejects["reason"][1]
        assert await rows_of(engine, towns) == []
        frame.loc["row 2", "twin"] = 2  # it is row 3's, which will not be there
        frame.loc["row 4", "twin"] = 4
        frame.loc["row 7", "twin"] = 7
        given = [frame.iloc[:7], frame.iloc[7:]] if streamed else frame
        report = await citykit.load_frame(engine, given, towns, on_invalid="skip")
        assert report.inserted == count - 3
        assert report.rejects["row"].tolist() == ["row 3", "row 5", "row 8"]


async def test_texts_after_many_that_are_refused_are_not_rounded(engine: AsyncEngine) -> None:
    table = sa.Table(
        "texts", sa.MetaData(), sa.Column("k", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", sa.Text),
    )  # fmt: skip
    await execute(
        engine, "DROP TABLE IF EXISTS texts", "CREATE TABLE texts (k int PRIMARY KEY, v numeric(6, 2))"
    )
    frame = pd.DataFrame({"k": range(1_002), "v": ["x"] * 1_000 + ["1.2345", "1.25"]})
    report = await citykit.load_frame(engine, frame, table, on_invalid="skip")
    assert (report.inserted, report.rejects["row"].tolist()) == (1, list(range(1_001)))
    assert await scalar(engine, "SELECT v FROM texts") == Decimal("1.25")
    await execute(engine, "DROP TABLE texts")


async def test_a_key_that_only_a_table_has_that_inherits_is_not_there(engine: AsyncEngine) -> None:
    await execute(
        engine,
        "DROP TABLE IF EXISTS family CASCADE",
        "CREATE TABLE family (k int PRIMARY KEY)",
        "CREATE TABLE child () INHERITS (family)",
        "INSERT INTO family VALUES (1)",
        "INSERT INTO child VALUES (2)",
    )
    frame = pd.DataFrame({"k": [1, 2, 3]})
    with pytest.raises(citykit.DuplicateKeyError) as caught:
        await citykit.load_frame(engine, frame, "family")
    assert caught.value.keys == [(1,)]
    assert (await citykit.load_frame(engine, frame, "family", on_conflict="skip")).inserted == 2
    await execute(engine, "DROP TABLE family CASCADE")


async def test_all_rows_that_a_trigger_refuses_are_counted(engine: AsyncEngine) -> None:
    await execute(
        engine,
        "DROP TABLE IF EXISTS closed",
        "CREATE TABLE closed (k int PRIMARY KEY)",
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RAISE ''closed''; END'",
        "CREATE TRIGGER refuse BEFORE INSERT ON closed FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    frame = pd.DataFrame({"k": range(FEW_ROWS)})
    with pytest.raises(citykit.InvalidFrameError, match=f"{FEW_ROWS:,} rows refused: closed") as caught:
        await citykit.load_frame(engine, frame, "closed")
    assert len(caught.value.rejects) == FEW_ROWS
    report = await citykit.load_frame(engine, frame, "closed", on_invalid="skip")
    assert (report.inserted, len(report.rejects)) == (0, FEW_ROWS)
    await execute(engine, "DROP TABLE closed", "DROP FUNCTION refuse")


async def test_a_row_that_another_session_inserts_meanwhile_counts_as_updated(engine: AsyncEngine) -> None:
    await execute(
        engine,
        "DROP TABLE IF EXISTS parts",
        "CREATE TABLE parts (k int, v int, p int, PRIMARY KEY (k, p), UNIQUE (v, p)) PARTITION BY LIST (p)",
        "CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1)",
    )
    frame = pd.DataFrame({"k": [1, 2, 3], "v": [1, 2, 3], "p": 1})
    async with engine.begin() as other:
        await other.execute(text("INSERT INTO parts VALUES (2, 9, 1)"))
        load = asyncio.ensure_future(
            citykit.load_frame(engine, frame, "parts", key=["k", "p"], on_conflict="update")
        )
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
        waits += " AND datname = current_database()"
        while not await scalar(engine, waits):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    report = await load
    assert (report.inserted, report.updated) == (2, 1)
    await execute(engine, "DROP TABLE parts")


async def test_updates_of_unique_values_in_two_orders_at_once_do_not_deadlock(engine: AsyncEngine) -> None:
    count = 5_000
    await execute(
        engine,
        "DROP TABLE IF EXISTS ordered",
        "CREATE TABLE ordered (k int PRIMARY KEY, v text UNIQUE)",
        f"INSERT INTO ordered SELECT n, 'a' || n FROM generate_series(1, {count}) AS n",  # noqa: S608
    )
    frame = pd.DataFrame({"k": range(1, count + 1), "v": [f"b{n}" for n in range(count)]})
    backwards = frame[::-1].assign(v="c" + frame["v"])

    async def load(given: pd.DataFrame) -> int:
        async with engine.begin() as connection:  # where no load is made again after a conflict
            report = await citykit.load_frame(connection, given, "ordered", key="k", on_conflict="update")
            return report.updated

    updated = await asyncio.gather(load(frame), load(backwards))
    assert list(updated) == [count, count]
    await execute(engine, "DROP TABLE ordered")


@pytest.mark.parametrize("count", [1, FEW_ROWS])
async def test_the_encoding_of_a_session_changes_no_text(engine: AsyncEngine, count: int) -> None:
    await execute(
        engine, "DROP TABLE IF EXISTS spelled", "DROP TYPE IF EXISTS spelling",
        "CREATE TYPE spelling AS ENUM ('é')",
        'CREATE TABLE spelled (k int PRIMARY KEY, v text, m spelling, "é" text[])',
    )  # fmt: skip
    frame = pd.DataFrame({"k": range(count), "v": "é東", "m": "é"}).assign(é=series([["é"]] * count))
    async with engine.connect() as connection:
        await connection.execute(text("SET LOCAL client_encoding = 'LATIN1'"))
        assert (await citykit.load_frame(connection, frame, "spelled")).inserted == count
        assert (await citykit.load_frame(connection, frame, "spelled", on_conflict="skip")).skipped == count
        assert await connection.scalar(text("SHOW client_encoding")) == "LATIN1"
        await connection.commit()
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql('SELECT DISTINCT v, m::text, "é" FROM spelled')
        assert [tuple(row) for row in rows] == [("é東", "é", ["é"])]
    await execute(engine, "DROP TABLE spelled", "DROP TYPE spelling")


async def test_a_row_that_a_trigger_refuses_is_named(engine: AsyncEngine) -> None:
    table = keyed(sa.UniqueConstraint("a"))
    frame = pd.DataFrame({"a": range(1000), "b": 1})
    frame.loc[777, "b"] = 13
    async with created(engine, table):
        async with engine.begin() as connection:
            for statement in (
                "CREATE OR REPLACE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN IF NEW.b = 13 THEN RAISE 'no thirteen here'; END IF; RETURN NEW; END$$",
                "CREATE TRIGGER unlucky BEFORE INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION unlucky()",
            ):
                await connection.execute(text(statement))
        with pytest.raises(citykit.InvalidFrameError, match="no thirteen here") as caught:
            await citykit.load_frame(engine, frame, table)
        assert caught.value.rejects["row"].tolist() == [777]
        report = await citykit.load_frame(engine, frame, table, on_invalid="skip")
        assert (report.inserted, len(report.rejects)) == (999, 1)


async def test_labels_that_the_servers_enum_lacks_name_their_row(engine: AsyncEngine) -> None:
    table = every_type()
    newer = sa.Table(
        "every_type", sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True),
        sa.Column("mood", sa.Enum("happy", "sleepy", name="mood")),
    )  # fmt: skip
    frame = pd.DataFrame({"key": [1, 2, 3], "mood": ["happy", "sleepy", None]}, index=["x", "y", "z"])
    async with created(engine, table):
        with pytest.raises(citykit.InvalidFrameError, match="not one of 'happy', 'it") as caught:
            await citykit.load_frame(engine, frame, newer, key=["key"])
        assert caught.value.rejects["row"].tolist() == ["y"]


async def test_another_unique_constraint_is_said(engine: AsyncEngine) -> None:
    table = keyed(sa.UniqueConstraint("a"), sa.UniqueConstraint("b", name="only_one_b"))
    async with created(engine, table):
        await citykit.load_frame(engine, pd.DataFrame({"a": [1], "b": [1]}), table, key="a")
        policies: list[Any] = ["error", "skip", "update"]
        for policy in policies:
            with pytest.raises(citykit.DuplicateKeyError, match="only_one_b"):
                await citykit.load_frame(
                    engine, pd.DataFrame({"a": [2], "b": [1]}), table, key="a", on_conflict=policy
                )
