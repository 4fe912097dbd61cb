"""Settings of the session, the role or the database change no value that is read or loaded."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from citykit.read import parameter_names, run_cell
from tests.database.test_private_names import connection_without
from tests.support.tables import created, every_type

SETTINGS: dict[str, dict[str, str]] = {
    "the server's own": {},
    "plain literals with backslashes": {
        "standard_conforming_strings": "off",
        "escape_string_warning": "on",
        "backslash_quote": "on",
    },
    "dates as in Germany": {"DateStyle": "German, DMY"},
    "dates as in SQL": {"DateStyle": "SQL, MDY"},
    "dates of postgres": {"DateStyle": "Postgres, YMD"},
    "intervals as in SQL": {"IntervalStyle": "sql_standard"},
    "intervals of ISO 8601": {"IntervalStyle": "iso_8601"},
    "intervals in words": {"IntervalStyle": "postgres_verbose"},
    "bytes with escapes": {"bytea_output": "escape"},
    "few digits": {"extra_float_digits": "-15"},
    "rounded digits": {"extra_float_digits": "0"},
    "another time zone": {"TimeZone": "America/St_Johns"},
    "another money": {"lc_monetary": "C"},
    "serializable": {"default_transaction_isolation": "serializable"},
    "repeatable read": {"default_transaction_isolation": "repeatable read"},
    "deferrable": {"default_transaction_deferrable": "on", "default_transaction_isolation": "serializable"},
    "no row security": {"row_security": "off"},
    "NULL by =": {"transform_null_equals": "on"},
    "arrays without NULL": {"array_nulls": "off"},
    "no search path": {"search_path": ""},
    "xml as content": {"xmloption": "document", "xmlbinary": "hex"},
}
EVERYTHING = {name: value for given in list(SETTINGS.values())[:-2] for name, value in given.items()}
READ_ONLY = {"default_transaction_read_only": "on"}

# A value of each type, as it is loaded and read.
ROW: dict[str, Any] = {
    "smallint": -1,
    "integer": 2**31 - 1,
    "bigint": 2**63 - 1,
    "real": 0.1,
    "double": 0.1 + 0.2,
    "numeric": Decimal("1.10"),
    "boolean": True,
    "text": "C:\\new 'é' \\\\",
    "varchar_5": "\\n",
    "date": datetime.date(2024, 2, 3),
    "time": datetime.time(1, 2, 3, 4),
    "timestamp": datetime.datetime(2024, 2, 3, 4, 5, 6, 7),
    "timestamptz": datetime.datetime(2024, 2, 3, 4, 5, 6, 7, datetime.UTC),
    "interval": datetime.timedelta(days=-1, hours=-2, microseconds=-1),
    "json": {"a\\b": ["\\", None]},
    "jsonb": {"a\\b": ["\\", 0.1]},
    "bytea": b"\\x00\\\x00\xff'",
    "integers": [1, None],
    "texts": ["\\", "a,b", '"', None],
    "doubles": [0.1 + 0.2, None],
    "times": [datetime.datetime(2024, 2, 3, 4, 5, 6, 7, datetime.UTC), None],
    "bytes": [b"\\x00\\\x00\xff'", None],
    "objects": [{"a\\b": 0.1}, None],
}
WAYS = ["DataRow or COPY", "COPY", "asyncpg's COPY"]


@pytest.fixture
async def table(engine: AsyncEngine) -> AsyncIterator[sa.Table]:
    table = every_type(*ROW, name="settings")
    table.schema = "public"
    async with created(engine, table):
        yield table


async def connected(engine: AsyncEngine, settings: dict[str, str], way: str = "") -> AsyncEngine:
    """Return an engine whose sessions have these settings, which reads one way."""
    options: dict[str, Any] = {"server_settings": settings}
    if way == WAYS[2]:
        options["connection_class"] = connection_without("_transport")[0]
    return await citykit.connect(engine.url, connect_args=options)


def rows(count: int) -> pd.DataFrame:
    columns = {name: pd.Series([value] * count, dtype=object) for name, value in ROW.items()}
    return pd.DataFrame({"key": range(count), **columns})


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, datetime.date):
        return bool(pd.Timestamp(value) == pd.Timestamp(expected))
    return bool(value == expected) or (value is None and expected is None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*SETTINGS, "all of them"])
async def test_values_are_loaded_and_read_the_same_whatever_is_set(
    engine: AsyncEngine, table: sa.Table, name: str, way: str
) -> None:
    other = await connected(engine, SETTINGS.get(name, EVERYTHING), way)
    for count in (10, FEW_ROWS + 10) if way == WAYS[0] else (10,):
        report = await citykit.load_frame(other, rows(count), table, key="key", on_conflict="update")
        assert report.inserted + report.skipped == count
    # Each type by itself comes in binary, where it has an exact binary form; all together come by COPY.
    for columns in ROW if way == WAYS[0] else [", ".join(ROW)]:
        statement = f"SELECT {columns} FROM public.settings WHERE key = :key"  # noqa: S608
        frame = await citykit.read_frame(other, statement, {"key": 9}, numeric="decimal")
        async for streamed in citykit.stream_frames(other, statement, {"key": 9}, numeric="decimal"):
            assert streamed.equals(frame)
        for column in map(str, frame):
            value = frame[column].item()
            assert same(value, pd.Timedelta(ROW[column]) if column == "interval" else ROW[column]), column
    await other.dispose()


PARAMETERS: dict[str, Any] = {
    "text": "C:\\new 'é' \\\\",
    "float8": 0.1 + 0.2,
    "float8[]": [0.1 + 0.2, 1e-300],
    "bytea": b"\\x00\\\x00\xff'",
    "date": datetime.date(2024, 2, 3),
    "timestamp": datetime.datetime(2024, 2, 3, 4, 5, 6, 7),
    "timestamptz": datetime.datetime(2024, 2, 3, 4, 5, 6, 7, datetime.UTC),
    "interval": datetime.timedelta(days=-1, hours=-2, microseconds=-1),
    "numeric": Decimal("1.10"),
    "jsonb": {"a\\b": [0.1, "\\"]},
    "text[]": ["\\", "a,b", '"'],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*SETTINGS, "all of them"])
async def test_parameters_arrive_as_they_are_whatever_is_set(
    engine: AsyncEngine, name: str, way: str
) -> None:
    other = await connected(engine, SETTINGS.get(name, EVERYTHING), way)
    for type_, value in PARAMETERS.items():
        also = ", now() AS moment" * (way != WAYS[0])  # has no exact binary form: by COPY
        frame = await citykit.read_frame(
            other, f"SELECT :value::{type_} AS value{also}", {"value": value}, numeric="decimal"
        )
        found = frame["value"].item()
        assert same(found, pd.Timedelta(value) if type_ == "interval" else value), type_
    await other.dispose()


@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_backslash_in_a_literal_means_what_the_session_says(engine: AsyncEngine, way: str) -> None:
    also = ", now() AS moment" * (way != WAYS[0])
    quoted = rf"SELECT 'it\'s :x' AS a, ':y \\' AS b, :z AS c{also}"
    plain = rf"SELECT 'a\' AS a, :z AS c{also} -- '"
    off = await connected(
        engine, {**SETTINGS["plain literals with backslashes"], "escape_string_warning": "off"}
    )
    frame = await citykit.read_frame(off, quoted, {"z": "\\"})
    assert frame[["a", "b", "c"]].to_numpy().tolist() == [["it's :x", ":y \\", "\\"]]
    frames = [frame async for frame in citykit.stream_frames(off, quoted, {"z": "\\"})]
    assert frames[0][["a", "b", "c"]].to_numpy().tolist() == [["it's :x", ":y \\", "\\"]]
    frame = await citykit.read_frame(engine, plain, {"z": "\\"})
    assert frame[["a", "c"]].to_numpy().tolist() == [["a\\", "\\"]]
    await off.dispose()


async def test_a_parameter_that_only_the_session_sees_in_a_cell_is_refused(engine: AsyncEngine) -> None:
    off = await connected(engine, {"standard_conforming_strings": "off"})
    cell = r"SELECT 1; SELECT 'a\''; SELECT :y AS b, 'c\''"
    assert parameter_names(cell) == []
    with pytest.raises(citykit.CitykitError, match="'y' has no value"):
        await run_cell(off, cell, {}, None)
    await off.dispose()


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("setting", ["on", "off"])
async def test_a_literal_that_sqlalchemy_writes_stays_what_it_is(
    engine: AsyncEngine, setting: str, way: str
) -> None:
    other = await connected(engine, {"standard_conforming_strings": setting})
    also = [sa.func.now().label("moment")] if way != WAYS[0] else []
    statement = sa.select(sa.literal("a\\b'c", literal_execute=True).label("a"), *also)
    assert (await citykit.read_frame(other, statement))["a"].item() == "a\\b'c"
    await other.dispose()


@pytest.mark.parametrize("name", [*(name for name in SETTINGS if name != "no search path"), "all of them"])
async def test_cities_are_stored_and_found_whatever_is_set(engine: AsyncEngine, name: str) -> None:
    other = await connected(engine, SETTINGS.get(name, EVERYTHING))
    await citykit.create_tables(other, reset=True)
    frame = pd.DataFrame({"name": [f"n{n:05}" for n in range(FEW_ROWS + 10)], "population": 5})
    names = ["São Paulo", "C:\\new", "50%_'", "Köln"]
    few = pd.DataFrame(
        {"name": names, "population": range(9, 5, -1), "longitude": 0.1 + 0.2, "latitude": 1.5}
    )
    assert (await citykit.load_cities(other, few)).inserted == 4
    assert (await citykit.load_cities(other, frame)).inserted == len(frame)
    assert (await citykit.load_cities(other, few.assign(region="\\"), on_conflict="skip")).inserted == 4
    city = await citykit.add_city(other, "\\'", 2**31 - 1, latitude=0.1 + 0.2)
    assert city.latitude == 0.1 + 0.2
    for sought, found in {
        "SAO P": names[0],
        "c:\\N": names[1],
        "%_": names[2],
        "KOLN": names[3],
        "\\'": "\\'",
    }.items():
        assert set((await citykit.find_cities(other, sought))["name"]) == {found}, sought
    biggest = await citykit.biggest_cities(other, 1, region="\\")
    assert biggest["longitude"].tolist() == [0.1 + 0.2]
    assert len(await citykit.nearest_cities(other, 0.3, 0.3, 3)) == 3
    assert len(await citykit.summarize_countries(other)) == 1
    await citykit.create_tables(other)
    await other.dispose()


async def test_what_only_reads_works_where_transactions_are_read_only(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "Köln", 1)
    other = await connected(engine, READ_ONLY)
    assert (await citykit.find_cities(other, "KOLN"))["name"].tolist() == ["Köln"]
    assert (await citykit.biggest_cities(other))["name"].tolist() == ["Köln"]
    assert (await citykit.read_frame(other, "SELECT name, now() FROM cities"))["name"].tolist() == ["Köln"]
    frame = pd.DataFrame({"name": ["Rom"], "population": [1]})
    for writing in (
        citykit.load_cities(other, frame),
        citykit.add_city(other, "Rom", 1),
        citykit.create_tables(other, reset=True),
    ):
        with pytest.raises(
            citykit.CitykitError, match=r"read-only transaction; nothing was .*connect to its primary"
        ):
            await writing
    await other.dispose()


async def test_without_a_search_path_the_table_is_missing_and_making_it_says_what_to_set(
    engine: AsyncEngine,
) -> None:
    other = await connected(engine, SETTINGS["no search path"])
    with pytest.raises(citykit.MissingTableError):
        await citykit.biggest_cities(other)
    with pytest.raises(citykit.CitykitError, match="search_path"):
        await citykit.create_tables(other)
    await other.dispose()


@pytest.mark.parametrize("name", ["few digits", "intervals as in SQL", "dates as in SQL", "all of them"])
async def test_the_server_gets_a_parameter_exactly_though_no_column_has_its_type(
    engine: AsyncEngine, name: str
) -> None:
    """The binary form of the value, as the server has it; a numeric column beside it comes by COPY."""
    other = await connected(engine, SETTINGS.get(name, EVERYTHING))
    given = {**PARAMETERS, "text[]": ["NULL", None, "\\"]}
    for type_, send in (
        ("float8", "float8send"),
        ("interval", "interval_send"),
        ("date", "date_send"),
        ("timestamptz", "timestamptz_send"),
        ("text[]", "array_send"),
    ):
        sql = f"SELECT {send}(:value::{type_}) AS sent"
        expected = await citykit.read_frame(engine, sql, {"value": given[type_]})
        found = await citykit.read_frame(other, f"{sql}, 1.5 AS n", {"value": given[type_]})
        assert found["sent"].item() == expected["sent"].item(), type_
    await other.dispose()
