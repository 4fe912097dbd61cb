"""Frames to files: CSV, JSON, lines of JSON and Parquet. Every value is written exactly."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from citykit.errors import CitykitError

FileFormat: TypeAlias = Literal["csv", "json", "ndjson", "parquet"]
Write: TypeAlias = Callable[[pd.DataFrame], None]

_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet",
}  # fmt: skip
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^$')


def format_of(path: Path) -> FileFormat:
    """Return the format that the suffix of a file names.

    Raises
    ------
    ValueError
        If it names none.
    """
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path} does not end in one of {', '.join(_SUFFIXES)}, which say its format"
        ) from None


@contextmanager
def writing(target: Path | IO[bytes], format_: FileFormat) -> Iterator[Write]:
    """Yield a function that appends the rows of a frame to a file. All frames have the same columns.

    A path gets its content when all of it is written: until then, and after an error, a file that was there
    stays as it was.

    CSV has NULL as an empty field and an empty text as ``""``, as PostgreSQL's COPY has them (a row of one
    NULL is ``""``, too, because readers skip empty lines). JSON has no NaN and infinity: they are text.
    Parquet has UUIDs and JSON as text.
    """
    with ExitStack() as stack:
        out = stack.enter_context(_replaced(target)) if isinstance(target, Path) else target
        if format_ == "parquet":
            table = _Parquet(out)
            stack.callback(_errors_of(target)(table.close))
            yield _errors_of(target)(table.write)
            return
        text = _Text(out, format_)
        yield _errors_of(target)(text.write)
        _errors_of(target)(text.end)()


def write_bytes(target: Path, content: bytes) -> None:
    """Write the content of a file; until all of it is written, a file that was there stays as it was."""
    with _replaced(target) as out, _errors_of(target):
        out.write(content)


@contextmanager
def _errors_of(target: Path | IO[bytes]) -> Iterator[None]:
    """Name the file in an OSError of it; other code between two writes may raise one, too."""
    try:
        yield
    except OSError as exc:
        raise CitykitError(f"{target} cannot be written: {exc.strerror or exc}") from exc


@contextmanager
def _replaced(target: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        with _errors_of(target):
            is_special = target.exists() and not target.is_file()  # /dev/stdout; a directory is an error
            path = part = target if is_special else Path(os.path.realpath(target))
            if not is_special:
                part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
            out = part.open("wb")
            if not is_special:
                stack.callback(part.unlink, missing_ok=True)
            stack.callback(_errors_of(target)(out.close))
            if path.is_file():
                with suppress(OSError):  # some file systems have no modes
                    shutil.copymode(path, part)
        yield out
        with _errors_of(target):
            out.close()
            if not is_special:
                part.replace(path)


class _Text:
    """Rows as text in UTF-8."""

    def __init__(self, out: IO[bytes], format_: FileFormat) -> None:
        self._out, self._format = out, format_
        self._rows = self._frames = 0

    def write(self, frame: pd.DataFrame) -> None:
        names = [str(name) for name in frame.columns]
        if self._format == "csv":
            head = "" if self._frames else ",".join(map(_csv_cell, names)) + "\n"
            cells = _rows(frame, _csv_cell, "")
            text = head + "".join(f"{','.join(row) or _NO_EMPTY_LINE}\n" for row in cells)
        else:
            keys = [f"{json.dumps(name, ensure_ascii=False)}: " for name in names]
            rows = (
                "{" + ", ".join(map(str.__add__, keys, row)) + "}" for row in _rows(frame, _json_cell, "null")
            )
            if self._format == "ndjson":
                text = "".join(f"{row}\n" for row in rows)
            else:
                text = ",\n".join(rows)
                text = ("" if self._frames else "[") + (
                    ("," if self._rows else "") + "\n" + text if text else ""
                )
        self._out.write(text.encode("utf-8", "backslashreplace"))
        self._frames += 1
        self._rows += len(frame)

    def end(self) -> None:
        """Write what comes after the last row."""
        if self._format == "json":
            self._out.write(b"\n]\n" if self._rows else b"]\n" if self._frames else b"[]\n")


_NO_EMPTY_LINE = '""'


class _Parquet:
    """Rows as a Parquet file."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._writer: Any = None

    def write(self, frame: pd.DataFrame) -> None:
        columns = [_arrow(frame.iloc[:, number]) for number in range(frame.shape[1])]
        table = pa.table(columns, names=[str(name) for name in frame.columns])
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._out, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is not None:
            self._writer.close()


def _arrow(series: pd.Series[Any]) -> Any:
    if series.dtype == object:
        return pa.array([None if value is None else as_text(value) for value in _values(series)], pa.string())
    return pa.Array.from_pandas(series)


def _rows(frame: pd.DataFrame, cell: Callable[[Any], str], null: str) -> Iterator[tuple[str, ...]]:
    columns = (_values(frame.iloc[:, number]) for number in range(frame.shape[1]))
    cells = [[null if value is None else cell(value) for value in column] for column in columns]
    return zip(*cells, strict=True)


def _values(series: pd.Series[Any]) -> list[Any]:
    """Return the values of a column, None where one is missing."""
    if str(series.dtype) == "datetime64[s]":  # citykit's dtype of a date
        days = np.datetime_as_string(series.to_numpy(), unit="D").tolist()
        return [None if day == "NaT" else day for day in days]
    values = series.astype(object).tolist()
    if str(series.dtype) in ("Float32", "Float64"):  # in which NaN is a value and not missing
        return [None if value is pd.NA else value for value in values]
    missing = (
        series.isna() if series.dtype != object else [value is None or value is pd.NA for value in values]
    )
    return [None if absent else value for value, absent in zip(values, missing, strict=True)]


def as_text(value: Any) -> str:
    """Return a value as PostgreSQL reads it: dates in ISO 8601, numbers with all of their digits."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() | Decimal() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case Decimal():
            return f"{value:f}"
        case date() | time() | pd.Timedelta():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case list() | dict():
            return _json_cell(value)
        case _:
            return str(value)


def _csv_cell(value: Any) -> str:
    if type(value) is int:
        return str(value)
    text = value if type(value) is str else as_text(value)
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _json_cell(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool() | int() | Decimal() | float() if not isinstance(value, (float, Decimal)) or math.isfinite(
            value
        ):
            return as_text(value)
        case list():
            return f"[{', '.join(map(_json_cell, value))}]"
        case dict():
            pairs = (
                f"{json.dumps(key, ensure_ascii=False)}: {_json_cell(each)}" for key, each in value.items()
            )
            return f"{{{', '.join(pairs)}}}"
        case _:
            return json.dumps(as_text(value), ensure_ascii=False)


def as_texts(frame: pd.DataFrame, null: str) -> pd.DataFrame:
    """Return a frame of the texts of its values, `null` where one is missing."""
    texts = pd.DataFrame(list(_rows(frame, as_text, null)), dtype=object)
    return texts.set_axis(frame.columns, axis=1)
