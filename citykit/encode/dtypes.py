"""The column types of a new table, from the dtypes of a frame: the inverse of reading. No I/O."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import types

from citykit.encode.columns import is_list
from citykit.encode.rejects import rejects_frame
from citykit.encode.values import has_elements, is_missing, unwrapped
from citykit.errors import InvalidFrameError
from citykit.pgtypes import DECIMAL, PGTYPES, TEXT, PgType

Declared: TypeAlias = types.TypeEngine[Any]

_WHOLE = object()  # stands for the whole frame in place of a column's name, which may be anything
IDENTIFIER_BYTES = 63  # the server cuts a longer name (NAMEDATALEN - 1)
MOST_COLUMNS = 1_600  # that a table can have (MaxHeapAttributeNumber)

# The first row of `PGTYPES` whose values are read as an Arrow type.
_BY_ARROW = {row.arrow: row for row in reversed(list(PGTYPES.values())) if row.arrow and row.check}
# For other Arrow types, one of those that holds their values: of an unsigned integer, the next larger one.
_WIDENED = {
    pa.int8(): pa.int16(), pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(), pa.string(): TEXT, pa.string_view(): TEXT, pa.null(): TEXT,
    pa.binary(): pa.large_binary(), pa.binary_view(): pa.large_binary(), pa.date64(): pa.date32(),
}  # fmt: skip
# The names in `PGTYPES` for Arrow's extension types.
EXTENSIONS = {"arrow.json": "jsonb", "arrow.uuid": "uuid", "arrow.bool8": "bool"}

# The name in `PGTYPES` for each class of Python's. The first that fits counts: True is an int, too.
_BY_CLASS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool,), "bool"), ((int,), "int8"), ((float,), "float8"), ((Decimal,), "numeric"), ((str,), "text"),
    ((datetime, np.datetime64), "timestamp"), ((date,), "date"), ((time,), "time"),
    ((timedelta, np.timedelta64), "interval"), ((UUID,), "uuid"), ((bytes, bytearray, memoryview), "bytea"),
    ((dict,), "jsonb"), ((IPv4Address, IPv6Address, IPv4Interface, IPv6Interface), "inet"),
    ((IPv4Network, IPv6Network), "cidr"),
)  # fmt: skip
# Classes whose instances differ in kind: by their size, their time zone, their number of dimensions.
_OF_SEVERAL_KINDS = (int, datetime, time, np.ndarray)
# Where values are of several kinds: a type that takes all of them as they are.
_TAKES = (
    ({"int8", "float8", "numeric"}, "numeric"),
    ({"date", "timestamp"}, "timestamp"),
    (_IN_JSON := {"bool", "int8", "float8", "text", "jsonb", "array"}, "jsonb"),
)
# The conversion of a dtype that no type of PostgreSQL holds, by its kind, and that of each list in a column.
_CONVERTED = {"period": "{}.dt.to_timestamp()", "sparse": "{}", "moments": "pd.to_datetime({}, utc=True)"}
_LIST_CONVERTED = {"moments": "pd.to_datetime(each, utc=True).tolist()"}
# Types of Arrow's whose values pandas takes and converts in no way but one by one.
_ONE_BY_ONE = (
    pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_list_view, pa.types.is_large_list_view,
    pa.types.is_run_end_encoded, pa.types.is_union, pa.types.is_interval,
)  # fmt: skip


def declared(row: PgType, *limits: int) -> Declared:
    """Return SQLAlchemy's type for a row of the table of types."""
    if row is PGTYPES["timestamptz"]:
        return types.DateTime(timezone=True)
    return row.declared[0](*limits)


def convertible(column: str, dtype: Any) -> str:
    """Return what to write for a column of a dtype so that pandas can convert its values."""
    if isinstance(dtype, pd.SparseDtype):
        return f"{column}.sparse.to_dense()"
    if isinstance(dtype, pd.ArrowDtype):
        parts = list(parts_of(type_ := dtype.pyarrow_dtype))
        if any(isinstance(part, pa.BaseExtensionType) for part in parts) or any(
            test(part) for part in (type_, *parts) for test in _ONE_BY_ONE
        ):
            return f"pd.Series(list({column}), {column}.index, object)"
    return column


def parts_of(type_: pa.DataType) -> Iterator[pa.DataType]:
    """Yield the types that a type of Arrow's is made of, however deep."""
    for number in range(type_.num_fields):
        part = type_.field(number).type
        yield part
        yield from parts_of(part)


