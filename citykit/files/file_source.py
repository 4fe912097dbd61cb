"""The rows of files, read as they are asked for."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from citykit.errors import CitykitError
from citykit.files import csv_files, json_files, tables
from citykit.files.columns import Columns
from citykit.files.kinds import Kind, kind_of
from citykit.files.streams import (
    PACKED,
    Compression,
    ReadError,
    Stream,
    check_encoding,
    in_utf8,
    is_utf8,
    member_of,
    on_disk,
    parts_of,
    unpacked,
    unzipped,
)

NOTES = "citykit"  # the key, in `attrs` of frames and metadata of batches, of the notes for a load


@dataclass
class FileSource:
    """The rows of a file, read while they are iterated; a path can be iterated again.

    Iterating yields Arrow batches; of JSON and Excel, whose values have types of their own, frames.

    Attributes
    ----------
    total_bytes : int or None
        Size of the file on disk; None if it is not known (an open file, a pipe, a directory).
    total_rows : int or None
        Known before reading for Parquet only.
    bytes_read : int
        So far; not counted in Parquet, Arrow and Excel files. Packed CSV is read to its end first.
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
    all_if_lacking: bool = False  # read all columns where one of `columns` is missing: a load says which
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
            self._start = _position(self.path)
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
        if can_repeat(self.path) and (self.path.is_dir() or self.path.suffix.lower() == ".parquet"):
            try:
                return tables.parquet_rows(self.path)
            except (OSError, ReadError, pa.ArrowException):  # iterating raises it
                return None
        return None

    def expected_rows(self) -> int | None:
        """Estimate the number of rows from the part of the file that was read so far.

        None until there is an estimate. Packed CSV is read to its end before its first row.
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

    def picking(self, columns: Sequence[str]) -> FileSource:
        """Return this file with only these columns, unless it has a choice of its own."""
        return self if self.columns is not None else replace(self, columns=columns, all_if_lacking=True)

    def lines_of(self, rows: Collection[int]) -> dict[int, int]:
        """Return the lines in which these rows begin; {} unless it is delimited text on disk."""
        if not can_repeat(self.path) or self.kind:
            return {}
        before = self.bytes_read
        try:
            with ExitStack() as stack:
                stream, name, whole = self._opened(stack)
                if kind_of(stream.head(), name) != "csv":
                    return {}
                return csv_files.lines_of(rows, self._text_on_disk(stream, whole, stack), self.delimiter)
        except (ReadError, OSError):
            return {}
        finally:
            self.bytes_read = before

    def notes(self) -> dict[str, str]:
        """Return the marks in its numbers, and the call that reads it, without the closing parenthesis."""
        return {**self._marks(), "read": "" if self.kind else self._call()}

    def _marks(self) -> dict[str, str]:
        return {name: mark for name in ("decimal", "thousands") if (mark := getattr(self, name))}

    def _call(self, **options: Any) -> str:
        """Return the call that reads this file, without the marks and the closing parenthesis."""
        given = ["rename", "delimiter", "encoding", "compression"]
        if not self.all_if_lacking:  # else a load has picked them, and still will
            given.insert(0, "columns")
        options = {name: value for name in given if (value := getattr(self, name)) is not None} | options
        path = "source" if hasattr(self.path, "read") else _quoted("-" if self.path == "-" else self.called)
        return "citykit.read_file(" + ", ".join([path, *(f"{k}={_quoted(v)}" for k, v in options.items())])

    def _unreadable(self, exc: ReadError) -> CitykitError:
        hint = exc.hint
        if exc.options and not self.kind:
            hint = f"{hint} Read it with {self._call(**exc.options, **self._marks())})".strip()
        return CitykitError(f"{self.called} cannot be read: {exc.what}; nothing was loaded. {hint}".strip())

    def _check_options(self) -> None:
        if self.columns is not None:
            given = self.columns
            is_list = isinstance(given, Iterable) and not isinstance(given, str)
            self.columns = list(given) if is_list else []  # an iterator can be gone through only once
            if not is_list or not _are_names(self.columns):
                raise ValueError(f'columns is a list of names, as in columns=["name"], not {given!r}')
            if not self.columns:
                raise ValueError("columns is a list of names, or None for all, not an empty one")
        rename = self.rename
        if rename is not None and not (isinstance(rename, Mapping) and _are_names(rename.values())):
            raise ValueError(f'rename maps columns to names, as in rename={{"city": "name"}}, not {rename!r}')
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.delimiter is not None and not (_is_one(self.delimiter) and self.delimiter not in '"\r\n'):
            raise ValueError(f"delimiter is one character, not {self.delimiter!r}")
        for name in ("decimal", "thousands"):
            mark = getattr(self, name)
            if mark is not None and not (_is_one(mark) and mark not in "+-eE" and not mark.isalnum()):
                raise ValueError(f"{name} is the mark, such as '.' or ',', not {mark!r}")
        if self.compression not in (None, "gzip", "zstd", "zip", "none"):
            raise ValueError(f"compression is 'gzip', 'zstd', 'zip' or 'none', not {self.compression!r}")

    def _pieces(self, stack: ExitStack) -> Iterator[pd.DataFrame | pa.RecordBatch]:
        columns = Columns(self.columns, self.rename or {}, self.all_if_lacking)
        if isinstance(self.path, Path) and self.path.is_dir():
            for option in ("delimiter", "encoding", "compression"):
                if getattr(self, option) is not None:
                    raise ReadError(f"{option}= is for a file, and it is a directory of Parquet files")
            yield from tables.read_parquet_directory(self.path, columns)
            return
        stream, name, whole = self._opened(stack)
        kind = self.kind or kind_of(stream.head(), name)
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
                yield from tables.read_excel(path, columns, self.called, self._for_pandas(whole))

    def _for_pandas(self, whole: Path | None) -> str | None:
        """Return what is typed for this file in a call of pandas; None if it is packed or comes once."""
        if whole is None or (self._start is None and not can_repeat(self.path)):
            return None
        return "source" if hasattr(self.path, "read") else _quoted(str(self.path))

    def _text_on_disk(self, stream: Stream, whole: Path | None, stack: ExitStack) -> Path:
        """Return a file that has the text in UTF-8: the one that was given, or a temporary one."""
        if whole and is_utf8(stream, self.encoding):
            return whole
        return on_disk(in_utf8(stream, self.encoding), stack)

    def _opened(self, stack: ExitStack) -> tuple[Stream, str, Path | None]:
        """Return the file's bytes, unpacked; its name; and the file on disk with them, if there is one."""
        whole: Path | None = None
        file, name = self.path, self.called
        if isinstance(self.path, Path):
            file, name = stack.enter_context(self.path.open("rb")), self.path.name
            whole = self.path if can_repeat(self.path) else None
        elif self._start is not None:
            self.path.seek(self._start)
        elif self.path == "-":
            file = getattr(sys.stdin, "buffer", sys.stdin)
        stream = Stream(parts_of(file, self._count, self.encoding))
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
            return Stream(iter((head,))), name, packed  # an Excel workbook
        member = member_of(archive)
        return _packed_once(Stream(unzipped(archive, member))), member.filename, None

    def _count(self, more: int) -> None:
        self.bytes_read += more

    def _seen(self, position: int) -> None:
        self.bytes_read = position


