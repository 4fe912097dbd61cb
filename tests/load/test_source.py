"""What `load_frame` takes, and what it says of what it does not take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

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


def in_a_file(path: Path) -> Path:
    pd.DataFrame(CITIES).to_csv(path / "cities.csv", index=False)
    return path / "cities.csv"


@pytest.mark.parametrize(
    ("made", "hint", "followed"),
    [
        (lambda _: CITIES, "pandas.DataFrame(…) makes one", pd.DataFrame),
        (in_a_file, "pandas.read_csv(…) reads one from a file", pd.read_csv),
        (lambda path: str(in_a_file(path)), "pandas.read_csv(…) reads one from a file", pd.read_csv),
        (lambda _: pd.Series([1, 2], ["a", "b"], name="population"), "its .to_frame() makes one", None),
        (
            lambda _: dataset.dataset(pa.table(CITIES)),
            "its .to_batches() makes one",
            lambda source: source.to_batches(),
        ),
        (
            lambda _: dataset.dataset(pa.table(CITIES)).scanner(),
            "its .to_batches() makes one",
            lambda source: source.to_batches(),
        ),
        (lambda _: pl.LazyFrame(CITIES), "its .collect() makes one", lambda source: source.collect()),
        (lambda _: generate, "call it", lambda source: source()),
    ],
    ids=["dict", "path", "str", "Series", "Dataset", "Scanner", "LazyFrame", "function"],
)
async def test_what_cannot_be_loaded_is_named_with_what_makes_a_source_of_it(
    engine: AsyncEngine, tmp_path: Path, made: Callable[[Path], Any], hint: str, followed: Any
) -> None:
    source = made(tmp_path)
    with pytest.raises(TypeError) as caught:
        await citykit.load_cities(engine, source)
    assert str(caught.value).endswith(f"not {type(source).__name__}; {hint}")
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0
    if followed is not None:  # a column alone is not a whole city
        await citykit.load_cities(engine, followed(source))
        assert await scalar(engine, "SELECT count(*) FROM cities") == 2
