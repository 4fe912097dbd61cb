"""The type with which each Python value is sent, as psycopg chooses it. No I/O, no database.

asyncpg sends a value with the type that the server infers for its placeholder, and fits the value into that:
``id = $1`` with 1.7 would find the row 1. Here each value has a type of its own, written as a cast around its
placeholder. The server infers a type only for text, which it reads as it reads a literal in quotes.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections import UserString
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, NoReturn
from uuid import UUID

import asyncpg
import numpy as np
import pandas as pd
import pyarrow as pa

from citykit.errors import CitykitError

UNKNOWN = "unknown"  # PostgreSQL's name for the type of a literal in quotes, and here for text and NULL
UNKNOWN_ARRAY = "unknown[]"  # a list of text, an empty list, a list of None
JSON_ARRAY = "json"  # a list that is JSON or an array of JSON: of dicts, or of values of several types
JSONB = "text::pg_catalog.jsonb"

# The first class that fits counts: a datetime is also a date.
_TYPES: Sequence[tuple[type | tuple[type, ...], str]] = (
    (bool, "bool"),
    (float, "float8"),
    (Decimal, "numeric"),
    (datetime, "timestamp"),
    (date, "date"),
    (time, "time"),
    (timedelta, "interval"),
    (UUID, "uuid"),
    (bytes, "bytea"),
    (dict, JSONB),
    ((IPv4Address, IPv6Address, IPv4Interface, IPv6Interface), "inet"),
    ((IPv4Network, IPv6Network), "cidr"),
)
# The classes that asyncpg has for types that Python lacks; the server infers which type it is.
_OF_ASYNCPG = (asyncpg.BitString, asyncpg.Path, asyncpg.Range, asyncpg.Record)
_INTEGERS = ("int4", "int8", "numeric")  # as PostgreSQL reads the digits of a literal
_EXACT_IN_FLOAT = 2**53
_MOST_DIGITS = 131_072  # of a numeric, before the point


def param_of(word: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``, as it is typed on a line, into a parameter's name and its value.

    The value is a Python literal where `ast.literal_eval` reads one, else text.

    Raises
    ------
    ValueError
        If there is no equals sign, or no name before it.

    Examples
    --------
    >>> [param_of(word) for word in ("n=42", "country=IS", "n='42'", "list=[1, 2]", "day=2024-02-29")]
    [('n', 42), ('country', 'IS'), ('n', '42'), ('list', [1, 2]), ('day', '2024-02-29')]
    """
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{word} is not NAME=VALUE, such as --param country=IS")
    try:
        return name, ast.literal_eval(value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return name, value


def typed(name: str, value: object) -> tuple[Any, str | None]:
    """Return a parameter's value as asyncpg takes it, and the type with which it is sent.

    The type is a type's name in ``pg_catalog``, `UNKNOWN`, `UNKNOWN_ARRAY` or `JSON_ARRAY`; None for a class
    that is not in the table, whose type the server infers (see `check_known`).

    Raises
    ------
    CitykitError
        If no type of PostgreSQL holds the value (nanoseconds, for example).

    Examples
    --------
    >>> typed("n", np.int16(5)), typed("n", 2**40), typed("n", [1, 2.5]), typed("n", "2024-02-29")
    ((5, 'int4'), (1099511627776, 'int8'), ([1.0, 2.5], 'float8[]'), ('2024-02-29', 'unknown'))
    """
    try:
        found = plain(value)
        type_ = _type(found)
        if type_ == JSONB:
            return as_json(name, found), type_
        if isinstance(found, list):
            found, type_ = _array(found)
        elif type_ == "numeric" and isinstance(found, int):
            found = Decimal(found)
        if type_ in ("numeric", "numeric[]"):
            _check_digits(found)
        return _finite(found, type_)
    except RecursionError as exc:  # a value that holds itself, or whose items are of its own class
        said = f"a value of the class {type(value).__name__} has too many values inside of each other"
        raise CitykitError(f"Parameter {name!r} cannot be sent: {said}; nothing was changed.") from exc
    except (OverflowError, TypeError, ValueError) as exc:
        raise CitykitError(f"Parameter {name!r} cannot be sent: {exc}; nothing was changed.") from exc


def check_known(name: str, value: object, schema: str, wanted: str) -> None:
    """Refuse a value of an unknown class for a type of PostgreSQL's own, into which asyncpg would squeeze it.

    The type of an extension, or of the user's own, may have a codec that knows the class.
    """
    if schema == "pg_catalog" and not isinstance(value, _OF_ASYNCPG):
        raise CitykitError(
            f"Parameter {name!r} cannot be sent: {_untyped(value)}; nothing was changed. "
            f"The statement takes {wanted} there: give a value of that type, or its text."
        )


def _untyped(value: object) -> str:
    return f"no type of PostgreSQL is known for the class {type(value).__name__}"


def plain(value: Any) -> Any:
    """Return the Python value of a value of NumPy, pandas or Arrow, of an Enum, or of a subclass."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if (
        value is pd.NA
        or value is pd.NaT
        or (isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value))
    ):
        return None
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    elif isinstance(value, np.timedelta64):
        value = pd.Timedelta(value)
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        if value.nanosecond if isinstance(value, pd.Timestamp) else value.nanoseconds:
            raise ValueError(f"{value} has nanoseconds, and PostgreSQL keeps microseconds")
        return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value.to_pytimedelta()
    for class_, convert in _PLAIN:
        if isinstance(value, class_):
            return convert(value)
    return value


def _numpy_scalar(value: np.generic) -> Any:
    if not isinstance(value, np.floating):
        return value.item()
    if (number := float(value)) != value and number == number:
        raise ValueError(f"{value!s} is not exact in double precision; give a Decimal")
    return number


def _elements(values: Any) -> Any:
    """Return the elements of an array; NaN among objects and text is missing, as pandas has it.

    Of an array without dimensions, its value.
    """
    if isinstance(values.dtype, pd.ArrowDtype):
        return plain(pa.array(values))
    if not values.ndim:
        return None if np.ma.is_masked(values) else plain(np.asarray(values)[()])
    # tolist() makes integers of NumPy's datetimes
    items = list(values) if values.dtype.kind in "mM" else values.tolist()
    if values.dtype.kind == "f":
        return _list(items)
    return [None if isinstance(item, float) and item != item else plain(item) for item in items]


def _list(values: Iterable[Any]) -> list[Any]:
    return [plain(value) for value in values]


def _of_arrow(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    return _list(_to_the_microsecond(array).to_pylist())


def _to_the_microsecond(values: Any) -> Any:
    """Return an array or a scalar of Arrow's, of whose times Python would drop the nanoseconds."""
    if not pa.types.is_time64(values.type):
        return values
    try:
        return values.cast(pa.time64("us"))
    except pa.ArrowInvalid as exc:
        raise ValueError("a time of day has nanoseconds, and PostgreSQL keeps microseconds") from exc


def _refuse_frame(frame: pd.DataFrame) -> NoReturn:
    column = frame.columns[0] if len(frame.columns) else "name"
    raise TypeError(f"a DataFrame is no value; give one of its columns: frame[{column!r}]")


def _without_zone(address: Any) -> Any:
    if "%" in str(address):
        raise ValueError(f"{address} has a zone, which PostgreSQL does not keep; give it without the % part")
    return address


def _with_offset(value: time) -> time:
    if value.tzinfo is None:
        return value
    offset = value.utcoffset()
    if offset is None:
        raise ValueError(f"{value!r} has an offset from UTC only on a day; give a datetime")
    if offset.microseconds:
        raise ValueError(f"{value} has an offset from UTC with a fraction of a second; give it in UTC")
    return value


_PLAIN: Sequence[tuple[Any, Callable[[Any], Any]]] = (
    (np.generic, _numpy_scalar),
    ((np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray), _elements),
    ((pa.Array, pa.ChunkedArray), _of_arrow),
    (pa.Scalar, lambda scalar: plain(_to_the_microsecond(scalar).as_py())),
    ((UserString, pa.MonthDayNano), lambda value: value),  # sequences, but no lists: refused by their class
    (pd.DataFrame, _refuse_frame),
    (Mapping, lambda mapping: {plain(key): plain(item) for key, item in mapping.items()}),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    ((bytes, bytearray, memoryview), bytes),
    ((Sequence, Set, ValuesView), _list),
    ((IPv6Address, IPv6Interface, IPv6Network), _without_zone),
    (time, _with_offset),
)


def _type(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return UNKNOWN
    if isinstance(value, int) and not isinstance(value, bool):
        return _INTEGERS[sum(not -(2**bits) <= value < 2**bits for bits in (31, 63))]
    for class_, type_ in _TYPES:
        if isinstance(value, class_):
            zoned = isinstance(value, datetime | time) and value.tzinfo is not None
            return f"{type_}tz" if zoned else type_
    return None


def _check_digits(value: Any) -> None:
    """Refuse numbers that no numeric holds: asyncpg would send 0, or another number, for them."""
    for leaf in _leaves([value]):
        if leaf and leaf.is_finite() and leaf.adjusted() >= _MOST_DIGITS:
            raise ValueError(f"a number has more than {_MOST_DIGITS:,} digits before the point")


# What asyncpg sends as infinity or -infinity; of datetimes with a time zone, all that are equal.
_AS_INFINITY = (
    *(date.min, date.max, datetime.min, datetime.max),
    *(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
)


def _finite(value: Any, type_: str | None) -> tuple[Any, str | None]:
    """Return dates and timestamps as text where asyncpg would send one as infinity or -infinity."""
    if str(type_).removesuffix("[]") not in ("date", "timestamp", "timestamptz"):
        return value, type_
    if not any(leaf in _AS_INFINITY for leaf in _leaves([value])):
        return value, type_
    if isinstance(value, list):
        return _each(value, str), f"text[]::pg_catalog.{type_}"
    return str(value), f"text::pg_catalog.{type_}"


def _array(values: list[Any]) -> tuple[Any, str]:
    leaves = list(_leaves(values))
    types = {_type(leaf) for leaf in leaves if leaf is not None}
    if None in types:
        untyped = next(leaf for leaf in leaves if _type(leaf) is None)
        raise TypeError(f"in a list {_untyped(untyped)} (give its text)")
    if types <= {UNKNOWN}:
        return values, UNKNOWN_ARRAY
    numbers: Callable[[Any], Any] | None = None
    if types <= {*_INTEGERS}:
        [type_] = [max(types, key=lambda type_: _INTEGERS.index(type_ or ""))]
        numbers = Decimal if type_ == "numeric" else None
    elif types <= {*_INTEGERS, "numeric"}:
        type_, numbers = "numeric", Decimal
    elif types <= {*_INTEGERS, "float8"} and not any(
        isinstance(leaf, int) and abs(leaf) > _EXACT_IN_FLOAT for leaf in leaves
    ):
        type_, numbers = "float8", float
    elif len(types) == 1 and types != {JSONB}:
        [type_] = types
    else:
        type_ = None
    if type_ is None:
        return values, JSON_ARRAY
    return _each(values, numbers) if numbers else values, f"{type_}[]"


def _leaves(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _leaves(value)
        else:
            yield value


def _each(values: list[Any], convert: Callable[[Any], Any]) -> list[Any]:
    return [
        _each(value, convert) if isinstance(value, list) else None if value is None else convert(value)
        for value in values
    ]


def no_array(name: str, values: list[Any], wanted: str) -> CitykitError:
    """Return the error about a list of dicts, or of values of several types, where no JSON is taken."""
    of_dicts = all(value is None or isinstance(value, dict) for value in _leaves(values))
    hints = [] if of_dicts else ["give values of one type"]
    with contextlib.suppress(CitykitError):
        as_json(name, values)
        hints.append(f"cast it to JSON: CAST(:{name} AS jsonb)")
    hint = ", or ".join(hints)
    return CitykitError(
        f"Parameter {name!r} is a list of {'dicts' if of_dicts else 'values of several types'}, and the "
        f"statement takes {wanted} there; nothing was changed. {hint[:1].upper()}{hint[1:]}".strip()
        + "." * bool(hints)
    )


def as_json(name: str, value: object) -> str:
    """Return a dict, a list, a number or a truth value as JSON; text is JSON already."""
    if isinstance(value, str):
        return value  # read as JSON, as text is wherever the statement takes JSON
    try:
        return json.dumps(value, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as exc:
        raise CitykitError(f"Parameter {name!r} cannot be sent as JSON: {exc}; nothing was changed.") from exc


def as_json_array(name: str, values: list[Any]) -> list[Any]:
    """Return a list with each of its elements as JSON; None stays NULL."""
    return _each(values, lambda value: as_json(name, value))
