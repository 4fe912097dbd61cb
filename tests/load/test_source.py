"""What `load_frame` takes, and what it says of what it does not take."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import dataset
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.source import row_bytes
from tests.support.database import scalar

CITIES = {"name": ["a", "b"], "population": [1, 2]}


async def generate() -> AsyncIterator[pd.DataFrame]:
    yield pd.DataFrame(CITIES)


# What is given, and what the error says to type, with the names of the columns where it says "…".
SOURCES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dict": (lambda _: CITIES, "pd.DataFrame(source)"),
    "dict of frames": (lambda _: {"a": pd.DataFrame(CITIES)}, "source.values()"),
    "list of dicts": (lambda _: [{"name": "a", "population": n} for n in (1,)], "pd.DataFrame(source)"),
    "list of tuples": (lambda _: [("a", 1), ("b", 2)], "pd.DataFrame(source, columns=[…])"),
    "array": (
        lambda _: np.array([["a", 1], ["b", 2]], dtype=object),
        "pd.DataFrame(source, columns=[…])",
    ),
    "structured array": (
        lambda _: np.array([("a", 1)], dtype=[("name", object), ("population", int)]),
        "pd.DataFrame(source)",
    ),
    "bytes": (lambda _: b"name,population\na,1\n", "io.BytesIO(source)"),
    "Series": (lambda _: pd.Series(["a"], name="name"), "source.to_frame()"),
    "Series of polars": (lambda _: pl.Series("name", ["a"]), "source.to_frame()"),
    "Index": (lambda _: pd.Index(["a"], name="name"), "source.to_frame()"),
    "Dataset": (lambda _: dataset.dataset(pa.table(CITIES)), "source.to_batches()"),
    "Scanner": (lambda _: dataset.dataset(pa.table(CITIES)).scanner(), "source.to_batches()"),
    "LazyFrame": (lambda _: pl.LazyFrame(CITIES), "source.collect()"),
    "function": (lambda _: generate, "source()"),
}


@pytest.mark.parametrize("kind", SOURCES)
async def test_what_cannot_be_loaded_is_named_with_what_makes_a_source_of_it(
    engine: AsyncEngine, tmp_path: Path, kind: str
) -> None:
    made, typed = SOURCES[kind]
    source = made(tmp_path)
    with pytest.raises(TypeError, match=rf"not {type(source).__name__}( of \w+)?; nothing") as caught:
        await citykit.load_cities(engine, source)
    assert str(caught.value).endswith(f": {typed}")
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0
    typed = typed.replace("…", "'name', 'population'")
    loadable = eval(typed, {"pd": pd, "io": io, "source": source})  # noqa: S307  what a user types
    if typed == "source.to_frame()":  # a column alone is not a whole city
        loadable = pd.DataFrame(loadable, columns=["name"]).assign(population=1)
    await citykit.load_cities(engine, loadable)
    assert await scalar(engine, "SELECT count(*) FROM cities") > 0


async def test_a_column_that_arrow_lacks_is_said_with_what_to_do(engine: AsyncEngine) -> None:
    source = pl.DataFrame({"name": ["a"], "population": [1]}, schema_overrides={"population": pl.Int128})
    with pytest.raises(TypeError, match=r"i128.*nothing was loaded. Cast it"):
        await citykit.load_cities(engine, source)


def test_rows_of_any_kind_have_a_size() -> None:
    for count in (1, 1_000):  # of many rows, some are looked at
        views = pd.arrays.ArrowExtensionArray(pa.array(["x" * 100] * count, pa.string_view()))
        assert 100 < row_bytes(pd.DataFrame({"a": views})) < 200
    assert 100 < row_bytes(pd.DataFrame({"a": pd.Series(["x" * 100], dtype=object)})) < 200
    assert row_bytes(pd.DataFrame([[1, 2]], columns=["a", "a"])) == 16
    categories = pd.Series(pd.Categorical([f"category {n}" for n in range(10_000)]))
    assert row_bytes(pd.DataFrame({"a": categories})) == 2
    assert row_bytes(pa.table({"a": pa.array(["x" * 1000]).dictionary_encode()})) == 4

    class Unsized:
        def __sizeof__(self) -> int:
            raise RuntimeError

    assert row_bytes(pd.DataFrame({"a": pd.Series([Unsized()], dtype=object)})) == 8
    for nothing in (pd.DataFrame(), pd.DataFrame(index=[1, 2]), pa.table({}), pa.table({"a": pa.nulls(0)})):
        assert row_bytes(nothing) == 1


NOTHING = {
    "None": None,
    "a number": 5,
    "an empty list": [],
    "a list of None": [None],
    "a chunked array": pa.chunked_array([[1]]),
    "an array": pa.array([1]),
}


@pytest.mark.parametrize("source", NOTHING.values(), ids=NOTHING)
async def test_what_nothing_makes_a_source_of_is_named_or_is_empty(engine: AsyncEngine, source: Any) -> None:
    if source == []:
        assert (await citykit.load_cities(engine, source)).inserted == 0
        return
    with pytest.raises(TypeError, match="a pandas DataFrame is needed"):
        await citykit.load_cities(engine, source)


CSV = "name,population\na,1\nb,2\n"
SOURCES_OF_FILES: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda path: path,
    "bytes that are open": lambda path: io.BytesIO(path.read_bytes()),
    "text that is open": lambda path: io.StringIO(path.read_text()),
    "list of paths": lambda path: [path],
    "iterable of a path and a frame": lambda path: iter(
        [path, pd.DataFrame({"name": ["c"], "population": [3]})]
    ),
    "open_file": citykit.open_file,
    "read_file": citykit.read_file,
}


@pytest.mark.parametrize("kind", SOURCES_OF_FILES)
async def test_a_file_is_a_source(engine: AsyncEngine, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cities.csv"
    path.write_text(CSV)
    report = await citykit.load_cities(engine, SOURCES_OF_FILES[kind](path))
    assert report.inserted == await scalar(engine, "SELECT count(*) FROM cities") == 2 + ("frame" in kind)
    assert await scalar(engine, "SELECT population FROM cities WHERE name = 'b'") == 2


GERMAN = (
    "name;population;latitude\n" + "".join(f"city {n};{n}.000;52,5{n}\n" for n in range(1, 10)) + "x;5;1,5\n"
)


@pytest.mark.parametrize("as_frame", [False, True], ids=["file", "frame"])
async def test_an_error_of_numbers_that_look_alike_ends_in_the_call_that_reads_them(
    engine: AsyncEngine, tmp_path: Path, as_frame: bool
) -> None:
    path = tmp_path / "de.csv"
    path.write_text(GERMAN)
    source = citykit.read_file(path) if as_frame else path
    with pytest.raises(citykit.InvalidFrameError) as caught:
        await citykit.load_cities(engine, source)
    said, call = str(caught.value).rsplit("\n", 1)
    assert "9 values like a number with thousands dots (first at row label 0: '1.000')" in said
    assert "nothing was loaded" in said
    assert as_frame or f"Row label 0 is line 2 of {path}." in said
    assert "skip" not in str(caught.value)
    assert call == f'citykit.read_file("{path}", thousands=".", decimal=",")'
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0
    report = await citykit.load_cities(engine, eval(call, {"citykit": citykit}))  # noqa: S307  what a user types
    assert report.inserted == 10
    assert await scalar(engine, "SELECT sum(population) FROM cities") == 45_005
    assert await scalar(engine, "SELECT latitude FROM cities WHERE name = 'city 3'") == 52.53


async def test_dots_that_may_be_either_are_settled_by_the_call_of_the_error(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    path = tmp_path / "dots.csv"
    rows = [f"city {number},{number + 1}.000,52.5{number}" for number in range(40)]
    path.write_text("name,population,latitude\n" + "\n".join([*rows, "b,5.000,52.525"]) + "\n")
    source: Any = path
    for _ in range(2):
        with pytest.raises(citykit.InvalidFrameError) as caught:
            await citykit.load_cities(engine, source)
        source = eval(str(caught.value).rsplit("\n", 1)[1], {"citykit": citykit})  # noqa: S307  as a user types it
    assert (await citykit.load_cities(engine, source)).inserted == 41
    found = await citykit.biggest_cities(engine, 100)
    assert found.loc[found["name"] == "b", ["population", "latitude"]].to_numpy().tolist() == [
        [5_000, 52.525]
    ]


@pytest.mark.parametrize("how", [lambda frame: frame, lambda frame: [frame], lambda frame: iter([frame])])
async def test_objects_of_polars_are_loaded_after_what_the_error_says(
    engine: AsyncEngine, how: Callable[[Any], Any]
) -> None:
    frame = pl.DataFrame({"name": pl.Series(["a", "b"], dtype=pl.Object), "population": [1, 2]})
    with pytest.raises(TypeError, match="column 'name' is of polars' dtype Object") as caught:
        await citykit.load_cities(engine, how(frame))
    typed: dict[str, Any] = {"polars": pl, "frame": frame}
    exec(str(caught.value).partition("dtype: ")[2], typed)  # noqa: S102  what a user types
    assert (await citykit.load_cities(engine, how(typed["frame"]))).inserted == 2


MADE: dict[str, Callable[[pd.DataFrame], Any]] = {"Arrow": pa.table, "polars": pl.from_pandas}
MAKING = "frame = table.to_pandas(types_mapper=pd.ArrowDtype)"


@pytest.mark.parametrize("kind", MADE)
async def test_arrow_data_of_a_wrong_type_is_loaded_after_what_the_error_says(
    engine: AsyncEngine, kind: str
) -> None:
    table = MADE[kind](pd.DataFrame({"name": [1_067, 2], "population": [1, 2]}))
    with pytest.raises(citykit.InvalidFrameError, match="column 'name' is of dtype int64") as caught:
        await citykit.load_cities(engine, table)
    lines = [line.partition(": ")[2] for line in str(caught.value).splitlines()[1:]]
    assert lines[0] == MAKING
    typed: dict[str, Any] = {"pd": pd, "table": table}
    exec("\n".join(lines), typed)  # noqa: S102  what a user types
    assert (await citykit.load_cities(engine, typed["frame"])).inserted == 2
    assert await scalar(engine, "SELECT population FROM cities WHERE name = '1067'") == 1


@pytest.mark.parametrize("kind", MADE)
async def test_numbers_with_marks_in_arrow_data_are_loaded_after_what_the_error_says(
    engine: AsyncEngine, kind: str
) -> None:
    table = MADE[kind](pd.DataFrame({"name": ["a", "b"], "population": ["1.000.000", "2.000.000"]}))
    with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
        await citykit.load_cities(engine, table)
    lines = str(caught.value).splitlines()
    made = lines.index(MAKING)
    typed: dict[str, Any] = {"pd": pd, "table": table}
    exec("\n".join(lines[made:]), typed)  # noqa: S102  what a user types
    assert (await citykit.load_cities(engine, typed["frame"])).inserted == 2
    assert await scalar(engine, "SELECT sum(population) FROM cities") == 3_000_000


async def test_a_file_that_cannot_be_read_loads_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    path.write_text("name,population\n" + "a,1\n" * 200_000 + "b,2,3\n")
    with pytest.raises(citykit.CitykitError, match="line 200,002 has 3 fields"):
        await citykit.load_cities(engine, path, on_conflict="skip")
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


def late_lines(path: Path) -> Path:
    """Lines of JSON of which the last alone has a latitude and a country, after more than a block."""
    lines = [f'{{"name": "a{number}", "population": 1}}' for number in range(36_000)]
    last = {"name": "z", "population": 2, "latitude": 1.5, "country": "IS"}
    path.write_text("\n".join([*lines, json.dumps(last)]), encoding="utf-8")
    return path


async def test_columns_that_come_late_in_a_file_are_loaded_where_they_are_named(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    path = late_lines(tmp_path / "a.ndjson")
    with pytest.raises(citykit.CitykitError, match="has 'latitude', which none before it has"):
        await citykit.load_cities(engine, path)
    wanted = ["name", "population", "nation"]
    for source in (
        path,
        [path],
        citykit.open_file(path),
        citykit.open_file([path]),
        io.BytesIO(path.read_bytes()),
    ):
        await citykit.create_tables(engine, reset=True)
        await citykit.load_cities(engine, source, columns=["name", "population"])
        options: Any = {"rename": {"country": "nation"}, "columns": wanted}
        if isinstance(source, io.BytesIO):
            source.seek(0)
        await citykit.load_frame(engine, source, "late", create=True, key="name", **options)
        late = await citykit.read_frame(engine, "SELECT * FROM late WHERE nation IS NOT NULL")
        assert late.values.tolist() == [["z", 2, "IS"]]
        await citykit.execute(engine, "DROP TABLE late")


async def test_a_column_that_a_file_lacks_is_an_error_of_the_load(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    for path, text in (("a.csv", "name,population\na,1\n"), ("a.ndjson", '{"name": "a", "population": 1}')):
        (tmp_path / path).write_text(text, encoding="utf-8")
        for source in (tmp_path / path, [tmp_path / path], citykit.open_file(tmp_path / path)):
            with pytest.raises(
                citykit.InvalidFrameError, match=r"(?s)did you mean 'name'.*has 'name', 'popul"
            ) as e:
                await citykit.load_cities(engine, source, columns=["nmae", "population"])
            assert e.value.rejects["column"].tolist() == ["nmae"]


async def test_only_the_columns_that_are_loaded_need_names_of_their_own(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,name,x,,pop\n1,a,2,3,4\n", encoding="utf-8")
    await citykit.load_cities(engine, path, rename={"pop": "population"}, columns=["name", "population"])
    assert (await citykit.biggest_cities(engine))["population"].tolist() == [4]
