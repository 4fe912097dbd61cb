"""Files to frames: what is read, and the one error of what cannot be. No database is involved."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

import citykit
from citykit.encode import Names
from citykit.files import FileSource, located, streams

TEXTS = {"name": ["Windhoek", "London, the old one", "null", "007"], "country": ["NA", "GB", "", "XX"]}
NUMBERS = {"population": [268_132, 8_961_989, 1, 5], "latitude": [-22.55941, None, 0.5, 10.0]}
TABLE = pa.table({**TEXTS, **NUMBERS})


def delimited(delimiter: str, end: str = "\n") -> str:
    frame = TABLE.to_pandas(
        types_mapper=lambda type_: pd.Int64Dtype() if pa.types.is_integer(type_) else None
    )
    return str(frame.to_csv(index=False, sep=delimiter, lineterminator=end))


def packed_in_zip(data: bytes, *names: str) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("folder/cities.csv",):
            archive.writestr(name, data)
    return out.getvalue()


def in_arrow(write: Callable[[Any, pa.Schema], Any], table: pa.Table = TABLE) -> bytes:
    with write(out := io.BytesIO(), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


def in_parquet(table: pa.Table = TABLE, **options: Any) -> bytes:
    parquet.write_table(table, out := io.BytesIO(), **options)
    return out.getvalue()


def in_excel() -> bytes:
    openpyxl: Any = importlib.import_module("openpyxl")
    book = openpyxl.Workbook()
    for row in (TABLE.column_names, *(list(each.values()) for each in RECORDS)):
        book.active.append(row)
    book.save(out := io.BytesIO())
    return out.getvalue()


RECORDS = TABLE.to_pylist()
LINES = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS).encode()
TEXT = delimited(",").encode()
zstd = pa.Codec("zstd").compress(TEXT, asbytes=True)

# A file's name, and what is in it: each is the same rows.
FILES: dict[str, bytes] = {
    "comma.csv": TEXT,
    "tab.tsv": delimited("\t").encode(),
    "tab.csv": delimited("\t").encode(),
    "semicolon.csv": delimited(";").encode(),
    "for-excel.csv": b"sep=;\r\n" + delimited(";", "\r\n").encode(),
    "for-excel-in-quotes.csv": b'\xef\xbb\xbf"SEP=|"\n\n' + delimited("|").encode(),
    "pipe.txt": delimited("|").encode(),
    "line-ends.csv": delimited(",", "\r\n").encode(),
    "old-line-ends.csv": delimited(",", "\r").encode(),
    "no-last-line-end.csv": TEXT.rstrip(),
    "empty-lines.csv": b"\n\n" + TEXT.replace(b"\n", b"\n\n"),
    "no-suffix": TEXT,
    "UPPER.CSV": TEXT,
    "mark.csv": TEXT.decode().encode("utf-8-sig"),
    "utf-16.csv": TEXT.decode().encode("utf-16"),
    "utf-32.csv": TEXT.decode().encode("utf-32"),
    "packed.csv.gz": gzip.compress(TEXT),
    "members.csv.gz": gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:]),
    "packed.csv.zst": zstd,
    "packed.zip": packed_in_zip(TEXT),
    "mac.zip": packed_in_zip(TEXT, "cities.csv", "__MACOSX/._cities.csv"),
    "gzip-as.csv": gzip.compress(TEXT),
    "zip-as.csv": packed_in_zip(TEXT),
    "array.json": json.dumps(RECORDS, ensure_ascii=False).encode(),
    "indented.json": json.dumps(RECORDS, indent=1).encode(),
    "lines-as.json": LINES,
    "lines.ndjson": LINES,
    "lines.jsonl": LINES.replace(b"\n", b"\r\n\r\n"),
    "lines.ndjson.gz": gzip.compress(LINES),
    "array-as.ndjson": json.dumps(RECORDS).encode(),
    "lines-without-suffix": LINES,
    "mark-without-suffix": json.dumps(RECORDS).encode("utf-8-sig"),
    "utf-16-without-suffix": json.dumps(RECORDS).encode("utf-16"),
    "one.parquet": in_parquet(row_group_size=2),
    "parquet-as.csv": in_parquet(),
    "parquet.gz": gzip.compress(in_parquet()),
    "of-pandas.parquet": in_parquet(pa.Table.from_pandas(TABLE.to_pandas().set_axis([5, 6, 7, 8]))),
    "file.arrow": in_arrow(pa.ipc.new_file),
    "stream.arrow": in_arrow(pa.ipc.new_stream),
    "stream.arrows": in_arrow(pa.ipc.new_stream),
}  # fmt: skip
WORKBOOK = "book.xlsx"
if importlib.util.find_spec("openpyxl"):
    FILES[WORKBOOK] = in_excel()


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def same_rows(frame: pd.DataFrame) -> None:
    """Assert that these are the rows of `TABLE`, as far as the file said what they are."""
    assert frame.columns.tolist() == TABLE.column_names
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert str(frame["name"].dtype) == "str"
    assert frame["name"].tolist() == TEXTS["name"]
    assert frame["country"].fillna("").tolist() == TEXTS["country"]
    assert [int(each) for each in frame["population"]] == NUMBERS["population"]
    assert [None if pd.isna(each) else float(each) for each in frame["latitude"]] == NUMBERS["latitude"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_whatever_it_is(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, FILES[name])
    same_rows(citykit.read_file(path))
    same_rows(citykit.read_file(str(path)))
    with path.open("rb") as file:
        same_rows(citykit.read_file(file))
    same_rows(citykit.read_file(io.BytesIO(FILES[name])))
    source = citykit.open_file(path)
    for _ in range(2):  # as often as it is asked for
        assert sum(len(piece) for piece in source) == 4
    assert source.total_bytes == len(FILES[name])


def test_feather(tmp_path: Path) -> None:
    feather.write_feather(TABLE, str(tmp_path / "cities.feather"))
    same_rows(citykit.read_file(tmp_path / "cities.feather"))


def test_text_stays_text(tmp_path: Path) -> None:
    texts = [
        "NA",
        "null",
        "NaN",
        "007",
        "1e3",
        "1.50",
        "True",
        "2024-01-01",
        " a ",
        "#N/A",
        "0x1F",
        'a "b"',
        "a\nb",
    ]
    frame = pd.DataFrame({"x": texts})
    for name, data in (
        ("a.csv", frame.to_csv(index=False)),
        ("a.ndjson", frame.to_json(orient="records", lines=True)),
        ("a.json", frame.to_json(orient="records")),
    ):
        found = citykit.read_file(written(tmp_path / name, data))
        assert found["x"].tolist() == texts
        assert str(found["x"].dtype) == "str"


def test_an_empty_field_is_missing_quoted_or_not(tmp_path: Path) -> None:
    frame = citykit.read_file(written(tmp_path / "a.csv", 'a,b\n1,\n2,""\n3," "\n'))
    assert frame["b"].fillna("missing").tolist() == ["missing", "missing", " "]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", ":", "~"])
@pytest.mark.parametrize("others", ['"a;b|c,d\te:f~g"', "x"])
def test_a_delimiter_within_quotes_is_text(tmp_path: Path, delimiter: str, others: str) -> None:
    rows = [["name", "note"], ["a", others], ["b", others]]
    path = written(tmp_path / "a.csv", "\n".join(delimiter.join(row) for row in rows))
    given = {"delimiter": delimiter} if delimiter in ":~" else {}
    frame = citykit.read_file(path, **given)  # type: ignore[arg-type]
    assert frame["note"].tolist() == [others.strip('"')] * 2


@pytest.mark.parametrize(("field", "value"), [('"x,"', "x,"), ('"x\n"', "x\n"), ('""', None)], ids=repr)
def test_a_quote_at_the_end_of_a_file_closes_what_was_opened(
    tmp_path: Path, field: str, value: str | None
) -> None:
    for end in ("", "\n", "\r\n\r\n"):
        frame = citykit.read_file(written(tmp_path / "a.csv", f"a,b\n1,2\n3,{field}{end}"))
        assert [None if pd.isna(each) else each for each in frame["b"]] == ["2", value]


@pytest.mark.parametrize("before", [-2, -1, 0])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_a_line_end_within_quotes_stays_where_arrow_cuts_a_file(
    tmp_path: Path, end: str, before: int
) -> None:
    path = tmp_path / "quoted.csv"
    begin = f"a,b{end}"
    long = "x" * (2**20 + before - len(f'{begin}1,"'))
    values = [f"{long}{end}y", f"{end}z", ""]
    rows = "".join(f'{number},"{value}"{end}' for number, value in enumerate(values, 1))
    path.write_bytes((begin + rows).encode())
    assert citykit.read_file(path)["b"].fillna("").tolist() == values


def test_the_delimiter_of_a_header_is_the_one_that_all_rows_have(tmp_path: Path) -> None:
    frame = citykit.read_file(
        written(tmp_path / "a.csv", "name;people, in thousands;lat\na;5,5;1,5\nb;6;2,5\n")
    )
    assert frame.columns.tolist() == ["name", "people, in thousands", "lat"]


@pytest.mark.parametrize(
    "text", ["name\nParis\n", "name\nParis, France\nRome\n", 'name\n"a,b"\n', "name", "name\n"]
)
def test_one_column_is_one_column(tmp_path: Path, text: str) -> None:
    frame = citykit.read_file(written(tmp_path / "a.csv", text))
    assert frame.columns.tolist() == ["name"]
    assert len(frame) == max(len(text.splitlines()) - 1, 0)


def test_a_header_alone_has_its_columns_and_no_row(tmp_path: Path) -> None:
    for text in ("name,population", "name,population\n", "name,population\r\n", "\ufeffname,population\n\n"):
        frame = citykit.read_file(written(tmp_path / "a.csv", text))
        assert (frame.columns.tolist(), len(frame)) == (["name", "population"], 0)


@pytest.mark.slow
def test_ten_thousand_columns(tmp_path: Path) -> None:
    names = [f"a column of many, number {number}" for number in range(10_000)]
    text = ",".join(f'"{name}"' for name in names) + "\n" + ",".join("1" * 10_000) + "\n"
    assert citykit.read_file(written(tmp_path / "a.csv", text)).columns.tolist() == names


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "cp437", "shift_jis"])
def test_an_encoding_that_is_named(tmp_path: Path, encoding: str) -> None:
    letters = "東京" if encoding == "shift_jis" else "Zürich"
    path = written(tmp_path / "a.csv", f"name,population\n{letters},5\n".encode(encoding))
    assert citykit.read_file(path, encoding=encoding)["name"].tolist() == [letters]


@pytest.mark.parametrize(
    ("given", "written_in"),
    [
        ("UTF-16", "utf-16"),
        ("utf16", "utf-16"),
        ("UTF-16-LE", "utf-16"),
        ("UTF-8", "utf-8-sig"),
        ("utf8", "utf-8-sig"),
    ],
)
def test_an_encoding_fits_its_byte_order_mark_however_it_is_spelled(
    tmp_path: Path, given: str, written_in: str
) -> None:
    for name, text in (("a.csv", TEXT.decode()), ("a.json", json.dumps(RECORDS)), ("b.json", LINES.decode())):
        data = text.encode(written_in)
        for source in (written(tmp_path / name, data), io.BytesIO(data), io.BytesIO(gzip.compress(data))):
            same_rows(citykit.read_file(source, encoding=given))


def test_columns_and_new_names(tmp_path: Path) -> None:
    for name in ("comma.csv", "lines.ndjson", "array.json", "one.parquet", "file.arrow", "stream.arrows"):
        path = written(tmp_path / name, FILES[name])
        for picked in (["population", "name"], ["population", "city"]):  # by the old name or the new one
            frame = citykit.read_file(path, columns=picked, rename={"name": "city"})
            assert frame.columns.tolist() == ["population", "city"]
        assert frame["city"].tolist() == TEXTS["name"]
        for wrong in ({"columns": ["nam"]}, {"rename": {"nam": "x"}}):
            with pytest.raises(citykit.CitykitError, match=r"no column 'nam' \(did you mean 'name'\?\)"):
                citykit.read_file(path, **wrong)
        with pytest.raises(citykit.CitykitError, match="two of its columns would be called 'name'"):
            citykit.read_file(path, rename={"country": "name"})
        with pytest.raises(citykit.CitykitError, match="two of its columns would be called 'x'"):
            citykit.read_file(path, rename={"name": "x", "country": "x"}, columns=["x"])
        once: Any = iter(["name"])
        assert citykit.read_file([path, path], columns=once).columns.tolist() == ["name"]
        options: dict[str, Any] = {"columns": frame.columns, "rename": {"name": "city"}}
        assert citykit.read_file(path, **options).columns.tolist() == ["population", "city"]


@pytest.mark.parametrize("asked", ["POPULATION", "City Name", "city-nmae", "popul"])
def test_a_file_and_a_frame_suggest_the_same_column(tmp_path: Path, asked: str) -> None:
    path = written(tmp_path / "a.csv", "city_name,population\na,1\n")
    with pytest.raises(citykit.CitykitError) as of_file:
        citykit.read_file(path, columns=[asked])
    with pytest.raises(citykit.InvalidFrameError) as of_frame:
        Names(columns=[asked]).renamed(citykit.read_file(path))
    meant = "population" if asked[0] in "Pp" else "city_name"
    for caught in (of_file, of_frame):
        assert f"(did you mean {meant!r}?)" in str(caught.value)


def test_columns_that_have_no_name_or_repeat_are_read_only_where_others_are_picked(tmp_path: Path) -> None:
    for text, said in (
        (",a\n0,1\n", "column 1 has no name"),
        ("a,b,b\n1,2,3\n", "columns 2 and 3 are all called 'b'"),
    ):
        path = written(tmp_path / "a.csv", text)
        with pytest.raises(citykit.CitykitError, match=said) as caught:
            citykit.read_file(path)
        assert typed(caught.value)["a"].tolist() == ["1"]


def typed(error: BaseException) -> Any:
    """Return what comes of typing what an error says."""
    call = str(error)[str(error).index("citykit.read_file(") :]
    return eval(call, {"citykit": citykit})  # noqa: S307


def test_marks_for_numbers_travel_with_the_frame_and_with_each_batch(tmp_path: Path) -> None:
    path = written(tmp_path / "de.csv", "name;population\nBerlin;3.600.000\n")
    frame = citykit.read_file(path, thousands=".", decimal=",")
    assert frame["population"].tolist() == ["3.600.000"]  # text is text
    notes = {"thousands": ".", "decimal": ",", "read": f'citykit.read_file("{path}"'}
    assert frame.attrs == {"citykit": notes}
    [batch] = citykit.open_file(path, thousands=".", decimal=",")
    assert json.loads(batch.schema.metadata[b"citykit"]) == notes


def test_numbers_in_json_are_not_rounded(tmp_path: Path) -> None:
    numbers = [
        "0.99999999999999999999",
        "1.00000000000000000001",
        "9007199254740993",
        "0.1",
        "1e400",
        "5",
        "-7.25",
    ]
    for other in ("1", '"many"'):
        lines = [f'{{"x": {number}}}' for number in ["1", *numbers, other]]
        for name, text in (("a.ndjson", "\n".join(lines)), ("a.json", f"[{','.join(lines)}]")):
            frame = citykit.read_file(written(tmp_path / name, text))
            found = [Decimal(repr(each)) if isinstance(each, float) else each for each in frame["x"]]
            assert found[1:-1] == [Decimal(number) for number in numbers]


def test_columns_of_json_lines_that_come_late_are_read_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.files.json_files.BLOCK_BYTES", 64)
    lines = ['{"a": 1}\n'] * 20 + ['{"a": 2, "b": "x"}\n'] * 9 + ['{"c": 1.5, "a": 3}\n', '{"b": null}']
    path = written(tmp_path / "a.ndjson", "".join(lines))
    with pytest.raises(citykit.CitykitError, match=r"has 'b', which none before it has") as caught:
        citykit.read_file(path)
    typed = str(caught.value).rpartition(" Read it with ")[2]
    found = eval(typed, {"citykit": citykit})  # noqa: S307
    expected = pd.DataFrame([json.loads(line) for line in lines])
    assert found.columns.tolist() == ["a", "b", "c"]
    assert (
        found.astype(object)
        .where(found.notna(), None)
        .equals(expected.astype(object).where(expected.notna(), None))
    )
    assert citykit.read_file(path, columns=["x"], rename={"c": "x"})["x"].dropna().tolist() == [1.5]
    with pytest.raises(citykit.CitykitError, match=r"no column 'd'"):
        citykit.read_file(path, columns=["a", "d"])


def test_numbers_in_json_lines_are_not_rounded_in_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.files.json_files.BLOCK_BYTES", 64)
    numbers = [*range(100), 0.5, "9007199254740993.5", "0.30000000000000000001", 7]
    path = written(tmp_path / "a.ndjson", "\n".join(f'{{"x": {number}}}' for number in numbers))
    found = [
        Decimal(repr(each)) if isinstance(each, float) else Decimal(each)
        for each in citykit.read_file(path)["x"]
    ]
    assert found == [Decimal(str(number)) for number in numbers]


@pytest.mark.parametrize("text", ['{"v": {"a": 1, "a": 2}}\n', '[{"v": {"a": 1, "a": 2}}]'])
def test_of_a_name_twice_in_a_value_the_last_counts_as_in_jsonb(tmp_path: Path, text: str) -> None:
    frame = citykit.read_file(written(tmp_path / "a.json", text))
    assert frame["v"].tolist() == [{"a": 2}]


@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.xlsx"])
@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**53 + 1] * 8 + [0.5] * 8, "object"),
        ([None] * 8 + [2**53 + 1] * 8, "Int64"),
        ([1] * 16, "Int64"),
        ([True] * 8 + [None] * 8, "boolean"),
        ([0.5] * 8 + [None] * 8, "float64"),
        (["a"] * 8 + [None] * 8, "str"),
    ],
    ids=["integers and floats", "NULLs first", "whole pieces", "booleans", "floats", "text"],
)
def test_a_dtype_is_that_of_all_values_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: list[Any], dtype: str
) -> None:
    monkeypatch.setattr("citykit.files.json_files.BLOCK_BYTES", 64)
    monkeypatch.setattr("citykit.files.json_files.CHUNK_ROWS", 8)
    monkeypatch.setattr("citykit.files.tables.CHUNK_ROWS", 8)
    path = tmp_path / name
    records = [{"n": number, "x": value} for number, value in enumerate(values)]
    if name == "a.xlsx":
        excel(path, [["n", "x"], *(list(each.values()) for each in records)])
        values = [2**53 if value == 2**53 + 1 else value for value in values]  # a workbook has doubles
    elif name == "a.json":
        written(path, json.dumps(records))
    else:
        written(path, "".join(f"{json.dumps(each)}\n" for each in records))
    found = citykit.read_file(path)["x"]
    assert str(found.dtype) == dtype
    assert [None if pd.isna(each) else each for each in found] == values


def test_types_of_parquet_hold_what_they_held(tmp_path: Path) -> None:
    table = pa.table({"i": pa.array([2**62 + 1, None]), "b": [True, None], "d": [Decimal("1.50"), None]})
    frame = citykit.read_file(written(tmp_path / "a.parquet", in_parquet(table)))
    assert frame.dtypes.astype(str).tolist() == ["Int64", "boolean", "object"]
    assert [frame[name][0] for name in frame] == [2**62 + 1, True, Decimal("1.50")]
    source = citykit.open_file(tmp_path / "a.parquet")
    assert source.total_rows == 2


WITHOUT_ROWS = {
    "a.csv": TEXT.splitlines()[0],
    "b.csv": TEXT.splitlines()[0] + b"\n",
    "a.parquet": in_parquet(TABLE.slice(0, 0)),
    "a.arrow": in_arrow(pa.ipc.new_file, TABLE.slice(0, 0)),
    "a.arrows": in_arrow(pa.ipc.new_stream, TABLE.slice(0, 0)),
    "all/a.parquet": in_parquet(TABLE.slice(0, 0)),
}


@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_a_file_without_rows_has_its_columns(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = written(tmp_path / name, WITHOUT_ROWS[name])
    frame = citykit.read_file(path if path.parent == tmp_path else path.parent)
    assert frame.empty
    assert frame.columns.tolist() == TABLE.column_names
    if not name.endswith(".csv"):
        assert frame["latitude"].dtype == "float64"


@pytest.mark.slow
def test_the_number_of_rows_is_estimated_from_the_part_that_was_read(tmp_path: Path) -> None:
    count = 100_000
    path = written(tmp_path / "a.ndjson", '{"name": "Abcdefgh", "population": 12345}\n' * count)
    for source, rows in ((citykit.open_file(path), count), (citykit.open_file([path, path]), 2 * count)):
        assert source.total_rows is None
        assert source.expected_rows() is None
        estimates = [source.expected_rows() for _ in source]
        guessed = [each for each in estimates if each is not None]
        assert len(guessed) > 3  # of two files there is none before the second has begun
        assert all(abs(each - rows) < rows / 100 for each in guessed)
        assert source.expected_rows() == rows


def test_a_directory_of_parquet_files(tmp_path: Path) -> None:
    for country, start in (("NA", 0), ("IS", 2)):
        (tmp_path / "all" / f"country={country}").mkdir(parents=True)
        part = TABLE.drop_columns("country")[start : start + 2]
        written(tmp_path / "all" / f"country={country}" / "a.parquet", in_parquet(part))
    written(tmp_path / "all" / "_SUCCESS", b"")
    frame = citykit.read_file(tmp_path / "all")
    assert frame["country"].tolist() == ["IS", "IS", "NA", "NA"]
    assert sorted(frame["name"]) == sorted(TEXTS["name"])
    assert citykit.open_file(tmp_path / "all").total_rows == 4
    written(tmp_path / "all" / "country=IS" / "b.parquet", in_parquet(pa.table({"name": [1]})))
    with pytest.raises(citykit.CitykitError, match=r"of its file b\.parquet is not as in the first"):
        citykit.read_file(tmp_path / "all")
    written(tmp_path / "all" / "country=IS" / "b.parquet", in_parquet(TABLE)[:100])
    with pytest.raises(
        citykit.CitykitError, match=r"its file b\.parquet is damaged or not complete \(Parquet"
    ):
        citykit.read_file(tmp_path / "all")


def test_hidden_directories_are_left_out_and_no_other_parquet_file(tmp_path: Path) -> None:
    for name in (
        "_temporary/0/a.parquet",
        ".part/a.parquet",
        "_delta_log/1.checkpoint.parquet",
        "_a.parquet",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / name, in_parquet(pa.table({"add": [1]})))
    for name in ("a.parquet", "b.PARQUET", "_x=1/c.pq"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, in_parquet())
    assert citykit.read_file(tmp_path)["name"].tolist() == TEXTS["name"] * 3


def test_a_column_of_the_names_of_directories_is_text_unless_the_files_have_it(tmp_path: Path) -> None:
    for name in ("region=01/k%C3%A4=a%20b/n=1", "region=1/k%C3%A4=c/n=2"):
        (tmp_path / name).mkdir(parents=True)
        written(tmp_path / name / "a.parquet", in_parquet(pa.table({"name": ["a"], "n": [5]})))
    frame = citykit.read_file(tmp_path)
    assert frame.to_dict("list") == {
        "name": ["a"] * 2,
        "n": [5, 5],
        "region": ["01", "1"],
        "kä": ["a b", "c"],
    }
    named = in_parquet(pa.table({"name": ["a"], "n": [5], "region": ["7"]}))
    written(tmp_path / "region=1/k%C3%A4=c/n=2/a.parquet", named)
    with pytest.raises(citykit.CitykitError, match="column 'region' of its file"):
        citykit.read_file(tmp_path)


@pytest.mark.parametrize(
    "options", [{"delimiter": ";"}, {"encoding": "cp1252"}, {"compression": "gzip"}], ids=str
)
def test_options_for_one_file_are_not_dropped_for_a_directory(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    written(tmp_path / "a.parquet", in_parquet())
    with pytest.raises(citykit.CitykitError, match=f"{next(iter(options))}= is for a file"):
        citykit.read_file(tmp_path, **options)


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{number}.csv", f"a,b\n{number},x\n") for number in range(3)]
    assert citykit.read_file(paths)["a"].tolist() == ["0", "1", "2"]
    assert citykit.open_file(paths).total_bytes == sum(path.stat().st_size for path in paths)
    written(paths[2], "a,c\n1,2\n")
    with pytest.raises(citykit.CitykitError, match=r"other columns than .*'b' is in one of them.*=\['a'\]$"):
        citykit.read_file(paths)
    lines = [written(tmp_path / f"{name}.ndjson", f'{{"{name}": "x", "a": "y"}}') for name in "bc"]
    with pytest.raises(citykit.CitykitError, match=r"other columns than .*'b' is in one of them"):
        citykit.read_file(lines)
    mixed = citykit.read_file([lines[0], paths[0], lines[0]])
    assert mixed.to_dict("list") == {"b": ["x"] * 3, "a": ["y", "0", "y"]}
    written(paths[2], "b,a\nx,2\n")
    assert citykit.read_file(paths)["a"].tolist() == ["0", "1", "2"]
    with pytest.raises(ValueError, match="an empty list; nothing was loaded"):
        citykit.read_file([])


def test_open_files_of_text_are_read_from_where_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "a comment\nname,population\nZürich,5\n".encode("cp1252"))
    with path.open(encoding="cp1252") as file:
        file.readline()
        source = citykit.open_file(file)
        for _ in range(2):
            [batch] = source
            assert batch.to_pydict() == {"name": ["Zürich"], "population": ["5"]}  # type: ignore[operator]
    assert citykit.read_file(io.StringIO("a,b\n1,é\n"))["b"].tolist() == ["é"]


def test_an_open_file_of_text_after_next_is_read_from_there(tmp_path: Path) -> None:
    with written(tmp_path / "a.csv", "a comment\nname\nOslo\n").open(encoding="utf-8") as file:
        next(file)
        assert citykit.read_file(file)["name"].tolist() == ["Oslo"]


def test_an_encoding_for_text_that_is_decoded_already_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "name\nZürich\n".encode("cp1252"))
    with path.open(encoding="cp1252") as file:
        for source in (file, io.StringIO("name\nZürich\n")):
            with pytest.raises(
                citykit.CitykitError, match=r"open as text.*nothing was loaded\. Leave encoding= out"
            ):
                citykit.read_file(source, encoding="cp1252")
            source.seek(0)
            assert citykit.read_file(source)["name"].tolist() == ["Zürich"]


@pytest.mark.parametrize("header", ["PK", "PAR1", "ARROW1"])
def test_a_column_may_be_called_as_another_format_begins(tmp_path: Path, header: str) -> None:
    for name in ("a.csv", "a"):
        frame = citykit.read_file(written(tmp_path / name, f"{header},name\n1,a\n"))
        assert frame.to_dict("list") == {header: ["1"], "name": ["a"]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["comma.csv", "utf-16.csv", "packed.zip", "one.parquet", "lines.ndjson"])
def test_a_pipe_that_is_given_by_its_path_is_read_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.parquet" if name == "one.parquet" else tmp_path / "pipe")
    source = citykit.open_file(pipe)
    sender = threading.Thread(target=pipe.write_bytes, args=[FILES[name]], daemon=True)
    sender.start()
    assert sum(len(piece) for piece in source) == 4
    sender.join()
    assert isinstance(source, FileSource)
    assert source.lines_of([0]) == {}
    assert located(str(pipe), [0], ["name"]) == ({}, {})


def test_a_long_pipe_that_is_given_by_its_path_is_read_from_its_beginning() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as other:

        def send() -> None:
            other.write(b"a\n" + b"1\n" * 10**6)
            other.close()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        assert len(citykit.read_file(f"/dev/fd/{read}")) == 10**6
        sender.join()
    os.close(read)


@pytest.mark.parametrize(
    "name",
    ["comma.csv", "packed.zip", "packed.csv.gz", "one.parquet", "lines.ndjson", *(FILES.keys() & {WORKBOOK})],
)
@pytest.mark.slow
def test_a_pipe_and_standard_input_are_read_once(name: str) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb") as other:

        def send() -> None:
            other.write(FILES[name])
            other.close()

        sender = threading.Thread(target=send)
        sender.start()
        same_rows(citykit.read_file(pipe))
        sender.join()
    script = "import citykit; print(citykit.read_file('-')['name'].tolist())"
    done = subprocess.run([sys.executable, "-c", script], input=FILES[name], capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(TEXTS["name"])


def test_the_line_of_a_row_is_found_past_line_ends_and_empty_lines(tmp_path: Path) -> None:
    text = '\n"na\nme",b\n1,2\n\n"3\n\n",4\n5,"6\n"\n7,8\n'
    source = citykit.open_file(written(tmp_path / "a.csv", text))
    assert isinstance(source, FileSource)
    assert source.lines_of([0, 2, 3, 4]) == {0: 4, 2: 9, 3: 11}
    for_excel = citykit.open_file(written(tmp_path / "b.csv", "sep=;\na;b\n1;2\n\n3;4\n"))
    assert isinstance(for_excel, FileSource)
    assert for_excel.lines_of([0, 1]) == {0: 3, 1: 5}
    for name in ("lines.ndjson", "one.parquet"):
        other = citykit.open_file(written(tmp_path / name, FILES[name]))
        assert isinstance(other, FileSource)
        assert other.lines_of([0]) == {}


def test_a_key_of_a_row_is_whole_where_another_is_missing(tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([2**53 + 1, None, 5]), "name": ["a", "b", None]})
    path = written(tmp_path / "a.parquet", in_parquet(table))
    assert located(str(path), [0, 1, 2], ["id", "name"]) == ({}, {0: f"{2**53 + 1}, a", 1: "b", 2: "5"})


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_a_stream_gives_its_bytes_whatever_its_parts(size: int) -> None:
    data = bytes(range(50))
    stream = streams.Stream(data[start : start + 7] for start in range(0, 50, 7))
    found = b""
    while part := stream.head(size):
        assert stream.read(size) == part
        found += part
        assert stream.head(2) == data[len(found) : len(found) + 2]
    assert found == data
    again = streams.Stream(iter([data[:10], data[10:]]))
    assert (again.read(size), again.read(), again.read()) == (data[:size], data[size:], b"")


def test_bytes_are_counted_as_they_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "name,population\n" + "somewhere,5\n" * 500_000)
    source = citykit.open_file(path)
    heard = [source.bytes_read for _ in source]
    assert heard == sorted(heard)
    assert 0 < heard[0] <= heard[-1] <= source.bytes_read == source.total_bytes == path.stat().st_size


def excel(path: Path, *sheets: Any) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="pip install openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets or [[]]):
        sheet = book.create_sheet(f"Sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook(tmp_path: Path) -> None:
    rows = [
        ["name", "population", "since"],
        ["Windhoek", 268_132, datetime(1990, 3, 21)],
        ["NA", None, None],
        ["007", 5.5, None],
    ]
    for name in ("a.xlsx", "named.csv"):
        path = excel(tmp_path / name.replace("csv", "xlsx"), rows, [])
        path = path.rename(tmp_path / name)
        frame = citykit.read_file(path, columns=["name", "population", "since"])
        assert frame["name"].tolist() == ["Windhoek", "NA", "007"]
        assert frame["population"].tolist()[::2] == [268_132, 5.5]
        assert frame["since"][0] == datetime(1990, 3, 21)
    with pytest.raises(
        citykit.CitykitError, match=r"2 sheets \('Sheet 0', 'Sheet 1'\).*sheet_name='Sheet 0'"
    ):
        citykit.read_file(excel(tmp_path / "two.xlsx", rows, rows))
    data = (tmp_path / "two.xlsx").read_bytes()
    for source in (tmp_path / "two.xlsx", io.BytesIO(data)):
        with pytest.raises(citykit.CitykitError, match="2 sheets") as caught:
            citykit.read_file(source)
        call = str(caught.value)[str(caught.value).index("pandas.read_excel(") :]
        assert len(eval(call, {"pandas": pd, "source": source})) == 3  # noqa: S307
    for packed in (gzip.compress(data), packed_in_zip(data)):
        with pytest.raises(
            citykit.CitykitError, match=r"2 sheets .*Save one of them as a file of its own\.$"
        ):
            citykit.read_file(io.BytesIO(packed))
    with pytest.raises(citykit.CitykitError, match="without rows"):
        citykit.read_file(excel(tmp_path / "none.xlsx"))
    with pytest.raises(citykit.CitykitError, match="row 2 has 2 cells where the header has 1"):
        citykit.read_file(excel(tmp_path / "wide.xlsx", [["a"], [1, 2]]))


SHEET = "xl/worksheets/sheet1.xml"


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """Write a workbook again, with other bytes in its sheet."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert old in files[SHEET]
    files[SHEET] = files[SHEET].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:  # not compressed
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_workbook_is_read_beyond_the_range_that_its_writer_declared(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", [["name", "population"], ["a", 1], ["b", 2]])
    frame = citykit.read_file(changed(path, b'ref="A1:B3"', b'ref="A1:A1"'))
    assert frame.to_dict("list") == {"name": ["a", "b"], "population": [1, 2]}


@pytest.mark.parametrize("damage", ["XML", "shared text", "checksum"])
@pytest.mark.slow
def test_a_damaged_sheet_of_a_workbook_is_one_error(tmp_path: Path, damage: str) -> None:
    path = excel(tmp_path / "a.xlsx", [["a"], *([number] for number in range(5_000))])
    if damage == "XML":
        changed(path, b"</sheetData>", b"<")
    elif damage == "shared text":
        changed(path, b't="n"><v>7</v>', b't="s"><v>7</v>')
    else:
        changed(path, b"<v>4321</v>", b"<v>1234</v>")
        path.write_bytes(path.read_bytes().replace(b"<v>1234</v>", b"<v>4321</v>"))
    with pytest.raises(
        citykit.CitykitError, match=r"no Excel workbook that can be read \(.*nothing was loaded"
    ):
        citykit.read_file(path)


def test_a_workbook_without_openpyxl_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = written(tmp_path / "a.xlsx", packed_in_zip(b"", "[Content_Types].xml", "xl/workbook.xml"))
    with pytest.raises(citykit.MissingDependencyError, match="pip install openpyxl"):
        citykit.read_file(path)


LATIN = "name,population\nOslo,1\nZürich,5\n".encode("latin-1")
ENCRYPTED = bytearray(packed_in_zip(TEXT))
for _signature, _flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    ENCRYPTED[ENCRYPTED.index(_signature) + _flags] |= 1

# A file's name, what is in it, and what the error says of it.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "it is empty"),
    "blank.csv": (b"\n\n \n", "it is empty"),
    "empty.parquet": (b"", "empty"),
    "empty.ndjson": (b"\n\n", "it is empty"),
    "empty.csv.gz": (gzip.compress(b""), "it is empty"),
    "latin.csv": (LATIN, r"line 3 has byte 0xfc \(24 bytes.*is no UTF-8.*'Zürich,5'.*encoding=\"cp1252\"\)$"),
    "latin.json": ('{"a": 1}\n{"a": "Zürich"}'.encode("latin-1"), "line 2 has byte 0xfc"),
    "two.csv": ("name,a\nÅlesund,1\n".encode() + LATIN, "line 5 has byte 0xfc.*two encodings"),
    "cut-letter.csv": ("a,b\n1,é".encode()[:-1], "line 2 has byte 0xc3"),
    "long.csv": (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields where the header has 2: '3,4,5'"),
    "short.csv": (b'a,b\n1,"x\ny"\n\n3\n', "line 5 has 1 field where the header has 2"),
    "late.csv": (b"a,b\n" + b"1,2\n" * 400_000 + b"3,4,5\n", "line 400,002 has 3 fields"),
    "comma.csv": (b"name,population,latitude\nBerlin,5,52,5\n", "line 2 has 4 fields.*needs quotes"),
    "quote.csv": (b'a,b\n1,2\n3,"4\n5,6\n', "a quote is opened in the row that begins in line 3"),
    "quote-first.csv": (b'a,b\n"1,2\n3,4\n', "line 2 .*perhaps a quote is never closed"),
    "quote-alone.csv": (b'a\nx\n"y\nz', "a quote is opened in the row that begins in line 3"),
    "quote-last.csv": (b'a,b\n1,2\n3,"\n', "a quote is opened in the row that begins in line 3"),
    "quote-end.csv": (b'a,b\n1,2\n3,"', "a quote is opened in the row that begins in line 3"),
    "quote-escaped.csv": (b'a,b\n1,2\n3,"""\n', "a quote is opened in the row that begins in line 3"),
    "quote-line.csv": (b'a\nx\n"\n', "a quote is opened in the row that begins in line 3"),
    "quote-long.csv": (b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 600_000, "line 3 is longer than 1,048,576 bytes"),
    "nul.csv": (TEXT.decode().encode("utf-16-le"), r"NUL bytes.*encoding=\"utf-16-le\"\)$"),
    "both.csv": (b"a,b;c\n1,2;3\n", r"separated by ',' or ';'.*delimiter=\",\"\)$"),
    "unnamed.csv": (b"name\na,1\nb,2\n", "its header is one column, and all rows have 2 fields"),
    "nameless.csv": (b"a,,b\n1,2,3\n", "column 2 has no name"),
    "one-of-two.zip": (packed_in_zip(TEXT, "a.csv", "b.csv"), r"zip archive of 2 files \(a.csv, b.csv\)"),
    "nothing.zip": (packed_in_zip(b"", "folder/"), "zip archive of no files"),
    "password.zip": (bytes(ENCRYPTED), "needs a password"),
    "cut.zip": (packed_in_zip(TEXT)[:-30], "zip archive is damaged"),
    "cut.csv.gz": (gzip.compress(TEXT)[:-12], "gzip data is damaged or not complete"),
    "wrong.csv.gz": (gzip.compress(TEXT)[:-8] + b"\0" * 8, "gzip data is damaged or not complete"),
    "cut.csv.zst": (zstd[:-10], "zstd data is damaged or not complete"),
    "twice.csv.gz": (gzip.compress(gzip.compress(TEXT)), "packed twice, and holds gzip data"),
    "cut.parquet": (in_parquet()[:-20], "cut.parquet cannot be read"),
    "half.parquet": (in_parquet()[: len(in_parquet()) // 2], "half.parquet cannot be read"),
    "text.parquet": (b"name", "by its name .* 'parquet', and it begins with b'name'"),
    "cut.arrow": (in_arrow(pa.ipc.new_file)[:-30], "cut.arrow cannot be read"),
    "cut.arrows": (in_arrow(pa.ipc.new_stream)[:-50], "cut.arrows cannot be read"),
    "text.xlsx": (b"name", "by its name"),
    "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "an old Excel workbook"),
    "page.csv": (b"<!DOCTYPE html><html></html>", "a web page"),
    "base.csv": (b"SQLite format 3\0" + b"\0" * 100, "a SQLite database"),
    "paper.csv": (b"%PDF-1.7\n", "a PDF document"),
    "packed.csv.bz2": (b"BZh91AY&SY", "bzip2"),
    "word.ndjson": (b'{"a": 1}\nrubbish\n', "line 2 is no JSON that can be read"),
    "list.ndjson": (b'{"a": 1}\n[1]\n', "line 2 is no JSON object"),
    "twice.ndjson": (b'{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', "the object in line 2 has 'a' twice"),
    "twice.json": (b'[{"a": 1}, {"a": 1, "a": 1}]', "object 2 of it has 'a' twice"),
    "deep.ndjson": (b"[" * 20_000, "no JSON"),
    "object.json": (b'{\n"a": 1}', "line 1 is no JSON"),
    "numbers.json": (b"[1, 2]", "no array of JSON objects"),
    "cut.json": (b'[{"a": 1}, {"a"', "no JSON that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, name: str) -> None:
    data, said = UNREADABLE[name]
    path = written(tmp_path / name, data)
    for source in (path,) if said.startswith("by its name") else (path, io.BytesIO(data)):
        with pytest.raises(citykit.CitykitError) as caught:
            citykit.read_file(source)
        assert "nothing was loaded" in str(caught.value)
        assert "\n" not in str(caught.value)
        if source is path:
            assert str(path) in str(caught.value)
            caught.match(said)
            if "citykit.read_file(" in str(caught.value):
                typed(caught.value)


def test_a_stream_that_comes_once_names_its_line_too() -> None:
    script = "import citykit; citykit.read_file('-')"
    done = subprocess.run(
        [sys.executable, "-c", script], input=b"a,b\n1,2\n3\n", capture_output=True, check=False
    )
    assert b"line 3 has 1 field where the header has 2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.ndjson"])
@pytest.mark.parametrize("ends", ["", "del rows", "rows.close()"])
def test_a_process_ends_while_a_file_is_half_read(tmp_path: Path, name: str, ends: str) -> None:
    data = b'{"a": 1}\n' * 1_000_000 if name.endswith("json") else b"a,b\n" + b"1,2\n" * 2_000_000
    path = written(tmp_path / name, gzip.compress(data, 1) if name.endswith("gz") else data)
    script = f"import citykit\nrows = iter(citykit.open_file({str(path)!r}))\nnext(rows)\n{ends}"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=100)


@pytest.mark.parametrize("packing", ["gzip", "zip", "zstd"])
def test_a_zip_bomb_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    monkeypatch.setattr(streams, "UNPACKED_BYTES", 2**21)
    rows = b"name,population\n" + b"somewhere,5\n" * 1_000_000
    pack = {
        "gzip": gzip.compress,
        "zip": packed_in_zip,
        "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    }
    path = written(tmp_path / "a.csv", pack[packing](rows))  # type: ignore[operator]
    with pytest.raises(
        citykit.CitykitError, match=f"its {packing} data unpacks to more than [24],.* Unpack it yourself"
    ):
        citykit.read_file(path)
    monkeypatch.setattr(streams, "UNPACKED_RATIO", 10**9)
    assert len(citykit.read_file(path)) == 1_000_000


@pytest.mark.parametrize("name", ["missing.csv", "citys.csv", "cities", "nowhere/cities.csv", "", "a\0b"])
def test_a_file_that_is_not_there_is_said_with_those_that_are_near(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "cities.csv", TEXT)
    with pytest.raises(citykit.CitykitError, match=r"cannot be read: .*nothing was loaded") as caught:
        citykit.open_file(name)  # at once
    if name in ("citys.csv", "cities"):
        assert 'Did you mean "cities.csv"?' in str(caught.value)


@pytest.mark.parametrize("source", [5, 1.5, True, None, b"a,b\n1,2", {"a": 1}], ids=repr)
def test_what_is_no_path_is_named(source: Any) -> None:
    with pytest.raises(TypeError, match=rf"not {type(source).__name__}; nothing was loaded"):
        citykit.read_file(source)


def test_what_a_person_may_take_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        citykit.CitykitError, match=r"urllib.request.urlretrieve\(\"https://a.org/b.csv\?c=1\", \"b.csv\"\)"
    ):
        citykit.read_file("https://a.org/b.csv?c=1")
    with pytest.raises(citykit.CitykitError, match=r"io.StringIO\(text\)"):
        citykit.read_file("name,population\na,1\n")
    written(tmp_path / "~old.csv", TEXT)
    same_rows(citykit.read_file("~old.csv"))
    written(tmp_path / "~$cities.xlsx", b"\x05Jane Doe")
    with pytest.raises(citykit.CitykitError, match=r"~\$cities.xlsx cannot be read: by its name"):
        citykit.read_file("~$cities.xlsx")
    (tmp_path / "~old.csv").unlink()
    (tmp_path / "~$cities.xlsx").unlink()
    written(tmp_path / "a.txt", "")
    with pytest.raises(citykit.CitykitError, match=r"a directory without a .parquet file.*It has 'a.txt'"):
        citykit.read_file(".")
    (tmp_path / "closed.csv").touch()
    with (tmp_path / "closed.csv").open() as file:
        pass
    with pytest.raises(citykit.CitykitError, match=r"closed.csv cannot be read: it is closed"):
        citykit.read_file(file)
    written(tmp_path / "latin.csv", LATIN)
    with (
        (tmp_path / "latin.csv").open(encoding="utf-8") as file,
        pytest.raises(citykit.CitykitError, match="byte 0xfc"),
    ):
        citykit.read_file(file)
    (tmp_path / "mine.csv").touch(0o000)
    if os.access(tmp_path / "mine.csv", os.R_OK):  # root may
        return
    with pytest.raises(citykit.CitykitError, match="Permission denied"):
        citykit.read_file("mine.csv")


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@a.org/c.csv", "ftp://me:secret@a.org/c.csv", "postgresql://me:secret@h/d",
        "postgresql+asyncpg://me:secret/#?@h/d", "postgresql://h/d?user=me&password=secret", "s3://a/c.csv",
    ],
)  # fmt: skip
def test_a_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(
        citykit.CitykitError, match="not a file on this machine; nothing was loaded"
    ) as caught:
        citykit.read_file(url)
    assert "secret" not in str(caught.value)
    assert "urlretrieve" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ",,"}, {"delimiter": '"'}, {"encoding": "hex"}, {"encoding": "utf-9"},
        {"thousands": ""}, {"thousands": "5"}, {"decimal": "-"},
        {"compression": "rar"},
        {"columns": "name"}, {"columns": [1]}, {"columns": 5}, {"rename": ["a"]}, {"rename": {"a": 1}},
        {"delimiter": 5}, {"encoding": 5}, {"decimal": 5},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_mean_nothing_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        citykit.read_file(written(tmp_path / "a.csv", TEXT), **options)


@pytest.mark.parametrize("options", [{"delimiter": ","}, {"encoding": "cp1252"}])
def test_options_for_text_are_not_dropped_for_other_files(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(citykit.CitykitError, match=r"is for (delimited )?text"):
        citykit.read_file(written(tmp_path / "a.parquet", in_parquet()), **options)


def test_a_named_compression_is_taken_for_what_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", gzip.compress(TEXT))
    same_rows(citykit.read_file(path, compression="gzip"))
    for wrong in ("zip", "zstd"):
        with pytest.raises(citykit.CitykitError, match="damaged or not complete"):
            citykit.read_file(path, compression=wrong)


def test_a_named_encoding_against_the_byte_order_mark_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", TEXT.decode().encode("utf-8-sig"))
    with pytest.raises(citykit.CitykitError, match="byte order mark of utf-8, which is not cp1252") as caught:
        citykit.read_file(path, encoding="cp1252")
    same_rows(typed(caught.value))
