"""A file as rows: `open_file` reads them as they are asked for, `read_file` at once."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import zipfile
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import pandas as pd
import pyarrow as pa

from citykit.errors import CitykitError, shown_outside
from citykit.files import csv_files, json_files, tables
from citykit.files.columns import Columns
from citykit.files.streams import (
    PACKED,
    Compression,
    ReadError,
    Stream,
    encoding_of,
    in_utf8,
    is_utf8,
    member_of,
    on_disk,
    parts_of,
    unpacked,
    unzipped,
)

Files: TypeAlias = "str | os.PathLike[str] | IO[Any] | Sequence[str | os.PathLike[str] | IO[Any]]"
Kind: TypeAlias = Literal["csv", "json", "ndjson", "parquet", "arrow file", "arrow stream", "excel"]

NOTES = "citykit"  # what a frame's `attrs`, and a batch's metadata, say of the file for the load
_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow file", b"\xff\xff\xff\xff": "arrow stream"}
_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet", ".arrow": "arrow file", ".arrows": "arrow stream", ".feather": "arrow file",
    ".xlsx": "excel", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
_OTHER = {  # what begins so is none of the files that can be read
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls), or one with a password",
    b"FEA1": "a Feather file of version 1",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "a SQLite database",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89HDF": "an HDF5 file",
}
_HTML = re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE)
_READS = "CSV, TSV, JSON, Parquet, Arrow and Excel (.xlsx) files can be read."


@dataclass
class FileSource:
    """The rows of a file, read as they are asked for; of a path, as often as they are.

    Iterating yields Arrow batches; of JSON and Excel, whose values have types of their own, frames.

    Attributes
    ----------
    total_bytes : int or None
        Of the file, as it lies on disk; None where only the end will tell.
    total_rows : int or None
        Where the file says it before it is read (Parquet).
    bytes_read : int
        By now; not counted in Parquet, Arrow and Excel files. What is packed is unpacked before its rows.
    """

    path: Any
    columns: Sequence[str] | None = None
    rename: Mapping[str, str] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    compression: Compression | None = None
    kind: Kind | None = None  # None: what the content says
    called: str = ""  # in messages; '': its path
    bytes_read: int = field(default=0, init=False)
    total_bytes: int | None = field(default=None, init=False)
    _rows_read: int = field(default=0, init=False)
    _expected_rows: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._check_options()
        self._start: int | None = None
        if hasattr(self.path, "read"):
            self.called = self.called or _name_of(self.path)
            if getattr(self.path, "closed", False):
                raise self._unreadable(ReadError("it is closed", "Open it again, or give its path."))
            self._start = self.path.tell() if _can_seek(self.path) else None
        elif isinstance(self.path, str) and self.path == "-":
            self.called = "standard input"
        else:
            given, self.path = self.path, _path(self.path)
            self.called = self.called or str(given) or "''"
            try:
                if not str(given) or not self.path.exists():
                    raise self._unreadable(_missing(self.path))
                self.total_bytes = None if self.path.is_dir() else self.path.stat().st_size or None
            except (OSError, ValueError) as exc:  # no right to look, a NUL in its name
                raise self._unreadable(ReadError(getattr(exc, "strerror", None) or str(exc))) from exc

    def __repr__(self) -> str:
        return f"<rows of {self.called}>"

    @property
    def total_rows(self) -> int | None:
        """How many rows there are, where the file says it before it is read."""
        if isinstance(self.path, Path) and (self.path.is_dir() or self.path.suffix.lower() == ".parquet"):
            try:
                return tables.parquet_rows(self.path)
            except (OSError, ReadError, pa.ArrowException):  # which iterating says
                return None
        return None

    def expected_rows(self) -> int | None:
        """Return about how many rows there are, by the part of the file that they took so far.

        None as long as that cannot be told. Packed text is unpacked before its first row.
        """
        if self.total_bytes and 0 < self.bytes_read < self.total_bytes and self._rows_read:
            self._expected_rows = round(self._rows_read * self.total_bytes / self.bytes_read)
        return self._expected_rows

    def __iter__(self) -> Iterator[pd.DataFrame | pa.RecordBatch]:
        self.bytes_read = start = self._rows_read = 0
        self._expected_rows = self.total_rows
        notes = self.notes()
        metadata = {NOTES: json.dumps(notes)}
        try:
            with ExitStack() as stack:
                for piece in self._pieces(stack):
                    self._rows_read += len(piece)
                    if isinstance(piece, pd.DataFrame):
                        piece = piece.set_axis(pd.RangeIndex(start, start + len(piece)))
                        piece.attrs[NOTES] = notes
                        start += len(piece)
                        yield piece
                    else:
                        yield piece.replace_schema_metadata(metadata)
            self._expected_rows = self._rows_read
        except ReadError as exc:
            raise self._unreadable(exc) from exc
        except (OSError, ValueError, pa.ArrowException) as exc:
            said = getattr(exc, "strerror", None) or " ".join(str(exc).split())
            raise self._unreadable(ReadError(said)) from exc

    def lines_of(self, rows: Collection[int]) -> dict[int, int]:
        """Return the lines of delimited text in which rows begin, as far as they can be told."""
        if not isinstance(self.path, Path) or self.kind:
            return {}
        before = self.bytes_read
        try:
            with ExitStack() as stack:
                stream, name, whole = self._opened(stack)
                if _kind(stream.head(), name) != "csv":
                    return {}
                return csv_files.lines_of(rows, self._text_on_disk(stream, whole, stack), self.delimiter)
        except (ReadError, OSError):
            return {}
        finally:
            self.bytes_read = before

    def notes(self) -> dict[str, str]:
        """Return how its numbers are written, and the call that reads it, without its end."""
        notes = {name: mark for name in ("decimal", "thousands") if (mark := getattr(self, name))}
        return {**notes, "read": "" if self.kind else self._call()}

    def _call(self, **options: Any) -> str:
        """Return the call that reads this file, without the marks of its numbers and without its end."""
        given = ("columns", "rename", "delimiter", "encoding", "compression")
        options = {name: value for name in given if (value := getattr(self, name)) is not None} | options
        path = "source" if hasattr(self.path, "read") else _quoted("-" if self.path == "-" else self.called)
        return "citykit.read_file(" + ", ".join([path, *(f"{k}={_quoted(v)}" for k, v in options.items())])

    def _unreadable(self, exc: ReadError) -> CitykitError:
        hint = exc.hint
        if exc.options and not self.kind:
            marks = {name: mark for name in ("decimal", "thousands") if (mark := getattr(self, name))}
            hint = f"{hint} Read it with {self._call(**exc.options, **marks)})".strip()
        return CitykitError(f"{self.called} cannot be read: {exc.what}; nothing was loaded. {hint}".strip())

    def _check_options(self) -> None:
        if self.columns is not None and not self.columns:
            raise ValueError("columns is a list of names, or None for all, not an empty one")
        if isinstance(self.columns, str):
            raise ValueError(f"columns is a list of names, not {self.columns!r}: columns=[{self.columns!r}]")
        if self.encoding is not None:
            encoding_of(self.encoding)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"delimiter is one character, not {self.delimiter!r}")
        for name in ("decimal", "thousands"):
            mark = getattr(self, name)
            if mark is not None and (len(mark) != 1 or mark in "+-eE" or mark.isalnum()):
                raise ValueError(f"{name} is the mark, such as '.' or ',', not {mark!r}")
        if self.compression not in (None, "gzip", "zstd", "zip", "none"):
            raise ValueError(f"compression is 'gzip', 'zstd', 'zip' or 'none', not {self.compression!r}")

    def _pieces(self, stack: ExitStack) -> Iterator[pd.DataFrame | pa.RecordBatch]:
        columns = Columns(self.columns, self.rename or {})
        if isinstance(self.path, Path) and self.path.is_dir():
            yield from tables.read_parquet_directory(self.path, columns)
            return
        stream, name, whole = self._opened(stack)
        kind = self.kind or _kind(stream.head(), name)
        if kind == "csv":
            path = self._text_on_disk(stream, whole, stack)
            seen = self._seen if path is self.path else _ignore
            yield from csv_files.read(path, columns, self.delimiter, seen)
            return
        if self.delimiter is not None:
            raise ReadError(f"delimiter= is for delimited text, and it is a file of kind {kind!r}")
        if kind in ("json", "ndjson"):
            text = in_utf8(stream, self.encoding)
            begin = text.head().lstrip()
            if not begin:
                raise ReadError("it is empty")
            is_array = begin.startswith(b"[") and self.kind != "ndjson"
            yield from (json_files.read_array if is_array else json_files.read_lines)(text, columns)
            return
        if self.encoding is not None:
            raise ReadError(f"encoding= is for text, and it is a file of kind {kind!r}")
        path = whole or on_disk(stream, stack)
        match kind:
            case "parquet":
                yield from tables.read_parquet(path, columns)
            case "arrow file":
                yield from tables.read_arrow_file(path, columns)
            case "arrow stream":
                yield from tables.read_arrow_stream(path, columns)
            case _:
                yield from tables.read_excel(path, columns, self.called)

    def _text_on_disk(self, stream: Stream, whole: Path | None, stack: ExitStack) -> Path:
        """Return a file that has the text in UTF-8: the one that was given, or a temporary one."""
        if whole and is_utf8(stream, self.encoding):
            return whole
        return on_disk(in_utf8(stream, self.encoding), stack)

    def _opened(self, stack: ExitStack) -> tuple[Stream, str, Path | None]:
        """Return the file's bytes, unpacked; its name; and the file on disk with them, if there is one."""
        whole, file, name = None, self.path, self.called
        if isinstance(self.path, Path):
            whole, file, name = self.path, stack.enter_context(self.path.open("rb")), self.path.name
        elif self._start is not None:
            self.path.seek(self._start)
        elif self.path == "-":
            file = getattr(sys.stdin, "buffer", sys.stdin)
        stream = Stream(parts_of(file, self._count))
        head = stream.head()
        found = [each for magic, each in PACKED.items() if head.startswith(magic)]
        packing = self.compression or (found[0] if found else "none")
        if self.kind or packing == "none":
            return stream, name, whole
        if packing != "zip":
            unpacked_ = Stream(unpacked(stream, packing, self.total_bytes))
            return _packed_once(unpacked_), re.sub(r"(?i)\.(gz|zst|zstd)$", "", name), None
        packed = whole or on_disk(stream, stack)
        try:
            archive = stack.enter_context(zipfile.ZipFile(packed))
        except zipfile.BadZipFile as exc:
            raise ReadError(f"its zip archive is damaged or not complete ({exc})") from exc
        if self.compression is None and "[Content_Types].xml" in archive.namelist():
            return stream, name, packed  # an Excel workbook
        member = member_of(archive)
        return _packed_once(Stream(unzipped(archive, member))), member.filename, None

    def _count(self, more: int) -> None:
        self.bytes_read += more

    def _seen(self, position: int) -> None:
        self.bytes_read = position


