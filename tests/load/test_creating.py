"""Making a table from a frame: its types, its key, what is there already, and a load that makes its table."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.pgtypes import DtypeBackend
from tests.load.test_named import NAMES
from tests.support.database import execute, scalar
from tests.support.tables import created, every_type
from tests.test_round_trip import VALUES

FRAME = pd.DataFrame({"k": [1, 2], "v": ["a", None]})


@pytest.fixture(autouse=True)
async def no_tables(engine: AsyncEngine) -> AsyncIterator[None]:
    """A schema of the tests' own, and nothing called readings or x."""
    drop = ["DROP SCHEMA IF EXISTS own CASCADE", "DROP TABLE IF EXISTS readings CASCADE"]
    await execute(engine, *drop, "CREATE SCHEMA own")
    yield
    await execute(engine, *drop)


async def columns(engine: AsyncEngine, table: str) -> dict[str, str]:
    """The columns of a table, each with its type and whether it takes NULL, by the server's word."""
    sql = (
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) "
        "|| CASE WHEN attnotnull THEN ' not null' ELSE '' END AS type "
        "FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 ORDER BY attnum"
    )
    frame = await citykit.read_frame(engine, sql, {"table": table})
    return dict(zip(frame["name"], frame["type"], strict=True))


async def test_a_table_is_made_and_returned_and_nothing_is_printed(
    engine: AsyncEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    table = await citykit.create_table(engine, "readings", FRAME, key="k")
    assert await columns(engine, "readings") == {"k": "bigint not null", "v": "text"}
    assert (table.name, list(table.primary_key.columns.keys())) == ("readings", ["k"])
    assert (await citykit.load_frame(engine, FRAME, table)).inserted == 2
    assert (await citykit.load_frame(engine, FRAME, "readings", on_conflict="skip")).skipped == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in NAMES if "own x" not in name and "cities" not in name])
async def test_names_are_data(engine: AsyncEngine, name: str) -> None:
    frame = pd.DataFrame(
        {"%(a)s": [1], 'say "hi"': [2], "a:b": [3], "it's": [4], "SELECT": [5], "ä" * 31: [6], ".": [7]}
    )
    try:
        await citykit.create_table(engine, name, frame, key=["a:b", "%(a)s"])
        await citykit.load_frame(engine, frame, name)
        read = await citykit.read_frame(engine, f"SELECT * FROM {NAMES[name]}")  # noqa: S608
        assert read.columns.tolist() == frame.columns.tolist()
        assert read.iloc[0].tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert (await citykit.load_frame(engine, frame, name, on_conflict="update")).skipped == 1
    finally:
        await execute(engine, f"DROP TABLE IF EXISTS {NAMES[name]}")


TYPES: dict[str, tuple[Any, str]] = {
    "sqlalchemy class": (sa.SmallInteger, "smallint"),
    "sqlalchemy instance": (sa.Numeric(10, 2), "numeric(10,2)"),
    "numeric": ("numeric(10, 2)", "numeric(10,2)"),
    "upper case": (" NUMERIC ( 10 , 2 ) ", "numeric(10,2)"),
    "text": ("text", "text"),
    "char": ("char", "character(1)"),
    "char(3)": ("char(3)", "character(3)"),
    "varchar": ("character varying(5)", "character varying(5)"),
    "timestamptz": ("timestamp(3) with time zone", "timestamp(3) with time zone"),
    "double": ("double precision", "double precision"),
    "array": ("integer[]", "integer[]"),
    "array of numeric": ("numeric(5,1)[]", "numeric(5,1)[]"),
    "range": ("int4range", "int4range"),
    "domain": ("own.day", "own.day"),
    "enum": ('own."it\'s a Mood"', 'own."it\'s a Mood"'),
}


