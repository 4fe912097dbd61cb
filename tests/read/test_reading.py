"""Reading statements, against a real server."""

from __future__ import annotations

import asyncio
import gc
import re
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import citykit
from citykit.cities.model import City
from citykit.database import in_transaction
from citykit.pgtypes import DtypeBackend
from citykit.read import run_cell
from tests.support.cancelling import bound
from tests.support.database import execute, scalar
from tests.support.threads import calls_on_this_thread

SERIES = "SELECT i, 'text ' || i AS t FROM generate_series(1, {}) AS i"


async def running(engine: AsyncEngine, like: str, wanted: bool) -> None:
    """Wait until such a statement runs on the server, or none does."""
    sql = (
        "SELECT count(*) > 0 FROM pg_stat_activity "
        "WHERE state = 'active' AND query LIKE :like AND pid <> pg_backend_pid() "
        "AND datname = current_database()"
    )
    async with asyncio.timeout(5):
        while await scalar(engine, sql, like=like) is not wanted:
            pass


async def failure(awaitable: Any) -> str:
    with pytest.raises(citykit.CitykitError) as caught:
        await awaitable
    return str(caught.value)


async def streamed(bind: Any, sql: str, **options: Any) -> None:
    async for _ in citykit.stream_frames(bind, sql, **options):
        pass


async def cell(bind: Any, sql: str) -> None:
    await run_cell(bind, sql, {}, None)


# Types