def _ignore(_: int) -> None:
    pass


def _packed_once(stream: Stream) -> Stream:
    twice = next((each for magic, each in PACKED.items() if stream.head().startswith(magic)), "zip")
    if twice != "zip":  # which may be an Excel workbook
        raise ReadError(f"what it unpacks to is {twice} data again", "Unpack it yourself.")
    return stream


def _kind(head: bytes, name: str) -> Kind:
    """Return what a file is: by its first bytes where they tell, else by its name."""
    for magic, other in _OTHER.items():
        if head.startswith(magic):
            raise ReadError(f"it is {other}", _READS)
    if _HTML.match(head):
        raise ReadError("it is a web page", "Download the file itself.")
    for begin, kind in _MAGIC.items():
        if head.startswith(begin):
            return kind
    if head.startswith(b"PK"):
        return "excel"
    named = _SUFFIXES.get(Path(name).suffix.lower())
    if named in ("parquet", "arrow file", "arrow stream", "excel") and head:
        raise ReadError(
            f"by its name it is a file of kind {named!r}, and it begins with {head[:20]!r}", _READS
        )
    if named:
        return named
    return "json" if head.lstrip().startswith((b"{", b"[")) else "csv"


def _path(path: Any) -> Path:
    if isinstance(path, (bytes, bytearray)):
        raise TypeError(
            "a path or an open file is needed, not bytes; nothing was loaded. "
            "For the bytes of a file: io.BytesIO(source)"
        )
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a path or an open file is needed, not {type(path).__name__}; nothing was loaded.")
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        name = text.rstrip("/").rpartition("/")[2].partition("?")[0] or "cities.csv"
        raise CitykitError(
            f"{text} is not a file on this machine; nothing was loaded. Download it first: "
            f"urllib.request.urlretrieve({_quoted(text)}, {_quoted(name)})"
        )
    if "\n" in text:
        raise CitykitError(
            f"{text[:40]!r}… is no path, but text; nothing was loaded. For text as a file: io.StringIO(text)"
        )
    return Path(text).expanduser()