def types_of(
    source: pd.DataFrame | pa.Table, given: Collection[str], create: str
) -> Mapping[str, Declared | None]:
    """Return the type of each column of a frame, by its dtype; None for those whose type is `given`.

    Of a column of dtype object all values are looked at: text if they are text or missing, else the type of
    the one Python class that they have.

    Parameters
    ----------
    source : DataFrame or pyarrow.Table
    given : collection of str
    create : str
        The call that makes the table, without its closing parenthesis, for the errors.

    Raises
    ------
    InvalidFrameError
        If it has no columns, PostgreSQL cannot have a column's name, or its dtype or values determine no
        type. All such columns are named.
    """
    is_frame = isinstance(source, pd.DataFrame)
    names: list[Any] = list(source.columns) if isinstance(source, pd.DataFrame) else source.column_names
    problems = _flaws_of_names(names)
    found: dict[str, Declared | None] = {}
    for number, name in enumerate(names if not problems else ()):
        found[name] = None
        if name in given:
            continue
        asked = _Asked(repr(name), create)
        column: Any = source.iloc[:, number] if is_frame else source.schema.field(number).type
        answer = asked.of_series(column) if is_frame else asked.of_arrow(column)
        if isinstance(answer, str):
            problems.append((name, answer))
        else:
            found[name] = answer
    if problems:
        said = "; ".join(why if name is _WHOLE else f"column {name!r}: {why}" for name, why in problems)
        rejects = [(None, "" if name is _WHOLE else name, None, why) for name, why in problems]
        raise InvalidFrameError(f"no table was made: {said}", rejects_frame(rejects))
    return found


def flaw_of_identifier(name: str) -> str | None:
    """Return why PostgreSQL cannot have this name; None if it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "with a lone surrogate, which is no character"
    if not size:
        return "empty"
    if "\0" in name:
        return "with a NUL character"
    if size > IDENTIFIER_BYTES:
        return f"{size} bytes long, and a name has at most {IDENTIFIER_BYTES}"
    return None


def _flaws_of_names(names: list[Any]) -> list[tuple[Any, str]]:
    if not names:
        return [(_WHOLE, "the frame has no columns")]
    if len(names) > MOST_COLUMNS:
        return [(names[-1], f"the frame has {len(names):,} columns, and a table at most {MOST_COLUMNS:,}")]
    flaws: list[tuple[Any, str]] = []
    for name, count in Counter(names).items():
        if isinstance(name, tuple):
            one_level = 'frame.columns = ["_".join(map(str, name)) for name in frame.columns]'
            flaws.append((name, f"its name has several levels (MultiIndex): {one_level}"))
        elif not isinstance(name, str):
            flaws.append((name, "its name is no text: frame = frame.rename(columns=str)"))
        elif flaw := flaw_of_identifier(name):
            flaws.append((name, f"its name is {flaw}"))
        elif count > 1:
            flaws.append((name, "the frame has this column more than once"))
    return flaws


@dataclass(frozen=True)
class _Asked:
    """Decides the type of one column, or says what is wrong with it and what to type."""

    column: str  # its name, as Python shows it
    create: str
    suffix: str = ""  # of the type that is asked for: [] for lists

    def of_series(self, series: pd.Series[Any]) -> Declared | str:
        dtype: Any = series.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return self.of_series(pd.Series(dtype.categories))
        if series.dtype == object:  # pandas' is_object_dtype fails for some of Arrow's types
            return self.of_objects(series)
        if str(dtype) == PGTYPES["date"].dtypes[0]:  # datetime64[s]: dates are read as it
            return declared(PGTYPES["date"])
        kind = "sparse" if isinstance(dtype, pd.SparseDtype) else str(dtype).partition("[")[0]
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError):
            found = _of_arrow(pa.array(series.iloc[:0], from_pandas=True).type) if kind != "sparse" else None
            if found is not None:
                return found
        if isinstance(dtype, pd.ArrowDtype) and is_list(dtype.pyarrow_dtype):  # pandas makes no text of them
            return self.of_arrow(dtype.pyarrow_dtype)
        return f"no type of PostgreSQL holds its dtype {dtype}: {self.converted(kind, dtype)}"

    def of_arrow(self, type_: pa.DataType) -> Declared | str:
        if found := _of_arrow(type_):
            return found
        if is_list(type_) and is_list(type_.value_type) and _is_in_json(type_):
            return f"it holds lists of lists: {self.typed('jsonb')}"
        return f"no type of PostgreSQL holds Arrow's type {type_}: leave the column out"

    def of_objects(self, values: Iterable[Any]) -> Declared | str:
        kinds = _kinds(values)
        if kinds != {"array"}:
            return self.of_kinds(kinds)
        elements = (item for value in values if has_elements(value) for item in value)
        kinds = _kinds(elements)
        if kinds & {"array", "jsonb"}:
            held = f"it holds lists of {_listed(kinds)}"
            if (others := _kinds(_leaves(values)) - {"large"} - _IN_JSON) and "jsonb" not in kinds:
                return f"{held} of {_listed(others)}, for which PostgreSQL has no type: leave the column out"
            return f"{held}: {self.typed('jsonb')}"
        item = replace(self, suffix="[]").of_kinds(kinds)
        return f"in its lists, {item}" if isinstance(item, str) else types.ARRAY(item)

    def of_kinds(self, kinds: set[str]) -> Declared | str:
        small = {"int8" if kind == "large" else kind for kind in kinds}
        if len(small) <= 1 and small <= PGTYPES.keys():
            return declared(PGTYPES["numeric" if "large" in kinds else next(iter(small), "text")])
        if type_ := next((type_ for taken, type_ in _TAKES if small <= taken), None):
            return f"it holds {_listed(kinds)}: {self.typed(type_)}"
        said = f"it holds {_listed(kinds)}, which no type of PostgreSQL takes as they are"
        return f"{said}: {self.converted('moments' if small == {'timestamp', 'timestamptz'} else '')}"

    def typed(self, type_: str) -> str:
        return f"{self.create}, types={{{self.column}: {type_ + self.suffix!r}}})"

    def converted(self, kind: str, dtype: Any = None) -> str:
        column = f"frame[{self.column}]"
        if self.suffix:
            each = _LIST_CONVERTED.get(kind, 'pd.Series(each, dtype=object).astype("str").tolist()')
            return f'{column} = {column}.map(lambda each: {each}, na_action="ignore")'
        found = _CONVERTED.get(kind, '{}.astype("str")')
        return f"{column} = {found.format(convertible(column, dtype))}"


def _of_arrow(type_: pa.DataType) -> Declared | None:
    """Return the type for a type of Arrow's; None where there is none."""
    has = pa.types
    if has.is_dictionary(type_):
        return _of_arrow(type_.value_type)
    if isinstance(type_, pa.FixedShapeTensorType):
        return types.ARRAY(item) if len(type_.shape) == 1 and (item := _of_arrow(type_.value_type)) else None
    if isinstance(type_, pa.BaseExtensionType):
        name = EXTENSIONS.get(type_.extension_name)
        return declared(PGTYPES[name]) if name else None
    if is_list(type_):
        item = _of_arrow(type_.value_type)
        return None if item is None or isinstance(item, types.ARRAY) else types.ARRAY(item)
    if has.is_decimal(type_):
        limited = type_ != DECIMAL and 0 <= type_.scale <= type_.precision
        return declared(PGTYPES["numeric"], *((type_.precision, type_.scale) if limited else ()))
    if has.is_uint64(type_):
        return declared(PGTYPES["numeric"])
    if has.is_struct(type_):
        return declared(PGTYPES["jsonb"])
    row = _BY_ARROW.get(_widened(type_))
    return None if row is None else declared(row)


