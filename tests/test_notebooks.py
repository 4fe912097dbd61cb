"""Each notebook in a real kernel: it runs on any state, and its committed outputs are current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support.notebooks import FOLDER, PATHS, committed, executed, pictures, queued, texts


def test_the_notebooks_are_there() -> None:
    assert [path.stem for path in PATHS] == [
        "01_seed", "02_query", "03_chart", "04_bulk_load", "05_without_await", "06_own_data",
    ]  # fmt: skip


OWN = {"cities", "city_names"}


def tables(engine: AsyncEngine) -> set[str]:
    sql = "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    return set(citykit.run(citykit.read_frame(engine, sql))["tablename"])


@pytest.fixture
def default_database() -> Iterator[AsyncEngine]:
    """An engine on the user's database, without citykit's tables."""
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.execute(engine, "DROP TABLE IF EXISTS cities, city_names"))
    yield engine
    citykit.run(engine.dispose())


@pytest.mark.kernel
@pytest.mark.parametrize("queue", [False, True], ids=["one by one, empty table", "queued, full table"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs_from_a_fresh_kernel_and_its_outputs_are_current(
    path: Path, queue: bool, world: pd.DataFrame, tutorial: AsyncEngine, default_database: AsyncEngine
) -> None:
    theirs = tables(default_database)
    if queue:
        citykit.run(citykit.load_cities(tutorial, world))
    citykit.run(tutorial.dispose())
    old, fresh = committed(path), (queued if queue else executed)(path)
    how = f"the outputs of {path.name} are stale: python -m tests.support.notebooks renews them"
    assert texts(fresh) == texts(old), how
    assert len(pictures(fresh)) == len(pictures(old)), how
    for new, was in zip(pictures(fresh), pictures(old), strict=True):
        assert new.shape == was.shape, how
        assert np.sqrt(np.mean((new - was) ** 2)) < 0.02, how
    assert tables(default_database) == theirs  # nothing was left in the user's database
    assert tables(tutorial) == OWN  # nor anything but the world's cities in the tutorial's
    stored = citykit.run(citykit.read_frame(tutorial, "SELECT count(*) FROM cities"))["count"].item()
    assert stored in (0, len(world))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_teaches(path: Path) -> None:
    notebook = committed(path)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "**What you will learn:**" in prose
    assert "**Try next:**" in prose
    assert "GeoNames" in prose
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= 9 for cell in code)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = str(texts(notebook))
    assert "Traceback" not in shown
    assert str(FOLDER.parent) not in shown
    assert str(Path.home()) not in shown


def test_the_chart_is_a_picture() -> None:
    found = pictures(committed(FOLDER / "03_chart.ipynb"))
    assert len(found) == 5
    for picture in found:
        assert min(picture.shape[:2]) > 300
        assert 0.02 < np.mean(picture[..., :3] < 0.9) < 0.7  # neither blank nor black
