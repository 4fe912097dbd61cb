"""The columns of a load: renamed, picked, left out, of a wrong dtype; and what a load says of its rows."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.encode import rejects_frame
from citykit.load import loading
from tests.support.database import execute, scalar, stored

FEW_ROWS = 20_000  # from which a load takes other ways
CITIES = {"city": "name", "iso2": "country", "lat": "latitude"}


def theirs(count: int) -> pd.DataFrame:
    """Cities under the names of a file of somebody else's."""
    return pd.DataFrame(
        {
            "note": "x",
            "city": [f"city {n}" for n in range(count)],
            "iso2": "IS",
            "lat": 64.5,
            "pop": range(count),
        }
    )


def pieces(count: int) -> Iterator[pd.DataFrame]:
    frame = theirs(count)
    for start in range(0, count, 999):
        yield frame[start : start + 999]


async def asynchronous(count: int) -> AsyncIterator[pd.DataFrame]:
    for piece in pieces(count):
        yield piece


SOURCES: dict[str, Callable[[int], Any]] = {
    "frame": theirs,
    "iterator": pieces,
    "async iterator": asynchronous,
    "Arrow table": lambda count: pa.Table.from_pandas(theirs(count)),
    "reader": lambda count: pa.Table.from_pandas(theirs(count)).to_reader(999),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("count", [2_000, FEW_ROWS + 2_000])
async def test_every_source_is_renamed_and_picked_alike(engine: AsyncEngine, kind: str, count: int) -> None:
    rename = {**CITIES, "pop": "population"}
    columns = ["name", "country", "population"]
    report = await citykit.load_cities(engine, SOURCES[kind](count), rename=rename, columns=columns)
    assert report.inserted == count
    assert await stored(engine) == {(f"city {n}", "IS", ""): (n, None, None) for n in range(count)}
    again = await citykit.load_frame(
        engine, SOURCES[kind](count), citykit.City, rename=rename, columns=columns, on_conflict="update"
    )
    assert again.skipped == count


@pytest.mark.parametrize("kind", SOURCES)
async def test_unknown_columns_of_every_source_are_refused_with_the_call_that_maps_them(
    engine: AsyncEngine, kind: str
) -> None:
    with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
        await citykit.load_cities(engine, SOURCES[kind](2_000), rename=CITIES)
    call = str(caught.value).splitlines()[-1].partition(": ")[2]
    scope = {"load": citykit.load_cities, "engine": engine, "source": SOURCES[kind](2_000)}
    report = await eval(f"load(engine, source, {call})", scope)  # noqa: S307  what a user types
    assert report.inserted == 2_000
    assert (
        await scalar(engine, "SELECT count(*) FROM cities WHERE country = 'IS' AND latitude = 64.5") == 2_000
    )


# What was read with SELECT * is loaded


@pytest.mark.parametrize("rows", [3, FEW_ROWS + 1])
@pytest.mark.parametrize("backend", ["numpy_nullable", "numpy", "pyarrow"])
async def test_what_select_all_reads_loads_back(engine: AsyncEngine, rows: int, backend: Any) -> None:
    frame = pd.DataFrame({"name": [f"city {n}" for n in range(rows)], "population": range(rows)})
    await citykit.load_cities(engine, frame)
    read = await citykit.read_frame(engine, "SELECT * FROM cities ORDER BY id", dtype_backend=backend)
    before = await stored(engine)

    async def load(source: pd.DataFrame, policy: Any) -> tuple[int, int, int]:
        report = await citykit.load_cities(engine, source, on_conflict=policy)
        assert report.left_out == ("id",)
        assert "left out 'id'" in repr(report)
        assert "left out &#x27;id&#x27;" in report._repr_html_()
        return report.inserted, report.updated, report.skipped

    assert await load(read, "skip") == (0, 0, rows)
    assert await load(read, "update") == (0, 0, rows)
    with pytest.raises(citykit.DuplicateCityError):
        await load(read, "error")
    assert await load(read.assign(id=read["id"].to_numpy()[::-1]), "update") == (0, 0, rows)
    changed = read.assign(population=[77, *read["population"].to_numpy()[1:]])
    assert await load(changed, "update") == (0, 1, rows - 1)
    assert await scalar(engine, "SELECT population FROM cities WHERE id = (SELECT min(id) FROM cities)") == 77
    await execute(engine, "TRUNCATE cities RESTART IDENTITY")
    assert await load(read, "error") == (rows, 0, 0)
    assert await stored(engine) == before
    assert (await citykit.load_cities(engine, frame, on_conflict="skip")).left_out == ()


async def test_what_select_all_reads_of_a_table_of_ones_own_loads_back(engine: AsyncEngine) -> None:
    table = sa.Table(
        "computed", sa.MetaData(), sa.Column("id", sa.Integer, sa.Identity(always=True)),
        sa.Column("k", sa.Integer, primary_key=True, autoincrement=False), sa.Column("v", sa.Integer),
        sa.Column("twice", sa.Integer, sa.Computed("v * 2", persisted=True)),
    )  # fmt: skip
    async with engine.begin() as connection:
        await connection.run_sync(table.drop, checkfirst=True)
        await connection.run_sync(table.create)
    await citykit.load_frame(engine, pd.DataFrame({"k": [1, 2], "v": [3, 4]}), table)
    read = await citykit.read_frame(engine, "SELECT * FROM computed ORDER BY k")
    report = await citykit.load_frame(engine, read.assign(v=[3, 5]), table, on_conflict="update")
    assert (report.updated, report.skipped, report.left_out) == (1, 1, ("id", "twice"))
    assert (await citykit.read_frame(engine, "SELECT twice FROM computed ORDER BY k"))["twice"].tolist() == [
        6,
        10,
    ]


# A column of a wrong dtype


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("rows", [2, 200_000])
@pytest.mark.parametrize("values", ["int64", "object", "int64[pyarrow]"])
@pytest.mark.parametrize("stream", [False, True], ids=["frame", "stream"])
async def test_a_column_of_a_wrong_dtype_fails_the_load_with_one_reject(
    engine: AsyncEngine, policy: Any, rows: int, values: Any, stream: bool
) -> None:
    frame = pd.DataFrame({"name": pd.Series(range(rows), dtype=values), "population": 1})
    if stream and values == "object":
        frame = frame[:2]  # each value is looked at: another frame may hold other types
    source = iter([frame[:1], frame[1:]]) if stream else frame
    if stream and values == "object":
        report = await citykit.load_cities(engine, source, on_invalid="skip")
        assert (report.inserted, len(report.rejects)) == (0, 2)
        return
    with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
        await citykit.load_cities(engine, source, on_invalid=policy)
    assert caught.value.rejects[["row", "column", "value"]].to_numpy().tolist() == [[None, "name", None]]
    assert citykit.last_rejects().equals(caught.value.rejects)
    typed = str(caught.value).partition("Convert it: ")[2]
    scope: dict[str, Any] = {"frame": frame.copy()}
    exec(typed, scope)  # noqa: S102  what a user types
    assert (await citykit.load_cities(engine, scope["frame"], on_invalid=policy)).inserted == rows


async def test_a_column_without_a_value_in_its_first_chunk_is_refused_as_a_whole(engine: AsyncEngine) -> None:
    country = np.full(100_000, np.nan)
    country[-1] = 5
    frame = pd.DataFrame({"name": [f"c{n}" for n in range(100_000)], "population": 1, "country": country})
    for source in (frame, pa.Table.from_pandas(frame), iter([frame])):
        with pytest.raises(citykit.InvalidFrameError, match="dtype"):
            await citykit.load_cities(engine, source, on_invalid="skip")
    assert (await citykit.load_cities(engine, frame[:-1])).inserted == 99_999


# The rejects of the last load


@pytest.fixture
def no_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_last_rejects", rejects_frame([]))


@pytest.mark.usefixtures("no_rejects")
async def test_the_last_rejects_are_those_of_the_last_load_that_had_some(engine: AsyncEngine) -> None:
    assert citykit.last_rejects().empty
    assert citykit.last_rejects().columns.tolist() == ["row", "column", "value", "reason"]
    bad = pd.DataFrame({"name": ["a", "", "c"], "population": [-1, 1, 1]})
    with pytest.raises(citykit.InvalidFrameError, match=r"See citykit\.last_rejects\(\) for all"):
        await citykit.load_cities(engine, bad)
    assert citykit.last_rejects()["reason"].tolist() == ["negative", "empty"]
    report = await citykit.load_cities(engine, bad.drop(index=0), on_invalid="skip")
    assert citykit.last_rejects().equals(report.rejects)
    await citykit.load_cities(engine, pd.DataFrame({"name": ["d"], "population": [1]}))
    assert citykit.last_rejects().equals(report.rejects)
    taken = citykit.last_rejects()
    taken["reason"] = ""
    assert citykit.last_rejects().equals(report.rejects)


@pytest.mark.usefixtures("no_rejects")
async def test_only_so_many_of_the_last_rejects_are_kept(engine: AsyncEngine) -> None:
    bad = pd.DataFrame({"name": [f"c{n}" for n in range(12_000)], "population": -1})
    with pytest.raises(citykit.InvalidFrameError) as caught:
        await citykit.load_cities(engine, bad)
    assert len(caught.value.rejects) == 12_000
    assert len(citykit.last_rejects()) == loading.KEPT_REJECTS


# What is counted are rows


@pytest.mark.parametrize("times", [1, FEW_ROWS // 4])
@pytest.mark.parametrize("stream", [False, True], ids=["frame", "stream"])
async def test_an_error_counts_the_rows_that_skip_would_skip(
    engine: AsyncEngine, times: int, stream: bool
) -> None:
    there = pd.DataFrame({"name": [f"c{n}" for n in range(3 * times)], "population": 1})
    await citykit.load_cities(engine, there)
    frame = pd.concat([there, there[:times], pd.DataFrame({"name": ["new"] * 3, "population": 1})])

    def source() -> Any:
        return iter([frame]) if stream else frame

    with pytest.raises(citykit.DuplicateCityError) as caught:
        await citykit.load_cities(engine, source())
    skipped = (await citykit.load_cities(engine, source(), on_conflict="skip")).skipped
    assert skipped == 4 * times + 2
    assert str(caught.value).startswith(f"{skipped:,} rows are already there")
    assert len(caught.value.keys) == 3 * times + 1


async def test_no_year_is_hidden_where_a_value_is_shown(engine: AsyncEngine) -> None:
    table = sa.Table(
        "days", sa.MetaData(), sa.Column("day", sa.DateTime, primary_key=True),
        sa.Column("hour", sa.SmallInteger, primary_key=True), sa.Column("at", sa.Date),
    )  # fmt: skip
    async with engine.begin() as connection:
        await connection.run_sync(table.drop, checkfirst=True)
        await connection.run_sync(table.create)
    moment = datetime.datetime(1987, 6, 5, 4, 3, 2, 123456)
    frame = pd.DataFrame({"day": [moment] * 2, "hour": [1, 1], "at": moment.date()})
    with pytest.raises(citykit.DuplicateKeyError, match="1987"):
        await citykit.load_frame(engine, frame, table)
    with pytest.raises(citykit.InvalidFrameError, match="1987"):
        await citykit.load_frame(engine, frame.assign(at=moment), table)
    with pytest.raises(citykit.InvalidFrameError, match="1987"):
        await citykit.load_frame(
            engine, frame.assign(hour=pd.Series([1, pd.Timestamp(moment)], dtype=object)), table
        )


# What an interrupted load says


@pytest.mark.parametrize("phase", ["checking", "sending", "merging", "committing"])
@pytest.mark.parametrize("callers", [False, True], ids=["engine", "connection"])
async def test_a_cancelled_load_says_what_is_in_the_database(
    engine: AsyncEngine, phase: str, callers: bool
) -> None:
    frame = pd.DataFrame({"name": [f"c{n}" for n in range(100)], "population": 1})

    loads: list[asyncio.Task[Any]] = []

    def cancel(_done: int, _total: int, now: str) -> None:
        if now == phase:
            loads[0].cancel()

    async with engine.connect() as connection:
        bind: citykit.Bind = connection if callers else engine
        loads.append(
            asyncio.create_task(citykit.load_cities(bind, frame, on_conflict="update", progress=cancel))
        )
        with pytest.raises(asyncio.CancelledError) as caught:
            await loads[0]
        if callers:
            await connection.rollback()
    said, count = str(caught.value), await scalar(engine, "SELECT count(*) FROM cities")
    if phase == "committing" and "nothing" not in said:
        assert said in (
            "the load was interrupted; it may have been stored: it was just being committed",
            f"the load was interrupted; it was complete{'' if callers else ' and is stored'}",
        )
        assert count == (0 if callers else 100) or "may have" in said
    else:
        assert said == "the load was interrupted; nothing was loaded"
        assert count == 0
