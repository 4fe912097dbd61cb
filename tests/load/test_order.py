"""In which order rows reach the file of a table, and which numbers they have there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.order import costliest
from citykit.load.source import CHUNK_ROWS
from tests.support.database import execute, scalar

ROWS = CHUNK_ROWS + 10_000  # a batch and a part of one


def scattered(rows: int = ROWS, seed: int = 1) -> pd.DataFrame:
    """Cities of five countries in random order."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "name": [f"city {seed}.{number}" for number in range(rows)],
            "country": random.choice(["AT", "BE", "CH", "DE", "EE"], rows),
            "population": random.integers(0, 10**6, rows),
        }
    )


async def in_the_order_of(engine: AsyncEngine, column: str) -> pd.DataFrame:
    async with engine.connect() as connection:
        sql = f"SELECT id, name, country, population FROM cities ORDER BY {column}"  # noqa: S608
        rows = (await connection.execute(text(sql))).all()
    return pd.DataFrame([tuple(row) for row in rows], columns=["id", "n", "c", "p"])


@pytest.mark.parametrize("source", ["frame", "stream"])
async def test_the_numbers_follow_the_frame_and_the_file_an_index(engine: AsyncEngine, source: str) -> None:
    frame = scattered()
    assert (await citykit.load_cities(engine, frame if source == "frame" else iter([frame]))).inserted == ROWS
    by_number = await in_the_order_of(engine, "id")
    assert by_number["n"].tolist() == frame["name"].tolist()
    assert by_number["id"].tolist() == list(range(1, ROWS + 1))
    by_place = (await in_the_order_of(engine, "ctid"))[["c", "p"]]
    for batch in (by_place[:CHUNK_ROWS], by_place[CHUNK_ROWS:]):
        assert batch.equals(batch.sort_values(["c", "p"]))
    assert (await citykit.add_city(engine, "one more", 1)).id == ROWS + 1


async def test_a_rebuild_beside_other_rows_goes_on_with_the_numbers(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "the first", 1)
    frame = scattered()
    report = await citykit.load_cities(engine, frame)
    assert report.plan == "copy and rebuild"
    assert (await in_the_order_of(engine, "id"))["n"].tolist() == ["the first", *frame["name"]]
    assert (await citykit.add_city(engine, "one more", 1)).id == ROWS + 2


async def test_rows_that_are_left_out_leave_no_gap_in_the_numbers(engine: AsyncEngine) -> None:
    frame = scattered()
    frame.loc[::3, "population"] = -1
    await citykit.load_cities(engine, frame, on_invalid="skip")
    numbers = await in_the_order_of(engine, "id")
    assert numbers["n"].tolist() == frame["name"][frame["population"] >= 0].tolist()
    assert numbers["id"].tolist() == list(range(1, len(numbers) + 1))
    assert (await citykit.add_city(engine, "one more", 1)).id == len(numbers) + 1


async def test_a_load_that_fails_leaves_the_numbers_as_they_were(engine: AsyncEngine) -> None:
    frame = scattered()
    with pytest.raises(citykit.DuplicateKeyError):
        await citykit.load_cities(engine, pd.concat([frame, frame[:1]]))
    assert await scalar(engine, "SELECT NOT is_called AND last_value = 1 FROM cities_id_seq")


@pytest.mark.parametrize("policy", ["skip", "update"])
async def test_repeats_follow_the_frame_not_the_file(engine: AsyncEngine, policy: Any) -> None:
    frame = scattered()
    again = frame.sample(20_000, random_state=2).assign(population=lambda rows: rows["population"] % 1000)
    both = pd.concat([frame, again], ignore_index=True)
    report = await citykit.load_cities(engine, iter([both]), on_conflict=policy)
    assert report.plan == "join and rebuild"
    kept = both.drop_duplicates(["name", "country"], keep="first" if policy == "skip" else "last")
    found = (await in_the_order_of(engine, "id")).set_index("n")["p"]
    assert found.sort_index().to_dict() == kept.set_index("name")["population"].sort_index().to_dict()


async def test_a_sequence_without_enough_numbers_is_an_error(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE cities ALTER COLUMN id SET MAXVALUE 1000"))
    with pytest.raises(Exception, match="reached maximum value of sequence"):
        await citykit.load_cities(engine, scattered())
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


async def test_a_sequence_is_never_set_back(engine: AsyncEngine) -> None:
    await execute(
        engine,
        "DROP TABLE IF EXISTS counted",
        "CREATE TABLE counted (id serial PRIMARY KEY, v int)",
        "INSERT INTO counted SELECT n, n FROM generate_series(1, 50) AS n",
    )
    frame = pd.DataFrame({"id": [3], "v": [0]})
    for state, expected in (("51, false", 51), ("60, true", 61), ("2, false", 4)):
        await execute(engine, f"SELECT setval('counted_id_seq', {state})")
        await citykit.load_frame(engine, frame, "counted", key="id", on_conflict="update")
        assert await scalar(engine, "SELECT nextval('counted_id_seq')") == expected
    await execute(engine, "DROP TABLE counted")


async def test_a_file_whose_order_an_index_is_made_of_stays_in_the_order_of_the_frame(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE INDEX by_place ON cities USING brin (population)"))
    frame = scattered().sort_values("population", ignore_index=True)
    await citykit.load_cities(engine, frame)
    assert (await in_the_order_of(engine, "ctid"))["n"].tolist() == frame["name"].tolist()


def test_the_costliest_index_is_the_one_whose_first_column_repeats_the_most() -> None:
    rows = pa.table({"many": range(100), "few": [0, 1] * 50, "lists": [[1]] * 100})
    assert costliest(rows, [["many", "few"], ["few", "many", "lists"], ["few"]]) == ["few", "many"]
    assert costliest(rows, [["few", "lists"]]) == ["few"]
    assert costliest(rows, [["many"], ["lists"], ["absent", "few"]]) == []
    assert costliest(rows, []) == []
