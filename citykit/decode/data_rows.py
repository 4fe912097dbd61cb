"""DataRow messages in binary as typed columns, and CopyData messages as lines. No I/O, no database.

A DataRow is ``D``, its length, the number of its columns, and each column's length (-1: NULL) and value.
Where a row begins is known only from the row before. To find all without a loop over rows, every byte ``D``
with a fitting header is taken for a beginning; if each of them is where another row ends, they are right.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from citykit.pgtypes import EXACT, KNOWN

Bytes: TypeAlias = NDArray[np.uint8]

ROW = ord("D")  # DataRow
COPIED = ord("d")  # CopyData
LARGE = 1 << 17  # bytes
TOGETHER = 5  # columns of numbers that are unpacked at once
SLACK = 12 * TOGETHER  # bytes after the data that may be read; their values do not matter

# NumPy's format of the numbers, by oid; the other types of pgtypes.EXACT come as their bytes.
_NUMBERS: Mapping[int, str] = {
    oid: KNOWN[oid].row.binary for oid in EXACT if KNOWN[oid].row.binary != "bytes"
}
_HEAD = np.dtype([("kind", "u1"), ("size", ">i4"), ("columns", ">i2")])
_SIZE = np.dtype(">i4")
_COPY = np.dtype([("kind", "u1"), ("size", ">i4")])


def unpack(data: Bytes, oids: Sequence[int]) -> tuple[list[pa.Array], int]:
    r"""Unpack the whole rows that `data` begins with.

    Parameters
    ----------
    data : numpy.ndarray of uint8
        Messages of the server, the first of them a row, and `SLACK` bytes more.
    oids : sequence of int
        The type of each column, of `pgtypes.EXACT`.

    Returns
    -------
    list of pyarrow.Array, int
        One for each column, as long as there are rows; and where the first message begins that is no row,
        or not whole.

    Examples
    --------
    >>> rows = b"D\0\0\0\x12\0\2\0\0\0\2Ry\0\0\0\2ok" + b"D\0\0\0\x0e\0\2" + b"\xff" * 4 + bytes(4)
    >>> columns, used = unpack(np.frombuffer(rows + b"Z" + bytes(SLACK), np.uint8), [25, 25])
    >>> [column.to_pylist() for column in columns], used
    ([['Ry', None], ['ok', '']], 34)
    """
    starts, ends = whole_rows(data, len(oids))
    places = starts + _HEAD.itemsize
    columns: list[pa.Array] = []
    while rest := tuple(oids[len(columns) :]):
        numbers = tuple(takewhile(_NUMBERS.__contains__, rest))[:TOGETHER]
        if numbers:
            more, places = _numbers(data, places, numbers)
        else:
            more, places = _bytes(data, places, KNOWN[rest[0]].row.arrow)
        columns += more
    return columns, int(ends[-1]) if len(ends) else 0


def whole_rows(data: Bytes, columns: int) -> tuple[Any, Any]:
    """Return where each whole row at the beginning of `data` begins and ends (see :func:`unpack`)."""
    end = len(data) - SLACK
    _, size, of = data[: _HEAD.itemsize].view(_HEAD).item()
    if 2 * size > max(end, LARGE):  # one row takes most of it: do not search its values for a D
        one = int(size < end and of == columns)
        return np.zeros(one, np.int64), np.full(one, size + 1)
    least = _HEAD.itemsize + _SIZE.itemsize * columns
    found = np.flatnonzero(data[: max(end - least + 1, 0)] == ROW)
    heads = _gathered(data, found, _HEAD)
    fit = (heads["columns"] == columns) & (heads["size"] >= least - 1)
    starts = found.compress(fit)
    ends = starts + heads["size"].compress(fit) + 1
    return _whole(starts, ends, end)


def whole_copies(data: Bytes) -> tuple[Any, Any]:
    """Return where each whole CopyData message at the beginning of `data` begins and ends.

    The server sends a message for each line, so a message is looked for at the beginning and after each
    newline. One that begins elsewhere is found by the next call, as its first.
    """
    end = len(data) - SLACK
    found = np.flatnonzero(data[: max(end - _COPY.itemsize + 1, 0)] == COPIED)
    found = found[(found == 0) | (data[found - 1] == ord("\n"))]
    sizes = _gathered(data, found, _COPY)["size"]
    starts, ends = found[sizes >= _SIZE.itemsize], (found + sizes + 1)[sizes >= _SIZE.itemsize]
    return _whole(starts, ends, end)


def copied_lines(data: Bytes) -> tuple[bytes, int]:
    r"""Return the payload of the whole CopyData messages at the beginning of `data`, and where those end.

    Examples
    --------
    >>> copied_lines(np.frombuffer(b"d\0\0\0\6a\nd\0\0\0\6b\nd\0" + bytes(SLACK), np.uint8))
    (b'a\nb\n', 14)
    """
    starts, ends = whole_copies(data)
    if not len(ends):
        return b"", 0
    used = int(ends[-1])
    kept = np.ones(used, np.bool_)
    for offset in range(_COPY.itemsize):
        kept[starts + offset] = False
    return data[:used][kept].tobytes(), used


def _whole(starts: Any, ends: Any, end: int) -> tuple[Any, Any]:
    """Drop places that only look like the beginning of a message, and a last message that is not whole."""
    if len(starts) and (starts[0] != 0 or (ends[:-1] != starts[1:]).any()):
        chosen = _chain(starts, ends)
        starts, ends = starts[chosen], ends[chosen]
    count = len(ends) - int(len(ends) > 0 and ends[-1] > end)
    return starts[:count], ends[:count]


def _chain(starts: Any, ends: Any) -> list[int]:
    """Return which of the places are rows: the first, the one that begins where it ends, and so on."""
    if starts[0] != 0:
        return []
    followers = np.searchsorted(starts, ends)
    followers[starts.take(followers, mode="clip") != ends] = len(starts)
    chosen, follower = [], followers.tolist()
    place = 0
    while place < len(starts):
        chosen.append(place)
        place = follower[place]
    return chosen


def _numbers(data: Bytes, places: Any, oids: tuple[int, ...]) -> tuple[list[pa.Array], Any]:
    """Return adjacent columns of numbers, and where in each row the next column begins."""
    cells = _gathered(data, places, _cells(oids))
    if all((cells[f"size {n}"] == cells.dtype[f"value {n}"].itemsize).all() for n in range(len(oids))):
        return [_values(cells[f"value {n}"], oid) for n, oid in enumerate(oids)], places + cells.itemsize
    columns = []
    for oid in oids:  # one by one: a NULL has no bytes, so the next value's place differs by row
        cells = _gathered(data, places, _cells((oid,)))
        missing = cells["size 0"] < 0
        if (cells["size 0"][~missing] != cells.dtype["value 0"].itemsize).any():
            raise TypeError(
                f"The type with the oid {oid} does not come in binary: has it a codec of your own?"
            )
        columns.append(_values(cells["value 0"], oid, missing))
        places = places + np.where(missing, _SIZE.itemsize, cells.itemsize)
    return columns, places


def _values(sent: Any, oid: int, missing: Any = None) -> pa.Array:
    type_: Any = KNOWN[oid].row.arrow
    return pa.array(sent.astype(type_.to_pandas_dtype()), type_, mask=missing)


@functools.cache
def _cells(oids: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype([
        field for n, oid in enumerate(oids) for field in ((f"size {n}", _SIZE), (f"value {n}", _NUMBERS[oid]))
    ])  # fmt: skip


def _bytes(data: Bytes, places: Any, type_: pa.DataType) -> tuple[list[pa.Array], Any]:
    """Return a column of text or bytes, and where in each row the next column begins."""
    sizes = _gathered(data, places, _SIZE).astype(np.int64)
    missing = sizes < 0
    starts = places + _SIZE.itemsize
    ends = starts + np.maximum(sizes, 0)
    if not len(places):
        return [pa.array([], type_)], ends
    # The elements of `between` are values and the bytes between them by turns: Arrow takes every second one.
    bounds = np.empty(2 * len(starts), np.int64)
    bounds[0::2], bounds[1::2] = starts, ends
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    between = pa.Array.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
    _, offsets, values = pc.array_take(
        between, pa.array(np.arange(0, len(bounds), 2)), boundscheck=False
    ).buffers()
    known = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return [pa.Array.from_buffers(type_, len(places), [known, offsets, values])], ends


def _gathered(data: Bytes, places: Any, dtype: np.dtype[Any]) -> Any:
    """Return the elements of `dtype` that begin at these places, aligned or not."""
    size = dtype.itemsize
    everywhere: Any = np.ndarray((len(data) - size + 1,), f"V{size}", data, strides=(1,))
    return everywhere[places].view(dtype)