@pytest.mark.parametrize("how", TYPES)
async def test_types_are_given_as_sqlalchemys_or_by_their_names_on_the_server(
    engine: AsyncEngine, how: str
) -> None:
    await execute(engine, "CREATE DOMAIN own.day AS date", "CREATE TYPE own.\"it's a Mood\" AS ENUM ('ok')")
    given, expected = TYPES[how]
    frame = pd.DataFrame({"k": [1], "x": pd.Series([object()], dtype=object)})  # the dtype is not asked
    await citykit.create_table(engine, "readings", frame, types={"x": given})
    assert await columns(engine, "readings") == {"k": "bigint", "x": expected}


@pytest.mark.parametrize(
    "name",
    [
        "", "txt", "integer; DROP TABLE cities", "text) ; DROP TABLE cities; --", "text DEFAULT 'a'",
        "text NOT NULL", 'text COLLATE "C"', "serial", "anyelement", "numeric(a)", "numeric(1,2,3)",
        "interval year", "int, b int",
        "text /* */ ; select 1", "text[][]; x", "\0", "public.cities; --",
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_name_of_a_type_is_refused_and_never_executed(
    engine: AsyncEngine, name: str
) -> None:
    with pytest.raises((ValueError, citykit.CitykitError), match=r"no such type|cannot"):
        await citykit.create_table(engine, "readings", FRAME, types={"v": name})
    assert await columns(engine, "readings") == {}
    assert await scalar(engine, "SELECT to_regclass('cities') IS NOT NULL")


@pytest.mark.parametrize("name", ["own.t", "t"])
async def test_a_right_that_the_role_lacks_is_given_by_the_sql_that_the_error_says(
    engine: AsyncEngine, name: str
) -> None:
    guest, reset = "SET LOCAL ROLE citykit_guest", "RESET ROLE"
    async with engine.connect() as connection:
        for statement in (
            "DO $$ BEGIN CREATE ROLE citykit_guest; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
            "CREATE SCHEMA hidden", "CREATE TYPE hidden.mood AS ENUM ('ok')",
            "GRANT USAGE ON SCHEMA own TO citykit_guest", "SET LOCAL search_path = own", guest,
        ):  # fmt: skip
            await connection.exec_driver_sql(statement)
        denied = "permission denied for schema own; no table was made"
        with pytest.raises(citykit.CitykitError, match=denied) as caught:
            await citykit.create_table(connection, name, FRAME)
        with pytest.raises(citykit.CitykitError, match=denied):
            await citykit.load_frame(connection, FRAME, name, create=True)
        with pytest.raises(citykit.CitykitError, match="permission denied for schema hidden"):
            await citykit.create_table(connection, name, FRAME, types={"v": "hidden.mood"})
        for statement in (reset, str(caught.value).rpartition("with SQL: ")[2], guest):
            await connection.exec_driver_sql(statement)
        await citykit.create_table(connection, name, FRAME)
        await connection.rollback()


async def test_a_schema_that_is_missing_is_made_by_the_sql_that_the_error_says(engine: AsyncEngine) -> None:
    await execute(engine, 'DROP SCHEMA IF EXISTS "no where" CASCADE')
    said = 'schema "no where" does not exist; no table was made'
    with pytest.raises(citykit.CitykitError, match=said) as caught:
        await citykit.create_table(engine, "no where.t", FRAME)
    await execute(engine, str(caught.value).rpartition("with SQL: ")[2])
    await citykit.create_table(engine, "no where.t", FRAME)
    await execute(engine, 'DROP SCHEMA "no where" CASCADE')


async def test_a_type_whose_schema_is_missing_is_not_mended_by_making_the_tables(engine: AsyncEngine) -> None:
    mood = sa.Enum("a", name="mood", schema="nowhere")
    with pytest.raises(citykit.CitykitError, match='schema "nowhere" does not exist') as caught:
        await citykit.create_table(engine, "own.t", FRAME, types={"v": mood})
    assert "CREATE SCHEMA" not in str(caught.value)
    assert await columns(engine, "own.t") == {}


@pytest.mark.parametrize("key", [5, [citykit.City.name], [None]], ids=["number", "attribute", "None"])
async def test_a_key_that_is_no_name_is_refused(engine: AsyncEngine, key: Any) -> None:
    said = "key is a name or a list of names.*; no table was made"
    with pytest.raises(TypeError, match=said):
        await citykit.create_table(engine, "readings", FRAME, key=key)
    with pytest.raises(TypeError, match=said):
        await citykit.load_frame(engine, FRAME, "readings", key=key, create=True)
    assert await columns(engine, "readings") == {}


async def test_an_enum_of_sqlalchemy_is_made_with_its_table(engine: AsyncEngine) -> None:
    mood = sa.Enum("ok", "bad", name="mood", schema="own")
    frame = pd.DataFrame({"k": [1, 2], "m": ["ok", "bad"]})
    for _ in range(2):
        table = await citykit.create_table(
            engine, "own.readings", frame, types={"m": mood}, if_exists="replace"
        )
        assert (await citykit.load_frame(engine, frame, table)).inserted == 2
    with pytest.raises(citykit.InvalidFrameError, match="not one of 'ok', 'bad'"):
        await citykit.load_frame(engine, frame.assign(m="glum"), "own.readings")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "nothing"}, "key names 'nothing', which the frame does not have.*k, v"),
        ({"types": {"w": "text"}}, "types names 'w'"),
        ({"types": {"v": 5}}, "types has 5"),
        ({"if_exists": "append"}, "if_exists is one of"),
        ({"key": ["k", "k"]}, "key names a column twice: k, k; no table was made"),
        ({"frame": FRAME.assign(v=pd.Series([[1, 2.5]], dtype=object))}, r"types={'v': 'numeric\[\]'}"),
        ({"frame": [FRAME]}, "DataFrame or Arrow data with rows at hand is needed, not list"),
        ({"frame": FRAME["k"]}, "not Series"),
        ({"frame": FRAME.iloc[:, :0]}, "no columns"),
        ({"frame": FRAME.set_index("k")}, r"index 'k' would not be stored.*frame.reset_index\(\) makes"),
        ({"frame": FRAME.set_axis([("a", 1), ("b", 2)], axis=1)}, "several levels"),
        ({"table": "a.b.c"}, "is no table's name"),
        ({"table": "nowhere.readings"}, 'schema "nowhere" does not exist'),
    ],
    ids=str,
)  # fmt: skip
async def test_what_no_table_can_be_made_of_is_refused(
    engine: AsyncEngine, change: dict[str, Any], said: str
) -> None:
    given = {"table": "readings", "frame": FRAME, **change}
    with pytest.raises((citykit.CitykitError, TypeError, ValueError), match=said):
        await citykit.create_table(engine, given.pop("table"), given.pop("frame"), **given)
    assert await columns(engine, "readings") == {}


