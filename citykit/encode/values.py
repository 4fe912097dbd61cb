"""What a single Python value is to a column: itself, typed, or the reason why it cannot be stored. No I/O."""

from __future__ import annotations

import datetime
import json
import math
import numbers
import re
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from citykit.encode.rules import Kind, Rule

Answer: TypeAlias = tuple[Any, str | None]  # the value to store, or None and the reason

_NUMERIC_DIGITS = (131_072, 16_383)  # that numeric can hold, before the point and after it
_A_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def is_missing(value: Any) -> bool:
    """Tell whether a value is NULL to the database: None, NaN, NaT, NA."""
    if isinstance(value, Decimal):
        return value.is_nan()  # pandas stumbles over a signalling one
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _is_number(value: object) -> bool:
    no_numbers = (bool, np.bool_, np.timedelta64)  # though Python's numbers count them in
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, no_numbers)


def _text(value: Any, _rule: Rule) -> Answer:
    if not isinstance(value, str):
        return None, "not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, "with a lone surrogate, which is no character"
    return str(value), None


def _enum(value: Any, rule: Rule) -> Answer:
    try:
        label = rule.members.get(value)
    except TypeError:  # what cannot be hashed is no member
        label = None
    return (label, None) if label is not None else _text(value, rule)


def _integer(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    low, high = int(rule.low or 0), int(rule.high or 0)
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() > 18:
        number = -(2**64) if value < 0 else 2**64  # its digits would fill the memory
    else:
        try:
            number = int(value)
        except OverflowError:
            return None, "infinite"
        if number != value:
            return None, "fractional"
    if number < -(2**63) or number > 2**63 - 1:  # what does not even fit the column's array
        beyond_low = "negative" if low == 0 else f"below {low:,}"
        return None, (beyond_low if number < 0 else f"above {high:,}")
    return number, None


def _float(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number) and (not isinstance(value, Decimal) or value.is_finite()) and value != number:
        if rule.low is None and rule.high is None:
            return None, "too large for double precision"
        return math.copysign(sys.float_info.max, 1 if value > 0 else -1), None  # beyond any limit
    if isinstance(value, Decimal) and not math.isinf(number):
        exact = value in (Decimal(number), Decimal(repr(number)))  # 0.1 as written, or to the last bit
    else:
        exact = bool(number == value)
    return (number, None) if exact else (None, "not exact in double precision")


def _numeric(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, numbers.Integral):
        number = Decimal(int(value))
    elif isinstance(value, (float, np.floating)):
        number = Decimal(repr(float(value)))  # as written
    else:
        return None, "not a decimal number"
    if number.is_infinite():
        return (str(number), None) if rule.precision is None else (None, "infinite")
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101  it is a letter for infinities and NaN only
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    before = number.adjusted() + 1 if number else 0
    after = max(0, -exponent - zeros) if number else 0
    scale = rule.scale or 0
    most_before, most_after = _NUMERIC_DIGITS if rule.precision is None else (rule.precision - scale, scale)
    if after > most_after:
        return None, f"with more than {most_after:,} digits after the point"
    if before > most_before:
        return None, f"with more than {most_before:,} digits before the point"
    return str(number), None


def fits_numeric(array: pa.Array, rule: Rule) -> bool:
    """Tell whether all integers or doubles of an array are finite and fit a numeric's precision and scale."""
    numbers_ = array.drop_null().to_numpy(zero_copy_only=False)
    if array.type == pa.float64() and not np.isfinite(numbers_).all():
        return False
    if rule.precision is None:
        return True
    scale = rule.scale or 0
    most = min(10.0 ** (rule.precision - scale), 2.0**53 / 10.0**scale)  # what the next step is exact for
    if not 0 <= scale <= 22 or (np.abs(numbers_.astype(np.float64)) >= most).any():
        return False
    if pa.types.is_integer(array.type):
        return True
    # A double is a decimal of that scale, as written, if it is the double nearest to one.
    return bool((np.rint(numbers_ * 10.0**scale) / 10.0**scale == numbers_).all())


def _boolean(value: Any, _rule: Rule) -> Answer:
    return (bool(value), None) if isinstance(value, (bool, np.bool_)) else (None, "neither True nor False")


def _uuid(value: Any, _rule: Rule) -> Answer:
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(value)), None
    except (ValueError, AttributeError, TypeError):
        return None, "not a UUID"


def _moment(value: Any) -> datetime.datetime | str:
    """Return a point in time that Python can tell to the microsecond, or the reason why it is none."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, pd.Timestamp):
        if value.nanosecond:
            return "finer than a microsecond"
        value = value.to_pydatetime()
    elif isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    return value if isinstance(value, datetime.datetime) else "not a date or time"


def _timestamp(value: Any, rule: Rule) -> Answer:
    moment = _moment(value)
    if isinstance(moment, str):
        return None, moment
    if (moment.tzinfo is not None) is not (rule.kind == "timestamptz"):
        return None, "with a time zone" if moment.tzinfo else "without a time zone"
    return moment, None


def _date(value: Any, _rule: Rule) -> Answer:
    moment = _moment(value)
    if isinstance(moment, str):
        return None, "with a time of day" if moment.startswith("finer") else "not a date"
    if moment.tzinfo:
        return None, "with a time zone"
    return (moment.date(), None) if moment.time() == datetime.time() else (None, "with a time of day")


def _time(value: Any, _rule: Rule) -> Answer:
    if not isinstance(value, datetime.time):
        return None, "not a time of day"
    return (None, "with a time zone") if value.tzinfo else (value, None)


def _interval(value: Any, _rule: Rule) -> Answer:
    if isinstance(value, np.timedelta64) and np.datetime_data(value)[0] not in ("Y", "M"):
        value = pd.Timedelta(value)
    if not isinstance(value, datetime.timedelta):
        return None, "not a duration"
    if isinstance(value, pd.Timedelta):
        if value.nanoseconds:
            return None, "finer than a microsecond"
        value = value.to_pytimedelta()
    return value, None


def _json(value: Any, rule: Rule) -> Answer:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
        text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        return None, f"not JSON ({exc})"
    if rule.kind == "jsonb" and _A_NUL.search(text):
        return None, "with a NUL character"
    return text, None


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no type of JSON's")


def _bytea(value: Any, _rule: Rule) -> Answer:
    return (bytes(value), None) if isinstance(value, (bytes, bytearray, memoryview)) else (None, "not bytes")


ASK: dict[Kind, Callable[[Any, Rule], Answer]] = {
    "text": _text,
    "integer": _integer,
    "float": _float,
    "real": _float,
    "numeric": _numeric,
    "boolean": _boolean,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "interval": _interval,
    "json": _json,
    "jsonb": _json,
    "bytea": _bytea,
    "enum": _enum,
}
