"""One Python value as a column stores it, or the reason why it cannot be stored. No I/O."""

from __future__ import annotations

import datetime
import enum
import ipaddress
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

from citykit.encode.rules import Rule
from citykit.pgtypes import PGTYPES, Check

Answer: TypeAlias = tuple[Any, str | None]  # the value to store, or None and the reason

NUMERIC_DIGITS = (131_072, 16_383)  # at most, before the point and after it, in numeric without a precision
_NO_YEAR = "outside of the years that can be stored"
_TOO_LONG = "longer than 292,271 years"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ANY_NUMERIC = Rule("", PGTYPES["numeric"], nullable=True)
# PostgreSQL takes a hyphen after any four digits, and braces around them. uuid.UUID() takes more than that.
_A_UUID = re.compile(r"(\{)?[0-9A-Fa-f]{4}(?:-?[0-9A-Fa-f]{4}){7}(?(1)\})")
_A_MACADDR = re.compile(r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
_A_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


# Types of values that `unwrapped` returns as they are; .item() of the last two loses the unit or nanoseconds.
_PLAIN = frozenset({str, int, float, bool, type(None), Decimal, np.datetime64, np.timedelta64})


def unwrapped(value: Any) -> Any:
    """Return the value of one of Python's own types that a value stands for.

    A member of an Enum is its value; a scalar of NumPy, and an instance of a subclass of str, int or float,
    is the text or number that it holds, whatever its __str__ returns.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return unwrapped(value.value)
    if isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64)):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def is_missing(value: Any) -> bool:
    """Tell whether a value is NULL to the database: None, NaN, NaT, NA."""
    if isinstance(value, Decimal):
        return value.is_nan()  # pandas fails on a signalling NaN
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def has_elements(value: Any) -> bool:
    """Tell whether a value is a list, a tuple or an array of NumPy's that has a dimension."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def checked(value: Any, rule: Rule) -> Answer:
    """Return one value, of any type, as the column stores it, or None and the reason why it cannot."""
    assert rule.type is not None and rule.type.check is not None  # noqa: S101, PT018  such columns are refused
    if rule.members and isinstance(value, enum.Enum) and value in rule.members:
        return rule.members[value], None
    value = unwrapped(value)
    return (None, None) if is_missing(value) else _CHECKS[rule.type.check](value, rule)


def _is_number(value: object) -> bool:
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, (bool, np.timedelta64))


def as_text(value: Any, _rule: Rule | None = None) -> Answer:
    """Return a text, or the reason why a value is none."""
    if not isinstance(value, str):
        return None, "not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, "with a lone surrogate, which is no character"
    return value, None


