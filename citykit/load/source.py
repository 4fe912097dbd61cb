"""The source of a load: a frame, Arrow data, or a stream of them, cut into chunks, checked and typed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import pandas as pd
import pyarrow as pa

from citykit.encode import (
    NOTATION,
    ROW_BYTES,
    Names,
    Rule,
    advice,
    check_dtypes,
    notes_of,
    refused,
    rejects_frame,
    validate,
)
from citykit.errors import InvalidFrameError
from citykit.files import FileSource, ManyFiles, open_file
from citykit.runtime import callers_code

CHUNK_ROWS = 65_536  # checked and typed at a time: a few megabytes, a few milliseconds
CHUNK_BYTES = 2**24  # limit a chunk where rows are wide or long
LEAST_ROWS = 1_024  # in a chunk, whatever their size: those that were sampled may be unlike the others
LOCATED_ROWS = 1_000_000  # an error names the line in the file of rows before this one: a second, at most
# Typed chunks with object columns are kept from the check until they are sent, up to this size. Others are
# typed again, which takes little time; keeping them would take as much memory as a second frame.
KEPT_BYTES = 128 * 2**20


class ArrowStream(Protocol):
    """Arrow data: a table, a batch, a reader, a polars frame, anything with Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> object: ...


Piece: TypeAlias = pd.DataFrame | ArrowStream
File: TypeAlias = str | os.PathLike[str] | IO[Any]
Source: TypeAlias = Piece | File | Sequence[File] | Iterable[Piece] | AsyncIterable[Piece]


