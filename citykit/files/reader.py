"""A file as rows: `open_file` reads them as they are asked for, `read_file` at once."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any, TypeAlias

import pandas as pd
import pyarrow as pa

from citykit.errors import CitykitError, shown_outside
from citykit.files.file_source import NOTES, FileSource, ManyFiles
from citykit.files.streams import (
    Compression,
)

Files: TypeAlias = "str | os.PathLike[str] | IO[Any] | Sequence[str | os.PathLike[str] | IO[Any]]"


@shown_outside
def open_file(
    path: Files,
    *,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    compression: Compression | None = None,
) -> FileSource | ManyFiles:
    """Open a file for a load, which reads it as it goes; also one that is larger than memory.

    Parameters and errors are those of `read_file`; what is in the file is looked at only when it is read.

    Returns
    -------
    FileSource
        It can be iterated, which yields frames or Arrow batches, as often as the path can be opened. Its
        ``total_bytes`` and ``bytes_read`` are of the file on disk; ``total_rows`` is known for Parquet. None
        where it is not known.

    Examples
    --------
    >>> pandas.DataFrame({"city": ["Oz"], "population": ["57.318"]}).to_csv("cities.csv", index=False)
    >>> source = citykit.open_file("cities.csv", rename={"city": "name"}, thousands=".")
    >>> (await citykit.load_cities(engine, source)).inserted
    1
    """
    options: dict[str, Any] = {
        "columns": columns, "rename": rename, "delimiter": delimiter, "encoding": encoding,
        "decimal": decimal, "thousands": thousands, "compression": compression,
    }  # fmt: skip
    if isinstance(path, (list, tuple)):
        return ManyFiles([FileSource(each, **options) for each in path])
    return FileSource(path, **options)


@shown_outside
def read_file(
    path: Files,
    *,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    compression: Compression | None = None,
) -> pd.DataFrame:
    """Read a file as the frame that a load of it would see.

    Every field of a text file is text, and an empty one is missing: ``NA`` stays ``NA``, ``007`` is ``007``.
    What is a number is decided by the column that it is loaded into.

    Parameters
    ----------
    path : str, Path, open file, or a list of them
        CSV, TSV and other delimited text; JSON (one array of objects) and lines of JSON objects; Parquet,
        also a directory of such files; Arrow and Feather; Excel's ``.xlsx`` with one sheet, if openpyxl is
        installed. ``"-"`` is standard input. What a file is, its first bytes say, and its name where they do
        not. One that is gzip, zstd, or a zip archive of one file is unpacked, up to 1 GiB or 200 times its
        size, whichever is more: unpack larger ones yourself. CSV that is packed, in another encoding than
        UTF-8 or no file on disk is written to a temporary file first.
    columns : sequence of str, optional
        The columns to read, by the names that `rename` gives them or by those in the file. None: all.
    rename : mapping of str to str, optional
        New names, by those in the file: ``{"city": "name"}``.
    delimiter : str, optional
        None: the comma, semicolon, tab or ``|`` that splits the header and the first rows.
    encoding : str, optional
        None: UTF-8, or what the byte order mark says. Others have to be named: ``"cp1252"``, ``"latin-1"``.
    decimal, thousands : str, optional
        The marks in the numbers that its text has: ``decimal=","``, ``thousands="."``. A load reads text in
        a column of numbers so, and only so; None: no marks but a decimal point. The same mark for both is
        for thousands in columns of whole numbers, for decimals in others. They are kept in
        ``frame.attrs["citykit"]``; the frame's text stays as it is.
    compression : {"gzip", "zstd", "zip", "none"}, optional
        None: what the first bytes say.

    Returns
    -------
    DataFrame
        Its dtypes are ``str`` for text, ``Int64`` and ``boolean``, which have missing values, and those of
        pandas for all else. Its rows are labelled from 0.

    Raises
    ------
    CitykitError
        If it is not there or cannot be read; it says the line where there is one, and what to type.
    MissingDependencyError
        For a workbook, without openpyxl.

    Examples
    --------
    >>> pandas.DataFrame({"name": ["Windhoek"], "country": ["NA"]}).to_csv("cities.csv", index=False)
    >>> citykit.read_file("cities.csv")["country"].item()
    'NA'
    """
    source = open_file(
        path, columns=columns, rename=rename, delimiter=delimiter, encoding=encoding, decimal=decimal,
        thousands=thousands, compression=compression,
    )  # fmt: skip
    pieces = list(source)
    sources = [source] if isinstance(source, FileSource) else source.sources
    first = sources[0] if sources else None
    batches = [piece for piece in pieces if isinstance(piece, pa.RecordBatch)]
    frames = [_inferred(piece) for piece in pieces if isinstance(piece, pd.DataFrame)]
    try:
        if batches:
            frames.insert(0, _framed(pa.Table.from_batches(batches)))
        frame = (
            pd.concat(frames, ignore_index=True)
            if len(frames) > 1
            else frames[0]
            if frames
            else pd.DataFrame()
        )
    except (
        pa.ArrowException,
        ValueError,
        OverflowError,
    ) as exc:  # other columns in another file, a date of year 20000
        raise CitykitError(f"{first and first.called} fits no frame: {exc}; nothing was loaded.") from exc
    if first is not None:
        frame.attrs[NOTES] = first.notes()
    return frame


def _framed(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_DTYPES.get, ignore_metadata=True)
    for field_ in table.schema:
        if pa.types.is_list(field_.type) or pa.types.is_large_list(field_.type):
            # Lists, and not NumPy's arrays, which no text file can be written of.
            frame[field_.name] = pd.Series(table[field_.name].to_pylist(), dtype=object)
    return frame


_DTYPES = {
    **{getattr(pa, name.lower())(): pd.api.types.pandas_dtype(name) for name in (
        "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")},
    pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip


def _inferred(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of objects the dtypes that hold their values exactly."""
    dtypes = {"string": "str", "integer": "Int64", "boolean": "boolean", "floating": "float64"}
    for name in frame:
        if dtype := dtypes.get(pd.api.types.infer_dtype(frame[name], skipna=True)):
            try:
                frame[name] = frame[name].astype(pd.api.types.pandas_dtype(dtype))
            except (OverflowError, TypeError, ValueError):  # an integer beyond 64 bits, a lone surrogate
                continue
    return frame


def located(
    path: str, rows: Collection[int], columns: Sequence[str], **options: Any
) -> tuple[dict[int, int], dict[int, str]]:
    """Return of rows of a file (counted from 0) their lines and the values of some columns, as text.

    The lines are known of delimited text. `options` are those of `open_file`.
    """
    source = FileSource(path, **options)
    wanted, keys, start = sorted(rows), dict[int, str](), 0
    for piece in source if wanted and columns else ():
        end = start + len(piece)
        here = wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]
        frame = piece if isinstance(piece, pd.DataFrame) else piece.to_pandas()
        there = [name for name in columns if name in frame.columns]
        for row, values in zip(
            here, frame[there].iloc[[row - start for row in here]].to_numpy(object), strict=True
        ):
            keys[row] = ", ".join(str(value) for value in values if not pd.isna(value))
        start = end
        if end > wanted[-1]:
            break
    return source.lines_of(wanted), keys