@pytest.mark.parametrize("arrow", [False, True])
async def test_a_key_with_missing_or_repeated_values_is_refused_with_the_rows(
    engine: AsyncEngine, arrow: bool
) -> None:
    frame = pd.DataFrame({"a": [1, 1, 2, 1], "b": ["x", "y", None, "x"]}, index=[10, 11, 12, 13])
    source: Any = pa.table(frame.reset_index(drop=True)) if arrow else frame
    label = 0 if arrow else 10
    with pytest.raises(
        citykit.InvalidFrameError, match=f"'b' of the key has 1 .*row label {label + 2}\\); no table"
    ) as caught:
        await citykit.create_table(engine, "readings", source, key=["a", "b"])
    assert caught.value.rejects["row"].tolist() == [label + 2]
    with pytest.raises(
        citykit.DuplicateKeyError, match=f"2 rows have a key .*row label {label + 1}: .1,..; no table"
    ) as again:
        await citykit.create_table(engine, "readings", source, key="a")
    assert again.value.keys == [(1,)]
    assert await columns(engine, "readings") == {}
    typed = frame.dropna(subset=["a", "b"]).drop_duplicates(["a", "b"])  # what the errors say
    await citykit.create_table(engine, "readings", typed, key=["a", "b"])
    assert await columns(engine, "readings") == {"a": "bigint not null", "b": "text not null"}


