"""Files to frames, without a database."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import citykit
from citykit.cities import read_cities


def whole(path: Path) -> pd.DataFrame:
    chunks: Any = read_cities(path)
    frame: pd.DataFrame = pd.concat(
        [chunk if isinstance(chunk, pd.DataFrame) else chunk.to_pandas() for chunk in chunks]
    )
    return frame


CSV = """name,country,population,latitude
Windhoek,NA,268132,-22.55941
"London, the old one",GB,8961989,
null,,1,0.1
007,XX,5,1e1
"""


def test_a_csv_file_is_read_without_guesses(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text(CSV, encoding="utf-8")
    frame = whole(tmp_path / "cities.csv")
    assert frame["name"].tolist() == ["Windhoek", "London, the old one", "null", "007"]
    assert frame["country"].fillna("missing").tolist() == ["NA", "GB", "missing", "XX"]
    assert frame["population"].tolist() == [268132, 8961989, 1, 5]
    assert frame["latitude"].fillna(-1).tolist() == [-22.55941, -1, 0.1, 10]


def test_a_csv_file_with_a_byte_order_mark_and_quoted_line_ends(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_bytes('\ufeffname,population\r\n"a\r\nb",1\r\n"",2\r\n'.encode())
    frame = whole(tmp_path / "cities.csv")
    assert frame["name"].fillna("missing").tolist() == ["a\r\nb", "missing"]
    assert frame["population"].tolist() == [1, 2]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_csv_file_of_a_header_alone_has_its_columns_and_no_row(tmp_path: Path, end: str) -> None:
    (tmp_path / "cities.csv").write_text(f"name,population{end}")
    frame = whole(tmp_path / "cities.csv")
    assert frame.columns.tolist() == ["name", "population"]
    assert frame.empty


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text('name,population\na,1\n"b,2\n' + "c,3\n" * 600_000)
    with pytest.raises(citykit.CitykitError, match="longer than 1,048,576 bytes; perhaps a quote is never"):
        whole(tmp_path / "cities.csv")


def test_numbers_in_a_csv_file_are_not_rounded(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text("name,population\na,0.99999999999999999999\nb,5.0\nc,1e3\n")
    assert whole(tmp_path / "cities.csv")["population"].tolist() == [
        Decimal("0.99999999999999999999"),
        5,
        1000,
    ]


@pytest.mark.parametrize("number", ["0.99999999999999999999", "1.00000000000000000001"])
@pytest.mark.parametrize("other", ["1", '"many"'])
def test_numbers_in_an_ndjson_file_are_not_rounded(tmp_path: Path, number: str, other: str) -> None:
    lines = [f'{{"name": "a", "population": {each}, "latitude": 1.5}}' for each in (number, other)]
    (tmp_path / "cities.ndjson").write_text("\n".join(lines))
    frame = whole(tmp_path / "cities.ndjson")
    assert frame["population"].tolist() == [Decimal(number), json.loads(other)]
    assert frame["latitude"].tolist() == [1.5, 1.5]


def test_a_word_among_numbers_stays_a_word(tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text("name,population\na,1\nb,many\nc,3\n", encoding="utf-8")
    assert whole(tmp_path / "cities.csv")["population"].tolist() == [1, "many", 3]


def test_a_parquet_file(tmp_path: Path, three_cities: pd.DataFrame) -> None:
    three_cities.to_parquet(tmp_path / "cities.parquet")
    pd.testing.assert_frame_equal(whole(tmp_path / "cities.parquet"), three_cities)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nowhere.csv", None),
        ("empty.csv", b""),
        ("latin.csv", "name,population\nZürich,5\n".encode("latin-1")),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n"),
        ("longer.csv", b"name,population\nParis,75,2000000\n"),
        ("text.parquet", b"name"),
        ("cities.json", json.dumps([]).encode()),
        ("cities", b""),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(citykit.CitykitError, match=name) as caught:
        whole(tmp_path / name)
    assert "\n" not in str(caught.value)