def _integer(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    low, high = int(rule.low or 0), int(rule.high or 0)
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() > 18:
        number = -(2**64) if value < 0 else 2**64  # int() of 1E+1000000000 would fill the memory
    else:
        try:
            number = int(value)
        except OverflowError:
            return None, "infinite"
        if number != value:
            return None, "fractional"
    if number < -(2**63) or number > 2**63 - 1:  # beyond 64 bits: not even the array holds it
        beyond_low = "negative" if low == 0 else f"below {low:,}"
        return None, (beyond_low if number < 0 else f"above {high:,}")
    return number, None


def _float(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    single = rule.type is PGTYPES["float4"]
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    finite = value.is_finite() if isinstance(value, Decimal) else value not in (math.inf, -math.inf)
    if math.isinf(number) and finite:
        if rule.low is None and rule.high is None:
            return None, f"too large for {rule.type and rule.type.sql}"
        return math.copysign(sys.float_info.max, 1 if value > 0 else -1), None  # its limit rejects it
    if isinstance(value, float) or not finite:
        return number, None  # single precision is checked later, for the whole column
    with np.errstate(over="ignore"):
        held = np.float32(number) if single else np.float64(number)
    if _is_held(value, held):
        return number, None
    return None, f"not exact in {'single' if single else 'double'} precision"


def _is_held(value: Any, number: np.floating[Any]) -> bool:
    """Tell whether a float equals a number: exactly, or, if that has a fraction, as it is written (0.1)."""
    if float(number) == value:
        return True
    has_fraction = isinstance(value, Decimal) and value != value.to_integral_value()
    return has_fraction and Decimal(str(number)) == value


def _numeric(value: Any, rule: Rule) -> Answer:
    if not _is_number(value):
        return None, "not a number"
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, numbers.Integral):
        number = Decimal(int(value))
    elif isinstance(value, (float, np.floating)):  # a longdouble of NumPy's is no float
        if float(value) != value:
            return None, "not exact in double precision"
        number = Decimal(repr(float(value)))  # as written
    else:
        return None, "not a decimal number"
    if number.is_infinite():
        return (str(number), None) if rule.precision is None else (None, "infinite")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101  it is a letter for infinities and NaN only
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    scale = rule.scale or 0  # may be negative, or greater than the precision
    most_before, most_after = NUMERIC_DIGITS if rule.precision is None else (rule.precision - scale, scale)
    if number and -exponent - zeros > most_after:
        if most_after < 0:
            return None, f"not a multiple of {10**-most_after:,}"
        return None, f"with more than {most_after:,} digits after the point"
    if number and number.adjusted() + 1 > most_before:
        if most_before < 0:
            return None, f"too large for numeric({rule.precision}, {scale})"
        return None, f"with more than {most_before:,} digits before the point"
    if (beyond := -exponent - max(0, most_after)) > 0:  # only zeros, of which the server refuses very many
        number = Decimal((sign, digits[:-beyond] or (0,), exponent + beyond))
    return str(number), None


def fits_numeric(array: pa.Array, rule: Rule) -> bool:
    """Tell whether all integers or doubles of an array are finite and fit a numeric's precision and scale."""
    numbers_ = array.drop_null().to_numpy(zero_copy_only=False)
    if array.type == pa.float64() and not np.isfinite(numbers_).all():
        return False
    if rule.precision is None:
        return True
    scale = rule.scale or 0
    if not 0 <= scale <= 22:
        return False
    # The last step is exact below it. 2**53 is less than 10**16, and a double holds no 10**400.
    most = min(10.0 ** min(rule.precision - scale, 16), 2.0**53 / 10.0**scale)
    if (np.abs(numbers_.astype(np.float64)) >= most).any():
        return False
    if pa.types.is_integer(array.type):
        return True
    # A double is written with at most `scale` decimals if it is the double nearest to such a decimal.
    return bool((np.rint(numbers_ * 10.0**scale) / 10.0**scale == numbers_).all())


def _boolean(value: Any, _rule: Rule) -> Answer:
    return (value, None) if isinstance(value, bool) else (None, "neither True nor False")


def _uuid(value: Any, _rule: Rule) -> Answer:
    if isinstance(value, uuid.UUID):
        return str(value), None
    fits = isinstance(value, str) and _A_UUID.fullmatch(value)
    return (str(uuid.UUID(value)), None) if fits else (None, "not a UUID")


def _for_pandas(value: Any) -> Any:
    """Return a moment or duration of NumPy's in a unit that pandas has; None if it is finer than that."""
    if np.datetime_data(value.dtype)[0] not in ("ps", "fs", "as"):
        return value
    cut = value.astype(f"{value.dtype.kind}8[ns]")
    return cut if cut == value else None


def _moment(value: Any) -> datetime.datetime | pd.Timestamp | str:
    """Return a point in time to the microsecond, or the reason why a value is none."""
    if isinstance(value, np.datetime64):
        value = _for_pandas(value)
        if value is None:
            return "finer than a microsecond"
        try:
            value = pd.Timestamp(value)
        except ValueError:
            return _NO_YEAR
    if isinstance(value, pd.Timestamp):
        if value.nanosecond:
            return "finer than a microsecond"
        return value.to_pydatetime() if 1 <= value.year <= 9999 else value
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    return value if isinstance(value, datetime.datetime) else "not a date or time"


def has_fraction(moment: datetime.datetime) -> bool:
    """Tell whether a moment's offset from UTC has a fraction of a second, which Arrow drops."""
    offset = moment.utcoffset()
    return offset is not None and offset.microseconds != 0


def _timestamp(value: Any, rule: Rule) -> Answer:
    moment = _moment(value)
    if isinstance(moment, str):
        return None, moment
    if (moment.tzinfo is not None) is not (rule.type is PGTYPES["timestamptz"]):
        return None, "with a time zone" if moment.tzinfo else "without a time zone"
    if has_fraction(moment):
        return (moment - _EPOCH) // datetime.timedelta(microseconds=1), None
    if not isinstance(moment, pd.Timestamp):
        return moment, None
    try:  # Python's datetime has no such year: the number of microseconds since 1970
        return int(moment.as_unit("us").asm8.astype(np.int64)), None
    except (OverflowError, ValueError):
        return None, _NO_YEAR


def _date(value: Any, _rule: Rule) -> Answer:
    moment = _moment(value)
    if isinstance(moment, str):
        if moment == _NO_YEAR:
            return None, moment
        return None, "with a time of day" if moment.startswith("finer") else "not a date"
    if moment.tzinfo:
        return None, "with a time zone"
    if (moment.hour, moment.minute, moment.second, moment.microsecond) != (0, 0, 0, 0):
        return None, "with a time of day"
    if isinstance(moment, pd.Timestamp):
        days = int(moment.asm8.astype("M8[D]").astype(np.int64))
        return (days, None) if -(2**31) <= days < 2**31 else (None, _NO_YEAR)
    return moment.date(), None


def _time(value: Any, _rule: Rule) -> Answer:
    if not isinstance(value, datetime.time):
        return None, "not a time of day"
    return (None, "with a time zone") if value.tzinfo else (value, None)


def _interval(value: Any, _rule: Rule) -> Answer:
    try:
        if isinstance(value, np.timedelta64) and np.datetime_data(value.dtype)[0] not in ("Y", "M"):
            value = _for_pandas(value)
            if value is None:
                return None, "finer than a microsecond"
            value = pd.Timedelta(value)
        if not isinstance(value, datetime.timedelta):
            return None, "not a duration"
        if isinstance(value, pd.Timedelta):
            if value.nanoseconds:
                return None, "finer than a microsecond"
            value = value.to_pytimedelta()
    except (OverflowError, pd.errors.OutOfBoundsTimedelta):  # beyond what Python's timedelta or pandas' holds
        return None, _TOO_LONG
    if not -(2**63) < value // datetime.timedelta(microseconds=1) < 2**63:
        return None, _TOO_LONG
    return value, None


def _json(value: Any, rule: Rule) -> Answer:
    text, reason = _json_text(value, rule)
    try:
        if reason is None:
            _check_keys(value)
    except TypeError as exc:
        return None, f"not JSON ({exc})"
    return text, reason


def _json_text(value: Any, rule: Rule) -> Answer:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_for_json)
        text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        return None, _not_json(exc)
    if rule.type is PGTYPES["jsonb"] and _A_NUL.search(text):
        return None, "with a NUL character"
    return text, None