@pytest.mark.parametrize("dtype", ["str", "object", "category", "string[pyarrow]"])
async def test_repeats_in_a_key_of_text_are_named(engine: AsyncEngine, dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.Series(["x", "y", "x", "x"], dtype=dtype)})
    with pytest.raises(citykit.DuplicateKeyError, match=r"2 rows have a key .*row label 2: .'x',.") as caught:
        await citykit.create_table(engine, "readings", frame, key="a")
    assert caught.value.keys == [("x",)]
    assert await columns(engine, "readings") == {}
    await citykit.create_table(engine, "readings", frame[:2], key="a")


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64", "Int64", "int64[pyarrow]", "float64"])
@pytest.mark.parametrize("values", [[-3, 127, -3], [0, 1, 2, 0, 5], [5, 5], [7, 1, 2, 1]])
async def test_repeats_in_a_key_of_numbers_are_named(
    engine: AsyncEngine, values: list[int], dtype: Any
) -> None:
    values = [abs(value) for value in values] if dtype == "uint64" else values
    frame = pd.DataFrame({"a": pd.Series(values, dtype=dtype)})
    with pytest.raises(citykit.DuplicateKeyError, match="1 row has a key that an earlier row has") as caught:
        await citykit.create_table(engine, "readings", frame, key="a")
    assert caught.value.keys == [(next(value for n, value in enumerate(values) if value in values[:n]),)]
    assert await columns(engine, "readings") == {}
    await citykit.create_table(engine, "readings", frame.drop_duplicates(), key="a")


async def test_a_key_of_lists_is_checked_too(engine: AsyncEngine) -> None:
    frame = pd.DataFrame({"a": [[1, 2], [1, 2]]})
    with pytest.raises(citykit.DuplicateKeyError) as caught:
        await citykit.create_table(engine, "readings", frame, key="a")
    assert caught.value.keys == [([1, 2],)]


@pytest.mark.parametrize("view", [pa.string_view(), pa.binary_view(), pa.list_(pa.string_view())], ids=str)
@pytest.mark.parametrize("pandas", [True, False])
async def test_a_key_of_arrows_views_is_checked_too(engine: AsyncEngine, view: Any, pandas: bool) -> None:
    one, other = {"string_view": ("a", "b"), "binary_view": (b"a", b"b")}.get(str(view), (["a"], ["b"]))
    for values, keys in (([one, other], None), ([one, other, one], [(one,)])):
        array = pa.chunked_array([pa.array(values, view)])
        frame = (
            pd.DataFrame({"a": pd.arrays.ArrowExtensionArray(array)}) if pandas else pa.table({"a": array})
        )
        if keys is None:
            await citykit.create_table(engine, "readings", frame, key="a", if_exists="replace")
            continue
        with pytest.raises(citykit.DuplicateKeyError) as caught:
            await citykit.create_table(engine, "readings", frame, key="a", if_exists="replace")
        assert caught.value.keys == keys


async def test_a_table_that_exists(engine: AsyncEngine) -> None:
    await citykit.create_table(engine, "readings", FRAME, key="k")
    await citykit.load_frame(engine, FRAME, "readings")
    other = pd.DataFrame({"a": [1.5]})
    with pytest.raises(
        citykit.CitykitError, match=r"table readings exists; no table was made. if_exists='skip'"
    ):
        await citykit.create_table(engine, "readings", other)
    kept = await citykit.create_table(engine, "readings", other, if_exists="skip")
    assert {column.name: str(column.type) for column in kept.columns} == {"k": "BIGINT", "v": "TEXT"}
    assert await scalar(engine, "SELECT count(*) FROM readings") == 2
    await citykit.create_table(engine, "readings", other, if_exists="replace")
    assert await columns(engine, "readings") == {"a": "double precision"}


