"""What can be loaded: a frame, Arrow data, or a stream of them; cut into chunks, checked and typed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from citykit.encode import Names, Rule, check_dtypes, refuse, rejects_frame, validate
from citykit.errors import InvalidFrameError

CHUNK_ROWS = 65_536  # checked, typed and encoded at a time: a few megabytes, a few milliseconds
KEPT_BYTES = 128 * 2**20  # of typed rows that need not be typed again when they are sent


class ArrowStream(Protocol):
    """Arrow data: a table, a batch, a reader, a frame of polars, whatever has Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> object: ...


Piece: TypeAlias = pd.DataFrame | ArrowStream
Source: TypeAlias = Piece | Iterable[Piece] | AsyncIterable[Piece]


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
    _rejects: list[pd.DataFrame] = field(default_factory=list)
    _labels: list[tuple[int, pd.Index[Any]]] = field(default_factory=list)  # of each chunk, by its start
    _kept: dict[int, pa.Table] = field(default_factory=dict)
    _checked: bool = False
    _columns: list[str] = field(default_factory=list)  # of a stream's first chunk

    def __post_init__(self) -> None:
        self._whole = _whole(self.source)
        self.total = None if self._whole is None else len(self._whole)
        streams = any(hasattr(self.source, name) for name in ("__aiter__", "__iter__", "__arrow_c_stream__"))
        if not streams or isinstance(self.source, (str, bytes, dict, pd.Series, Coroutine)):
            raise _not_loadable(self.source)

    @property
    def can_repeat(self) -> bool:
        """Whether the rows are at hand, and can be gone through again."""
        return self._whole is not None

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
        self.valid -= len({position for position, *_ in violations})

    async def check(self) -> None:
        """Go through a whole frame or table before any of it is sent; a stream is checked as it comes.

        Raises
        ------
        InvalidFrameError
            If a value is bad and `stop_at_rejects`.
        """
        if not self.can_repeat:
            return
        kept = 0
        self._checked = True
        self.valid, self._rejects, self._kept = 0, [], {}  # of a check by other rules, before this one
        if isinstance(self._whole, pd.DataFrame):
            await asyncio.to_thread(check_dtypes, self._whole, self.rules, self.names)
        async for start, chunk in self._chunks():
            rows = await asyncio.to_thread(self._validate, start, chunk)
            self.report(start + len(chunk))
            kept += rows.nbytes
            if kept <= KEPT_BYTES:
                self._kept[start] = rows
        self.refuse()

    async def check_by(self, rules: Sequence[Rule]) -> None:
        """Check again, if the rules are others than before, or nothing was checked yet."""
        if rules != self.rules or not self._checked:
            self.rules = rules
            await self.check()

    def refuse(self, cause: BaseException | None = None) -> None:
        """Raise the error that names every bad value, where one is enough to refuse the whole."""
        if self._rejects and self.stop_at_rejects:
            raise refuse(self.rejects, {rule.name: rule.meaning for rule in self.rules}) from cause

    async def batches(self) -> AsyncGenerator[pa.Table, None]:
        """Yield the valid rows in order, each chunk after the positions of its rows."""
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
        return rows

    async def _chunks(self) -> AsyncGenerator[tuple[int, pd.DataFrame], None]:
        start = 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                for first in range(0, max(len(piece), 1), CHUNK_ROWS):
                    chunk = piece[first : first + CHUNK_ROWS]
                    if isinstance(chunk, pa.Table):
                        chunk = await asyncio.to_thread(_to_pandas, chunk, start)
                    yield start, chunk
                    start += len(chunk)

    async def _pieces(self) -> AsyncGenerator[pd.DataFrame | pa.Table, None]:
        if self._whole is not None:
            yield self._whole
        elif isinstance(self.source, AsyncIterable):
            async for each in self.source:
                yield _piece(each, self.source)
        else:
            pieces = _iterate(self.source)
            # What an iterator does for its next piece (read a file) is not done in the event loop.
            while (piece := await asyncio.to_thread(next, pieces, _END)) is not _END:
                yield _piece(piece, self.source)


_END = object()


def _whole(source: Any) -> pd.DataFrame | pa.Table | None:
    """Return what has its rows at hand, None for what only brings them as it goes."""
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
    try:
        return pa.table(piece)
    except (pa.ArrowException, TypeError) as exc:  # a column alone, for example
        raise _not_loadable(piece, of) from exc


def _iterate(source: Any) -> Iterator[Any]:
    return iter(pa.RecordBatchReader.from_stream(source) if _is_arrow(source) else source)


def _is_arrow(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") and not isinstance(source, pd.Series)


def _to_pandas(chunk: pa.Table, start: int) -> pd.DataFrame:
    """Make a frame of Arrow columns as they are, without copying them, labelled by position."""
    frame: pd.DataFrame = chunk.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    frame.index = pd.RangeIndex(start, start + len(frame))
    return frame


def _other_columns(start: int, differing: set[str]) -> InvalidFrameError:
    names = sorted(differing)
    return InvalidFrameError(
        f"the chunk that begins at row {start} has other columns than the first: {', '.join(names)} in one "
        "of them only; nothing was loaded.",
        rejects_frame([(None, name, None, "in some chunks only") for name in names]),
    )


_READERS = {".parquet": "read_parquet", ".xlsx": "read_excel", ".json": "read_json", ".ndjson": "read_json"}


def _not_loadable(source: object, of: object = None) -> TypeError:
    """Return the error for a source, or for a piece `of` a source, that is no frame."""
    hint = _hint(source if of is None else of, source)
    kind = type(source).__name__
    return TypeError(
        "a pandas DataFrame is needed, Arrow data, or an iterable of either, "
        f"not {kind if of is None else f'{type(of).__name__} of {kind}'}; nothing was loaded. {hint}".rstrip()
    )


def _hint(source: object, piece: object) -> str:
    """Say what makes a frame of a source whose first piece (or which itself) is none."""
    if isinstance(source, Coroutine):
        source.close()
        return "Put await before the call that makes it."
    if isinstance(source, (str, bytes, os.PathLike)):
        suffix = os.path.splitext(os.fsdecode(source))[1].lower()
        lines = ", lines=True" if suffix == ".ndjson" else ""
        return f"For a file: pandas.{_READERS.get(suffix, 'read_csv')}(source{lines})"
    if isinstance(source, dict) and any(isinstance(value, pd.DataFrame) for value in source.values()):
        return "Its frames: source.values()"
    for method in ("to_frame", "to_batches", "collect"):  # a Series, a dataset of pyarrow, a polars.LazyFrame
        if hasattr(source, method):
            return f"Make one: source.{method}()"
    if isinstance(source, (dict, list, tuple, np.ndarray)) and len(source):
        named = isinstance(piece, dict) or getattr(getattr(source, "dtype", None), "names", None)
        return f"Make one: pandas.DataFrame(source{'' if named else ', columns=[…]'})"
    return "Call it: source()" if callable(source) else ""
