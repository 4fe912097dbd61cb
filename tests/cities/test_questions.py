"""Asking about cities, against a real server."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.cities.folding import folded
from citykit.cities.questions import _biggest
from citykit.cities.search import find_statement, part_statement
from tests.support.database import scalar

# The biggest

COLUMNS = ["name", "country", "region", "population", "latitude", "longitude"]
DTYPES = ["str", "str", "str", "int64", "float64", "float64"]


async def test_the_biggest_are_in_order_with_ties_by_name_country_region(engine: AsyncEngine) -> None:
    rows = [("b", "", "", 5), ("a", "B", "", 5), ("a", "A", "z", 5), ("a", "A", "y", 5), ("c", "", "", 9)]
    await citykit.load_cities(engine, pd.DataFrame(rows, columns=COLUMNS[:4]))
    frame = await citykit.biggest_cities(engine)
    assert frame[COLUMNS[:4]].to_numpy().tolist() == [list(row) for row in [rows[i] for i in (4, 3, 2, 1, 0)]]
    assert frame.index.tolist() == [0, 1, 2, 3, 4]


async def test_order_is_by_code_points_whatever_the_locale_of_the_server(engine: AsyncEngine) -> None:
    names = ["a", "B", "ä", "Z", "é", "東"]
    await citykit.load_cities(engine, pd.DataFrame({"name": names, "population": 1}))
    assert (await citykit.biggest_cities(engine))["name"].tolist() == sorted(names)


async def test_columns_and_dtypes_are_the_same_for_no_rows(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    empty = await citykit.biggest_cities(engine)
    assert empty.empty
    await citykit.load_cities(engine, three_cities.tail(1))
    full = await citykit.biggest_cities(engine)
    for frame in (empty, full):
        assert frame.columns.tolist() == COLUMNS
        assert [str(dtype) for dtype in frame.dtypes] == DTYPES


async def test_loading_and_reading_is_the_identity(engine: AsyncEngine) -> None:
    frame = citykit.world_cities()
    await citykit.load_cities(engine, frame)
    read = await citykit.biggest_cities(engine, len(frame) + 1)
    pd.testing.assert_frame_equal(read, frame[COLUMNS], check_exact=True)


async def test_n_country_and_region(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    await citykit.load_cities(engine, three_cities)
    assert (await citykit.biggest_cities(engine, 1))["country"].tolist() == ["GB"]
    assert (await citykit.biggest_cities(engine, 10**30))["country"].tolist() == ["GB", "CA", "IS"]
    assert (await citykit.biggest_cities(engine, np.int64(2)))["country"].tolist() == ["GB", "CA"]  # type: ignore[arg-type]
    assert (await citykit.biggest_cities(engine, country="CA"))["population"].tolist() == [422_324]
    assert (await citykit.biggest_cities(engine, country="' OR true --")).empty
    assert (await citykit.biggest_cities(engine, region="ENG"))["country"].tolist() == ["GB"]
    assert (await citykit.biggest_cities(engine, country="CA", region="ENG")).empty


@pytest.mark.parametrize(("country", "error"), [(5, TypeError), ("\0", ValueError), ("\ud800", ValueError)])
async def test_a_bad_country(engine: AsyncEngine, country: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="country"):
        await citykit.biggest_cities(engine, country=country)


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("5", TypeError)]
)
async def test_a_bad_n(engine: AsyncEngine, n: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await citykit.biggest_cities(engine, n)


@pytest.mark.parametrize("country", [None, "C3"])
async def test_an_index_serves_the_order_and_nothing_sorts_the_table(
    engine: AsyncEngine, country: str | None
) -> None:
    count = 20_000
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(count)], "population": np.arange(count)})
    await citykit.load_cities(engine, frame.assign(country=[f"C{i % 7}" for i in range(count)]))
    sql, args = _biggest(20, country, None)
    lines = await plan(engine, sql, *args)
    index = "cities_biggest_by_country" if country else "cities_biggest"
    assert any(f"Index Scan using {index} " in line for line in lines), lines
    assert not any("->  Sort" in line or "Seq Scan" in line for line in lines), lines


async def plan(engine: AsyncEngine, sql: str, *args: Any) -> list[str]:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE cities"))
        rows = await connection.exec_driver_sql(f"EXPLAIN {sql}", args)
        return [row[0] for row in rows]


async def test_a_hundred_at_once_on_a_pool_of_ten(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    await citykit.load_cities(engine, three_cities)
    pooled = await citykit.connect(engine.url, pool_size=10, max_overflow=0)
    frames = await asyncio.gather(*(citykit.biggest_cities(pooled) for _ in range(100)))
    assert all(frame["country"].tolist() == ["GB", "CA", "IS"] for frame in frames)
    await pooled.dispose()


async def test_with_a_connection_the_callers_own_rows_are_seen(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await citykit.add_city(connection, "a", 1, latitude=0, longitude=0)
        for question in (
            citykit.biggest_cities(connection),
            citykit.find_cities(connection, "A"),
            citykit.nearest_cities(connection, 1, 1),
            citykit.summarize_countries(connection),
        ):
            assert len(await question) == 1
        await connection.rollback()
    assert (await citykit.biggest_cities(engine)).empty


@pytest.mark.parametrize("ask", ["biggest", "find", "nearest", "summarize"])
async def test_without_the_table_the_error_says_what_to_do(engine: AsyncEngine, ask: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
    questions = {
        "biggest": lambda: citykit.biggest_cities(engine),
        "find": lambda: citykit.find_cities(engine, "x"),
        "nearest": lambda: citykit.nearest_cities(engine, 0, 0),
        "summarize": lambda: citykit.summarize_countries(engine),
    }
    with pytest.raises(citykit.MissingTableError, match="create_tables"):
        await questions[ask]()


# Finding by name


async def knows_accents(engine: AsyncEngine) -> bool:
    return bool(await scalar(engine, "SHOW server_encoding") == "UTF8")


NAMES = {
    "São Paulo": 12, "Paulo Afonso": 5, "Sao Paulo de Olivença": 9, "München": 7, "Munchenstein": 3,
    "Zürich": 8, "Straße": 2, "Strassen": 4, "York": 6, "New York": 11, "Yorkton": 1, "100% Town": 1,
    "a_b": 1, "axb": 1, "back\\slash": 1, "Qatar": 1, "X": 2, "Max": 1, "A - B": 1,
    "Москва": 9, "Новая Москва": 1, "東京": 8, "Пп San": 4, "Route 66": 3, "66": 1, "\\320\\277": 1,
}  # fmt: skip


async def found(engine: citykit.Bind, name: str, n: int = 20) -> list[str]:
    frame = await citykit.find_cities(engine, name, n)
    assert frame.columns.tolist() == [*COLUMNS, "matched"]
    assert [str(dtype) for dtype in frame.dtypes] == [*DTYPES, "str"]
    return frame["name"].tolist()


@pytest.mark.parametrize("indexed", [True, False], ids=["with the index", "without the index"])
async def test_names_are_found_without_case_and_accents_exact_before_prefix_before_part(
    engine: AsyncEngine, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if indexed:
        monkeypatch.setattr("citykit.cities.search._LARGE_BYTES", 0)
    await citykit.load_cities(engine, pd.DataFrame({"name": NAMES.keys(), "population": NAMES.values()}))
    assert await found(engine, "YORK") == ["York", "Yorkton", "New York"]
    assert await found(engine, "york", 2) == ["York", "Yorkton"]
    assert await found(engine, "yo") == ["York", "Yorkton", "New York"]
    assert await found(engine, "ork") == ["New York", "York", "Yorkton"]
    assert await found(engine, "100%") == ["100% Town"]
    assert await found(engine, "%") == ["100% Town"]
    assert await found(engine, "A_B") == ["a_b"]
    assert await found(engine, "back\\") == ["back\\slash"]
    assert await found(engine, "atlantis") == []
    assert await found(engine, "x' OR true --") == []
    assert await found(engine, "qatar") == await found(engine, "atar") == ["Qatar"]
    assert await found(engine, "qqatar") == await found(engine, "atarx") == await found(engine, "qx") == []
    assert await found(engine, "x") == ["X", "Max", "axb"]
    assert await found(engine, "ax") == ["axb", "Max"]
    assert await found(engine, "---") == await found(engine, "-Y") == []
    assert await found(engine, " - ") == await found(engine, "- ") == await found(engine, "a -") == ["A - B"]
    assert await found(engine, "66") == ["66", "Route 66"]
    assert await found(engine, "e 6") == ["Route 66"]
    assert await found(engine, "320") == await found(engine, "\\320") == ["\\320\\277"]
    assert await found(engine, "7 san") == await found(engine, "277 san") == await found(engine, "BC") == []
    if await knows_accents(engine):
        assert await found(engine, "\u00b3\u00b2\u2070") == await found(engine, "\uff12") == ["\\320\\277"]
        assert await found(engine, "sao paulo") == ["São Paulo", "Sao Paulo de Olivença"]
        assert await found(engine, "PAULO") == ["Paulo Afonso", "São Paulo", "Sao Paulo de Olivença"]
        assert await found(engine, "MÜNCHEN") == ["München", "Munchenstein"]
        assert await found(engine, "zurich") == ["Zürich"]
        assert await found(engine, "МОСКВА") == ["Москва", "Новая Москва"]  # noqa: RUF001
        assert await found(engine, "а") == ["Москва", "Новая Москва"]  # noqa: RUF001
        assert await found(engine, "京") == await found(engine, "東京") == ["東京"]
        assert await found(engine, "п") == await found(engine, "ПП S") == ["Пп San"]
        assert await found(engine, "straße") == await found(engine, "STRASSE") == ["Straße", "Strassen"]


async def test_many_that_begin_alike_are_found_in_order_of_size(engine: AsyncEngine) -> None:
    names = [f"San {i}" for i in range(3_000)] + [f"Other San {i}" for i in range(3_000)] + ["SAN"]
    sizes = [*range(3_000), *range(10_000, 13_000), 5]
    await citykit.load_cities(engine, pd.DataFrame({"name": names, "population": sizes}))
    assert await found(engine, "san", 3) == ["SAN", "San 2999", "San 2998"]
    assert await found(engine, " san\n", 3) == ["SAN", "San 2999", "San 2998"]
    assert (await found(engine, "san", 3_003))[-2:] == ["Other San 2999", "Other San 2998"]
    assert (await found(engine, "s", 2)) == ["San 2999", "San 2998"]


@pytest.mark.parametrize(
    ("part", "error"), [("", ValueError), (" ", ValueError), ("\0", ValueError), (5, TypeError)]
)
async def test_a_bad_part_of_a_name(engine: AsyncEngine, part: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await citykit.find_cities(engine, part)


@pytest.mark.parametrize("part", ["\u0301", "\u00b4"], ids=["combining", "by itself"])
async def test_an_accent_alone_is_found_in_no_name(engine: AsyncEngine, part: str) -> None:
    await citykit.add_city(engine, "São Paulo", 1, other_names=["San Pablo"])
    assert await found(engine, part) == []


INDEXED = "SELECT to_regclass('cities_by_name') IS NOT NULL"


async def test_the_first_search_of_a_large_table_makes_the_index_that_answers(engine: AsyncEngine) -> None:
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(20_000)], "population": 1})
    await citykit.load_cities(engine, frame[:100])
    assert await found(engine, "CITY 99") == ["city 99"]
    assert not await scalar(engine, INDEXED)  # too small
    await citykit.load_cities(engine, frame[100:])
    async with engine.connect() as connection:
        assert await found(connection, "CITY 19999") == ["city 19999"]
        assert not await connection.scalar(text(INDEXED))  # the transaction is the caller's
        await connection.execute(text("UPDATE cities SET population = 2 WHERE name = 'city 1'"))
        assert await found(engine, "CITY 19999") == ["city 19999"]  # does not wait for the writer
        assert not await scalar(engine, INDEXED)
    every = await asyncio.gather(*(found(engine, "CITY 19999") for _ in range(5)))
    assert every == [["city 19999"]] * 5
    assert await scalar(engine, INDEXED)
    for part, letters in (("city 12345", 3), ("xq", 2), *[("москва", 3)] * await knows_accents(engine)):
        async with engine.connect() as connection:
            row = (await connection.exec_driver_sql(part_statement("UTF8"), (part,))).one()
            spelled, plain, *_ = tuple(row)
        lines = await plan(engine, find_statement("UTF8", letters), spelled, 20, plain)
        assert sum("Bitmap Index Scan on cities_by_name" in line for line in lines) == 5, lines
        assert not any("Seq Scan" in line for line in lines), lines


async def test_create_tables_adds_the_indexes_that_an_earlier_version_lacks(engine: AsyncEngine) -> None:
    count = "SELECT count(*) FROM pg_indexes WHERE tablename = 'cities'"
    before = await scalar(engine, count)
    async with engine.begin() as connection:
        await connection.execute(text("DROP INDEX cities_biggest_by_country"))
    await citykit.create_tables(engine)
    assert await scalar(engine, count) == before


async def test_an_owner_who_may_not_create_extensions_goes_without_the_index(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.cities.search._LARGE_BYTES", 0)
    await citykit.add_city(engine, "Akureyri", 1)
    async with engine.begin() as connection:
        for sql in (
            "DROP EXTENSION IF EXISTS pg_trgm",
            "CREATE ROLE plain",
            "ALTER TABLE cities OWNER TO plain",
        ):
            await connection.execute(text(sql))
    plain = await citykit.connect(engine.url, connect_args={"server_settings": {"role": "plain"}})
    try:
        assert await found(plain, "AKU") == ["Akureyri"]
        assert not await scalar(engine, INDEXED)
    finally:
        await plain.dispose()
        async with engine.begin() as connection:
            await connection.execute(text("DROP OWNED BY plain"))
            await connection.execute(text("DROP ROLE plain"))


async def test_folding_agrees_with_itself(engine: AsyncEngine) -> None:
    if not await knows_accents(engine):
        pytest.skip("the encoding knows no accents; without CITYKIT_TEST_URL it does: pytest")
    for name, bare in {
        "Łódź": "lodz", "Ærøskøbing": "aeroskobing", "İstanbul": "istanbul", "Đà Nẵng": "da nang",
        "Þórshöfn": "thorshofn", "Pa\u2018ia": "pa'ia", "ΑΘΉΝΑ": "αθηνα", "Cœur": "coeur", "東京": "東京",
    }.items():  # fmt: skip
        assert await scalar(engine, f"SELECT {folded('CAST(:name AS text)')}", name=name) == bare


# The nearest


def haversine(a: float, b: float, c: float, d: float) -> float:
    """The angle by the dot product of the two directions: another formula than the server's."""
    a, b, c, d = (math.radians(degrees) for degrees in (a, b, c, d))
    dot = math.sin(a) * math.sin(c) + math.cos(a) * math.cos(c) * math.cos(b - d)
    return 6371.0088 * math.acos(max(-1, min(1, dot)))


