"""What `load_frame` takes, and what it says of what it does not take."""

from __future__ import annotations

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
from tests.support.database import scalar

CITIES = {"name": ["a", "b"], "population": [1, 2]}


async def generate() -> AsyncIterator[pd.DataFrame]:
    yield pd.DataFrame(CITIES)


def in_a_file(path: Path, suffix: str = ".csv") -> Path:
    frame, file = pd.DataFrame(CITIES), path / f"cities{suffix}"
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_json(file, orient="records", lines=True)
    return file


# What is given, and what the error says to type, with the names of the columns where it says "…".
SOURCES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dict": (lambda _: CITIES, "pandas.DataFrame(source)"),
    "dict of frames": (lambda _: {"a": pd.DataFrame(CITIES)}, "source.values()"),
    "list of dicts": (lambda _: [{"name": "a", "population": n} for n in (1,)], "pandas.DataFrame(source)"),
    "list of tuples": (lambda _: [("a", 1), ("b", 2)], "pandas.DataFrame(source, columns=[…])"),
    "array": (
        lambda _: np.array([["a", 1], ["b", 2]], dtype=object),
        "pandas.DataFrame(source, columns=[…])",
    ),
    "structured array": (
        lambda _: np.array([("a", 1)], dtype=[("name", object), ("population", int)]),
        "pandas.DataFrame(source)",
    ),
    "CSV file": (in_a_file, "pandas.read_csv(source)"),
    "name of a file": (lambda path: str(in_a_file(path)), "pandas.read_csv(source)"),
    "Parquet file": (lambda path: in_a_file(path, ".parquet"), "pandas.read_parquet(source)"),
    "NDJSON file": (lambda path: in_a_file(path, ".ndjson"), "pandas.read_json(source, lines=True)"),
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
    loadable = eval(typed, {"pandas": pd, "source": source})  # noqa: S307  what a user types
    if typed == "source.to_frame()":  # a column alone is not a whole city
        loadable = pd.DataFrame(loadable, columns=["name"]).assign(population=1)
    await citykit.load_cities(engine, loadable)
    assert await scalar(engine, "SELECT count(*) FROM cities") > 0


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
