"""Columns of lists through files: what a frame was written as is loaded, and what is no list is refused."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.files import format_of, writing
from tests.support.tables import created, every_type

TEXTS = [
    "it's", 'say "hi"', "both ' and \"", "a, b", "[x]", "{}", "back\\slash", "\\n", "line\nbreak", "\x01",
    "é 中 \u200b\U0001f600", "None", "null", "nan", "", " ", "1",
]  # fmt: skip
LISTS: dict[str, list[Any]] = {
    "texts": [TEXTS, [], None, [None, "a"], ["'"], ['"']],
    "integers": [[1, -2, None], [], None, [0], [2**31 - 1], [5]],
    "doubles": [[0.1, 1e-300, -2.5, None], [], None, [1e22], [0.1 + 0.2], [1.0]],
}
TABLE = every_type(*LISTS)
NO_LISTS = [
    "Peking, Pekin", "Peking", "['a' 'b']", "['a', 'b'", "{a,b}", "['a'] + ['b']", "['a', b'x']", "(1, 2)",
    "[__import__('os').getcwd()]", "['\\d']", "['\\U00ffffff']", '{"a": 1}', '"a"', "5", "null ", "['a',]",
    "['a'\n 'b']", "[" * 100_000, "[1, " + "-" * 100_000 + "1, 'a']", "['a', 1.2.3]", "[a, b]", "",
]  # fmt: skip


def frame_of(**columns: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame.insert(0, "key", range(len(frame)))
    return frame


def exported(frame: pd.DataFrame, path: Path) -> None:
    with writing(path, format_of(path)) as write:
        write(frame)


WRITERS: dict[str, tuple[str, Callable[[pd.DataFrame, Path], object]]] = {
    "to_csv": ("x.csv", lambda frame, path: frame.to_csv(path, index=False)),
    "to_csv with semicolons": ("x.csv", lambda frame, path: frame.to_csv(path, index=False, sep=";")),
    "to_json": ("x.json", lambda frame, path: frame.to_json(path, orient="records", double_precision=15)),
    "lines of to_json": (
        "x.ndjson",
        lambda frame, path: frame.to_json(path, orient="records", lines=True, double_precision=15),
    ),
    "to_parquet": ("x.parquet", lambda frame, path: frame.to_parquet(path)),
    "to_feather": ("x.feather", lambda frame, path: frame.to_feather(path)),
    "read_file and to_csv": ("x.csv", lambda frame, path: read_again(frame, path)),
    "export to CSV": ("x.csv", exported),
    "export to JSON": ("x.json", exported),
    "export to lines of JSON": ("x.ndjson", exported),
    "export to Parquet": ("x.parquet", exported),
}


def read_again(frame: pd.DataFrame, path: Path) -> None:
    """Write as CSV what `read_file` makes of a Parquet file: lists, and not NumPy's arrays."""
    frame.to_parquet(path.with_suffix(".parquet"))
    citykit.read_file(path.with_suffix(".parquet")).to_csv(path, index=False)


@pytest.fixture
async def table(engine: AsyncEngine) -> AsyncIterator[sa.Table]:
    async with created(engine, TABLE):
        yield TABLE


@pytest.mark.parametrize("way", WRITERS)
async def test_lists_written_to_a_file_are_loaded_from_it(
    engine: AsyncEngine, table: sa.Table, tmp_path: Path, way: str
) -> None:
    name, write = WRITERS[way]
    lists = dict(LISTS)
    if "to_json" in way:  # of pandas, which rounds to 15 digits
        lists["doubles"] = [[0.1, -2.5, None], [], None, [0.3], [1e15], [1.0]]
    frame = frame_of(**lists)
    write(frame, tmp_path / name)
    report = await citykit.load_frame(engine, tmp_path / name, table)
    assert report.inserted == len(frame)
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(table).order_by("key"))
        assert [dict(row) for row in rows.mappings()] == frame.to_dict("records")


