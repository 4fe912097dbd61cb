"""From the values of one column to a typed Arrow array, or the reason why a value has none. No I/O.

A column whose dtype says what is in it is typed at once; of any other each value is asked for itself.
What either gives is compared with the column's limits in Arrow's vectorised code.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.rules import Kind, Rule
from citykit.encode.values import ASK, fits_numeric, is_missing

Reasons: TypeAlias = dict[int, str]  # by position, why a value is bad (it is null in the array then)

_TEXT, _MICROSECONDS = pa.large_string(), pa.timestamp("us")
ARROW: dict[Kind, pa.DataType] = {
    "text": _TEXT,
    "integer": pa.int64(),
    "float": pa.float64(),
    "real": pa.float64(),
    "numeric": _TEXT,
    "boolean": pa.bool_(),
    "uuid": _TEXT,
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": _MICROSECONDS,
    "timestamptz": pa.timestamp("us", "UTC"),
    "interval": pa.duration("us"),
    "json": _TEXT,
    "jsonb": _TEXT,
    "bytea": pa.large_binary(),
    "enum": _TEXT,
}
_A_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def convert(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons]:
    """Type one column by its rule."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        dtype = series.cat.categories.dtype
        series = series.astype(object if dtype.kind in "iub" and series.hasnans else dtype)
    if rule.item is not None:
        array, reasons = _arrays(series, rule.item)
    else:
        array, reasons = _typed_at_once(series, rule) or _typed_one_by_one(series, rule)
        for reason, flawed in _flaws(array, rule):
            for position in _positions(flawed):
                reasons.setdefault(position, reason)
    if rule.missing is not None:
        array = array.fill_null(rule.missing)
    elif not rule.nullable and array.null_count:
        for position in _positions(array.is_null()):
            reasons.setdefault(position, "missing")
    if reasons:
        good = np.ones(len(array), dtype=bool)
        good[list(reasons)] = False
        array = pc.if_else(pa.array(good), array, pa.scalar(None, array.type))
    return (array if rule.item else array.cast(ARROW[rule.kind], safe=False)), reasons


def _positions(mask: pa.Array) -> list[int]:
    if not pc.any(mask).as_py():
        return []
    found: list[int] = np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()
    return found


def _typed_at_once(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons] | None:
    """Type a column whose dtype says what is in it; None where each value must be asked."""
    if series.dtype == object:
        return None
    try:
        array = pa.array(series, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_null(array.type):
            return array.cast(ARROW[rule.kind]), {}
        if pa.types.is_floating(array.type):
            array = array.cast(pa.float64())
            if pc.any(pc.is_nan(array)).as_py():  # an Arrow column may hold both
                array = pc.if_else(pc.is_nan(array), None, array)
        typed = _same_in_arrow(array, rule)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError):
        return None
    return None if typed is None else (typed, {})


def _same_in_arrow(array: pa.Array, rule: Rule) -> pa.Array | None:
    """Return the array as what the column takes, where every value stays what it is."""
    has = pa.types
    kind, type_ = rule.kind, array.type
    if has.is_string(type_) or has.is_large_string(type_) or has.is_string_view(type_):
        canonical = kind == "uuid" and pc.all(pc.match_substring_regex(array, _A_UUID)).as_py() is not False
        return array.cast(_TEXT) if kind in ("text", "enum") or canonical else None
    if has.is_integer(type_) or has.is_floating(type_):
        if kind == "integer":
            return array if has.is_floating(type_) else array.cast(pa.int64())
        if kind in ("float", "real"):
            return array.cast(pa.float64())  # a cast that would change a number fails
        return array.cast(_TEXT) if kind == "numeric" and fits_numeric(array, rule) else None
    if has.is_decimal(type_) and kind == "numeric":
        limited = array if rule.precision is None else array.cast(pa.decimal128(rule.precision, rule.scale))
        return limited.cast(_TEXT)
    accepted = (
        (kind == "boolean" and has.is_boolean(type_))
        or (kind in ("date", "timestamp") and has.is_date(type_))
        or (kind in ("date", "timestamp", "timestamptz") and has.is_timestamp(type_))
        or (kind == "time" and has.is_time(type_))
        or (kind == "interval" and has.is_duration(type_))
        or (kind == "bytea" and (has.is_binary(type_) or has.is_large_binary(type_)))
    )
    if accepted and has.is_date(type_):
        return array.cast(ARROW["date"] if kind == "date" else _MICROSECONDS)
    return array if accepted else None


def _typed_one_by_one(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons]:
    ask = ASK[rule.kind]
    values: list[object] = []
    reasons: Reasons = {}
    for position, value in enumerate(series):
        kept, reason = (None, None) if is_missing(value) else ask(value, rule)
        values.append(kept)
        if reason:
            reasons[position] = reason
    return pa.array(values, ARROW[rule.kind]), reasons


