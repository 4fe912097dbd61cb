"""What may be in a frame: every value checked and typed, or rejected with its reason. No I/O."""

from __future__ import annotations

import difflib
import math
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Double, Integer, Table, Text

from citykit.errors import InvalidFrameError
from citykit.rejects import rejects_frame

POSITION = "citykit_position"  # of a row in its frame: where two rows have one key, their order counts

Kind = Literal["text", "integer", "float"]
_KINDS: dict[type, Kind] = {Text: "text", Integer: "integer", Double: "float"}
_ARROW: dict[Kind, pa.DataType] = {"text": pa.large_string(), "integer": pa.int32(), "float": pa.float64()}
_INTEGER_MAX = 2**31 - 1


@dataclass(frozen=True)
class Rule:
    """What one column of a table takes; the limits of a text are on its number of characters."""

    name: str
    kind: Kind
    nullable: bool
    default: str | None = None  # what a missing value becomes
    low: float | None = None
    high: float | None = None
    meaning: str = ""  # a sentence for whoever broke the rule


def rules_of(table: Table) -> list[Rule]:
    """Return the rules of the columns that a frame may fill: all but those the database numbers."""
    return [_rule(column) for column in table.columns if column.identity is None]


def _rule(column: Column[Any]) -> Rule:
    default = getattr(column.server_default, "arg", None)
    limits = {name: column.info[name] for name in ("low", "high", "meaning") if name in column.info}
    return Rule(column.name, _KINDS[type(column.type)], bool(column.nullable), default, **limits)