def _is_in_json(type_: pa.DataType) -> bool:
    """Tell whether JSON has what a list, however deep, holds."""
    while is_list(type_):
        type_ = type_.value_type
    row = _BY_ARROW.get(_widened(type_))
    return row is not None and row.check in ("boolean", "integer", "float", "text")


def _widened(type_: pa.DataType) -> pa.DataType:
    has = pa.types
    if has.is_timestamp(type_):
        return pa.timestamp("us", "UTC" if type_.tz else None)
    if has.is_time(type_):
        return pa.time64("us")
    if has.is_duration(type_):
        return pa.duration("us")
    if has.is_fixed_size_binary(type_):
        return pa.large_binary()
    return _WIDENED.get(type_, type_)


def _listed(kinds: set[str]) -> str:
    names = {"large": "bigint", "array": "lists"}
    words = (names.get(kind) or (PGTYPES[kind].sql if kind in PGTYPES else kind) for kind in kinds)
    return " and ".join(sorted(set(words)))


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """Yield what is in lists, however deep."""
    for value in values:
        if has_elements(value):
            yield from _leaves(value)
        else:
            yield value


def _kinds(values: Iterable[Any]) -> set[str]:
    """Return the names of the types of values that are not missing, or of their classes."""
    found: set[str] = set()
    decided: set[type] = set()  # classes whose instances are all of one kind, or missing
    for value in values:
        class_ = type(value)
        if value is None or class_ in decided or is_missing(meant := unwrapped(value)):
            continue
        found.add(_kind(meant))
        of_one_kind = type(meant) is bool or not isinstance(meant, _OF_SEVERAL_KINDS)
        if of_one_kind and not isinstance(value, Enum):
            decided.add(class_)
    return found


def _kind(value: Any) -> str:
    if has_elements(value):
        return "array"
    name = next((name for classes, name in _BY_CLASS if isinstance(value, classes)), type(value).__name__)
    if name == "int8" and not -(2**63) <= value < 2**63:
        return "large"
    zoned = name in ("timestamp", "time") and getattr(value, "tzinfo", None) is not None
    return f"{name}tz" if zoned else name
