"""A file as rows: `open_file` reads them as they are asked for, `read_file` at once."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import IO, Any, TypeAlias

import pandas as pd
import pyarrow as pa

from citykit.errors import CitykitError, shown_outside
from citykit.files.file_source import NOTES, FileSource, ManyFiles, can_repeat
from citykit.files.streams import Compression

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
    """Open a file, which may be larger than memory, for a load that reads it piece by piece.

    Parameters and errors are those of `read_file`. The content is read only when it is iterated.

    Returns
    -------
    FileSource
        Iterating it yields frames or Arrow batches; a path can be iterated again. ``total_bytes`` and
        ``bytes_read`` count the file on disk; ``total_rows`` is known for Parquet. They are None if unknown.
        For a list, the same of all its files.

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
        if not path:
            raise ValueError(
                "path is an empty list; nothing was loaded. If glob() made it, its pattern fits no file."
            )
        first = FileSource(path[0], **options)
        options["columns"] = first.columns  # which may have been an iterator
        return ManyFiles([first, *(FileSource(each, **options) for each in path[1:])])
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
    The column that a field is loaded into decides whether it is a number.

    Parameters
    ----------
    path : str, Path, open file, or a list of them
        CSV, TSV and other delimited text; JSON (one array of objects) and lines of JSON objects; Parquet,
        also a directory of such files; Arrow and Feather; Excel's ``.xlsx`` with one sheet, if openpyxl is
        installed. ``"-"`` is standard input. The first bytes tell the kind of a file, else its name. A file
        packed by gzip or zstd, or a zip archive of one file, is unpacked, up to 1 GiB or 200 times its size,
        whichever is more: unpack larger ones yourself. CSV that is packed, in another encoding than UTF-8 or
        no file on disk is written to a temporary file first.
    columns : sequence of str, optional
        The columns to read, by the names that `rename` gives them or by those in the file. None: all.
    rename : mapping of str to str, optional
        New names, by those in the file: ``{"city": "name"}``.
    delimiter : str, optional
        None: the comma, semicolon, tab or ``|`` that splits the header and the first rows, or what a line
        before them tells Excel: ``sep=;``.
    encoding : str, optional
        None: UTF-8, or what the byte order mark says. Others have to be named: ``"cp1252"``, ``"latin-1"``.
    decimal, thousands : str, optional
        The marks within numbers in its text: ``decimal=","``, ``thousands="."``. A load reads text in a
        column of numbers with exactly these marks; None: with a decimal point and no other. The same mark
        for both separates thousands in columns of whole numbers, decimals in others. They are kept in
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
        If it is missing or cannot be read; the message has the line, where there is one, and what to type.
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
    sources = [source] if isinstance(source, FileSource) else source.sources
    first = sources[0]
    pieces: list[tuple[FileSource, Any]] = [(each, piece) for each in sources for piece in each]
    names = _names(pieces[0][1])
    for each, piece in pieces:
        if differing := sorted({*names} ^ {*_names(piece)}):
            common = [name for name in names if name not in differing][:20]
            hint = f" Read those that both have: columns={common}" if common else ""
            raise CitykitError(
                f"{each.called} has other columns than {first.called}: {differing[0]!r} is in one of them; "
                f"nothing was loaded.{hint}"
            )
    frames: list[pd.DataFrame] = []
    try:
        for of_arrow, run in groupby((piece for _, piece in pieces), _is_batch):
            if of_arrow:
                frames.append(_framed(pa.Table.from_batches([batch.select(names) for batch in run])))
            else:
                frames += run
        frame = _inferred(pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0])
    except (pa.ArrowException, ValueError, OverflowError) as exc:  # other types, the year 20000
        raise CitykitError(f"{first.called} fits no frame: {exc}; nothing was loaded.") from exc
    frame.attrs[NOTES] = first.notes()
    return frame


def _is_batch(piece: object) -> bool:
    return isinstance(piece, pa.RecordBatch)


def _names(piece: Any) -> list[str]:
    return list(piece.schema.names if _is_batch(piece) else piece.columns)


def _framed(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_DTYPES.get, ignore_metadata=True)
    for field_ in table.schema:
        if pa.types.is_list(field_.type) or pa.types.is_large_list(field_.type):
            # Lists instead of NumPy's arrays, which `writers` cannot write as text.
            frame[field_.name] = pd.Series(table[field_.name].to_pylist(), dtype=object)
    return frame


_DTYPES = {
    **{getattr(pa, name.lower())(): pd.api.types.pandas_dtype(name) for name in (
        "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")},
    pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip


def _inferred(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of objects the dtypes that hold all of their values exactly."""
    dtypes = {"string": "str", "integer": "Int64", "boolean": "boolean", "floating": "float64"}
    for name in frame:
        values = frame[name]
        dtype = dtypes.get(pd.api.types.infer_dtype(values, skipna=True)) if values.dtype == object else None
        if dtype:
            try:  # with NaN for a missing value: float() takes no pandas.NA
                frame[name] = values.fillna(math.nan).astype(pd.api.types.pandas_dtype(dtype))
            except (OverflowError, TypeError, ValueError):  # an integer beyond 64 bits, a lone surrogate
                continue
    return frame


def located(
    path: str, rows: Collection[int], columns: Sequence[str], **options: Any
) -> tuple[dict[int, int], dict[int, str]]:
    """Return the lines of some rows of a file (counted from 0), and their values in some columns as text.

    Lines are known for delimited text only. `options` are those of `open_file`.
    """
    source = FileSource(path, **options)
    wanted, keys, start = sorted(rows), dict[int, str](), 0
    for piece in source if wanted and columns and can_repeat(source.path) else ():
        end = start + len(piece)
        here = wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]
        frame = piece if isinstance(piece, pd.DataFrame) else piece.to_pandas(types_mapper=pd.ArrowDtype)
        there = [name for name in columns if name in frame.columns]
        for row, values in zip(
            here, frame[there].iloc[[row - start for row in here]].to_numpy(object), strict=True
        ):
            keys[row] = ", ".join(str(value) for value in values if not pd.isna(value))
        start = end
        if end > wanted[-1]:
            break
    return source.lines_of(wanted), keys