# What is selected; the dtype for each backend; the values of the first row.
TYPES: list[tuple[str, tuple[str, ...], Any]] = [
    ("true", ("boolean", "object", "bool[pyarrow]"), True),
    ("(-32768)::smallint", ("Int16", "float64", "int16[pyarrow]"), -32768),
    ("2147483647", ("Int32", "float64", "int32[pyarrow]"), 2**31 - 1),
    ("9223372036854775807", ("Int64", "object", "int64[pyarrow]"), 2**63 - 1),
    ("4294967295::oid", ("Int64", "object", "int64[pyarrow]"), 2**32 - 1),
    ("1.5::real", ("Float32", "float32", "float[pyarrow]"), 1.5),
    ("0.1::float8 + 0.2", ("Float64", "float64", "double[pyarrow]"), 0.1 + 0.2),
    ("'é'::text", ("string", "str", "string[pyarrow]"), "é"),
    ("'x'::char(3)", ("string", "str", "string[pyarrow]"), "x  "),
    ("'x'::varchar", ("string", "str", "string[pyarrow]"), "x"),
    ("'x'::name", ("string", "str", "string[pyarrow]"), "x"),
    ("'[1,5)'::int4range", ("string", "str", "string[pyarrow]"), "[1,5)"),
    ("'10.0.0.1/8'::inet", ("string", "str", "string[pyarrow]"), "10.0.0.1/8"),
    ("B'101'", ("string", "str", "string[pyarrow]"), "101"),
    ("ROW(1, 'a,b')", ("string", "str", "string[pyarrow]"), '(1,"a,b")'),
    ("'1 2'::int2vector", ("string", "str", "string[pyarrow]"), "1 2"),
    ("date '2024-02-29'", ("datetime64[s]", "datetime64[s]", "date32[day][pyarrow]"), "2024-02-29"),
    ("timestamp '2024-02-29 1:02:03.04'", (*["datetime64[us]"] * 2, "timestamp[us][pyarrow]"),
     "2024-02-29 01:02:03.040000"),
    ("timestamptz '2024-02-29 12:00+02'", (*["datetime64[us, UTC]"] * 2, "timestamp[us, tz=UTC][pyarrow]"),
     "2024-02-29 10:00:00+00:00"),
    ("interval '-1 day 0:00:01'", (*["timedelta64[us]"] * 2, "duration[us][pyarrow]"), "-1 days +00:00:01"),
    ("time '12:00:00.5'", ("object", "object", "time64[us][pyarrow]"), "12:00:00.500000"),
    ("1.10::numeric", ("Float64", "float64", "double[pyarrow]"), 1.1),
    ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", ("object",) * 3, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("""'{"a": [1, null]}'::jsonb""", ("object",) * 3, {"a": [1, None]}),
    ("'\"x\"'::json", ("object",) * 3, "x"),
    (r"'\x00ff'::bytea", ("object", "object", "binary[pyarrow]"), b"\x00\xff"),
    ("ARRAY[1, NULL]", ("object",) * 3, [1, None]),
    ("ARRAY[[0.5], ['NaN']]::float8[]", ("object",) * 3, "[[0.5], [nan]]"),
    ("ARRAY['a,b', NULL, 'NULL', '']", ("object",) * 3, ["a,b", None, "NULL", ""]),
]  # fmt: skip


@pytest.mark.parametrize("limit", ["", "LIMIT 9"], ids=["", "limited"])
@pytest.mark.parametrize("backend", get_args(DtypeBackend))
async def test_types_are_the_servers_whatever_the_values(
    engine: AsyncEngine, backend: DtypeBackend, limit: str
) -> None:
    number = get_args(DtypeBackend).index(backend)
    columns = ", ".join(f"{sql} AS c{i}" for i, (sql, _, _) in enumerate(TYPES))
    one = f"SELECT {columns}"
    nulls = ", ".join(f"CASE WHEN c{i} IS NULL THEN c{i} END AS c{i}" for i in range(len(TYPES)))
    frames = [
        await citykit.read_frame(engine, f"{sql} {limit}", dtype_backend=backend)
        for sql in (
            one,
            f"SELECT * FROM ({one}) AS one WHERE false",  # noqa: S608
            f"SELECT {nulls} FROM ({one}) AS one",  # noqa: S608
            f"SELECT {nulls} FROM ({one}) AS one UNION ALL SELECT * FROM ({one}) AS two",  # noqa: S608
        )
    ]
    for frame in frames:
        assert frame.dtypes.astype(str).tolist() == [dtypes[number] for _, dtypes, _ in TYPES]
    assert [len(frame) for frame in frames] == [1, 0, 1, 2]
    assert frames[2].isna().all(axis=None)
    for value, (sql, _, expected) in zip(frames[0].iloc[0].tolist(), TYPES, strict=True):
        if isinstance(expected, str):
            assert str(value).removesuffix(" 00:00:00") == expected, sql
        else:
            assert value == expected, sql


async def test_an_enum_is_a_category_in_the_order_of_its_labels(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TYPE size AS ENUM ('small', 'Large', 'a,b')"))
        await connection.execute(text("CREATE DOMAIN many AS size[]"))
        await connection.execute(text("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)"))
        sql = (
            "SELECT s::size, ARRAY[s, NULL]::many AS m, 5::positive AS p, ARRAY[5::positive] AS q "
            "FROM unnest(ARRAY['Large', NULL, 'small']) AS s"
        )
        for statement in (sql, f"{sql} LIMIT 5", f"SELECT * FROM ({sql}) AS x WHERE false"):  # noqa: S608
            frame = await citykit.read_frame(connection, statement)
            dtype = frame["s"].dtype
            assert isinstance(dtype, pd.CategoricalDtype)
            assert dtype.categories.tolist() == ["small", "Large", "a,b"]
            assert dtype.ordered
            assert frame.dtypes.astype(str).tolist() == ["category", "object", "Int32", "object"]
            if len(frame):
                assert frame["s"].cat.codes.tolist() == [1, -1, 0]
                assert frame[["m", "p", "q"]].iloc[0].tolist() == [["Large", None], 5, [5]]
        await connection.rollback()


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "double precision": st.floats(),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False) | st.just(Decimal("NaN")),
    "text": st.sampled_from(["", "NULL", "\\N", "\\.", '"', "\ufeff"])
    | TEXTS,
    "bytea": st.binary(),
    "uuid": st.uuids(),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(),
    "interval": st.timedeltas(timedelta(days=-99_999), timedelta(days=99_999)),
    "text[]": st.lists(st.none() | TEXTS),
    "bigint[]": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
}  # fmt: skip


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(sorted(VALUES)))
async def test_every_value_is_read_as_it_is(engine: AsyncEngine, data: st.DataObject, kind: str) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=5))
    sql = " UNION ALL ".join(f"SELECT {i} AS n, CAST(:v{i} AS {kind}) AS value" for i in range(len(values)))
    params = {f"v{i}": value for i, value in enumerate(values)}
    copied = await citykit.read_frame(engine, f"{sql} ORDER BY n", params, numeric="decimal")
    limited = await citykit.read_frame(engine, f"{sql} ORDER BY n LIMIT 9", params, numeric="decimal")
    pd.testing.assert_frame_equal(copied, limited, check_exact=True)
    for value, read in zip(values, copied["value"], strict=True):
        if value is None:
            assert read is None or read is pd.NA or read is pd.NaT
        elif value != value:  # not a number
            assert read != read
            assert read is not pd.NA
        else:
            assert read == (pd.Timestamp(value) if kind in ("date", "timestamp") else value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DateStyle", "German, DMY"),
        ("IntervalStyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("bytea_output", "escape"),
        ("TimeZone", "Asia/Kathmandu"),
        ("TimeZone", "Europe/Amsterdam"),
    ],
)
async def test_the_settings_of_the_session_change_no_value_and_stay(
    engine: AsyncEngine, setting: str, value: str
) -> None:
    sql = (
        "SELECT 1 / 3::float8 AS f, date '2024-02-01' AS d, timestamp '2024-02-01 1:00' AS t, "
        "timestamptz '1900-02-01 01:00+00' AS z, interval '1 day 0:00:01' AS i, "
        r"'\x00615c'::bytea AS b, ARRAY[0.1::float8, 1 / 3::float8] AS a"
    )
    expected = await citykit.read_frame(engine, sql)
    async with engine.connect() as connection:
        await connection.execute(
            select(text("set_config(:name, :value, false)")), {"name": setting, "value": value}
        )
        read = await citykit.read_frame(connection, sql)
        kept = (await citykit.read_frame(connection, f"SHOW {setting}")).iloc[0, 0]
        await connection.invalidate()
    pd.testing.assert_frame_equal(read, expected, check_exact=True)
    assert kept == value


@pytest.mark.parametrize(
    "sql", ["SELECT timestamp 'infinity' AS x", "SELECT interval '1 mon' AS x", "SELECT time '24:00' AS x"]
)
async def test_a_value_that_pandas_cannot_hold_is_refused_by_name(engine: AsyncEngine, sql: str) -> None:
    said = await failure(citykit.read_frame(engine, sql))
    assert "'x'" in said
    assert "row 0" in said
    assert "x::text" in said
    assert len(await citykit.read_frame(engine, sql.replace(" AS x", "::text AS x"))) == 1
    many = f"SELECT NULL AS x FROM generate_series(1, 10) UNION ALL {sql}"  # noqa: S608
    assert "row 10 " in await failure(citykit.read_frame(engine, many))


@pytest.mark.parametrize("name", ["x", "My Col", "user", 'a"b'])
async def test_what_the_error_selects_in_its_place_can_be_typed(engine: AsyncEngine, name: str) -> None:
    sql = "SELECT interval '1 mon' AS \"{}\"".format(name.replace('"', '""'))
    found = re.search(r"as text \((.+?::text)\)", await failure(citykit.read_frame(engine, sql)))
    assert found
    frame = await citykit.read_frame(engine, f"SELECT {found[1]} AS value FROM ({sql}) AS one")  # noqa: S608
    assert frame["value"].tolist() == ["1 mon"]


async def test_a_stream_counts_the_rows_of_its_whole_result(engine: AsyncEngine) -> None:
    """The moment can be read, and no frame can hold it."""
    sql = (
        "SELECT CASE i WHEN 25 THEN timestamptz '12024-01-01 00:00+00' ELSE now() END AS x "
        "FROM generate_series(0, 40) AS i"
    )
    assert "'x' has in row 25 of the result" in await failure(streamed(engine, sql, chunk_rows=10))


async def test_a_numeric_that_arrow_cannot_hold_is_refused_by_name(engine: AsyncEngine) -> None:
    sql = "SELECT 1.5 AS x UNION ALL SELECT 'NaN'"
    said = await failure(citykit.read_frame(engine, sql, dtype_backend="pyarrow", numeric="decimal"))
    assert "'x' has in row 1" in said
    frame = await citykit.read_frame(engine, sql, numeric="decimal")
    assert str(frame["x"].tolist()) == "[Decimal('1.5'), Decimal('NaN')]"


# Statements


async def test_repeated_and_odd_names_are_kept(engine: AsyncEngine) -> None:
    sql = 'SELECT 1 AS a, \'x\' AS a, 2 AS " b""\n", 3'
    for limit in ("", " LIMIT 1"):
        frame = await citykit.read_frame(engine, sql + limit)
        assert frame.columns.tolist() == ["a", "a", ' b"\n', "?column?"]
        assert frame.iloc[0].tolist() == [1, "x", 2, 3]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("VALUES (1, 'a'), (2, NULL)", 2),
        ("TABLE pg_am", None),
        ("WITH a AS (SELECT 1 AS x) SELECT * FROM a, generate_series(1, 3)", 3),
        ("(SELECT 1) UNION ALL (SELECT 2) -- the end;", 2),
        ("SHOW server_version", 1),
        ("EXPLAIN (FORMAT JSON) SELECT 1", 1),
        ("SELECT * FROM generate_series(1, 3); ", 3),
        ("SELECT pg_sleep(0)", 1),
    ],
)
async def test_whatever_returns_rows_can_be_read(engine: AsyncEngine, sql: str, rows: int | None) -> None:
    frame = await citykit.read_frame(engine, sql)
    assert len(frame) == rows if rows is not None else len(frame) > 0


async def test_rows_that_a_change_returns_are_read_and_the_change_is_committed(engine: AsyncEngine) -> None:
    insert = (
        "INSERT INTO cities (name, population) VALUES (:name, 5), ('b', 6) RETURNING name, population, id"
    )
    frame = await citykit.read_frame(engine, insert, {"name": "a'; --"})
    assert frame.dtypes.astype(str).tolist() == ["string", "Int32", "Int64"]
    assert frame["name"].tolist() == ["a'; --", "b"]
    assert await scalar(engine, "SELECT count(*) FROM cities") == 2
    async with engine.connect() as connection:
        assert len(await citykit.read_frame(connection, "DELETE FROM cities RETURNING *")) == 2
        await connection.rollback()
    assert await scalar(engine, "SELECT count(*) FROM cities") == 2


async def test_selects_of_sqlalchemy(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    await citykit.load_cities(engine, three_cities)
    statement = select(City.name, City.population).where(City.country.in_(["IS", "CA"])).order_by(City.name)
    for wanted in (statement, statement.limit(5)):
        frame = await citykit.read_frame(engine, wanted)
        assert frame["name"].tolist() == ["London", "Reykjavík"]
    least = statement.where(City.population > bindparam("least"))
    assert len(await citykit.read_frame(engine, least, {"least": np.int64(200_000)})) == 1
    assert (await citykit.read_frame(engine, select(City))).columns[0] == "id"
    assert (
        len(await citykit.read_frame(engine, text("SELECT 1 FROM cities WHERE country = :c"), {"c": "IS"}))
        == 1
    )


@pytest.mark.parametrize("more", [[], [func.now()]], ids=["rows", "copy"])
async def test_a_list_of_sqlalchemys_may_have_thousands_of_values(
    engine: AsyncEngine, three_cities: pd.DataFrame, more: list[Any]
) -> None:
    await citykit.load_cities(engine, three_cities)
    numbers = [*range(2000), 118_918]
    frame = await citykit.read_frame(engine, select(City.name, *more).where(City.population.in_(numbers)))
    assert frame["name"].tolist() == ["Reykjavík"]


async def test_a_session_is_flushed_and_its_transaction_joined(engine: AsyncEngine) -> None:
    async with citykit.sessions(engine)() as session:
        session.add(City(name="a", population=1))
        assert len(await citykit.read_frame(session, "SELECT * FROM cities")) == 1
        assert "nope" in await failure(citykit.read_frame(session, "SELECT nope FROM cities"))
        assert "zero" in await failure(
            citykit.read_frame(session, "SELECT 1 / (i - 3) FROM generate_series(1, 5) i")
        )
        assert len(await citykit.read_frame(session, "SELECT * FROM cities LIMIT 5")) == 1
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


HOSTILE = [
    "'; DROP TABLE cities; --",
    "$1",
    "\\'; --",
    "E'\\\\'",
    "$$",
    ":name",
    "%s",
    '"',
    "\n",
    "é\u202e",
    "{}",
    "",
]


@pytest.mark.parametrize("limit", ["", " LIMIT 9"], ids=["", "limited"])
async def test_hostile_values_stay_values(engine: AsyncEngine, limit: str) -> None:
    sql = "SELECT :a::text AS a, '$1' AS b, $$$2$$ AS c, :b::text[] AS d -- $1 :c\n, :a || '' AS e"
    for value in HOSTILE:
        wrapped = f"SELECT * FROM ({sql}) AS x{limit}"  # noqa: S608
        frame = await citykit.read_frame(engine, wrapped, {"a": value, "b": HOSTILE})
        assert frame.iloc[0].tolist() == [value, "$1", "$2", HOSTILE, value]
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


async def test_every_type_of_parameter_reaches_copy(engine: AsyncEngine) -> None:
    params = {
        "a": 5, "b": 0.1, "c": None, "d": True, "e": pd.Timestamp("2024-02-29"), "f": [1, 2], "g": b"\x00'",
        "h": ["x", None], "i": pd.Timedelta(seconds=1.5),
    }  # fmt: skip
    sql = (
        "SELECT :a::bigint a, :b::float8 b, :c::int c, :d::bool d, :e::timestamp e, :f::int[] f, "
        ":g::bytea g, 5 = ANY (:f) h, :h::text[] i, :i::interval j FROM generate_series(1, 2)"
    )
    for limit in ("", " LIMIT 1"):
        row = (await citykit.read_frame(engine, sql + limit, params)).iloc[0].tolist()
        assert row.pop(2) is pd.NA
        assert row == [5, 0.1, True, params["e"], [1, 2], b"\x00'", False, ["x", None], params["i"]]


# What is wrong is said


@pytest.mark.parametrize("limit", ["", " LIMIT 5"], ids=["", "limited"])
@pytest.mark.parametrize(
    ("sql", "params", "said"),
    [
        (
            "SELECT name,\n  popluation\nFROM cities WHERE name = :name",
            {"name": "x"},
            [
                'column "popluation" does not exist',
                "line 2:   popluation\n          ^",
                "Hint: ",
                "cities.population",
            ],
        ),
        ("SELECT :a::int, * FROM nowhere", {"a": 1}, ["nowhere", "line 1:", " " * 31 + "^", "create_tables"]),
        ("SELEC 1", None, ["syntax error", "line 1: SELEC 1", "\n        ^"]),
        ("SELECT 1 / 0", None, ["division by zero"]),
        ("SELECT 'x'::int", None, ["invalid input syntax", "^"]),
        (
            "SELECT * FROM cities WHERE population > :least",
            {"least": "many"},
            ["'least'", "many", "int4"],
        ),
        ("SELECT 1; DROP TABLE cities", None, ["more than one statement"]),
    ],
)
async def test_errors_of_a_statement_are_shown_in_it(
    engine: AsyncEngine, sql: str, params: Any, said: list[str], limit: str
) -> None:
    message = await failure(citykit.read_frame(engine, sql + limit, params))
    for part in (*said, "nothing was changed" if "statement" not in said[0] else ""):
        assert part in message
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


async def test_a_missing_table_is_its_own_error(engine: AsyncEngine) -> None:
    with pytest.raises(
        citykit.MissingTableError, match=r"(?s)nowhere.*await citykit.create_table\(engine, name, frame\)"
    ):
        await citykit.read_frame(engine, "SELECT * FROM nowhere")


@pytest.mark.parametrize(
    ("table", "meant"),
    [
        ("qokkas", "quokkas"), ("public.qokkas", "quokkas"), ("nowhere.quokkas", "quokkas"),
        ("wombats", "zoo.wombats"), ('"RED PANDA"', '"Red panda"'), ("zoo.red_panda", '"Red panda"'),
        ("zzz", None),
    ],
)  # fmt: skip
async def test_a_table_with_a_similar_name_is_named_as_sql_writes_it(
    engine: AsyncEngine, table: str, meant: str | None
) -> None:
    drop = ('DROP TABLE IF EXISTS quokkas, "Red panda"', "DROP SCHEMA IF EXISTS zoo CASCADE")
    create = ("TABLE quokkas (a int)", 'TABLE "Red panda" (a int)', "SCHEMA zoo", "TABLE zoo.wombats (a int)")
    await execute(engine, *drop, *(f"CREATE {what}" for what in create))
    runs = (citykit.read_frame, streamed, citykit.execute, cell)
    for kind, run in product(("engine", "connection", "session"), runs):
        async with bound(engine, kind) as bind:
            with pytest.raises(citykit.MissingTableError) as caught:
                await run(bind, f"TABLE {table}" if run is not citykit.execute else f"DELETE FROM {table}")  # noqa: S608
            assert len(await citykit.read_frame(bind, "SELECT 1")) == 1
        said = str(caught.value).splitlines()
        assert said[3:-1] == ([f"Did you mean {meant}?"] if meant else [])
        if meant:
            assert list(await citykit.read_frame(engine, f"SELECT * FROM {meant}")) == ["a"]  # noqa: S608
    await execute(engine, *drop)


@pytest.mark.parametrize("run", [citykit.read_frame, streamed, citykit.execute, cell])
@pytest.mark.parametrize("name", ["cities", " public.cities;\n", '"cities"'])
async def test_the_bare_name_of_a_table_gets_the_statement_that_reads_it(
    engine: AsyncEngine, run: Any, name: str
) -> None:
    said = await failure(run(engine, name))
    statement = said.rpartition("The rows of a table: ")[2]
    assert "population" in await citykit.read_frame(engine, statement)


@pytest.mark.parametrize(
    "sql",
    ["UPDATE cities SET population = 0", "CREATE TABLE x (a int)", "DO $$ BEGIN END $$"],
)
async def test_statements_without_rows_are_refused_before_they_run(engine: AsyncEngine, sql: str) -> None:
    await citykit.add_city(engine, "a", 1)
    said = await failure(citykit.read_frame(engine, sql))
    assert "returns no rows" in said
    assert "RETURNING" in said
    assert await scalar(engine, "SELECT sum(population) FROM cities") == 1
    assert await scalar(engine, "SELECT to_regclass('x') IS NULL")


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT", "BEGIN", "LISTEN x", "SET work_mem = '8MB'", "COPY cities TO STDOUT", "", "-- x",
        "SELECT 1 AS a INTO TEMP made", "PREPARE one AS SELECT 1",
    ],
)  # fmt: skip
async def test_reading_what_execute_refuses_says_the_same(engine: AsyncEngine, sql: str) -> None:
    said = await failure(citykit.execute(engine, sql))
    assert "was run" in said
    assert await failure(citykit.read_frame(engine, sql)) == said
    assert await failure(streamed(engine, sql)) == said


@pytest.mark.parametrize("operator", ["IN", "not  in\n"])
@pytest.mark.parametrize("value", ["abc", None])
async def test_a_single_text_after_in_says_the_list_to_give(
    engine: AsyncEngine, operator: str, value: str | None
) -> None:
    sql = f"SELECT 1 AS x WHERE 'abc' {operator} :v"
    said = await failure(citykit.read_frame(engine, sql, {"v": value}))
    assert f"IN takes a list: params={{'v': [{value!r}]}}." in said
    assert "a table" not in said
    found = await citykit.read_frame(engine, sql, {"v": [value]})
    assert len(found) == (operator == "IN" and value == "abc")


async def test_a_dollar_quote_that_does_not_end_is_no_parameter(engine: AsyncEngine) -> None:
    for sql, params in (("SELECT $a$ x", None), ("SELECT :v, $a$ x", {"v": 1})):
        said = await failure(citykit.read_frame(engine, sql, params))
        assert "unterminated" in said
        assert "parameter" not in said


@pytest.mark.parametrize(
    "sql", ["SELECT attname, attmissingval AS x FROM pg_attribute LIMIT 1", "TABLE pg_stats"]
)
async def test_a_type_that_the_driver_cannot_read_is_no_lost_connection(
    engine: AsyncEngine, sql: str
) -> None:
    async with engine.connect() as connection:
        for bind in (engine, connection):
            for reading in (citykit.read_frame(bind, sql), streamed(bind, sql), citykit.execute(bind, sql)):
                said = await failure(reading)
                assert "it was not run, and nothing was changed" in said
                assert (shown := "SELECT most_common_vals::text FROM pg_stats") in said
            assert list(await citykit.read_frame(bind, f"{shown} LIMIT 1")) == ["most_common_vals"]


@pytest.mark.parametrize("backend", ["numpy_nullable", "numpy", "pyarrow"])
@pytest.mark.parametrize(
    "json",
    [
        "'1e5000'::jsonb", "'[1e309]'::json", "(repeat('[', 9000) || repeat(']', 9000))::json",
        r"""'"\ud800"'::json""", r"""'{"\uDFFF": 1}'::json""",
    ],
)  # fmt: skip
async def test_json_that_python_cannot_hold_is_refused_by_name(
    engine: AsyncEngine, json: str, backend: Any
) -> None:
    for value in (json, f"ARRAY[{json}]"):
        sql = f"SELECT * FROM (SELECT 1 AS n, NULL AS x UNION ALL SELECT 2, {value}) AS rows ORDER BY n"  # noqa: S608
        for reading in (
            citykit.read_frame(engine, sql, dtype_backend=backend),
            streamed(engine, sql, chunk_rows=1, dtype_backend=backend),
        ):
            said = await failure(reading)
            assert "Column 'x' has in row 1 of the result" in said
            assert "x::text" in said
        assert len(await citykit.read_frame(engine, sql.replace("*", "x::text", 1))) == 2
    async with engine.begin() as connection:
        await citykit.execute(connection, f"DECLARE many CURSOR FOR SELECT {json} AS x")
        assert "x::text" in await failure(citykit.read_frame(connection, "FETCH ALL many"))
        assert len(await citykit.read_frame(connection, "SELECT 1")) == 1


async def test_json_with_whole_pairs_and_backslashes_is_read(engine: AsyncEngine) -> None:
    sql = r"""SELECT '["\ud83d\uDE00", "\\ud800"]'::json AS x"""
    assert (await citykit.read_frame(engine, sql)).loc[0, "x"] == ["😀", "\\ud800"]


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("timestamptz '10000-01-02 00:00+00'", "10000-01-02"),
        ("date '5874897-12-31'", "5874897-12-31"),
        ("date '4713-01-01 BC'", "-4712-01-01"),
    ],
)
async def test_a_moment_that_python_cannot_hold_is_refused_where_pandas_makes_pythons(
    engine: AsyncEngine, moment: str, shown: str
) -> None:
    said = await failure(citykit.read_frame(engine, f"SELECT {moment} AS x", dtype_backend="pyarrow"))
    assert f"'x' has in row 0 of the result the value '{shown}" in said
    frame = await citykit.read_frame(engine, "SELECT timestamp '9999-12-31' AS x", dtype_backend="pyarrow")
    assert str(frame.loc[0, "x"]) == "9999-12-31 00:00:00"


async def test_a_read_while_a_stream_goes_on_says_how_to_end_that(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        frames = citykit.stream_frames(connection, ENDLESS.format("busy"), chunk_rows=10)
        await anext(frames)
        said = await failure(citykit.read_frame(connection, "SELECT 1"))
        assert "contextlib.aclosing(citykit.stream_frames(…))" in said
        await frames.aclose()
        assert len(await citykit.read_frame(connection, "SELECT 1")) == 1


async def test_choices_are_checked(engine: AsyncEngine) -> None:
    with pytest.raises(ValueError, match="numpy_nullable"):
        await citykit.read_frame(engine, "SELECT 1", dtype_backend="arrow")  # type: ignore[arg-type]
    for size in (0, 1.5, True, None, "100"):
        with pytest.raises(ValueError, match=re.escape(f"1 or more, not {size!r}")):
            async for _ in citykit.stream_frames(engine, "SELECT 1", chunk_rows=size):  # type: ignore[arg-type]
                pass
    with pytest.raises(TypeError, match="AsyncEngine"):
        await citykit.read_frame("postgresql://", "SELECT 1")  # type: ignore[arg-type]


async def test_a_connection_that_may_only_read_stays_so(engine: AsyncEngine) -> None:
    reader = engine.execution_options(postgresql_readonly=True)
    sql = (
        "WITH new AS (INSERT INTO cities (name, population) VALUES ('a', 1) RETURNING name) SELECT * FROM new"
    )
    for limit in ("", " LIMIT 5"):
        assert "read-only" in await failure(citykit.read_frame(reader, sql + limit))
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


# Large results


async def test_a_large_result_arrives_whole_and_never_blocks_the_loop(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise a small chunk (the last, or one that comes slowly) is unpacked on the loop.
    monkeypatch.setattr("citykit.read.messages.THREAD_BYTES", 1)
    monkeypatch.setattr("citykit.read.reading.THREAD_ROWS", 1)
    await citykit.read_frame(engine, "SELECT 1")  # which imports what it needs
    heard: list[tuple[int, int | None]] = []
    with calls_on_this_thread("decode") as calls:
        frame = await citykit.read_frame(
            engine, SERIES.format(400_000), progress=lambda done, total: heard.append((done, total))
        )
        streamed = [part async for part in citykit.stream_frames(engine, SERIES.format(400_000))]
    assert not calls
    assert pd.concat(streamed, ignore_index=True).equals(frame)
    assert frame["i"].tolist() == list(range(1, 400_001))
    assert frame["t"].iloc[-1] == "text 400000"
    assert len(heard) > 3
    assert heard[-1] == (400_000, None)  # only the end tells how many they are
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


async def test_streaming_gives_the_same_rows_in_frames(engine: AsyncEngine) -> None:
    whole = await citykit.read_frame(engine, SERIES.format(250_000))
    frames = [
        frame async for frame in citykit.stream_frames(engine, SERIES.format(250_000), chunk_rows=60_000)
    ]
    assert [len(frame) for frame in frames] == [60_000] * 4 + [10_000]
    pd.testing.assert_frame_equal(pd.concat(frames), whole)


async def test_a_stream_of_no_rows_is_one_typed_frame(engine: AsyncEngine) -> None:
    [frame] = [f async for f in citykit.stream_frames(engine, SERIES.format(0))]
    assert frame.dtypes.astype(str).to_dict() == {"i": "Int32", "t": "string"}
    [frame] = [f async for f in citykit.stream_frames(engine, SERIES.format(3), chunk_rows=3)]
    assert len(frame) == 3


ENDLESS = "SELECT generate_series(1, 2000000000) AS i, repeat('x', 100) AS {}"
ENDLESS_COPY = ENDLESS + ", 1.5 AS numeric"
ways = pytest.mark.parametrize("endless", [ENDLESS, ENDLESS_COPY], ids=["rows", "copy"])


@ways
@pytest.mark.parametrize("joined", [False, True], ids=["engine", "connection"])
async def test_leaving_a_stream_cancels_on_the_server_and_the_connection_works(
    engine: AsyncEngine, joined: bool, endless: str
) -> None:
    only = await citykit.connect(engine.url, pool_size=1, max_overflow=0)
    async with only.connect() as connection:
        await citykit.add_city(connection, "a", 1)
        if not joined:
            await connection.rollback()
            await connection.close()
        bind: AsyncEngine | AsyncConnection = connection if joined else only
        async with aclosing(citykit.stream_frames(bind, endless.format("left"), chunk_rows=10)) as frames:
            async for frame in frames:
                assert len(frame) == 10
                break
        await running(engine, "%AS left%", False)
        assert len(await citykit.read_frame(bind, "SELECT * FROM cities")) == int(joined)
        assert len(await citykit.read_frame(bind, SERIES.format(50_000))) == 50_000
    await only.dispose()


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS.format("gone"),
        ENDLESS_COPY.format("gone"),
        "SELECT 1 AS gone FROM pg_sleep(100)",
        "SELECT pg_sleep(100) AS gone",
    ],
    ids=["while rows arrive", "while COPY sends rows", "before the first", "before the first of COPY"],
)
@pytest.mark.parametrize("joined", [False, True], ids=["engine", "connection"])
async def test_a_cancelled_read_ends_on_the_server_and_the_connection_works(
    engine: AsyncEngine, joined: bool, sql: str
) -> None:
    only = await citykit.connect(engine.url, pool_size=1, max_overflow=0)

    async def read(bind: AsyncEngine | AsyncConnection) -> None:
        reading = asyncio.create_task(citykit.read_frame(bind, sql))
        await running(engine, "%AS gone%", True)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await running(engine, "%AS gone%", False)
        assert len(await citykit.read_frame(bind, SERIES.format(50_000))) == 50_000

    if joined:
        async with only.connect() as connection:
            await citykit.add_city(connection, "a", 1)
            await read(connection)
            assert len(await citykit.biggest_cities(connection)) == 1
    else:
        await read(only)
    await only.dispose()


@ways
async def test_a_read_cancelled_twice_ends_at_once_and_in_silence(engine: AsyncEngine, endless: str) -> None:
    """The second time while it waits for the server to stop; nothing is left for Python to complain of."""
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    reading = asyncio.create_task(citykit.read_frame(engine, endless.format("twice")))
    await running(engine, "%AS twice%", True)
    reading.cancel()
    loop.call_soon(partial(loop.call_soon, reading.cancel))
    with pytest.raises(asyncio.CancelledError):
        await reading
    await running(engine, "%AS twice%", False)
    del reading
    gc.collect()
    assert not complaints
    assert len(await citykit.read_frame(engine, SERIES.format(50_000))) == 50_000


@pytest.mark.parametrize("type_", ["integer", "numeric"], ids=["rows", "copy"])
async def test_an_error_in_the_middle_leaves_a_connection_that_works(engine: AsyncEngine, type_: str) -> None:
    async with engine.connect() as connection:
        sql = f"SELECT 1::{type_} / (200000 - i) FROM generate_series(1, 300000) AS i"  # noqa: S608
        assert "division by zero" in await failure(citykit.read_frame(connection, sql))
        assert len(await citykit.read_frame(connection, SERIES.format(50_000))) == 50_000


# Running a cell again


async def test_reading_after_a_table_was_made_anew(engine: AsyncEngine) -> None:
    for sql in ("SELECT * FROM anew", "SELECT * FROM anew LIMIT 5"):
        for type_, dtype in (("integer", "Int32"), ("text", "string"), ("bigint", "Int64")):
            async with engine.begin() as connection:
                await connection.execute(text("DROP TABLE IF EXISTS anew"))
                await connection.execute(text(f"CREATE TABLE anew AS SELECT 1::{type_} AS a"))
            for _ in range(7):  # from the sixth on, a kept statement would have a kept plan
                assert str((await citykit.read_frame(engine, sql))["a"].dtype) == dtype
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE anew"))


KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


@pytest.mark.parametrize("limit", ["", " LIMIT 5"], ids=["", "limited"])
async def test_a_dropped_connection_is_replaced_for_reads_on_an_engine(
    engine: AsyncEngine, limit: str
) -> None:
    other = await citykit.connect(engine.url)
    await asyncio.gather(*(citykit.biggest_cities(other) for _ in range(5)))  # as many connections
    await scalar(engine, KILL)
    assert len(await citykit.read_frame(other, f"SELECT 1{limit}")) == 1
    await scalar(engine, KILL)
    assert (await citykit.biggest_cities(other)).empty
    await scalar(engine, KILL)
    assert [len(f) async for f in citykit.stream_frames(other, f"SELECT 1{limit}")] == [1]
    await other.dispose()


async def test_a_stream_is_not_made_again_once_a_frame_was_handed_over(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in every turn of the event loop, in each of which the connection may be lost."""
    told: list[bool] = []
    loop = asyncio.get_running_loop()

    async def watched(*args: Any, repeatable: Any, **options: Any) -> None:
        def ask() -> None:
            if told[-1:] != [repeatable()]:
                told.append(repeatable())
            turn[:] = [loop.call_soon(ask)]

        turn = [loop.call_soon(ask)]
        try:
            await in_transaction(*args, repeatable=repeatable, **options)
        finally:
            turn[0].cancel()

    monkeypatch.setattr("citykit.read.reading.in_transaction", watched)
    frames = [frame async for frame in citykit.stream_frames(engine, SERIES.format(3), chunk_rows=1)]
    assert len(frames) == 3
    assert told == [True, False]


async def test_a_dropped_connection_of_the_caller_is_said(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url)
    async with other.connect() as connection:
        await citykit.read_frame(connection, "SELECT 1")
        await scalar(engine, KILL)
        with pytest.raises(citykit.DatabaseUnavailableError, match="lost"):
            await citykit.read_frame(connection, "SELECT 1")
    with pytest.raises(citykit.DatabaseUnavailableError, match="lost"):
        await citykit.read_frame(other, "SELECT pg_terminate_backend(pg_backend_pid())")
    await other.dispose()


async def test_many_reads_at_once(engine: AsyncEngine) -> None:
    pooled = await citykit.connect(engine.url, pool_size=3, max_overflow=0)
    frames = await asyncio.gather(
        *(citykit.read_frame(pooled, SERIES.format(i)) for i in (0, 1, 10, 1_000, 50_000) * 4)
    )
    assert [len(frame) for frame in frames] == [0, 1, 10, 1_000, 50_000] * 4
    await pooled.dispose()


SLOW = (  # in rows so large that the server sends each; the last waits for a lock
    "SELECT i, repeat('x', 20000) AS t{} FROM generate_series(1, 4) AS i, "
    "LATERAL (SELECT CASE i WHEN 4 THEN pg_advisory_xact_lock(1819635813) END) AS slow"
)


@pytest.mark.parametrize("more", ["", ", 1.5 AS n"], ids=["rows", "copy"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "by the driver"])
async def test_rows_that_are_there_are_handed_over_though_the_frame_is_not_full(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, more: str, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr("citykit.read.result.transport_of", lambda _: None)
    seen: list[int] = []
    async with engine.connect() as holder, asyncio.timeout(60):
        await holder.execute(text("SELECT pg_advisory_lock(1819635813)"))
        async for frame in citykit.stream_frames(engine, SLOW.format(more), chunk_rows=1000):
            seen.extend(frame["i"])
            if len(seen) >= 2 and 4 not in seen:  # what the last row is waiting for
                await holder.execute(text("SELECT pg_advisory_unlock_all()"))
    assert seen == [1, 2, 3, 4]