@pytest.mark.parametrize("if_exists", ["error", "skip", "replace"])
@pytest.mark.parametrize(
    "made", ["VIEW own.t AS SELECT 1 AS k", "MATERIALIZED VIEW own.t AS SELECT 1 AS k", "SEQUENCE own.t"]
)
async def test_what_is_no_table_is_never_replaced(engine: AsyncEngine, made: str, if_exists: Any) -> None:
    await execute(engine, f"CREATE {made}")
    kind = made.partition(" own")[0]
    with pytest.raises(
        citykit.CitykitError, match=f"own.t is a {kind.lower()}, no table; no table was made"
    ) as caught:
        await citykit.create_table(engine, "own.t", FRAME, if_exists=if_exists)
    await execute(engine, str(caught.value).partition("create the table: ")[2])
    await citykit.create_table(engine, "own.t", FRAME, if_exists=if_exists)


async def test_a_table_that_others_depend_on_is_not_replaced(engine: AsyncEngine) -> None:
    await citykit.create_table(engine, "own.t", FRAME, key="k")
    await citykit.load_frame(engine, FRAME, "own.t")
    await execute(engine, "CREATE VIEW own.v AS SELECT * FROM own.t")
    with pytest.raises(
        citykit.CitykitError,
        match=r"(?s)view own.v depends on .*nothing was changed.*: DROP TABLE own.t CASCADE$",
    ) as caught:
        await citykit.create_table(engine, "own.t", pd.DataFrame({"a": [1]}), if_exists="replace")
    assert await scalar(engine, "SELECT count(*) FROM own.v") == 2
    await execute(engine, str(caught.value).rpartition(": ")[2])
    await citykit.create_table(engine, "own.t", pd.DataFrame({"a": [1]}))


async def test_a_table_that_is_read_is_not_replaced_behind_the_readers_back() -> None:
    engine = await citykit.connect(lock_timeout=0.2)
    await citykit.create_table(engine, "own.t", FRAME)
    async with engine.connect() as reader:
        await reader.exec_driver_sql("SELECT * FROM own.t")
        with pytest.raises(citykit.CitykitError, match=r"a lock was not granted.*no table was made"):
            await citykit.create_table(engine, "own.t", FRAME, if_exists="replace")
    await engine.dispose()


