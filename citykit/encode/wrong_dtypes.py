"""The dtypes that a column takes, and how a wrong one is converted. No I/O.

A column of a wrong dtype is one reject instead of one for each of its values.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.columns import is_list, is_text
from citykit.encode.dtypes import EXTENSIONS, convertible, parts_of
from citykit.encode.names import quoted
from citykit.encode.rules import Rule
from citykit.encode.values import is_missing
from citykit.pgtypes import PGTYPES

_NUMBERS = frozenset({"integer", "float", "decimal"})
_TEXT = frozenset({"text"})
# The kinds of values that a column may take, by `PgType.check`. Each value is still checked: a text may be no
# UUID.
_TAKES: dict[str, frozenset[str]] = {
    "text": _TEXT,
    "enum": _TEXT,
    "integer": _NUMBERS | _TEXT,
    "float": _NUMBERS | _TEXT,
    "numeric": _NUMBERS | _TEXT,
    "boolean": frozenset({"boolean"}) | _TEXT,
    "uuid": frozenset({"text", "uuid"}),
    "date": frozenset({"date", "timestamp"}) | _TEXT,
    "time": frozenset({"time"}) | _TEXT,
    "timestamp": frozenset({"date", "timestamp"}) | _TEXT,
    "timestamptz": frozenset({"timestamptz"}) | _TEXT,
    "interval": frozenset({"duration"}),
    "json": frozenset({"text", "integer", "float", "boolean", "list", "dict", "json"}),
    "bytea": frozenset({"bytes"}),
    "inet": _TEXT,
    "cidr": _TEXT,
    "macaddr": _TEXT,
}
_WANTED = {
    "integer": "whole numbers", "float": "numbers", "numeric": "numbers", "boolean": "True and False",
    "uuid": "UUIDs", "date": "dates", "time": "times of day",
    "timestamp": "timestamps without a time zone", "timestamptz": "timestamps with a time zone",
    "interval": "durations", "json": "JSON", "bytea": "bytes",
}  # fmt: skip

# Kinds of Python's values, by their type alone: a subclass (a member of an Enum) may mean something else.
_KINDS: dict[type, str] = {
    str: "text", int: "integer", float: "float", bool: "boolean", Decimal: "decimal", bytes: "bytes",
    bytearray: "bytes", memoryview: "bytes", datetime.date: "date", datetime.datetime: "moment",
    pd.Timestamp: "moment", np.datetime64: "timestamp", datetime.time: "time", datetime.timedelta: "duration",
    pd.Timedelta: "duration", np.timedelta64: "duration", uuid.UUID: "uuid", dict: "dict", list: "list",
    tuple: "list", np.ndarray: "list", np.bool_: "boolean", np.str_: "text", complex: "complex",
}  # fmt: skip
_MISSING = frozenset({type(None), type(pd.NA), type(pd.NaT)})


def wrong_dtype(series: pd.Series[Any], rule: Rule, name: object, *, values: bool) -> tuple[str, str] | None:
    """Return why no value of a column can be stored, and how to convert it; None if one may be stored.

    Parameters
    ----------
    series : Series
    rule : Rule
    name : object
        Of the column in the user's frame.
    values : bool
        Whether a column of dtype object is judged by the types of its values. False for a part of a column:
        the rest may hold other types.
    """
    check = rule.check
    if check is None:
        return None  # such a column is refused before
    if isinstance(series.dtype, pd.CategoricalDtype) and series.cat.categories.dtype == object:
        series = series.cat.remove_unused_categories().cat.categories.to_series()
    if series.dtype == object:
        shown, kinds = _of_values(series) if values else ("", set[str]())
    else:
        shown, kinds = _of_dtype(series, rule)
    takes = frozenset({"list", "text"}) if rule.item else _TAKES[check]
    if not kinds or kinds & takes or (series.dtype != object and not _any_value(series)):
        return None
    wanted = _WANTED.get(check, "text")
    wanted = f"lists of {wanted}" if rule.item else wanted
    needed = f"{wanted} {'is' if wanted in ('text', 'JSON') else 'are'} needed"
    hint = _conversion(series, rule, kinds, f"frame[{quoted(name)}]")
    return f"of dtype {shown}, and {needed}", hint


def _of_dtype(series: pd.Series[Any], rule: Rule) -> tuple[str, set[str]]:
    """Return the name of a dtype, and the kind of its values if it tells."""
    dtype: Any = series.dtype
    shown = str(dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
        shown = f"category of {dtype}"
    try:
        type_ = _arrow_type(series)
    except (pa.ArrowException, TypeError, ValueError):
        kind = "complex" if dtype.kind == "c" else ""
    else:
        kind = _kind(type_)
        if rule.item and isinstance(type_, pa.FixedShapeTensorType) and len(type_.shape) == 1:
            kind = "list"
        elif rule.item and any(test(type_) for test in _TESTS["list"]):
            kind = "list" if _item_fits(series, type_, rule) else "list of others"
    return shown, {kind} - {""}


def _arrow_type(series: pd.Series[Any]) -> pa.DataType:
    if isinstance(series.dtype, pd.ArrowDtype):
        return series.dtype.pyarrow_dtype
    empty: Any = series.iloc[:0]
    if isinstance(series.dtype, pd.CategoricalDtype):
        empty = series.cat.categories[:0].to_series()
    elif isinstance(series.dtype, pd.SparseDtype):
        empty = pd.Series(series.array[:0].to_dense())
    return pa.array(empty, from_pandas=True).type


def _item_fits(series: pd.Series[Any], type_: pa.DataType, rule: Rule) -> bool:
    """Tell whether the column may take the elements of an Arrow list type, or the lists have none."""
    assert rule.check is not None  # noqa: S101
    kind = _kind(type_.value_type)
    if kind in (*_TAKES[rule.check], "", "list"):  # a list in a list has a reason of its own
        return True
    array = pa.array(series, from_pandas=True)
    elements = (chunk.flatten() for chunk in getattr(array, "chunks", [array]))
    return not any(len(each) - each.null_count for each in elements)


def _any_value(series: pd.Series[Any]) -> bool:
    present = series.notna()
    if not present.any():
        return False
    if isinstance(series.dtype, pd.ArrowDtype) and pa.types.is_floating(series.dtype.pyarrow_dtype):
        values = pa.array(series)  # may hold NaN beside NULL
        return not pc.all(pc.is_nan(values)).as_py()
    return True


def _kind(type_: pa.DataType) -> str:
    """Return the kind of the values of a type of Arrow's; "" where each value must be looked at."""
    has = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        name = EXTENSIONS.get(type_.extension_name)
        return (name and PGTYPES[name].check) or "other"
    if has.is_dictionary(type_):
        return _kind(type_.value_type)
    if any(isinstance(part, pa.BaseExtensionType) for part in parts_of(type_)):
        return "other"
    if has.is_timestamp(type_):
        return "timestamp" if type_.tz is None else "timestamptz"
    for kind, tests in _TESTS.items():
        if any(test(type_) for test in tests):
            return kind
    return "other"


