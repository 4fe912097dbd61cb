"""Typed columns as the bytes of COPY: in binary, which the server reads faster, else as csv. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import date
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from citykit.encode.copy_values import intervals, numeric, numerics, uuids
from citykit.encode.rules import Rule
from citykit.pgtypes import PGTYPES, PgType

_ARRAY = "_"  # begins the server's names of arrays
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
# A dtype, its numbers, and in which rows they are; None: in every row.
_Numbers: TypeAlias = tuple[Any, Any, np.ndarray[Any, Any] | None]


def is_in_binary(rule: Rule, name: str) -> bool:
    """Tell whether the server's type, by its name, has a binary form of every value that the rule allows."""
    if rule.item is not None:
        return name.startswith(_ARRAY) and is_in_binary(rule.item, name.removeprefix(_ARRAY))
    type_, into = rule.type, PGTYPES.get(name)
    if type_ is None or into is None or not into.binary:
        return False
    if into.check != type_.check and not {into.check, type_.check} <= {"enum", "text"}:
        return False
    if type_.check == "integer":
        limits = np.iinfo(into.binary)
        return limits.min <= (rule.low or 0) and (rule.high or 0) <= limits.max
    return type_.check != "float" or np.dtype(type_.binary).itemsize <= np.dtype(into.binary).itemsize


def encode_binary(rows: pa.Table, types: Sequence[str]) -> memoryview:
    r"""Encode rows for COPY in binary, without `HEADER` and `TRAILER`.

    Examples
    --------
    >>> import pyarrow as pa
    >>> bytes(encode_binary(pa.table({"a": pa.array(["é", None], pa.large_string())}), ["text"]))
    b'\x00\x01\x00\x00\x00\x02\xc3\xa9\x00\x01\xff\xff\xff\xff'
    """
    if not rows.num_rows:
        return memoryview(b"")
    columns = [column.combine_chunks() for column in rows.columns]
    return memoryview(_joined([(">i2", len(types), None)], columns, types).buffers()[2])


def _joined(fixed: list[_Numbers], columns: Sequence[pa.Array], types: Sequence[str]) -> pa.Array:
    """Return the bytes of each row: the numbers in `fixed`, then each value after its length."""
    pieces: list[pa.Array] = []  # each with the bytes of some adjacent columns, for every row
    count = len(columns[0])
    for column, type_ in zip(columns, types, strict=True):
        packed = None if type_.startswith(_ARRAY) else _packed(column, PGTYPES[type_])
        if packed is not None:
            there = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
            size = packed.itemsize if there is None else np.where(there, packed.itemsize, -1)
            fixed += [(">i4", size, None), (packed.dtype, packed, there)]
        else:
            value = _value(column, type_)
            fixed.append((">i4", pc.binary_length(value).fill_null(-1).to_numpy(), None))
            pieces += [_beside(fixed, count), value]
            fixed = []  # the numbers of the next piece
    if fixed:
        pieces.append(_beside(fixed, count))
    return pc.binary_join_element_wise(*pieces, _NOTHING, null_handling="replace", null_replacement=b"")


def _beside(fixed: Sequence[_Numbers], count: int) -> pa.Array:
    """Put numbers side by side, as one value of bytes for each row; those that are not there are cut out."""
    packed = np.empty(count, dtype=[(f"f{place}", dtype) for place, (dtype, *_) in enumerate(fixed)])
    kept, lengths = None, np.full(count, packed.itemsize, np.int64)
    for place, (_, numbers, there) in enumerate(fixed):
        values = packed[f"f{place}"]
        values[... if there is None else there] = numbers
        if there is not None:
            kept = np.ones((count, packed.itemsize), np.bool_) if kept is None else kept
            offset: int = packed.dtype.fields[f"f{place}"][1]  # type: ignore[index]
            kept[:, offset : offset + values.itemsize] = there[:, np.newaxis]
            lengths -= ~there * values.itemsize
    data = packed.view(np.uint8)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return _binary(offsets, data if kept is None else data[kept.reshape(-1)])


