"""Type one column as an Arrow array; a value that does not fit gets a reason. No I/O.

A column whose dtype tells the type of its values, or whose objects are all of one Python type, is typed as a
whole; in any other column each value is checked alone. The limits of the column are then checked for all
values at once (`limits.flaws_of`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Context, Decimal
from itertools import chain
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.copy_values import text_bytes
from citykit.encode.limits import flaws_of
from citykit.encode.rules import Rule
from citykit.encode.text_lists import NO_LIST, list_in
from citykit.encode.text_numbers import EXACT_DIGITS, NUMBERS, numbers_in, typed_numbers
from citykit.encode.text_times import READ_FROM_TEXT, times_in
from citykit.encode.values import (
    as_text,
    checked,
    fits_numeric,
    has_elements,
    has_fraction,
    is_missing,
    json_as_written,
    unwrapped,
)
from citykit.pgtypes import MOST_DIGITS, PGTYPES, TEXT, Check

Reasons: TypeAlias = dict[int, str]  # position → why the value is bad; in the array it is null
_FROM_TEXT = (*NUMBERS, *READ_FROM_TEXT)

_A_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def convert(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons]:
    """Type one column by its rule."""
    assert rule.type is not None  # noqa: S101  columns of other types are refused before
    if isinstance(series.dtype, pd.CategoricalDtype):
        dtype = series.cat.categories.dtype
        series = series.astype(object if dtype.kind in "iub" and series.hasnans else dtype)
    array = _in_arrow(series)
    if rule.item is not None:
        array, reasons = _arrays(series, array, rule.item)
    else:
        found = _typed_as_one(series, rule) if array is None else _typed_at_once(array, rule)
        array, reasons = found or _typed_one_by_one(series, rule)
        for reason, flawed in flaws_of(array, rule):
            for position in _positions(flawed):
                reasons.setdefault(position, reason)
    if rule.missing is not None:
        array = array.fill_null(rule.missing)
    elif not rule.nullable and array.null_count:
        for position in _positions(array.is_null()):  # a bad value has its reason already
            reasons.setdefault(position, "missing")
    if reasons:
        good = np.ones(len(array), dtype=bool)
        good[list(reasons)] = False
        array = pc.if_else(pa.array(good), array, pa.scalar(None, array.type))
    if array.type == TEXT and pa.types.is_decimal(rule.typed):
        return _decimals(array, rule.typed), reasons
    return (array if rule.item else array.cast(rule.typed, safe=False)), reasons


def _decimals(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Return texts of numbers, all of which fit a decimal type, as decimals of that type.

    Arrow reads a wrong number from more than `MOST_DIGITS` digits, even where the last of them are zeros.
    """
    short = (pc.max(pc.binary_length(texts)).as_py() or 0) <= MOST_DIGITS
    if short and np.frombuffer(text_bytes(texts), np.uint8).max(initial=0) <= ord("9"):  # without an exponent
        return texts.cast(type_)
    step, exact = Decimal(1).scaleb(-type_.scale), Context(prec=MOST_DIGITS)
    values = (
        None if text is None else Decimal(text).quantize(step, context=exact) for text in texts.to_pylist()
    )
    return pa.array(values, type_)


def python_values(series: pd.Series[Any]) -> list[Any]:
    """Return the values of a column as Python objects; dates outside of the years 1 to 9999 as NumPy's."""
    try:
        return list(series)
    except (OverflowError, ValueError):
        return _objects_of(pa.chunked_array(pa.array(series)).combine_chunks())


def values_at(series: pd.Series[Any], positions: list[int]) -> list[Any]:
    """Return the values at some positions as `python_values` does."""
    try:
        return python_values(series.iloc[positions])
    except pa.ArrowNotImplementedError:  # Arrow's take has no kernel for views of text and bytes
        array = pa.chunked_array(pa.array(series))
        chunks = [chunk for position in positions for chunk in array.slice(position, 1).chunks]
        return python_values(pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array(chunks, array.type))))


