"""Numerics as floats, for people who plot, or exactly: by every way of reading, and said where it matters."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import citykit
from citykit.pgtypes import PGTYPES, DtypeBackend
from tests.database.test_private_names import connection_without
from tests.read.test_reading import failure
from tests.support.tables import created

FLOATS = PGTYPES["float8"].dtypes
BACKENDS: tuple[DtypeBackend, ...] = get_args(DtypeBackend)
NUMBERS = [
    "1.10",
    "-0.3",
    "0",
    "0.1234567890123456789",
    "1e-320",
    "1e-400",
    "1e22",
    "9007199254740992",
    None,
]
SPECIAL = ["NaN"]


async def streamed(bind: Any, sql: str, **options: Any) -> pd.DataFrame:
    return pd.concat([frame async for frame in citykit.stream_frames(bind, sql, chunk_rows=3, **options)])


READERS: dict[str, Callable[..., Any]] = {"read": citykit.read_frame, "stream": streamed}
WAYS = ["COPY", "asyncpg's COPY", "asyncpg's records"]


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, engine: AsyncEngine) -> AsyncIterator[Callable[[str], Any]]:
    """Return a connection, and a function that makes a statement one that comes this way."""
    options: dict[str, Any] = {}
    if request.param == WAYS[1]:
        options["connection_class"] = connection_without("_transport")[0]
    other = await citykit.connect(engine.url, connect_args=options)
    async with other.connect() as connection:

        async def ask(sql: str) -> tuple[AsyncConnection, str]:
            if request.param == WAYS[2]:
                await connection.rollback()
                await connection.execute(text(f"DECLARE way CURSOR FOR {sql}"))
                return connection, "FETCH ALL FROM way"
            return connection, sql

        setattr(ask, "is_of_records", request.param == WAYS[2])  # noqa: B010
        yield ask
    await other.dispose()


def arrays(way: Callable[[str], Any]) -> list[bool]:
    """The driver's records have no text of an array, so they are not read that way."""
    return [False] if getattr(way, "is_of_records", False) else [False, True]


def selected(values: list[str | None], type_: str = "numeric") -> str:
    rows = ", ".join(
        f"({n}, {'NULL' if value is None else repr(value)}::{type_})" for n, value in enumerate(values)
    )
    return f"SELECT x FROM (VALUES {rows}) AS v (n, x) ORDER BY n"  # noqa: S608


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reader", READERS)
async def test_numerics_are_floats_by_every_way_and_decimals_where_that_is_said(
    way: Callable[[str], Any], reader: str, backend: DtypeBackend
) -> None:
    connection, sql = await way(selected([*NUMBERS, *SPECIAL]))
    frame = await READERS[reader](connection, sql, dtype_backend=backend)
    assert str(frame["x"].dtype) == FLOATS[BACKENDS.index(backend)]
    values = [None if value is pd.NA else value for value in frame["x"].tolist()]
    expected = [None if value is None else float(value) for value in [*NUMBERS, *SPECIAL]]
    if backend == "numpy":
        expected[NUMBERS.index(None)] = np.nan
    assert repr(values) == repr(expected)
    if backend == "pyarrow":
        connection, sql = await way(selected(["1.10", None]))
        exact = await READERS[reader](connection, sql, dtype_backend=backend, numeric="decimal")
        assert str(exact["x"].dtype) == "decimal256(76, 38)[pyarrow]"
        return
    connection, sql = await way(selected([*NUMBERS, *SPECIAL]))
    exact = await READERS[reader](connection, sql, dtype_backend=backend, numeric="decimal")
    decimals = [None if value is None else Decimal(value) for value in [*NUMBERS, *SPECIAL]]
    assert list(map(type, exact["x"])) == list(map(type, decimals))
    assert exact["x"].tolist()[:-1] == decimals[:-1]


@pytest.mark.parametrize("reader", READERS)
async def test_arrays_of_numerics_likewise(way: Callable[[str], Any], reader: str) -> None:
    for numeric, kind in (("float", float), ("decimal", Decimal)) if True in arrays(way) else ():
        connection, sql = await way("SELECT ARRAY[[1.10, NULL], [0.5, 2]] AS x")
        frame = await READERS[reader](connection, sql, numeric=numeric)
        assert frame["x"].iloc[0] == [[kind("1.10"), None], [kind("0.5"), kind(2)]]
        assert type(frame["x"].iloc[0][0][0]) is kind


async def test_infinity_is_infinity(engine: AsyncEngine) -> None:
    frame = await citykit.read_frame(engine, selected(["Infinity", "-Infinity"]))
    assert frame["x"].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_averages_and_sums_plot_divide_and_describe(
    engine: AsyncEngine, three_cities: pd.DataFrame, backend: DtypeBackend
) -> None:
    await citykit.load_cities(engine, three_cities)
    sql = (
        "SELECT country, avg(population) AS mean, sum(population::bigint) AS total, sum(1.5) AS n "
        "FROM cities GROUP BY country ORDER BY country"
    )
    frame = await citykit.read_frame(engine, sql, dtype_backend=backend)
    assert (frame["mean"] / frame["total"] * 2).tolist() == [2, 2, 2]
    assert frame.describe().loc["max", "total"] == 8_961_989
    plot: Any = frame.plot.bar
    ax = plot(x="country", y=["mean", "total"])
    assert [bar.get_height() for bar in ax.patches[:3]] == [422_324, 8_961_989, 118_918]
    ax.figure.clear()


# What a float cannot hold