@pytest.mark.parametrize("suffix", ["csv", "json", "ndjson", "parquet", "feather", "xlsx"])
async def test_the_worlds_cities_go_round_through_a_file_with_their_other_names(
    engine: AsyncEngine, world: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    cities, path = world.head(500), tmp_path / f"cities.{suffix}"
    match suffix:
        case "json" | "ndjson":
            cities.to_json(path, orient="records", lines=suffix == "ndjson")
        case "parquet" | "feather":
            getattr(cities, f"to_{suffix}")(path)
        case _:
            getattr(cities, {"csv": "to_csv", "xlsx": "to_excel"}[suffix])(path, index=False)
    assert (await citykit.load_cities(engine, path)).inserted == 500
    report = await citykit.load_cities(engine, cities, on_conflict="update")
    assert (report.updated, report.skipped) == (0, 500)  # no name differs
    assert (await citykit.find_cities(engine, "Peking", 1))["name"].item() == "Beijing"


@pytest.mark.parametrize("text", NO_LISTS, ids=lambda text: repr(text[:20]))
async def test_text_that_is_no_list_is_a_reject(engine: AsyncEngine, text: str) -> None:
    """Also what Python would make another list of: 'a' 'b' is 'ab' to it."""
    table = every_type("texts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Python's own, of an escape
        for values in ([["a"], text], [text]):
            for dtype in ("object", "str") if len(values) == 1 else ("object",):
                frame = frame_of(texts=values).astype({"texts": dtype})
                with pytest.raises(citykit.InvalidFrameError, match="nothing was loaded") as caught:
                    await citykit.load_frame(engine, frame, table)
                [reject] = caught.value.rejects.to_dict("records")
                assert (reject["row"], reject["reason"]) == (len(values) - 1, 'not a list such as ["a", "b"]')


@pytest.mark.parametrize(
    "text", ['["a", 1]', "['a', 1]", "[True]", "[true]", "[1.5]", "[['a']]", '[{"a": 1}]']
)
async def test_an_element_of_another_type_is_a_reject(engine: AsyncEngine, text: str) -> None:
    with pytest.raises(citykit.InvalidFrameError) as caught:
        await citykit.load_frame(engine, frame_of(texts=[text]), every_type("texts"))
    assert caught.value.rejects["reason"][0].startswith(("element", "not a list"))


@pytest.mark.parametrize("source", ["a frame", "a file", "a file whose column is renamed", "a JSON file"])
@pytest.mark.parametrize("mark", [";", "|", ", ", ","])
async def test_separated_texts_are_told_the_line_that_makes_lists_of_them(
    engine: AsyncEngine, table: sa.Table, tmp_path: Path, mark: str, source: str
) -> None:
    given = frame_of(texts=[f"Peking{mark}Pe king", "Wien", None])
    renaming: dict[str, Any] = {"rename": {"also": "texts"}} if "renamed" in source else {}
    path = tmp_path / ("x.json" if "JSON" in source else "x.csv")
    loaded: Any = given if source == "a frame" else path
    if renaming:
        given = given.rename(columns={"texts": "also"})
    if "JSON" in source:
        given.to_json(path, orient="records")
    elif source != "a frame":
        given.to_csv(path, index=False)
    with pytest.raises(citykit.InvalidFrameError) as caught:
        await citykit.load_frame(engine, loaded, table, **renaming)
    names: dict[str, Any] = {"frame": given, "citykit": citykit, "np": np}
    hint = str(caught.value).splitlines()[2:]
    assert len(hint) == (1 if source == "a frame" else 2)
    exec("\n".join(hint), names)  # noqa: S102  it is typed as it is said
    await citykit.load_frame(engine, names["frame"], table, **renaming)
    async with engine.connect() as connection:
        found = (await connection.execute(sa.select(table.c.texts).order_by("key"))).scalars().all()
    assert found == [["Peking", "Pe king"], ["Wien"], None]
