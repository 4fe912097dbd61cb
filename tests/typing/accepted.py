"""What a user may write: mypy --strict and pyright accept all of it. It is checked, never run."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Literal, assert_type

import pandas as pd
import polars as pl
import pyarrow as pa
from matplotlib.axes import Axes
from sqlalchemy import Numeric, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

import citykit
from citykit import Bind, DtypeBackend, OnConflict, OnInvalid, Progress, Source, Statement

Plan = Literal["copy", "copy and rebuild", "merge", "join", "join and rebuild"]


def frames() -> Iterator[pd.DataFrame]:
    yield pd.DataFrame({"name": ["a"], "population": [1]})


async def asynchronous_frames() -> AsyncIterator[pd.DataFrame]:
    yield pd.DataFrame({"name": ["a"], "population": [1]})


async def every_source(engine: AsyncEngine, frame: pd.DataFrame, lazy: pl.LazyFrame) -> None:
    table = pa.table({"name": ["a"], "population": [1]})
    sources: list[Source] = [
        frame,
        table,
        table.to_batches()[0],
        table.to_reader(),
        lazy.collect(),
        [frame, frame],
        table.to_batches(),
        frames(),
        asynchronous_frames(),
        citykit.stream_frames(engine, "TABLE cities"),
        "cities.csv",
        Path("cities.csv"),
        io.BytesIO(),
        io.StringIO(),
        ["one.csv", "two.csv"],
        [Path("one.csv"), Path("two.csv")],
        citykit.read_file("cities.csv", thousands="."),
        citykit.open_file(["one.csv", "two.csv"], rename={"city": "name"}, compression="gzip"),
    ]
    for source in sources:
        assert_type(await citykit.load_cities(engine, source), citykit.LoadReport)
    await citykit.load_frame(engine, frames(), citykit.City, key="id")
    await citykit.load_frame(engine, frame, "schema.readings", key="id", create=True)
    for whole in (frame, table, lazy.collect()):
        made = await citykit.create_table(
            engine, "readings", whole, key=["id"], types={"a": "text", "b": Text, "c": Numeric(10, 2)}
        )
        assert_type(made, Table)
    await citykit.load_frame(engine, asynchronous_frames(), citykit.City.__table__, key=["id"])


async def every_bind(engine: AsyncEngine, connection: AsyncConnection, session: AsyncSession) -> None:
    binds: list[Bind] = [engine, connection, session]
    for bind in binds:
        assert_type(await citykit.add_city(bind, "a", 1, country="IS"), citykit.City)
        assert_type(await citykit.biggest_cities(bind, 5, country="IS"), pd.DataFrame)
        assert_type(await citykit.find_cities(bind, "a"), pd.DataFrame)
    async with citykit.sessions(engine)() as made:
        assert_type(made, AsyncSession)


async def load_with_policies(
    engine: AsyncEngine, source: Source, on_conflict: OnConflict, on_invalid: OnInvalid, progress: Progress
) -> Plan:
    report = await citykit.load_cities(
        engine, source, on_conflict=on_conflict, on_invalid=on_invalid, progress=progress
    )
    assert_type(report.inserted + report.updated + report.skipped, int)
    assert_type(report.rejects, pd.DataFrame)
    return report.plan


def tell(done: int, total: int | None) -> None: ...


async def read_with_policies(engine: AsyncEngine, backend: DtypeBackend) -> None:
    statements: list[Statement] = ["TABLE cities", select(citykit.City)]
    for statement in statements:
        frame = await citykit.read_frame(engine, statement, dtype_backend=backend, progress=tell)
        assert_type(frame, pd.DataFrame)
    await citykit.read_frame(engine, "SELECT :n", {"n": 1}, progress=True)


async def stream(engine: AsyncEngine) -> None:
    made = citykit.stream_frames(engine, "TABLE cities", chunk_rows=10)
    assert_type(made, AsyncGenerator[pd.DataFrame, None])
    async with aclosing(made) as chunks:
        async for chunk in chunks:
            assert_type(chunk, pd.DataFrame)


def without_await(engine: AsyncEngine) -> None:
    assert_type(citykit.run(citykit.connect()), AsyncEngine)
    frame = citykit.run(citykit.biggest_cities(engine))
    assert_type(citykit.plot_biggest(frame), Axes)


def keys(error: citykit.DuplicateCityError, refused: citykit.InvalidFrameError) -> None:
    assert_type(refused.rejects, pd.DataFrame)
    raise citykit.CitykitError(str(error.keys)) from error
