"""Values of numeric, uuid and interval in PostgreSQL's binary format: more than one number each. No I/O."""

from __future__ import annotations

import struct
from binascii import unhexlify
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from citykit.pgtypes import MOST_DIGITS, TEXT

_DAY = 86_400_000_000  # microseconds
_INTERVAL = np.dtype([("microseconds", ">i8"), ("days", ">i4"), ("months", ">i4")])
_NEGATIVE, _INFINITE = 0x4000, {"Infinity": 0xD000, "-Infinity": 0xF000}
_HEAD = [("digits", ">i2"), ("weight", ">i2"), ("sign", ">u2"), ("scale", ">i2")]
_BASE = 10_000  # of a numeric's digits; the first one is worth itself times _BASE**weight


def intervals(durations: pa.Array) -> Any:
    """Return durations, without NULL, as intervals of days and microseconds: an array of NumPy."""
    ticks = durations.cast(pa.int64()).to_numpy()
    packed = np.zeros(len(ticks), _INTERVAL)
    packed["days"], packed["microseconds"] = np.divmod(ticks, _DAY)
    return packed


def uuids(texts: pa.Array) -> Any:
    """Return UUIDs in text, without NULL, as an array of NumPy of 16 bytes each."""
    return np.frombuffer(unhexlify(bytes(text_bytes(texts)).replace(b"-", b"")), "V16")


def numerics(numbers: pa.Array) -> Any:
    """Return decimals or numbers in text, without NULL, as an array of NumPy, with equally many digits each.

    The server strips zeros before and after the digits. None if a number has an exponent, or all together
    need more than 38 digits before and after the point.
    """
    if (scaled := _scaled(numbers)) is None:
        return None
    decimals, scales = scaled
    groups, after = _groups(pc.abs(decimals)), decimals.type.scale // 4
    packed = np.empty(len(numbers), [*_HEAD, ("groups", ">i2", (len(groups),))])
    packed["digits"], packed["weight"] = len(groups), len(groups) - after - 1
    packed["sign"], packed["scale"] = np.where(_words(decimals, np.int64)[:, 1] < 0, _NEGATIVE, 0), scales
    for place, group in enumerate(reversed(groups)):
        packed["groups"][:, place] = group
    return packed


def _scaled(numbers: pa.Array) -> tuple[pa.Array, Any] | None:
    """Return numbers as decimals with whole groups of four digits after the point, and their own scales."""
    if pa.types.is_decimal(numbers.type):
        scales: Any = numbers.type.scale
        whole, most = numbers.type.precision - scales, scales
    else:
        data = np.frombuffer(text_bytes(numbers), np.uint8)
        if len(data) and (data.min() < ord("-") or data.max() > ord("9")):
            return None
        points = pc.find_substring(numbers, ".").to_numpy()
        lengths = pc.binary_length(numbers).to_numpy()
        scales = np.where(points < 0, 0, lengths - 1 - points)
        whole = int(np.where(points < 0, lengths, points).max(initial=0))
        most = int(scales.max(initial=0))
    after = -(-most // 4) * 4
    if whole + after > MOST_DIGITS:
        return None
    try:
        return numbers.cast(pa.decimal128(MOST_DIGITS, after)), scales
    except pa.ArrowInvalid:
        return None


def _words(numbers: pa.Array, dtype: Any) -> Any:
    """Return the words of numbers of 128 bits as a row each, the lowest word first."""
    size = np.dtype(dtype).itemsize
    words = np.frombuffer(numbers.buffers()[1], dtype).reshape(-1, 16 // size)
    return words[numbers.offset : numbers.offset + len(numbers)]


def _groups(numbers: pa.Array) -> list[Any]:
    """Return the digits to the base of 10,000 of numbers of 0 or more, the lowest first."""
    low, high = _words(numbers, np.uint64).T
    # Numbers of more than 64 bits are divided by hand, 32 bits at a time.
    parts = list(_words(numbers, np.uint32).T[::-1].astype(np.uint64)) if high.any() else [low]
    groups = []
    while any(part.any() for part in parts):
        rest = np.zeros(len(numbers), np.uint64)
        for place, part in enumerate(parts):
            whole = (rest << np.uint64(32)) | part
            parts[place] = whole // np.uint64(_BASE)
            rest = whole - parts[place] * np.uint64(_BASE)
        groups.append(rest)
    return groups


def numeric(text: str) -> bytes:
    """Return any number in text as the server's numeric.

    Examples
    --------
    >>> numeric("-12345.60").hex(" ", 2)
    '0003 0001 4000 0002 0001 0929 1770'
    """
    number = Decimal(text)
    if number.is_infinite():
        return struct.pack(">hhHh", 0, 0, _INFINITE[str(number)], 0)
    negative, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101  it is finite
    written = "".join(map(str, digits)) + "0" * (exponent % 4)  # so that the last group is whole
    written = written.rjust(-(-len(written) // 4) * 4, "0")
    groups = [int(written[place : place + 4]) for place in range(0, len(written), 4)]
    weight = len(groups) - 1 + (exponent - exponent % 4) // 4
    while groups and not groups[-1]:
        groups.pop()
    if not groups:
        negative = weight = 0
    head = struct.pack(">hhHh", len(groups), weight, _NEGATIVE * negative, max(0, -exponent))
    return head + struct.pack(f">{len(groups)}h", *groups)


def text_bytes(texts: pa.Array) -> memoryview:
    """Return the bytes of all texts at once, and those behind a NULL, if there are any."""
    assert texts.type == TEXT  # noqa: S101
    _, places, data = texts.buffers()
    if not len(texts) or not data:
        return memoryview(b"")
    offsets = np.frombuffer(places, np.int64)
    return memoryview(data)[offsets[texts.offset] : offsets[texts.offset + len(texts)]]