def can_repeat(path: object) -> bool:
    """Tell whether this is a path that can be read more than once: that of a pipe cannot."""
    return isinstance(path, Path) and (path.is_file() or path.is_dir())


def _ignore(_: int) -> None:
    pass


def _packed_once(stream: Stream) -> Stream:
    twice = next((each for magic, each in PACKED.items() if stream.head().startswith(magic)), "zip")
    if twice != "zip":  # a zip may be an Excel workbook
        raise ReadError(f"it is packed twice, and holds {twice} data", "Unpack it yourself.")
    return stream


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
        raise _remote(text)
    if "\n" in text:
        raise CitykitError(
            f"{text[:40]!r}… is no path, but text; nothing was loaded. For text as a file: io.StringIO(text)"
        )
    return Path(os.path.expanduser(text))  # Path.expanduser() refuses ~$cities.xlsx, the lock file of Excel


def _remote(url: str) -> CitykitError:
    can_download = re.match(r"(?i)(?:https?|ftp)://", url) is not None
    # Elsewhere a password may have any character: a database URL is often typed without percent signs.
    shown = re.sub(r"(?s)//[^/?#]*@" if can_download else "(?s)//.*@", "//***@", url, count=1)
    shown = re.sub(r"(?i)(password=)[^&]*", r"\1***", shown)
    said = f"{shown} is not a file on this machine; nothing was loaded."
    if shown != url or not can_download:
        return CitykitError(f"{said} Give the path of a file on it, or an open file.")
    name = url.rstrip("/").rpartition("/")[2].partition("?")[0] or "cities.csv"
    return CitykitError(
        f"{said} Download it first: urllib.request.urlretrieve({_quoted(url)}, {_quoted(name)})"
    )


def _missing(path: Path) -> ReadError:
    parent = path.parent
    if not parent.is_dir():
        return ReadError("there is no such file", f"There is no directory {parent} either.")
    names = [each.name for each in parent.iterdir() if each.name != path.name]  # a broken link
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


def _position(file: Any) -> int | None:
    """Return where an open file is; None if it cannot go back there (a pipe; text after next(file))."""
    try:
        position: int | None = file.tell() if file.seekable() else None
    except (AttributeError, ValueError, OSError):
        return None
    return position


def _are_names(names: object) -> bool:
    return isinstance(names, Iterable) and all(isinstance(name, str) for name in names)


def _is_one(character: object) -> bool:
    return isinstance(character, str) and len(character) == 1


def _quoted(value: object) -> str:
    """Return a value as it is typed in Python, text in double quotes where it can be."""
    if not isinstance(value, str) or '"' in value:
        return repr(value)
    return '"' + repr("'" + value)[2:]  # repr() uses double quotes around a single quote


@dataclass
class ManyFiles:
    """The rows of several files, one after the other; see `FileSource`."""

    sources: list[FileSource]

    def picking(self, columns: Sequence[str]) -> ManyFiles:
        """Do what `FileSource.picking` does."""
        return ManyFiles([source.picking(columns) for source in self.sources])

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
        """Return about how many rows all files have; None until each has an estimate."""
        rows = [source.expected_rows() for source in self.sources]
        return None if None in rows else sum(filter(None, rows))

    @property
    def bytes_read(self) -> int:
        """The bytes that were read so far, of all files."""
        return sum(source.bytes_read for source in self.sources)