def validate(frame: pd.DataFrame, rules: Sequence[Rule]) -> tuple[pa.Table, pd.DataFrame]:
    """Check every value of a frame and type its columns.

    Parameters
    ----------
    frame : DataFrame, shape (n, any of the rules' columns in any order)
        It is not changed. Its index only labels the rejects.
    rules : sequence of Rule
        A column with a default is filled with it where the frame lacks it. One that may be null may be
        absent. The others must be there.

    Returns
    -------
    pyarrow.Table, shape (number of valid rows, …)
        The valid rows, typed, after their positions in the frame (column `POSITION`, int64).
    DataFrame, shape (number of bad values, 4)
        ``row`` (index label), ``column``, ``value``, ``reason``, in the order of the frame.

    Raises
    ------
    InvalidFrameError
        If the columns are not the table's: unknown, missing or repeated.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"a pandas DataFrame is needed, not {type(frame).__name__}; pandas.DataFrame(…) makes one"
        )
    _check_columns(frame, rules)
    count = len(frame)
    columns: dict[str, pa.Array] = {}
    bad: list[tuple[int, int, str]] = []  # position, index of the rule, reason
    for number, rule in enumerate(rules):
        if rule.name in frame.columns:
            columns[rule.name], reasons = _convert(frame[rule.name], rule)
            bad += [(position, number, reason) for position, reason in reasons.items()]
        elif rule.default is not None:
            columns[rule.name] = pa.repeat(pa.scalar(rule.default, _ARROW[rule.kind]), count)
    typed = pa.table({POSITION: pa.array(np.arange(count)), **columns})
    if bad:
        bad.sort()
        valid = np.ones(count, dtype=bool)
        valid[[position for position, *_ in bad]] = False
        typed = typed.filter(pa.array(valid))
    return typed, rejects_frame(
        [
            (frame.index[position], rules[number].name, frame[rules[number].name].iloc[position], reason)
            for position, number, reason in bad
        ]
    )


def _check_columns(frame: pd.DataFrame, rules: Sequence[Rule]) -> None:
    known = [rule.name for rule in rules]
    repeated = list(dict.fromkeys(frame.columns[frame.columns.duplicated()]))
    unknown = [name for name in frame.columns if not (isinstance(name, str) and name in known)]
    required = [rule.name for rule in rules if not rule.nullable and rule.default is None]
    missing = [name for name in required if name not in frame.columns]
    problems = (
        [(name, "the frame has this column more than once") for name in repeated]
        + [(name, f"unknown column{_meant(name, known)}") for name in unknown]
        + [(name, "this column is needed and missing") for name in missing]
    )
    if problems:
        said = "; ".join(f"column {name!r}: {reason}" for name, reason in problems)
        raise InvalidFrameError(
            f"{said}; nothing was loaded.\n"
            f"The columns are {', '.join(known)}; {' and '.join(required)} are needed.",
            rejects_frame([(None, str(name), None, reason) for name, reason in problems]),
        )


def _meant(name: object, known: Sequence[str]) -> str:
    word = str(name).lower()
    begun = [column for column in known if column.startswith(word)]
    close = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _convert(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, dict[int, str]]:
    """Return the typed column and, by position, why a value is bad (it is null in the column then)."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        dtype = series.cat.categories.dtype
        series = series.astype(object if dtype.kind in "iub" and series.hasnans else dtype)
    array, reasons = _typed_at_once(series, rule) or _typed_one_by_one(series, rule)
    for reason, flawed in _flaws(array, rule):
        for position in np.flatnonzero(flawed.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
            reasons.setdefault(position, reason)
    if rule.default is not None:
        array = array.fill_null(rule.default)
    elif not rule.nullable:
        for position in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
            reasons.setdefault(position, "missing")
    if reasons or array.type != _ARROW[rule.kind]:
        good = np.ones(len(array), dtype=bool)
        good[list(reasons)] = False
        array = pc.if_else(pa.array(good), array, None).cast(_ARROW[rule.kind])
    return array, reasons


def _typed_at_once(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, dict[int, str]] | None:
    """Type a column whose dtype says what is in it; None where each value must be asked."""
    if series.dtype == object:
        return None
    try:
        array = pa.array(series, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        kinds = pa.types
        if kinds.is_null(array.type):
            return array.cast(_ARROW[rule.kind]), {}
        if rule.kind == "text":
            texts = kinds.is_string(array.type) or kinds.is_large_string(array.type)
            return (array.cast(pa.large_string()), {}) if texts else None
        if kinds.is_floating(array.type):
            array = array.cast(pa.float64())
            return pc.if_else(pc.is_nan(array), None, array), {}  # an Arrow column may hold both
        if kinds.is_integer(array.type):  # a cast that would change a number fails
            return array.cast(pa.int64() if rule.kind == "integer" else pa.float64()), {}
    except (pa.ArrowException, UnicodeError, TypeError, ValueError):
        pass
    return None


def _typed_one_by_one(series: pd.Series[Any], rule: Rule) -> tuple[pa.Array, dict[int, str]]:
    ask = _ASK[rule.kind]
    values: list[object] = []
    reasons: dict[int, str] = {}
    for position, value in enumerate(series):
        kept, reason = (None, None) if _is_missing(value) else ask(value)
        values.append(kept)
        if reason:
            reasons[position] = reason
    types: dict[Kind, pa.DataType] = {**_ARROW, "integer": pa.int64()}
    return pa.array(values, types[rule.kind]), reasons


def _is_missing(value: Any) -> bool:
    if isinstance(value, Decimal):
        return value.is_nan()  # pandas stumbles over a signalling one
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _is_number(value: object) -> bool:
    no_numbers = (bool, np.bool_, np.timedelta64)  # though Python's numbers count them in
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, no_numbers)


def _ask_text(value: Any) -> tuple[str | None, str | None]:
    if not isinstance(value, str):
        return None, "not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, "with a lone surrogate, which is no character"
    return str(value), None


def _ask_integer(value: Any) -> tuple[int | None, str | None]:
    if not _is_number(value):
        return None, "not a number"
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() > 18:
        return (-(2**63) if value < 0 else 2**63 - 1), None  # its digits would fill the memory
    try:
        number = int(value)
    except OverflowError:
        return None, "infinite"
    if number != value:
        return None, "fractional"
    # What does not even fit the column's array is bounded here; _flaws compares it with the limits.
    return max(-(2**63), min(2**63 - 1, number)), None


def _ask_float(value: Any) -> tuple[float | None, str | None]:
    if not _is_number(value):
        return None, "not a number"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number) and (not isinstance(value, Decimal) or value.is_finite()) and value != number:
        return math.copysign(sys.float_info.max, 1 if value > 0 else -1), None  # beyond any limit
    if isinstance(value, Decimal) and number not in (math.inf, -math.inf):
        exact = value in (Decimal(number), Decimal(repr(number)))  # 0.1 as written, or to the last bit
    else:
        exact = bool(number == value)
    return (number, None) if exact else (None, "not exact in double precision")


_ASK: dict[Kind, Callable[[object], tuple[Any, str | None]]] = {
    "text": _ask_text,
    "integer": _ask_integer,
    "float": _ask_float,
}


def _flaws(array: pa.Array, rule: Rule) -> list[tuple[str, pa.Array]]:
    """Return each way in which typed values can break the rule, and which of them do."""
    if rule.kind == "text":
        length = pc.utf8_length(array)
        flaws = [("with a NUL character", pc.match_substring(array, "\0"))]
        if rule.low:
            flaws.append(("empty", pc.less(length, rule.low)))
        if rule.high is not None:
            flaws.append((f"longer than {rule.high:,} characters", pc.greater(length, rule.high)))
        return flaws
    flaws = []
    if pa.types.is_floating(array.type):
        flaws.append(("infinite", pc.is_inf(array)))
        if rule.kind == "integer":
            flaws.append(("fractional", pc.not_equal(array, pc.trunc(array))))
    low, high = rule.low, rule.high
    if rule.kind == "integer":
        low = -_INTEGER_MAX - 1 if low is None else low
        high = _INTEGER_MAX if high is None else high
    if low is not None:
        flaws.append(("negative" if low == 0 else f"below {low:,}", pc.less(array, low)))
    if high is not None:
        flaws.append((f"above {high:,}", pc.greater(array, high)))
    return flaws