@pytest.fixture
async def globe(engine: AsyncEngine) -> pd.DataFrame:
    """A few thousand cities, more of them in the north, both poles and the date line among them."""
    random = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "name": [f"city {i}" for i in range(4_000)],
            "population": random.integers(0, 1_000_000, 4_000),
            "latitude": np.degrees(np.arcsin(random.uniform(-1, 1, 4_000) ** 3)),
            "longitude": random.uniform(-180, 180, 4_000),
        }
    )
    frame.loc[:3, "latitude"] = [90, -90, 0, 0]
    frame.loc[:3, "longitude"] = [0, 0, 180, -180]
    frame.loc[4:20, "latitude"] = None
    frame.loc[15:30, "longitude"] = None
    await citykit.load_cities(engine, frame)
    return frame.dropna()


@pytest.mark.parametrize(
    "point", [(0, 0), (0, 180), (0, -179.99), (90, 12), (-90, 0), (89.9, 180), (-45, 100), (51.5, -0.1)]
)
async def test_the_nearest_are_the_nearest(
    engine: AsyncEngine, globe: pd.DataFrame, point: tuple[float, float]
) -> None:
    distances = [
        haversine(*point, *place) for place in zip(globe["latitude"], globe["longitude"], strict=True)
    ]
    for n in (1, 20, 2_500):
        frame = await citykit.nearest_cities(engine, *point, n)
        np.testing.assert_allclose(frame["distance_km"], sorted(distances)[:n], atol=1e-3)
    every = await citykit.nearest_cities(engine, *point, 10_000)
    assert len(every) == len(globe)


