"""Which values of a typed column break its limits, and why: all at once, by pyarrow.compute. No I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.copy_values import text_bytes
from citykit.encode.encodings import lacking
from citykit.encode.rules import Rule
from citykit.pgtypes import PGTYPES, TEXT

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY = 86_400  # seconds
# The first day that PostgreSQL stores, in seconds since 1970: 24 November 4714 BC.
_FIRST = -210_866_803_200
# The last date that it stores, and the last timestamp that Arrow holds (PostgreSQL's is in 294276).
_LAST_DATE, _LAST_MICROSECOND = 185_331_706_992_000, 2**63 - 1


def flaws_of(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    """Return each limit of the rule as a reason and a mask of the values that break it."""
    check = rule.check
    if check in ("integer", "float"):
        return _flaws_of_numbers(array, rule)
    if pa.types.is_temporal(array.type):
        return _flaws_of_times(array, rule)
    flaws = _flaws_of_encoding(array, rule) if array.type == TEXT else []
    return flaws + _flaws_of_text(array, rule) if check in ("text", "enum") else flaws


def _flaws_of_encoding(texts: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    absent = rule.encoding and lacking(rule.encoding, str(text_bytes(texts), "utf-8", "ignore"))
    if not absent:
        return []
    has_one = [text is not None and not absent.isdisjoint(text) for text in texts.to_pylist()]
    return [(f"with a character that the database's encoding {rule.encoding} lacks", pa.array(has_one))]


def _flaws_of_text(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    if not np.frombuffer(text_bytes(array), np.bool_).all():
        flaws.append(("with a NUL character", pc.match_substring(array, "\0")))
    if not _surely_as_long(array, rule):
        length = pc.utf8_length(array)
        if rule.low:
            flaws.append(("empty", pc.less(length, rule.low)))
        if rule.high is not None:
            flaws.append((f"longer than {rule.high:,} characters", pc.greater(length, rule.high)))
    if rule.labels:
        known = pc.is_in(array, value_set=pa.array(rule.labels, array.type))
        shown = ", ".join(map(repr, rule.labels[:8])) + (", …" if len(rule.labels) > 8 else "")
        flaws.append((f"not one of {shown}", pc.and_(pc.is_valid(array), pc.invert(known))))
    return flaws


def _surely_as_long(array: pa.Array, rule: Rule) -> bool:
    """Tell by the lengths in bytes whether all values keep the limits (a character has 1 to 4 bytes)."""
    limits = pc.min_max(pc.binary_length(array))
    least, most = limits["min"].as_py(), limits["max"].as_py()
    if least is None:
        return True
    return least > 4 * ((rule.low or 0) - 1) and (rule.high is None or most <= rule.high)


def _flaws_of_numbers(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    whole = rule.check == "integer"
    if pa.types.is_floating(array.type):
        if whole or rule.low is not None or rule.high is not None:
            flaws.append(("infinite", pc.is_inf(array)))
        if whole:
            flaws.append(("fractional", pc.not_equal(array, pc.trunc(array))))
    if rule.type is PGTYPES["float4"]:
        with np.errstate(over="ignore"):
            single = pa.array(array.to_numpy(zero_copy_only=False).astype(np.float32))
        as_written = single.cast(pa.string()).cast(pa.float64())  # 0.1 is printed alike in both precisions
        exact = pc.or_(pc.equal(as_written, array), pc.equal(single.cast(pa.float64()), array))
        flaws.append(("not exact in single precision", pc.invert(exact)))
    if rule.low is not None:
        low = float(rule.low) if pa.types.is_floating(array.type) else rule.low
        flaws.append(("negative" if rule.low == 0 else f"below {rule.low:,}", pc.less(array, low)))
    if rule.high is not None:
        if pa.types.is_floating(array.type) and whole:
            above = pc.greater_equal(array, rule.high + 1.0)  # 2**63 - 1 is no double; 2**63 is
        else:
            above = pc.greater(array, rule.high)
        flaws.append((f"above {rule.high:,}", above))
    return flaws


def _flaws_of_times(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    check = rule.check
    if pa.types.is_timestamp(array.type):
        zoned = array.type.tz is not None
        if zoned is not (check == "timestamptz"):
            flaws.append(("with a time zone" if zoned else "without a time zone", pc.is_valid(array)))
    narrow = pa.int32() if array.type.bit_width == 32 else pa.int64()
    ticks = array.cast(narrow).cast(pa.int64())
    unit = getattr(array.type, "unit", None)  # None: days
    per_second = 10**9 // _NANOSECONDS[unit] if unit else 0
    if check == "time":
        outside = pc.or_(pc.less(ticks, 0), pc.greater(ticks, _DAY * per_second))
        flaws.append(("outside of 00:00 to 24:00", outside))
    elif check != "interval":
        low, high = _FIRST * per_second, _LAST_DATE * per_second
        if not unit:
            low, high = _FIRST // _DAY, _LAST_DATE // _DAY
        elif check != "date":
            high = _LAST_MICROSECOND * per_second // 10**6
        years = f"outside of 4714 BC to {5_874_897 if check == 'date' else 294_247}"
        flaws.append((years, _beyond(ticks, low, high)))
    elif unit in ("s", "ms"):
        most = _LAST_MICROSECOND // 10**6
        flaws.append(("longer than 292,271 years", _beyond(ticks, -most * per_second, most * per_second)))
    if unit:
        if check == "date":
            step, reason = _DAY * 10**9, "with a time of day"
        else:
            digits = 6 if rule.precision is None else rule.precision
            step = 10 ** (9 - digits)
            reason = "finer than a microsecond" if digits == 6 else f"finer than {digits} digits of a second"
        step //= _NANOSECONDS[unit]
        if step > 1:
            flaws.append((reason, pc.not_equal(pc.multiply(pc.divide(ticks, step), step), ticks)))
    return flaws


def _beyond(ticks: pa.Array, low: int, high: int) -> pa.Array:
    """Return a mask of the numbers outside of limits, which may be beyond 64 bits themselves."""
    low, high = max(low, -(2**63)), min(high, 2**63 - 1)
    return pc.or_(pc.less(ticks, pa.scalar(low, pa.int64())), pc.greater(ticks, pa.scalar(high, pa.int64())))