def _not_json(exc: Exception) -> str:
    if isinstance(exc, UnicodeEncodeError):
        return "with a lone surrogate, which is no character"
    if isinstance(exc, ArithmeticError):
        return "with a number of more digits than can be stored"
    if isinstance(exc, RecursionError):
        return "with too many values inside of each other"
    if "int_max_str_digits" in str(exc):
        return f"with an integer of more than {sys.get_int_max_str_digits():,} digits"
    return f"not JSON ({exc})"


def _for_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    meant = unwrapped(value)
    if meant is not value:
        return meant
    raise TypeError(f"{type(value).__name__} is no type of JSON's")


def _check_keys(value: Any) -> None:
    """Refuse a key, however deep, that is no text: json.dumps makes text of it, even that of another."""
    found = [value]
    while found:
        each = found.pop()
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    raise TypeError(f"its key {key!r} is no text")
            found += each.values()
        elif isinstance(each, (list, tuple)):
            found += each
        elif each is not None and not isinstance(each, (str, int, float)):
            found.append(_for_json(each))


def json_as_written(text: str, rule: Rule) -> Answer:
    """Return a JSON text unchanged, or the reason why the column cannot store it."""
    try:
        read = (_JSONB if rule.type is PGTYPES["jsonb"] else _JSON).decode(text)
    except (ArithmeticError, ValueError, RecursionError) as exc:
        return None, _not_json(exc)
    _, reason = _json_text(read, rule)
    return (None, reason) if reason else (text, None)


def _jsonb_number(text: str) -> str:
    """Check a number of JSON, which jsonb stores as a numeric."""
    if len(text) > NUMERIC_DIGITS[1] or "e" in text.lower():
        _, reason = _numeric(Decimal(text), _ANY_NUMERIC)
        if reason:
            raise ValueError(f"a number {reason}")
    return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


# Numbers stay texts: PostgreSQL's may have more digits than Python's.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_JSONB = json.JSONDecoder(parse_int=_jsonb_number, parse_float=_jsonb_number, parse_constant=_refuse_constant)


def _bytea(value: Any, _rule: Rule) -> Answer:
    return (bytes(value), None) if isinstance(value, (bytes, bytearray, memoryview)) else (None, "not bytes")


def _inet(value: Any, _rule: Rule) -> Answer:
    return _address(value, ipaddress.ip_interface, "not an IP address")


def _cidr(value: Any, _rule: Rule) -> Answer:
    return _address(value, ipaddress.ip_network, "not an IP network")


def _address(value: Any, read: Callable[[str], Any], reason: str) -> Answer:
    kinds = (str, ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)
    # PostgreSQL has no zone of an address (fe80::1%eth0).
    if not isinstance(value, kinds) or "%" in str(value):
        return None, reason
    try:
        return str(read(str(value))), None
    except ValueError:
        return None, reason


def _macaddr(value: Any, _rule: Rule) -> Answer:
    fits = isinstance(value, str) and _A_MACADDR.fullmatch(value)
    return (value, None) if fits else (None, "not a MAC address")


_CHECKS: dict[Check, Callable[[Any, Rule], Answer]] = {
    "text": as_text,
    "enum": as_text,  # the labels are compared for the whole column
    "integer": _integer,
    "float": _float,
    "numeric": _numeric,
    "boolean": _boolean,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "interval": _interval,
    "json": _json,
    "bytea": _bytea,
    "inet": _inet,
    "cidr": _cidr,
    "macaddr": _macaddr,
}