def _missing(path: Path) -> ReadError:
    parent = path.parent
    if not parent.is_dir():
        return ReadError("there is no such file", f"There is no directory {parent} either.")
    names = [each.name for each in parent.iterdir() if each.name != path.name]  # a link to nothing
    close = (
        difflib.get_close_matches(path.name, names, n=3) or [n for n in names if n.startswith(path.stem)][:3]
    )
    near = " or ".join(_quoted(str(parent / name)) for name in close)
    return ReadError(
        "there is no such file", f"Did you mean {near}?" if near else f"It is not in {parent.resolve()}."
    )


def _name_of(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "the open file"


def _can_seek(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except (AttributeError, ValueError, OSError):
        return False


def _quoted(value: object) -> str:
    """Return a value as it is typed in Python, text in double quotes where it can be."""
    if not isinstance(value, str) or '"' in value:
        return repr(value)
    return '"' + repr("'" + value)[2:]  # Python prefers double quotes for what has a single one


@dataclass
class ManyFiles:
    """The rows of several files, one after the other; see `FileSource`."""

    sources: list[FileSource]

    def __iter__(self) -> Iterator[pd.DataFrame | pa.RecordBatch]:
        for source in self.sources:
            yield from source

    @property
    def total_bytes(self) -> int | None:
        """The sum of the files' bytes."""
        sizes = [source.total_bytes for source in self.sources]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def total_rows(self) -> int | None:
        """The sum of the files' rows."""
        rows = [source.total_rows for source in self.sources]
        return None if None in rows else sum(filter(None, rows))

    def expected_rows(self) -> int | None:
        """Return about how many rows all files have, as far as each can tell."""
        rows = [source.expected_rows() for source in self.sources]
        return None if None in rows else sum(filter(None, rows))

    @property
    def bytes_read(self) -> int:
        """By now, of all files."""
        return sum(source.bytes_read for source in self.sources)


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
        The columns to read, by their names in the file. None: all.
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