@dataclass
class Rows:
    """The valid rows of a source, typed; what is wrong with the others is in `rejects`.

    A frame or an Arrow table can be gone through more than once, and is checked before anything is sent.
    A stream is checked as it comes, once.
    """

    source: Source
    rules: Sequence[Rule]
    stop_at_rejects: bool  # once a value is bad the rest is only checked
    names: Names = field(default_factory=Names)  # how columns of the source are renamed and picked
    report: Callable[[int], object] = lambda _done: None  # is told of the rows of a whole that are checked
    total: int | None = field(init=False)  # rows, valid or not; None where only the end will tell
    valid: int = 0
    refused: set[int] = field(default_factory=set)  # positions of valid rows that the server refused
    _rejects: list[pd.DataFrame] = field(default_factory=list)
    _labels: list[tuple[int, pd.Index[Any]]] = field(default_factory=list)  # of each chunk, by its start
    _kept: dict[int, pa.Table] = field(default_factory=dict)
    _checked: bool = False
    _large: bool = False  # rows may be longer than the server takes, which depends on how they are sent
    _columns: list[str] = field(default_factory=list)  # of a stream's first chunk
    _rows: int = 0  # that were checked, valid or not
    _notes: dict[str, str] = field(default_factory=dict)  # what the source says of its numbers
    _begun: tuple[Any, Any] | None = None  # a stream's pieces after the first, and that one

    def __post_init__(self) -> None:
        if _is_file(self.source):
            self.source = open_file(self.source)
        if isinstance(self.source, (FileSource, ManyFiles)):
            self.source = self._picked(self.source)
        self._whole = whole_of(self.source)
        self.total = getattr(self.source, "total_rows", None) if self._whole is None else len(self._whole)
        streams = any(hasattr(self.source, name) for name in ("__aiter__", "__iter__", "__arrow_c_stream__"))
        if not streams or isinstance(self.source, (str, bytes, dict, pd.Series, Coroutine)):
            raise _not_loadable(self.source)

    @property
    def can_repeat(self) -> bool:
        """Whether the rows are in memory, and can be read again."""
        return self._whole is not None

    async def first_piece(self) -> pd.DataFrame | pa.Table:
        """Return the whole, or the first piece of a stream: its dtypes decide the types of a new table."""
        if self._whole is not None:
            return self._whole
        pieces = self._pieces()
        first = await anext(pieces, _NO_ROWS)
        self._begun = pieces, first
        return first

    def expected_rows(self) -> int | None:
        """Return how many rows there are; of a file that is being read, about how many; None if unknown."""
        ask = getattr(self.source, "expected_rows", None)
        if self.total is not None or not callable(ask):
            return self.total
        with callers_code():
            expected: int | None = ask()
        return expected

    @property
    def rejects(self) -> pd.DataFrame:
        """Every bad value, in the order of the source."""
        return pd.concat(self._rejects, ignore_index=True) if self._rejects else rejects_frame([])

    def label(self, position: int) -> object:
        """Return the index label of a row by its position in the whole."""
        if self._whole is not None:
            return self._whole.index[position] if isinstance(self._whole, pd.DataFrame) else position
        start, index = next(pair for pair in reversed(self._labels) if pair[0] <= position)
        return index[position - start]

    def reject(self, violations: Sequence[tuple[int, str, Any, str]]) -> None:
        """Count rows (position, column, value, reason) that the server refused among the rejects."""
        labelled = [(self.label(position), *what) for position, *what in violations]
        self._rejects.append(rejects_frame(labelled))
        positions = {position for position, *_ in violations}
        self.refused |= positions
        self.valid -= len(positions)

    async def check(self) -> None:
        """Check a whole frame or table before any row is sent; a stream is checked as it comes.

        Raises
        ------
        InvalidFrameError
            If a value is bad and `stop_at_rejects`.
        """
        if not self.can_repeat:
            return
        kept = 0
        self._checked = True
        # Forget an earlier check, by other rules.
        self.valid, self._rows, self.refused, self._rejects, self._kept = 0, 0, set(), [], {}
        if isinstance(self._whole, pd.DataFrame):
            await asyncio.to_thread(check_dtypes, self._whole, self.rules, self.names)
        async for start, chunk in self._chunks():
            rows = await asyncio.to_thread(self._validate, start, chunk)
            self.report(start + len(chunk))
            kept += rows.nbytes
            self._large = self._large or 2 * rows.nbytes > ROW_BYTES
            if kept <= KEPT_BYTES and any(column.dtype == object for _, column in chunk.items()):
                self._kept[start] = rows
        self.refuse()

    async def check_by(self, rules: Sequence[Rule]) -> None:
        """Check by these rules, unless the check before was by the same ones and no row is very long."""
        again = rules != self.rules or not self._checked or self._large
        self.rules = rules
        if again:
            await self.check()

    def refuse(self, cause: BaseException | None = None) -> None:
        """Raise the error that names every bad value, if there is one and `stop_at_rejects`."""
        if self._rejects and self.stop_at_rejects:
            rejects = self.rejects
            said = advice(rejects, self._rows, self._notes, self.names.in_source)
            meanings = {rule.name: rule.meaning for rule in self.rules}
            raise refused(rejects, meanings, said, self._place(rejects["row"].iloc[0])) from cause

    def _place(self, row: Any) -> str:
        """Say in which line of a file a row is; '' for a late row, whose line takes seconds to find."""
        if not isinstance(self.source, FileSource) or row >= LOCATED_ROWS:
            return ""
        line = self.source.lines_of([row]).get(row)
        return f"Row label {row} is line {line:,} of {self.source.called}." if line else ""

    async def batches(self) -> AsyncGenerator[pa.Table, None]:
        """Yield the valid rows in order; the first column of each batch is `POSITION`."""
        async with aclosing(self._chunks()) as chunks:
            async for start, chunk in chunks:
                if self.can_repeat:
                    rows = self._kept.get(start)
                    if rows is None:
                        rows, _ = await asyncio.to_thread(validate, chunk, self.rules, start, self.names)
                    yield rows
                    continue
                typed = await asyncio.to_thread(self._validate, start, chunk)
                self._labels.append((start, chunk.index))
                self._columns = self._columns or typed.column_names
                if typed.column_names != self._columns:
                    raise _other_columns(start, set(typed.column_names) ^ set(self._columns))
                if not (self.stop_at_rejects and self._rejects):
                    yield typed

    def _validate(self, start: int, chunk: pd.DataFrame) -> pa.Table:
        rows, rejects = validate(chunk, self.rules, start, self.names)
        if len(rejects):
            self._rejects.append(rejects)
        self.valid += rows.num_rows
        self._rows += len(chunk)
        self._notes = self._notes or notes_of(chunk)
        return rows

    async def _chunks(self) -> AsyncGenerator[tuple[int, pd.DataFrame], None]:
        start = 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                rows = min(CHUNK_ROWS, max(LEAST_ROWS, int(CHUNK_BYTES // row_bytes(piece))))
                for first in range(0, max(len(piece), 1), rows):
                    chunk = piece[first : first + rows]
                    if isinstance(chunk, pa.Table):
                        chunk = await asyncio.to_thread(_to_pandas, chunk, start)
                    yield start, chunk
                    start += len(chunk)

    async def _pieces(self) -> AsyncGenerator[pd.DataFrame | pa.Table, None]:
        if self._whole is not None:
            yield self._whole
            return
        if self._begun:
            (rest, first), self._begun = self._begun, None
            async with aclosing(rest):
                yield first
                async for piece in rest:
                    yield piece
            return
        with callers_code():
            pieces = _iterate(self.source)
        if not isinstance(self.source, AsyncIterable):
            pieces = self._parts(pieces)
        while True:
            with callers_code():
                if isinstance(self.source, AsyncIterable):
                    given = await anext(pieces, _END)
                    piece = given if given is _END else _piece(given, self.source)
                else:  # in a thread: it may read a file
                    piece = await asyncio.to_thread(_next, pieces)
            if piece is _END:
                return
            yield piece

    def _parts(self, pieces: Iterable[Any]) -> Iterator[pd.DataFrame | pa.Table]:
        """Yield the pieces of the source as frames and tables; a piece that is a file is read."""
        values = isinstance(self.source, (pd.Index, np.ndarray))  # their texts are no paths
        for piece in pieces:
            is_file = _is_file(piece) and not values
            for part in self._picked(open_file(piece)) if is_file else (piece,):
                yield _piece(part, self.source)

    def _picked(self, file: FileSource | ManyFiles) -> FileSource | ManyFiles:
        """Return a file of which only the columns that are loaded are read."""
        columns = self.names.picked_in_source
        return file if columns is None else file.picking(columns)


def row_bytes(rows: pd.DataFrame | pa.Table) -> float:
    """Return about how many bytes a row takes in memory, by some of the rows; categories do not count."""
    if isinstance(rows, pa.Table):
        return max(1.0, sum(map(_bytes_of_arrow, rows.columns)) / max(1, len(rows)))
    return max(1.0, sum(_value_bytes(column) for _, column in rows.items()))


def _value_bytes(column: pd.Series[Any]) -> float:
    size = max(1, len(column))
    if isinstance(column.dtype, pd.CategoricalDtype):
        return float(column.cat.codes.to_numpy().nbytes / size)
    if isinstance(column.dtype, pd.ArrowDtype):  # pandas can neither size views of text nor take some of them
        return _bytes_of_arrow(pa.chunked_array(pa.array(column))) / size
    some = column.iloc[:: max(1, size // _SAMPLED_ROWS)]
    try:
        return float(some.memory_usage(index=False, deep=True) / max(1, len(some)))
    except Exception:  # of the caller's objects, by their __sizeof__
        return float(some.memory_usage(index=False) / max(1, len(some)))


def _bytes_of_arrow(column: pa.ChunkedArray) -> int:
    if pa.types.is_dictionary(column.type):
        return len(column) * int(column.type.index_type.bit_width) // 8
    return int(pa.table({"": column}).nbytes)


_SAMPLED_ROWS = 100
_END: Any = object()
_NO_ROWS = pd.DataFrame()


def _next(pieces: Any) -> Any:
    with callers_code():  # also here: asyncio replaces a TimeoutError that comes from a thread
        return next(pieces, _END)


def _is_file(source: object) -> TypeGuard[File]:
    if isinstance(source, (pd.DataFrame, pd.Series)):  # which may have a column called read
        return False
    return isinstance(source, (str, os.PathLike)) or callable(getattr(source, "read", None))


def whole_of(source: Any) -> pd.DataFrame | pa.Table | None:
    """Return a source whose rows are in memory as a frame or table; None for a stream."""
    if isinstance(source, (pd.DataFrame, pa.Table)):
        return source
    if isinstance(source, pa.RecordBatch) or (_is_arrow(source) and hasattr(source, "__len__")):
        return _piece(source)  # a frame of polars, for example
    return None


def _piece(piece: Any, of: Any = None) -> pd.DataFrame | pa.Table:
    if isinstance(piece, (pd.DataFrame, pa.Table)):
        return piece
    if isinstance(piece, pa.RecordBatch):
        return pa.Table.from_batches([piece])
    if not _is_arrow(piece):
        raise _not_loadable(piece, of)
    for name, dtype in getattr(piece, "schema", {}).items():  # of polars
        if str(dtype) == "Object":
            raise TypeError(
                f"column {name!r} is of polars' dtype Object, of which Arrow gets memory addresses; nothing "
                "was loaded. Give it another dtype: "
                f"frame = frame.with_columns(polars.Series({name!r}, frame[{name!r}].to_list()))"
            )
    try:
        return pa.table(piece)
    except (pa.ArrowException, TypeError) as exc:
        if hasattr(piece, "columns"):
            raise TypeError(
                f"pyarrow cannot take a column of this {type(piece).__name__} ({exc}); nothing was loaded. "
                "Cast it to another type."
            ) from exc
        raise _not_loadable(piece, of) from exc  # a column alone, for example


def _iterate(source: Any) -> Any:
    if isinstance(source, AsyncIterable):
        return aiter(source)
    return iter(pa.RecordBatchReader.from_stream(source) if _is_arrow(source) else source)


def _is_arrow(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") and not isinstance(source, pd.Series)


def _to_pandas(chunk: pa.Table, start: int) -> pd.DataFrame:
    """Make a frame of Arrow columns as they are, without copying them, labelled by position."""
    frame: pd.DataFrame = chunk.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    frame.index = pd.RangeIndex(start, start + len(frame))
    # For what an error says to type; `table` stands for the Arrow data, which only the user has a name for.
    frame.attrs[NOTATION] = {"frame": "table.to_pandas(types_mapper=pd.ArrowDtype)"}
    if said := (chunk.schema.metadata or {}).get(NOTATION.encode()):
        with suppress(ValueError):  # metadata that another program wrote
            frame.attrs[NOTATION] = json.loads(said)
    return frame


def _other_columns(start: int, differing: set[str]) -> InvalidFrameError:
    names = sorted(differing)
    return InvalidFrameError(
        f"the chunk that begins at row {start} has other columns than the first: {', '.join(names)} in one "
        "of them only; nothing was loaded.",
        rejects_frame([(None, name, None, "in some chunks only") for name in names]),
    )


def _not_loadable(source: object, of: object = None) -> TypeError:
    """Return the error for a source, or for a piece `of` a source, that is no frame."""
    hint = _hint(source if of is None else of, source)
    kind = type(source).__name__
    return TypeError(
        "a pandas DataFrame is needed, Arrow data, a file, or an iterable of these, "
        f"not {kind if of is None else f'{type(of).__name__} of {kind}'}; nothing was loaded. {hint}".rstrip()
    )


def _hint(source: object, piece: object) -> str:
    """Say how to make a frame of a source that is none, or whose first piece is none."""
    if isinstance(source, Coroutine):
        source.close()
        return "Put await before the call that makes it."
    if isinstance(source, (bytes, bytearray)):
        return "For the bytes of a file: io.BytesIO(source)"
    if isinstance(source, dict) and any(isinstance(value, pd.DataFrame) for value in source.values()):
        return "Its frames: source.values()"
    for method in ("to_frame", "to_batches", "collect"):  # a Series, a dataset of pyarrow, a polars.LazyFrame
        if hasattr(source, method):
            return f"Make one: source.{method}()"
    if isinstance(source, (dict, list, tuple, np.ndarray)) and len(source):
        named = isinstance(piece, dict) or getattr(getattr(source, "dtype", None), "names", None)
        return f"Make one: pd.DataFrame(source{'' if named else ', columns=[…]'})"
    return "Call it: source()" if callable(source) else ""