def _flaws(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    """Return each way in which typed values can break the rule, and which of them do."""
    if rule.kind in ("text", "enum"):
        return _flaws_of_text(array, rule)
    if rule.kind in ("integer", "float", "real"):
        return _flaws_of_numbers(array, rule)
    if rule.kind in ("date", "time", "timestamp", "timestamptz", "interval"):
        return _flaws_of_times(array, rule)
    return []


def _flaws_of_text(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    if _has_zero_byte(array):
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


def _has_zero_byte(array: pa.Array) -> bool:
    """Tell whether there may be a NUL character: a look at all bytes at once, not at each value."""
    _, places, data = array.buffers()
    if not len(array) or not data:
        return False
    offsets = np.frombuffer(places, np.int64)
    begin, end = offsets[array.offset], offsets[array.offset + len(array)]
    return not np.frombuffer(data, np.bool_)[begin:end].all()


def _surely_as_long(array: pa.Array, rule: Rule) -> bool:
    """Tell whether the numbers of bytes alone, one to four a character, keep the rule's limits."""
    limits = pc.min_max(pc.binary_length(array))
    least, most = limits["min"].as_py(), limits["max"].as_py()
    if least is None:
        return True
    return least > 4 * ((rule.low or 0) - 1) and (rule.high is None or most <= rule.high)


def _flaws_of_numbers(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    if pa.types.is_floating(array.type):
        if rule.kind == "integer" or rule.low is not None or rule.high is not None:
            flaws.append(("infinite", pc.is_inf(array)))
        if rule.kind == "integer":
            flaws.append(("fractional", pc.not_equal(array, pc.trunc(array))))
    if rule.kind == "real":
        with np.errstate(over="ignore"):
            single = pa.array(array.to_numpy(zero_copy_only=False).astype(np.float32))
        as_written = single.cast(pa.string()).cast(pa.float64())  # 0.1 as written, or to the last bit
        exact = pc.or_(pc.equal(as_written, array), pc.equal(single.cast(pa.float64()), array))
        flaws.append(("not exact in single precision", pc.invert(exact)))
    if rule.low is not None:
        low = float(rule.low) if pa.types.is_floating(array.type) else rule.low
        flaws.append(("negative" if rule.low == 0 else f"below {rule.low:,}", pc.less(array, low)))
    if rule.high is not None:
        if pa.types.is_floating(array.type) and rule.kind == "integer":
            above = pc.greater_equal(array, rule.high + 1.0)  # 2**63 - 1 is no double; 2**63 is
        else:
            above = pc.greater(array, rule.high)
        flaws.append((f"above {rule.high:,}", above))
    return flaws


def _flaws_of_times(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    flaws = []
    if pa.types.is_timestamp(array.type):
        zoned = array.type.tz is not None
        if zoned is not (rule.kind == "timestamptz"):
            flaws.append(("with a time zone" if zoned else "without a time zone", pc.is_valid(array)))
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        year = pc.year(array)
        flaws.append(("outside of the years 1 to 9999", pc.or_(pc.less(year, 1), pc.greater(year, 9999))))
    unit = getattr(array.type, "unit", None)
    if unit is not None:
        narrow = pa.int32() if pa.types.is_time32(array.type) else pa.int64()
        ticks = array.cast(narrow).cast(pa.int64())
        if rule.kind == "date":
            step, reason = 86_400 * 10**9, "with a time of day"
        else:
            digits = 6 if rule.precision is None else rule.precision
            step = 10 ** (9 - digits)
            reason = "finer than a microsecond" if digits == 6 else f"finer than {digits} digits of a second"
        step //= _NANOSECONDS[unit]
        if step > 1:
            flaws.append((reason, pc.not_equal(pc.multiply(pc.divide(ticks, step), step), ticks)))
    return flaws


def _arrays(series: pd.Series[Any], item: Rule) -> tuple[pa.Array, Reasons]:
    """Type a column of arrays: all their elements at once, as a column of the element's type."""
    reasons: Reasons = {}
    lengths = np.zeros(len(series), dtype=np.int64)
    present = np.ones(len(series), dtype=bool)
    flat: list[object] = []
    for position, value in enumerate(series):
        if isinstance(value, (list, tuple, np.ndarray)):
            elements = list(value)
            lengths[position] = len(elements)
            flat += elements
            continue
        present[position] = False
        if not is_missing(value):
            reasons[position] = "not a list"
    elements_column = pd.Series(flat, dtype=object)
    typed, flaws = convert(elements_column, item)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for element, reason in flaws.items():
        position = int(np.searchsorted(offsets, element, side="right")) - 1
        reasons.setdefault(position, f"element {element - offsets[position]} {reason}")
    array = pa.LargeListArray.from_arrays(pa.array(offsets), typed, mask=pa.array(~present))
    return array, reasons