def _packed(column: pa.Array, into: PgType) -> Any:
    """Return the values that are not NULL as an array of NumPy; None where their lengths may differ."""
    if into.binary in ("bytes", "jsonb"):
        return None
    values = column.drop_null() if column.null_count else column
    if into.binary in _PACKED:
        return _PACKED[into.binary](values)
    has, type_ = pa.types, values.type
    if not has.is_floating(type_):
        values = values.cast(
            pa.int32() if has.is_date32(type_) else pa.uint8() if has.is_boolean(type_) else pa.int64()
        )
    return (values.to_numpy(zero_copy_only=False) - into.epoch).astype(into.binary)


_PACKED = {"numeric": numerics, "uuid": uuids, "interval": intervals}


def _value(column: pa.Array, type_: str) -> pa.Array:
    """Return the bytes of each value, NULL where it is NULL."""
    if type_.startswith(_ARRAY):
        return _lists(column, type_.removeprefix(_ARRAY))
    into = PGTYPES[type_]
    if into.binary == "numeric":
        texts = column.cast(pa.large_string()).to_pylist()
        values = [None if text is None else numeric(text) for text in texts]
        return pa.array(values, pa.large_binary())
    if into.binary == "jsonb":  # the version of the format, then the text
        column = pc.binary_join_element_wise(_of("\1"), column, _of(""))
    return column.cast(pa.large_binary())


_HEAD = np.dtype([(name, ">i4") for name in ("dimensions", "nulls", "oid", "size", "first")])
_NOTHING = pa.scalar(b"", pa.large_binary())


def _lists(lists: pa.Array, type_: str) -> pa.Array:
    """Return the bytes of arrays of elements of a type: a head, then each element after its length."""
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy()
    heads = np.zeros(len(lists), _HEAD)
    heads["dimensions"], heads["nulls"], heads["oid"], heads["first"] = 1, 1, PGTYPES[type_].oid, 1
    heads["size"] = sizes
    head = _beside([(_HEAD, heads, None)], len(lists))
    of_none = pa.scalar(struct.pack(">3i", 0, 0, PGTYPES[type_].oid), pa.large_binary())
    head = pc.if_else(pc.equal(sizes, 0), of_none, head)
    elements = _joined([], [lists.flatten()], [type_])
    _, places, data = elements.buffers()
    ends = np.concatenate(([0], np.cumsum(sizes)))
    body = _binary(np.frombuffer(places, np.int64)[ends], np.frombuffer(data, np.uint8))
    return pc.if_else(lists.is_valid(), pc.binary_join_element_wise(head, body, _NOTHING), None)


def _binary(offsets: np.ndarray[Any, Any], data: np.ndarray[Any, Any]) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


# Arrow quotes every text and leaves NULL bare. COPY tells '' from NULL by that, and reads \. as a text.
_OPTIONS = csv.WriteOptions(include_header=False, quoting_style="needed")
_DAY = 86_400_000_000  # microseconds