async def test_it_joins_the_callers_transaction(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await citykit.create_table(connection, "own.t", FRAME)
        with pytest.raises(citykit.CitykitError, match="exists"):
            await citykit.create_table(connection, "own.t", FRAME)
        assert (
            await citykit.load_frame(connection, FRAME, "own.t")
        ).inserted == 2  # the savepoint was rolled back
        await connection.rollback()
    assert await columns(engine, "own.t") == {}
    async with citykit.sessions(engine).begin() as session:
        await citykit.create_table(session, "own.t", FRAME)
    assert await columns(engine, "own.t") == {"k": "bigint", "v": "text"}


@pytest.mark.parametrize("if_exists", ["error", "skip", "replace"])
async def test_made_by_many_at_once_there_is_one(engine: AsyncEngine, if_exists: Any) -> None:
    made = (citykit.create_table(engine, "own.t", FRAME, key="k", if_exists=if_exists) for _ in range(8))
    results = await asyncio.gather(*made, return_exceptions=True)
    refused = [result for result in results if not isinstance(result, sa.Table)]
    assert len(refused) == (7 if if_exists == "error" else 0), refused
    assert all("exists; no table was made" in str(error) for error in refused)
    assert (await citykit.load_frame(engine, FRAME, "own.t")).inserted == 2


async def test_a_load_that_creates_its_table_leaves_none_if_it_fails(engine: AsyncEngine) -> None:
    frame = pd.DataFrame({"k": [1, 1, None], "v": ["a", "b", "c"]}).astype({"k": "Int64"})
    with pytest.raises(citykit.InvalidFrameError, match=r"missing.*nothing was loaded"):
        await citykit.load_frame(engine, frame, "own.t", key="k", create=True)
    with pytest.raises(citykit.DuplicateKeyError, match="nothing was loaded"):
        await citykit.load_frame(engine, frame[:2], "own.t", key="k", create=True)
    assert await columns(engine, "own.t") == {}
    report = await citykit.load_frame(
        engine, frame, "own.t", key="k", create=True, on_conflict="update", on_invalid="skip"
    )
    assert (report.inserted, report.updated, len(report.rejects)) == (1, 1, 1)
    assert await columns(engine, "own.t") == {"k": "bigint not null", "v": "text"}


async def test_a_load_with_create_goes_into_a_table_that_exists(engine: AsyncEngine) -> None:
    await execute(engine, "CREATE TABLE own.t (k smallint PRIMARY KEY, v varchar(1))")
    indexed = FRAME.set_index("k", drop=False)  # for whose dtypes and index no table could be made
    assert (await citykit.load_frame(engine, indexed, "own.t", create=True)).inserted == 2
    assert await columns(engine, "own.t") == {"k": "smallint not null", "v": "character varying(1)"}
    await execute(engine, "CREATE VIEW own.v AS SELECT * FROM own.t")
    assert (await citykit.load_frame(engine, FRAME.assign(k=[3, 4]), "own.v", create=True)).inserted == 2


@pytest.mark.parametrize(
    "source",
    [
        FRAME,
        FRAME[:0],
        pa.table(FRAME),
        pa.table(FRAME).to_batches()[0],
        pl.DataFrame({"k": [1, 2], "v": ["a", None]}),
    ],
    ids=["frame", "no rows", "table", "batch", "polars"],
)
async def test_every_source_with_a_schema_creates_its_table(engine: AsyncEngine, source: Any) -> None:
    report = await citykit.load_frame(engine, source, "own.t", create=True)
    assert report.inserted == len(source) if not isinstance(source, pa.RecordBatch) else 2
    assert await columns(engine, "own.t") == {"k": "bigint", "v": "text"}


@pytest.mark.parametrize("suffix", ["parquet", "feather", "csv", "json", "iterator"])
async def test_the_first_piece_of_a_stream_or_file_decides_the_types(
    engine: AsyncEngine, suffix: str, tmp_path: Path
) -> None:
    source: Any = tmp_path / f"a.{suffix}"
    frame = pd.DataFrame({"k": range(100_000), "v": "a"})
    if suffix == "parquet":
        frame.to_parquet(source)
    elif suffix == "feather":
        frame.to_feather(source)
    elif suffix == "csv":
        frame.to_csv(source, index=False)
    elif suffix == "json":
        frame.to_json(source, orient="records")
    else:
        source = iter([frame[:10], frame[10:]])
    report = await citykit.load_frame(engine, source, "own.t", key="k", create=True)
    assert report.inserted == len(frame)
    assert await columns(engine, "own.t") == {
        "k": f"{'text' if suffix == 'csv' else 'bigint'} not null",
        "v": "text",
    }


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (lambda: iter([FRAME, FRAME.assign(k=["x", "y"])]), "'k'"),
        (lambda: iter([FRAME, FRAME]), "already there"),
        (lambda: iter([]), "no columns"),
        (lambda: iter([FRAME, FRAME.rename(columns={"v": "w"})]), "'?w"),
    ],
    ids=["another type later", "a key twice", "nothing", "another column later"],
)
async def test_a_stream_that_fails_leaves_no_table(
    engine: AsyncEngine, source: Callable[[], Any], match: str
) -> None:
    with pytest.raises(citykit.CitykitError, match=match):
        await citykit.load_frame(engine, source(), "own.t", key="k", create=True)
    assert await columns(engine, "own.t") == {}