_TESTS: dict[str, tuple[Any, ...]] = {
    "": (pa.types.is_null,),
    "boolean": (pa.types.is_boolean,),
    "integer": (pa.types.is_integer,),
    "float": (pa.types.is_floating,),
    "decimal": (pa.types.is_decimal,),
    "text": (is_text,),
    "bytes": (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    ),
    "date": (pa.types.is_date,),
    "time": (pa.types.is_time,),
    "duration": (pa.types.is_duration,),
    "list": (is_list, pa.types.is_list_view, pa.types.is_large_list_view),
    "dict": (pa.types.is_struct, pa.types.is_map),
}  # fmt: skip


def _of_values(series: pd.Series[Any]) -> tuple[str, set[str]]:
    """Return the names of the types of a column's values, and their kinds; no kind where one is unknown."""
    values = series.to_numpy()
    types = {type_ for type_ in set(map(type, values)) - _MISSING if _has_value(values, type_)}
    kinds = set()
    for type_ in types:
        kind = _KINDS.get(type_, "")
        if not kind and issubclass(type_, (np.integer, np.floating)):
            kind = "integer" if issubclass(type_, np.integer) else "float"
        elif kind == "moment":
            zoned = {getattr(value, "tzinfo", None) is not None for value in values if type(value) is type_}
            kind = "" if len(zoned) > 1 else "timestamptz" if True in zoned else "timestamp"
        kinds.add(kind)
    return f"object ({', '.join(sorted(type_.__name__ for type_ in types))})", set() if "" in kinds else kinds


