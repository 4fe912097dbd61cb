"""A few records as a frame, with the function that pandas keeps for Arrow and without it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pandas.api.internals  # type: ignore[import-not-found]
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.decode import records

NAME = "create_dataframe_from_blocks"
# What becomes slower without it.
LOST = "biggest_cities, nearest_cities, … take half as long again: pd.DataFrame makes their frames."
DTYPES = {"name": "str", "population": "int64", "country": "str", "latitude": "float64", "rank": "int64"}
ROWS: list[tuple[Any, ...]] = [("Ré", 5, "IS", None, 1), ("", 2**40, "x", 1.5, 2)]


def reloaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("records_again", Path(records.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=len)
def test_without_the_block_constructor_the_same_frame_is_made(
    monkeypatch: pytest.MonkeyPatch, rows: list[tuple[Any, ...]]
) -> None:
    assert getattr(records, NAME) is not None
    expected = records.frame_of_records(rows, DTYPES)
    monkeypatch.delattr(pandas.api.internals, NAME)
    for missing in ("a name", "the module"):
        if missing == "the module":
            monkeypatch.setitem(sys.modules, "pandas.api.internals", None)
        without = reloaded()
        assert getattr(without, NAME) is None
        pd.testing.assert_frame_equal(without.frame_of_records(rows, DTYPES), expected, check_exact=True)
    assert expected.dtypes.astype(str).to_dict() == DTYPES


async def test_without_the_block_constructor_questions_are_answered(
    engine: AsyncEngine, three_cities: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    await citykit.load_cities(engine, three_cities)
    expected = [await citykit.biggest_cities(engine, 3), await citykit.find_cities(engine, "lond")]
    monkeypatch.setattr(records, NAME, None)
    for frame, asked in zip(
        [await citykit.biggest_cities(engine, 3), await citykit.find_cities(engine, "lond")],
        expected,
        strict=True,
    ):
        pd.testing.assert_frame_equal(frame, asked, check_exact=True)