async def test_create_takes_a_name(engine: AsyncEngine) -> None:
    with pytest.raises(TypeError, match="takes the table's name"):
        await citykit.load_frame(engine, FRAME, citykit.City, create=True)


# An enum comes back as text. What JSON is, and an array of it, only a dict tells (see below).
ENUMS = ("colour", "mood")
ROUND = [name for name in VALUES if name not in ("json", "jsonb", "objects")]


@settings(max_examples=5)
@given(data=st.data())
@pytest.mark.parametrize("backend", get_args(DtypeBackend))
async def test_what_was_read_goes_into_a_table_of_its_own_and_comes_back_equal(
    engine: AsyncEngine, backend: DtypeBackend, data: st.DataObject
) -> None:
    table = every_type(*ROUND)
    rows = data.draw(st.lists(st.fixed_dictionaries({name: VALUES[name] for name in ROUND}), max_size=3))
    frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in ROUND})
    frame.insert(0, "key", range(len(rows)))
    async with created(engine, table):
        await citykit.load_frame(engine, frame, table)
        read = await citykit.read_frame(
            engine, sa.select(table).order_by("key"), dtype_backend=backend, numeric="decimal"
        )
    for name in ENUMS:
        read[name] = read[name].astype(read["text"].dtype)
    async with engine.connect() as connection:
        await citykit.load_frame(connection, read, "own.t", key="key", create=True)
        again = await citykit.read_frame(
            connection, "SELECT * FROM own.t ORDER BY key", dtype_backend=backend, numeric="decimal"
        )
        await connection.rollback()
    for name in read.columns:
        if read[name].isna().all() and read[name].dtype == object:  # an object column of no values is text
            again[name] = again[name].astype(object)
    pd.testing.assert_frame_equal(_plain(again), _plain(read), check_exact=True)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """NULL is one thing in columns of objects."""
    plain: pd.DataFrame = frame.apply(
        lambda column: column.where(column.notna(), None).astype(object) if column.dtype == object else column
    )
    return plain


async def test_dicts_come_back_as_dicts(engine: AsyncEngine) -> None:
    frame = pd.DataFrame({"k": [1], "d": [{"a": [1, None]}], "l": [["x", None]]})
    await citykit.load_frame(engine, frame, "own.t", create=True)
    read = await citykit.read_frame(engine, "SELECT * FROM own.t")
    assert read.iloc[0].tolist() == [1, {"a": [1, None]}, ["x", None]]


async def test_dtypes_that_are_never_read_are_stored_as_they_are(engine: AsyncEngine) -> None:
    frame = pd.DataFrame(
        {
            "small": np.array([255, 0], dtype="uint8"), "huge": np.array([2**64 - 1, 0], dtype="uint64"),
            "half": np.array([0.1, np.nan], dtype="float16"), "kind": pd.Categorical(["a", None]),
            "zoned": pd.to_datetime(pd.Series(["2024-02-29 01:00", None])).dt.tz_localize("Europe/Berlin"),
            "price": pd.Series([Decimal("1.50"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
            "uuid": [uuid.UUID(int=1), None], "day": [dt.date(2024, 2, 29), None],
        }
    )  # fmt: skip
    await citykit.load_frame(engine, frame, "own.t", create=True)
    read = await citykit.read_frame(engine, "SELECT * FROM own.t ORDER BY small DESC", numeric="decimal")
    first = read.iloc[0]
    assert first["small"] == 255
    assert (first["huge"], first["kind"]) == (Decimal(2**64 - 1), "a")
    assert first["half"] == np.float16(0.1)
    assert first["zoned"] == frame["zoned"][0]
    assert (first["price"], first["uuid"], first["day"]) == (
        Decimal("1.50"),
        uuid.UUID(int=1),
        pd.Timestamp("2024-02-29"),
    )
    assert read.iloc[1, 2:].isna().all()