WARNED = {
    "fits": (["9007199254740992", "-9007199254740992", "1e22", "0.5"], False),
    "just not": (["1", "9007199254740993"], True),
    "negative": (["-9007199254740993"], True),
    "a fraction alone": (["0.12345678901234567890123"], False),
    "a fraction beside": (["9007199254740992.25"], False),
    "many digits": (["12345678901234567890123"], True),
    "special": (["NaN"], False),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", WARNED)
async def test_a_whole_part_that_does_not_fit_is_warned_of_once_at_the_users_line(
    way: Callable[[str], Any], reader: str, name: str
) -> None:
    values, warned = WARNED[name]
    for array in arrays(way):
        sql = selected([*values, *values, "1", "2", *values])
        if array:
            sql = sql.replace("SELECT x", "SELECT ARRAY[x] AS x", 1)
        connection, asked = await way(sql)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await READERS[reader](connection, asked)
        assert len(caught) == int(warned)
        for warning in caught:
            assert Path(warning.filename) == Path(__file__)
            assert warning.category is UserWarning
            assert "column 'x'" in str(warning.message)
            assert 'numeric="decimal"' in str(warning.message)
    connection, asked = await way(sql)
    await READERS[reader](connection, asked, numeric="decimal")  # warns of nothing


async def test_one_warning_names_all_columns(engine: AsyncEngine) -> None:
    sql = "SELECT 9007199254740993.0 AS a, 1.5 AS b, 9007199254740995::numeric AS a, ARRAY[1e30 + 1] AS c"
    with pytest.warns(
        UserWarning, match=r"columns 'a' \(9007199254740993\.0\), 'a' \(.*995\), 'c' \("
    ) as caught:
        await citykit.read_frame(engine, sql)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="columns 'a'") as caught:
        citykit.run(citykit.read_frame(engine, sql))
    assert len(caught) == 1


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", ["1e309", "-1e309", "1e400", "9" * 400])
async def test_what_is_beyond_the_range_is_an_error_that_names_column_row_and_option(
    way: Callable[[str], Any], reader: str, value: str
) -> None:
    for array in arrays(way):
        sql = selected(["1", None, value])
        if array:
            sql = sql.replace("SELECT x", "SELECT ARRAY[x] AS x", 1)
        connection, asked = await way(sql)
        said = await failure(READERS[reader](connection, asked))
        for part in ("'x'", "row 2", 'numeric="decimal"', "x::text", "nothing was changed"):
            assert part in said
        connection, asked = await way(sql)
        frame = await READERS[reader](connection, asked, numeric="decimal")
        assert frame["x"].tolist()[2] == ([Decimal(value)] if array else Decimal(value))


# Where it is said


async def test_an_engine_has_a_default_which_its_connections_and_sessions_follow(engine: AsyncEngine) -> None:
    exact = await citykit.connect(engine.url, numeric="decimal", execution_options={"some_option": 1})
    binds: list[tuple[Any, type]] = [
        (engine, float), (exact, Decimal), (exact.execution_options(isolation_level="SERIALIZABLE"), Decimal),
        (engine.execution_options(citykit_numeric="decimal"), Decimal),
        (create_async_engine(engine.url), float),
    ]  # fmt: skip
    for bind, kind in binds:
        async with bind.connect() as connection, citykit.sessions(bind)() as session:
            for each in (bind, connection, session):
                for read in READERS.values():
                    assert type((await read(each, "SELECT 1.5 AS x"))["x"][0]) in (kind, np.float64)
                    dtypes = [
                        str((await read(each, "SELECT 1.5 AS x", **options))["x"].dtype)
                        for options in ({}, {"numeric": "float"}, {"numeric": "decimal"})
                    ]
                    assert dtypes == ["object" if kind is Decimal else "Float64", "Float64", "object"]
    await binds[-1][0].dispose()
    await exact.dispose()


async def test_another_word_is_refused(engine: AsyncEngine) -> None:
    wrong: Any = "double"
    for awaitable in (
        citykit.connect(engine.url, numeric=wrong),
        citykit.read_frame(engine, "SELECT 1", numeric=wrong),
        streamed(engine, "SELECT 1", numeric=wrong),
        citykit.read_frame(engine.execution_options(citykit_numeric=wrong), "SELECT 1"),
    ):
        with pytest.raises(ValueError, match="'float', 'decimal', not 'double'"):
            await awaitable


# And back


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_float_of_a_numeric_loads_what_it_shows(engine: AsyncEngine, backend: DtypeBackend) -> None:
    shown = ["1.1", "-0.3", "0", "0.1", "1e22", "123456789012345.67", "1e-300", "1e22", None]
    table = sa.Table(
        "shown", sa.MetaData(), sa.Column("k", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", sa.Numeric()), sa.Column("vs", sa.ARRAY(sa.Numeric())),
    )  # fmt: skip
    async with created(engine, table):
        frame = pd.DataFrame({"k": range(len(shown))})
        frame["v"] = pd.Series([None if v is None else Decimal(v) for v in shown], dtype=object)
        frame["vs"] = pd.Series([[v] for v in frame["v"]], dtype=object)
        await citykit.load_frame(engine, frame, table)
        read = await citykit.read_frame(engine, sa.select(table), dtype_backend=backend)
        assert str(read["v"].dtype) == FLOATS[BACKENDS.index(backend)]
        report = await citykit.load_frame(engine, read, table, on_conflict="update")
        assert (report.updated, report.skipped) == (0, len(shown))