def encode_csv(rows: pa.Table | pa.RecordBatch) -> bytes:
    r"""Encode rows for ``COPY … FROM STDIN (FORMAT csv)``.

    Examples
    --------
    >>> import pyarrow as pa
    >>> encode_csv(pa.record_batch({"name": ["Åre", "", None], "latitude": [63.4, None, -0.5]}))
    b'"\xc3\x85re",63.4\n"",\n,-0.5\n'
    >>> tags = pa.array([["a b", None], []], pa.large_list(pa.large_string()))
    >>> encode_csv(pa.record_batch({"tags": tags}))
    b'"{""a b"",NULL}"\n"{}"\n'
    """
    sink = pa.BufferOutputStream()
    columns = {name: _written(rows.column(name)) for name in rows.schema.names}
    csv.write_csv(pa.table(columns), sink, _OPTIONS)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _written(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the column, or texts of it if PostgreSQL does not read what Arrow would write."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    type_ = column.type
    special = pa.types.is_large_list(type_) or pa.types.is_large_binary(type_) or pa.types.is_duration(type_)
    return _as_text(column) if special or _is_beyond(column) else column


# The range (days or microseconds) that Arrow writes as PostgreSQL reads it: the years 1 to 9999, times before
# 24:00.
_WRITTEN_BY_ARROW = {
    "date32[day]": (-719_162, 2_932_896),
    "time64[us]": (0, _DAY - 1),
    "timestamp[us]": (-62_135_596_800_000_000, 253_402_300_799_999_999),
    "timestamp[us, tz=UTC]": (-62_135_596_800_000_000, 253_402_300_799_999_999),
}


def _is_beyond(array: pa.Array) -> bool:
    limits = _WRITTEN_BY_ARROW.get(str(array.type))
    if limits is None:
        return False
    numbers = array.cast(pa.int32() if pa.types.is_date(array.type) else pa.int64())
    found = pc.min_max(numbers).as_py()
    return found["min"] is not None and not limits[0] <= found["min"] <= found["max"] <= limits[1]


def _as_text(array: pa.Array) -> pa.Array:
    if pa.types.is_large_list(array.type):
        return _array_literals(array)
    if pa.types.is_large_binary(array.type):
        texts = [None if value is None else "\\x" + value.hex() for value in array.to_pylist()]
        return pa.array(texts, pa.large_string())
    if pa.types.is_duration(array.type):
        return pa.array(map(_interval, array.cast(pa.int64()).to_pylist()), pa.large_string())
    if not _is_beyond(array):
        return array.cast(pa.large_string())
    is_date, is_time = pa.types.is_date(array.type), pa.types.is_time(array.type)
    numbers = array.cast(pa.int32() if is_date else pa.int64()).to_pylist()
    if is_time:
        texts = [None if number is None else _clock(number) for number in numbers]
    else:
        zone = "+00" if getattr(array.type, "tz", None) else ""
        per_day = 1 if is_date else _DAY
        texts = [
            None if n is None else _moment(n // per_day, None if is_date else n % per_day, zone)
            for n in numbers
        ]
    return pa.array(texts, pa.large_string())


def _moment(day: int, microseconds: int | None, zone: str) -> str:
    """Write a date (a day since 1970), or a timestamp, of any year; the one before 1 is 1 BC."""
    eras, day_of_era = divmod(day + date(1970, 1, 1).toordinal() - 1, 146_097)  # days in 400 years, always
    found = date.fromordinal(day_of_era + 1)
    year = found.year + 400 * eras
    clock = "" if microseconds is None else f" {_clock(microseconds)}{zone}"
    shown, era = (year, "") if year > 0 else (1 - year, " BC")
    return f"{shown:04}-{found.month:02}-{found.day:02}{clock}{era}"


def _clock(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"


def _interval(microseconds: int | None) -> str | None:
    """Write days and hours, each with its sign: in the style sql_standard one leading minus applies to both.

    Hours and not microseconds: before version 15, PostgreSQL reads each number of an interval as 32 bits.
    """
    if microseconds is None:
        return None
    days, rest = divmod(microseconds, _DAY)
    return f"{days:+d} days +{_clock(rest)}"


def _array_literals(array: pa.Array) -> pa.Array:
    """Write ``{1,NULL}``; all but numbers are quoted, so that an element may be a comma or the text NULL."""
    elements = _as_text(array.values)
    if not pa.types.is_integer(array.type.value_type) and not pa.types.is_floating(array.type.value_type):
        escaped = pc.replace_substring(pc.replace_substring(elements, "\\", "\\\\"), '"', '\\"')
        elements = pc.binary_join_element_wise(_of('"'), escaped, _of('"'), _of(""))
    elements = elements.fill_null("NULL")
    mask = array.is_null() if array.null_count else None
    joined = pc.binary_join(pa.LargeListArray.from_arrays(array.offsets, elements, mask=mask), _of(","))
    return pc.binary_join_element_wise(_of("{"), joined, _of("}"), _of(""))


def _of(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())
