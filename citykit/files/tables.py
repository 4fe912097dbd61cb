"""Files that say the types of their columns: Parquet, Arrow, Excel."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
from pyarrow import dataset, parquet

from citykit.errors import MissingDependencyError
from citykit.files.columns import CHUNK_ROWS, Columns, listed
from citykit.files.streams import ReadError


def read_parquet(file: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, without pandas' index columns (``__index_level_0__``)."""
    with parquet.ParquetFile(file, pre_buffer=False) as opened:
        yield from _picked(opened.schema_arrow, columns, lambda names: opened.iter_batches(columns=names))


def parquet_rows(path: Path) -> int:
    """Return how many rows a Parquet file has, or a directory of them."""
    return sum(parquet.read_metadata(each).num_rows for each in (_inside(path) if path.is_dir() else [path]))


def read_parquet_directory(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all Parquet files in a directory, file by file in the order of their names.

    A directory named ``country=IS`` gives its rows a column ``country``: text, unless the files have one.
    """
    inside = _inside(path)
    directories = [part for file in inside for part in file.relative_to(path).parts[:-1] if "=" in part]
    schemas = {file: _schema(file) for file in inside}
    own = schemas[inside[0]].names
    names = dict.fromkeys(unquote(part.partition("=")[0]) for part in directories)
    named = [name for name in names if name not in own]
    by_name = dataset.partitioning(pa.schema([(name, pa.string()) for name in named]), flavor="hive")
    files = dataset.dataset(inside, partition_base_dir=str(path), partitioning=by_name, format="parquet")
    for file, schema in schemas.items():
        differing = [
            name for name in {*schema.names, *files.schema.names}
            if (name in schema.names) != (name in files.schema.names and name not in named)
            or (name in schema.names and schema.field(name).type != files.schema.field(name).type)
        ]  # fmt: skip
        if differing:
            raise ReadError(f"column {sorted(differing)[0]!r} of its file {file.name} is not as in the first")
    yield from _picked(
        files.schema,
        columns,
        lambda names: files.to_batches(columns=names, batch_readahead=1, fragment_readahead=1),
    )


def _schema(file: Path) -> pa.Schema:
    try:
        return parquet.read_schema(file)
    except (OSError, pa.ArrowException) as exc:
        if getattr(exc, "errno", None):  # it cannot be opened: the message names it
            raise
        said = " ".join(str(exc).split()).rstrip(".")
        raise ReadError(f"its file {file.name} is damaged or not complete ({said})") from exc


def _inside(path: Path) -> list[Path]:
    found = sorted(
        each for each in path.rglob("*")
        if each.suffix.lower() in (".parquet", ".pq") and each.is_file()
        and not any(map(_is_hidden, each.relative_to(path).parts))
    )  # fmt: skip
    if not found:
        others = sorted(each.name for each in path.iterdir())
        raise ReadError(
            "it is a directory without a .parquet file",
            f"It has {listed(others)}." if others else "It is empty.",
        )
    return found


def _is_hidden(name: str) -> bool:
    """Tell whether Spark leaves a file or directory out: ``_temporary``, but not ``_column=1``."""
    return name[0] == "." or (name[0] == "_" and "=" not in name)


def _picked(schema: pa.Schema, columns: Columns, batches: Any) -> Iterator[pa.RecordBatch]:
    of_pandas = schema.pandas_metadata or {}
    labels = [name for name in of_pandas.get("index_columns", []) if str(name).startswith("__index_level_")]
    names = [name for name in schema.names if name not in labels]
    positions, renamed = columns.of(names)
    taken = [names[position] for position in positions]
    empty = True
    for batch in batches(
        None if any("." in name for name in taken) else taken
    ):  # Arrow reads "a.b" as field b of the struct a
        empty = False
        yield batch.select(taken).rename_columns(renamed)
    if empty:
        yield _no_rows(schema, taken, renamed)


def read_arrow_file(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow IPC file (Feather)."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        yield from _valid(reader.schema, columns, batches)


def read_arrow_stream(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow IPC stream."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield from _valid(reader.schema, columns, reader)


def _valid(schema: pa.Schema, columns: Columns, batches: Any) -> Iterator[pa.RecordBatch]:
    positions, renamed = columns.of(schema.names)
    empty = True
    for batch in batches:
        batch.validate(full=True)  # offsets and UTF-8 may be wrong, and later code relies on them
        empty = False
        yield batch.select(positions).rename_columns(renamed)
    if empty:
        yield _no_rows(schema, [schema.names[position] for position in positions], renamed)


def _no_rows(schema: pa.Schema, names: list[str], renamed: list[str]) -> pa.RecordBatch:
    """Return a batch without rows, so that the columns are checked."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, schema.field(name).type) for name in names], renamed)


def read_excel(path: Path, columns: Columns, name: str, source: str | None) -> Iterator[pd.DataFrame]:
    """Yield the rows of a workbook's sheet, whose first row has the names of the columns.

    `source` is what pandas.read_excel() takes for this workbook; None: nothing.

    Raises
    ------
    MissingDependencyError
        If openpyxl is not installed.
    ReadError
        If the workbook is damaged, or several of its sheets have rows.
    """
    try:
        openpyxl: Any = importlib.import_module("openpyxl")
    except ImportError as exc:
        raise MissingDependencyError(
            f"{name} is an Excel workbook, for which openpyxl is needed; nothing was loaded. "
            "Install it: pip install openpyxl"
        ) from exc
    with ExitStack() as stack:
        opened = stack.enter_context(path.open("rb"))  # openpyxl refuses paths with other suffixes
        with _undamaged():
            book = openpyxl.load_workbook(opened, read_only=True, data_only=True)
        stack.callback(book.close)
        filled = [sheet for sheet in book.worksheets if next(_rows(sheet), None)]
        if not filled:
            raise ReadError("it is a workbook without rows")
        if len(filled) > 1:
            titles = [sheet.title for sheet in filled]
            what = f"it is a workbook of {len(filled)} sheets ({listed(titles)})"
            if source is None:
                raise ReadError(what, "Save one of them as a file of its own.")
            raise ReadError(
                what,
                f"Read one: pandas.read_excel({source}, sheet_name={titles[0]!r}, dtype=object, "
                "keep_default_na=False, na_values=[''])",
            )
        yield from _chunks(_rows(filled[0]), columns)


def _chunks(rows: Iterator[tuple[Any, ...]], columns: Columns) -> Iterator[pd.DataFrame]:
    names = ["" if each is None else str(each) for each in next(rows)]
    positions, renamed = columns.of(names)
    chunk: list[tuple[Any, ...]] = []
    for number, row in enumerate(rows, 2):
        if len(row) > len(names):
            what = f"row {number} has {len(row)} cells where the header has {len(names)}: {row!r}"
            raise ReadError(what[:300])
        row += (None,) * (len(names) - len(row))
        chunk.append(tuple(row[position] for position in positions))
        if len(chunk) == CHUNK_ROWS:
            yield pd.DataFrame(chunk, columns=renamed, dtype=object)
            chunk = []
    yield pd.DataFrame(chunk, columns=renamed, dtype=object)


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that have something in a cell, without the empty cells at their ends."""
    sheet.reset_dimensions()  # else openpyxl stops where the range ends that the writer declared
    with _undamaged():
        for row in sheet.iter_rows(values_only=True):
            filled = max((number for number, value in enumerate(row, 1) if value is not None), default=0)
            if filled:
                yield row[:filled]


@contextmanager
def _undamaged() -> Iterator[None]:
    """Raise `ReadError` for whatever openpyxl raises: a damaged workbook leads to many classes."""
    try:
        yield
    except Exception as exc:
        raise ReadError(f"it is no Excel workbook that can be read ({exc})") from exc