def _has_value(values: Any, type_: type) -> bool:
    """Tell whether a value of a type is not missing, as NaN and NaT are."""
    if issubclass(type_, (float, np.floating, Decimal, np.datetime64, np.timedelta64)):
        return not all(is_missing(value) for value in values if type(value) is type_)
    return True


def _conversion(series: pd.Series[Any], rule: Rule, kinds: AbstractSet[str], column: str) -> str:
    """Return the line that converts a column, or else the line that leaves it out."""
    check = str(rule.check)
    found = None
    if len(kinds) == 1:
        [kind] = kinds
        if rule.item:
            found = '{}.map(lambda each: [each], na_action="ignore")' if kind in _TAKES[check] else None
        else:
            found = _to_text(series, kind) if check in ("text", "enum") else _CONVERSIONS.get((kind, check))
            if found and check == "boolean" and not series.dropna().astype(object).isin([0, 1]).all():
                found = None  # pandas refuses to convert other numbers
    if found:
        return f"Convert it: {column} = {found.format(convertible(column, series.dtype))}"
    if rule.needed:
        return ""
    return f"Convert it, or leave it out: frame = frame.drop(columns={column[6:-1]})"


def _to_text(series: pd.Series[Any], kind: str) -> str | None:
    if kind == "bytes":
        return '{}.map(bytes.decode, na_action="ignore")'
    if kind == "float":
        present = series.dropna().astype("float64")
        if bool((present == np.trunc(present)).all()) and bool(present.abs().lt(2**53).all()):
            return '{}.astype("Int64").astype("string")'  # 1067 and not 1067.0
    return None if kind == "list of others" else '{}.astype("string")'


_AS_TEXT = '{}.astype("string")'
_AT = "pd.to_datetime({})"
_CONVERSIONS: dict[tuple[str, str], str] = {
    **dict.fromkeys(
        [("boolean", "integer"), ("boolean", "float"), ("boolean", "numeric")],
        '{}.astype("boolean").astype("Int64")',
    ),
    **dict.fromkeys(
        [("duration", "integer"), ("duration", "float"), ("duration", "numeric")],
        "pd.to_timedelta({}).dt.total_seconds()",
    ),
    ("integer", "boolean"): '{}.astype("boolean")',
    ("float", "boolean"): '{}.astype("boolean")',
    ("text", "interval"): "pd.to_timedelta({})",
    ("timestamptz", "date"): f"{_AT}.dt.tz_localize(None)",
    ("timestamptz", "timestamp"): f"{_AT}.dt.tz_localize(None)",
    ("date", "timestamptz"): f'{_AT}.dt.tz_localize("UTC")',
    ("timestamp", "timestamptz"): f'{_AT}.dt.tz_localize("UTC")',
    ("timestamp", "time"): f"{_AT}.dt.time",
    ("timestamptz", "time"): f"{_AT}.dt.time",
    ("time", "interval"): f"pd.to_timedelta({_AS_TEXT})",
    ("text", "bytea"): f'{_AS_TEXT}.str.encode("utf-8")',
    ("bytes", "json"): '{}.map(bytes.decode, na_action="ignore")',
    **{(kind, "json"): _AS_TEXT for kind in (
        "decimal", "date", "timestamp", "timestamptz", "time", "duration", "uuid"
    )},
}  # fmt: skip
