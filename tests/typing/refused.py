"""What a user may not write. Each line names the error that mypy --strict and pyright have to find in it.

It is checked, never run. To name an error that is not found is an error itself, for both.
"""
# ruff: noqa: B018

from __future__ import annotations

import pandas as pd
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit


def misspell_a_name() -> None:
    citykit.lod_cities  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    citykit.importlib  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def misspell_a_policy(engine: AsyncEngine, frame: pd.DataFrame) -> None:
    await citykit.load_cities(engine, frame, on_conflict="replace")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.load_cities(engine, frame, on_invalid="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.read_frame(engine, "TABLE cities", dtype_backend="polars")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.load_cities(engine, frame, progress="bar")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def load_what_is_no_source(engine: AsyncEngine) -> None:
    await citykit.load_cities(engine, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    citykit.read_file(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.load_cities(engine, {"name": ["a"], "population": [1]})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    await citykit.load_cities(engine, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.load_cities(engine, citykit.read_frame(engine, "TABLE cities"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use_what_is_no_bind(frame: pd.DataFrame) -> None:
    await citykit.load_cities(citykit.connect(), frame)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await citykit.biggest_cities("postgresql://localhost/cities")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def forget_await(engine: AsyncEngine) -> None:
    citykit.plot_biggest(citykit.biggest_cities(engine))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    citykit.find_cities(engine, "a").head()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def await_a_stream(engine: AsyncEngine) -> None:
    await citykit.stream_frames(engine, "TABLE cities")  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    for _ in citykit.stream_frames(engine, "TABLE cities"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def read_what_is_no_statement(engine: AsyncEngine) -> None:
    await citykit.read_frame(engine, citykit.City)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def give_by_place_what_has_a_name(engine: AsyncEngine, frame: pd.DataFrame) -> None:
    await citykit.load_cities(engine, frame, "update")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


async def compare_with_a_plan_that_there_is_not(engine: AsyncEngine, frame: pd.DataFrame) -> None:
    _ = (await citykit.load_cities(engine, frame)).plan == "insert"  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]