async def test_columns_and_dtypes_of_the_nearest(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    empty = await citykit.nearest_cities(engine, 0, 0)
    await citykit.load_cities(engine, three_cities)
    full = await citykit.nearest_cities(engine, 51.50853, -0.12574)
    for frame in (empty, full):
        assert frame.columns.tolist() == [*COLUMNS, "distance_km"]
        assert [str(dtype) for dtype in frame.dtypes] == [*DTYPES, "float64"]
    assert full["country"].tolist() == ["GB", "IS"]  # the London of Canada has no coordinates
    assert full["distance_km"].iloc[0] == 0


@pytest.mark.parametrize("point", [(91, 0), (0, 181), (float("nan"), 0), (0, float("inf")), ("north", 0)])
async def test_a_point_that_is_not_on_the_globe(engine: AsyncEngine, point: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        await citykit.nearest_cities(engine, *point)


# Countries


async def test_countries_are_summed_up(engine: AsyncEngine, three_cities: pd.DataFrame) -> None:
    empty = await citykit.summarize_countries(engine)
    await citykit.load_cities(engine, three_cities)
    await citykit.add_city(engine, "Akureyri", 18_925, country="IS")
    full = await citykit.summarize_countries(engine)
    total = 8_961_989 + 422_324 + 118_918 + 18_925
    assert full.to_numpy().tolist() == [
        ["GB", 1, 8_961_989, 8_961_989, 8_961_989 / total],
        ["CA", 1, 422_324, 422_324, 422_324 / total],
        ["IS", 2, 137_843, 118_918, 137_843 / total],
    ]
    for frame in (empty, full):
        assert frame.columns.tolist() == [
            "country", "cities", "total_population", "largest_population", "share",
        ]  # fmt: skip
        assert [str(dtype) for dtype in frame.dtypes] == ["str", "int64", "int64", "int64", "float64"]


async def test_countries_without_people(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "Ghost Town", 0)
    assert (await citykit.summarize_countries(engine))["share"].tolist() == [0.0]
