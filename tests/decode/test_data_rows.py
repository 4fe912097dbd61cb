"""The server's rows to columns, without a server."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citykit.decode.data_rows import SLACK, unpack

TEXT = 25
NUMBERS = {16: "?", 20: "q", 21: "h", 23: "i", 26: "I", 700: "f", 701: "d"}
# Among the values are those whose bytes look like the beginning of a row.
LIKE_A_ROW = b"D\0\0\0\x12\0\2\0\0\0\4\0\0\0\1\0\0\0\0D\0\0\0\x0e\0\1\0\0\0\4"


def cell(oid: int, value: Any) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    sent = value.encode() if oid == TEXT else struct.pack("!" + NUMBERS[oid], value)
    return struct.pack("!i", len(sent)) + sent


def row(oids: list[int], values: tuple[Any, ...]) -> bytes:
    """Write a row as the manual of the protocol says."""
    cells = b"".join(cell(oid, value) for oid, value in zip(oids, values, strict=True))
    return b"D" + struct.pack("!ih", len(cells) + 6, len(oids)) + cells


def unpacked(data: bytes, oids: list[int]) -> tuple[list[list[Any]], int]:
    columns, used = unpack(np.frombuffer(data + b"\xff" * SLACK, np.uint8), oids)
    return [column.to_pylist() for column in columns], used


def values(oid: int) -> st.SearchStrategy[Any]:
    if oid == TEXT:
        hidden = st.integers(0, len(LIKE_A_ROW)).map(lambda start: LIKE_A_ROW[start:].decode())
        return st.none() | hidden | st.text(st.characters(exclude_categories=["Cs"]))
    if oid in (700, 701):
        return st.none() | st.floats(width=32 if oid == 700 else 64, allow_nan=False)
    if oid == 16:
        return st.none() | st.booleans()
    size = struct.calcsize("!" + NUMBERS[oid])
    hidden_number = st.integers(0, len(LIKE_A_ROW) - size).map(
        lambda start: struct.unpack("!" + NUMBERS[oid], LIKE_A_ROW[start : start + size])[0]
    )
    bits = size * 8
    whole = st.integers(0, 2**bits - 1) if oid == 26 else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.none() | hidden_number | whole


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[tuple[Any, ...]]]:
    oids = draw(st.lists(st.sampled_from([TEXT, *NUMBERS]), min_size=1, max_size=14))
    return oids, draw(st.lists(st.tuples(*map(values, oids)), max_size=8))


@given(tables(), st.sampled_from([b"", b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\5I", b"N\0\0\0\x08D\0\0\0"]), st.data())
def test_every_whole_row_comes_back_and_no_other(
    table: tuple[list[int], list[tuple[Any, ...]]], after: bytes, data: st.DataObject
) -> None:
    oids, rows = table
    messages = [row(oids, values) for values in rows]
    sent = b"".join(messages) + after
    cut = data.draw(st.integers(0, len(sent)))
    whole = [end for n in range(len(messages) + 1) if (end := sum(map(len, messages[:n]))) <= cut]
    columns, used = unpacked(sent[:cut], oids)
    assert used == whole[-1]
    assert [*zip(*columns, strict=True)] == rows[: len(whole) - 1]


def test_each_value_of_a_float_is_kept_bit_by_bit() -> None:
    sent = [0x7FF8000000000001, 0xFFF0000000000000, 0x8000000000000000, 1]
    data = b"".join(b"D" + struct.pack("!ihiQ", 18, 1, 8, bits) for bits in sent)
    [column], _ = unpack(np.frombuffer(data + bytes(SLACK), np.uint8), [701])
    assert column.to_numpy().view(np.uint64).tolist() == sent


def test_a_large_value_that_is_full_of_beginnings_takes_no_time_and_little_memory() -> None:
    oids = [TEXT, 23]
    sent = row(oids, ("D" * 10_000_000, 1)) + row(oids, ("D", 2))
    tracemalloc.start()
    [texts, numbers], used = unpacked(sent, oids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ([len(text) for text in texts], numbers) == ([10_000_000], [1])
    assert unpacked(sent[used:], oids)[0] == [["D"], [2]]
    assert peak < 60_000_000  # of which what this test makes is half


def test_a_row_of_other_columns_is_none() -> None:
    for size in (1, 100_000):
        assert unpacked(row([TEXT, TEXT], ("x" * size, None)), [TEXT])[1] == 0


def test_numbers_that_do_not_come_in_binary_are_refused() -> None:
    sent = b"D" + struct.pack("!ihi", 11, 1, 5) + b"12345" + row([23], (None,))
    with pytest.raises(TypeError, match="oid 23"):
        unpacked(sent, [23])