def _objects_of(array: pa.Array) -> list[Any]:
    if is_list(array.type):
        return [None if value.values is None else _objects_of(value.values) for value in array]
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        return list(array.to_numpy(zero_copy_only=False))
    return [_shown(value) for value in array]


def _shown(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return f"a value of Arrow's type {value.type}"  # dates in a struct, for example


def _in_arrow(series: pd.Series[Any]) -> pa.Array | None:
    """Return the column as an Arrow array; None if its dtype does not tell the type of its values."""
    if series.dtype == object:
        return None
    try:
        array = pa.array(series, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        return _decoded(array) if pa.types.is_dictionary(array.type) else array
    except (pa.ArrowException, UnicodeError, TypeError, ValueError):
        return None


_NOT_TAKEN = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def _decoded(array: pa.DictionaryArray) -> pa.Array:
    """Return the values of a dictionary-encoded array; Arrow decodes no views, which polars gives."""
    values = array.dictionary
    return values.cast(_NOT_TAKEN.get(values.type, values.type)).take(array.indices)


def is_list(type_: pa.DataType) -> bool:
    """Tell whether it is one of Arrow's list types, list views apart."""
    has = pa.types
    return bool(has.is_list(type_) or has.is_large_list(type_) or has.is_fixed_size_list(type_))


def is_text(type_: pa.DataType) -> bool:
    """Tell whether it is one of Arrow's string types."""
    has = pa.types
    return bool(has.is_string(type_) or has.is_large_string(type_) or has.is_string_view(type_))


def _positions(mask: pa.Array) -> list[int]:
    if not pc.any(mask).as_py():
        return []
    found: list[int] = np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()
    return found


def _typed_at_once(array: pa.Array, rule: Rule) -> tuple[pa.Array, Reasons] | None:
    """Type an Arrow array as a whole; None if each value must be checked alone."""
    try:
        if pa.types.is_null(array.type):
            return array.cast(rule.typed), {}
        if isinstance(array.type, pa.JsonType):
            return _as_written(array.storage, rule)
        if rule.check in _FROM_TEXT and is_text(array.type):
            return _read_texts(array, rule)
        if isinstance(array.type, pa.Bool8Type):
            array = array.storage.cast(pa.bool_())
        if pa.types.is_floating(array.type):
            array = array.cast(pa.float64())
            if pc.any(pc.is_nan(array)).as_py():  # a column of Arrow may hold NaN beside NULL
                array = pc.if_else(pc.is_nan(array), None, array)
        typed = _same_in_arrow(array, rule)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError):
        return None
    return None if typed is None else (typed, {})


def _as_written(texts: pa.Array, rule: Rule) -> tuple[pa.Array, Reasons]:
    answers = [(None, None) if text is None else json_as_written(text, rule) for text in texts.to_pylist()]
    reasons = {position: reason for position, (_, reason) in enumerate(answers) if reason}
    return pa.array([kept for kept, _ in answers], TEXT), reasons


def _same_in_arrow(array: pa.Array, rule: Rule) -> pa.Array | None:
    """Return the array as the column's type; None where that could change a value."""
    has = pa.types
    check, type_ = rule.check, array.type
    if is_text(type_):
        canonical = check == "uuid" and pc.all(pc.match_substring_regex(array, _A_UUID)).as_py() is not False
        return array.cast(TEXT) if check in ("text", "enum") or canonical else None
    if has.is_integer(type_) or has.is_floating(type_):
        if check == "integer":
            return array if has.is_floating(type_) else array.cast(pa.int64())
        if check == "float":
            return _floats(array, rule)
        return array.cast(TEXT) if check == "numeric" and fits_numeric(array, rule) else None
    if has.is_decimal(type_) and check == "numeric":
        if rule.precision is None:
            return array.cast(TEXT)
        limited = rule.typed
        if limited is None or not has.is_decimal(limited):  # too many digits, a scale below 0
            return None
        overflows = type_.precision - type_.scale + limited.scale > MOST_DIGITS  # may, without an error
        return None if overflows else array.cast(limited)
    if has.is_date(type_) and check in ("date", "timestamp"):
        days = array.cast(pa.date32())
        return days if check == "date" else days.cast(pa.timestamp("s"))
    return array if any(test(type_) for test in _KEPT.get(check, ())) else None


# Arrow's types whose values a column takes as they are.
_KEPT: dict[Check | None, tuple[Callable[[pa.DataType], bool], ...]] = {
    "boolean": (pa.types.is_boolean,),
    "date": (pa.types.is_timestamp,),
    "timestamp": (pa.types.is_timestamp,),
    "timestamptz": (pa.types.is_timestamp,),
    "time": (pa.types.is_time,),
    "interval": (pa.types.is_duration,),
    "bytea": (pa.types.is_binary, pa.types.is_large_binary),
}


def _floats(array: pa.Array, rule: Rule) -> pa.Array | None:
    """Return numbers as doubles; None where the column may not hold one of them exactly."""
    if pa.types.is_floating(array.type):
        return array
    bits = 24 if rule.type is PGTYPES["float4"] else 53
    limits = pc.min_max(array)
    least, most = limits["min"].as_py() or 0, limits["max"].as_py() or 0
    return array.cast(pa.float64()) if -(2**bits) <= least and most <= 2**bits else None


# The Arrow type that holds the values of a Python type unchanged (of int: those within 64 bits).
_HOLDS: dict[type, pa.DataType] = {
    str: TEXT, int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.large_binary(),
    datetime.date: pa.date32(), datetime.time: pa.time64("us"), datetime.timedelta: pa.duration("us"),
}  # fmt: skip

_NEVER_MISSING = _HOLDS.keys() - {float} | {UUID}  # unlike floats and Decimals, which may be NaN


def _typed_as_one(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons] | None:
    """Type objects of one type, some of them missing, as `checked` would type each; None for others.

    A subclass does not count: it may mean something else (a member of an Enum) or hold more (nanoseconds).
    """
    if series.dtype != object:
        return None
    values: Any = series.to_numpy()
    try:
        kinds, present = set(map(type, values)), values
        if not kinds <= _NEVER_MISSING and (missing := pd.isna(values)).any():
            present = values[~missing]
            kinds = set(map(type, present))
        if len(kinds) != 1:
            return None if kinds else (pa.nulls(len(values), rule.typed), {})
        [kind] = kinds
        if issubclass(kind, np.generic) and kind not in (np.datetime64, np.timedelta64):
            present = [value.item() for value in present]
            [kind] = set(map(type, present))
        typed = _typed_values(present, kind, rule)
    except (pa.ArrowException, ArithmeticError, OverflowError, TypeError, ValueError):
        return None  # for a signalling NaN or a lone surrogate, for example
    if typed is None or len(typed[0]) == len(values):
        return typed
    array, reasons = typed
    places = np.flatnonzero(~missing)
    spread = array.take(pa.array(np.cumsum(~missing) - 1, mask=missing))
    return spread, {int(places[position]): reason for position, reason in reasons.items()}


def _typed_values(values: Any, kind: type, rule: Rule) -> tuple[pa.Array, Reasons] | None:
    """Type values that are all of one type, none of them missing."""
    check = rule.check
    if kind is UUID and check == "uuid":
        return pa.array(list(map(str, values)), TEXT), {}
    if check == "numeric" and kind in (Decimal, int, float):
        return typed_numbers(pa.array(list(map(str, values)), TEXT), rule)
    if kind is Decimal and check in ("integer", "float") and rule.type is not PGTYPES["float4"]:
        texts = pa.array(list(map(str, values)), TEXT)
        pattern = r"^-?[0-9]+(?:\.0+)?$" if check == "integer" else rf"^-?[0-9.]{{1,{EXACT_DIGITS}}}$"
        if not pc.all(pc.match_substring_regex(texts, pattern)).as_py():
            return None
        return typed_numbers(texts, rule) if check == "integer" else (texts.cast(pa.float64()), {})
    if kind is pd.Timestamp and not any(at.nanosecond or not 1 <= at.year <= 9999 for at in values):
        values, kind = [at.to_pydatetime() for at in values], datetime.datetime
    if kind is datetime.datetime:
        of_zones = {id(value.tzinfo): value for value in values}
        if any(map(has_fraction, of_zones.values())):
            return None
        zoned = {value.tzinfo is not None for value in of_zones.values()}
        type_ = pa.timestamp("us", "UTC" if True in zoned else None)
        return _typed_at_once(pa.array(values, type_), rule) if len(zoned) == 1 else None
    if kind is datetime.time and any(value.tzinfo is not None for value in values):
        return None
    return _typed_at_once(pa.array(values, _HOLDS[kind]), rule) if kind in _HOLDS else None


def _typed_one_by_one(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, Reasons]:
    assert rule.type is not None  # noqa: S101
    kept: list[object] = []
    reasons: Reasons = {}
    texts: dict[int, str] = {}  # position → a text that is read at once with the others
    for position, value in enumerate(python_values(series)):
        if rule.check in _FROM_TEXT and isinstance(text := unwrapped(value), str):
            stored, reason = None, as_text(text)[1]
            if not reason:
                texts[position] = text
        else:
            stored, reason = checked(value, rule)
        kept.append(stored)
        if reason:
            reasons[position] = reason
    array = pa.array(kept, rule.type.typed)  # a numeric is typed as text
    if texts:
        read, why = _read_texts(pa.array(texts.values(), TEXT), rule)
        positions = np.array(list(texts))
        reasons.update((int(positions[place]), reason) for place, reason in why.items())
        mask = np.zeros(len(array), dtype=bool)
        mask[positions] = True
        array = pc.replace_with_mask(array, pa.array(mask), read)
    return array, reasons


def _read_texts(texts: pa.Array, rule: Rule) -> tuple[pa.Array, Reasons]:
    return numbers_in(texts, rule) if rule.check in NUMBERS else times_in(texts, rule)


def _arrays(series: pd.Series[Any], array: pa.Array | None, item: Rule) -> tuple[pa.Array, Reasons]:
    """Type a column of arrays: all their elements at once, as a column of the element's type."""
    if array is not None and isinstance(array.type, pa.FixedShapeTensorType):
        array = array.storage
    reasons: Reasons = {}
    if array is not None and is_list(array.type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64)
        present = array.is_valid().to_numpy(zero_copy_only=False)
        elements = pd.Series(pd.arrays.ArrowExtensionArray(pc.list_flatten(array)))
    else:
        lengths, present, elements, reasons = _taken_apart(series, item)
    typed, flaws = convert(elements, item)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for element, reason in sorted(flaws.items()):
        position = int(np.searchsorted(offsets, element, side="right")) - 1
        reasons.setdefault(position, f"element {element - offsets[position]} {reason}")
    return pa.LargeListArray.from_arrays(pa.array(offsets), typed, mask=pa.array(~present)), reasons


def _taken_apart(series: pd.Series[Any], item: Rule) -> tuple[Any, Any, pd.Series[Any], Reasons]:
    """Return the lengths of lists, a mask of those present, their elements, and why others are no lists."""
    of_json = item.check == "json"
    values = python_values(series)
    lists = [value if has_elements(value) else _list_of(value, of_json=of_json) for value in values]
    present = np.array([value is not None for value in lists], dtype=bool)
    lengths = np.array([0 if value is None else len(value) for value in lists], dtype=np.int64)
    elements = list(chain.from_iterable(value for value in lists if value is not None))
    reasons = {
        position: NO_LIST if isinstance(unwrapped(values[position]), str) else "not a list"
        for position in np.flatnonzero(~present).tolist()
        if not is_missing(values[position])
    }
    return lengths, present, pd.Series(elements, dtype=object), reasons


def _list_of(value: Any, *, of_json: bool) -> list[Any] | None:
    """Return the list that a text stands for; None if it stands for none."""
    text = unwrapped(value)
    return list_in(text, of_json=of_json) if isinstance(text, str) else None
