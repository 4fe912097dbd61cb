"""Bad values as a frame, and as a message. No I/O."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from numbers import Rational
from typing import TypeAlias

import numpy as np
import pandas as pd

from citykit.errors import InvalidFrameError

_SHOWN = 8  # kinds of bad values in a message
_SHORT = reprlib.Repr()
_SHORT.maxother = 80  # of a Timestamp, 30 characters would hide the year
_SHORT.maxlong = 80
_SHORT.maxstring = 60

Reject: TypeAlias = tuple[object, object, object, str]  # the values of these columns:
REJECT_COLUMNS = ("row", "column", "value", "reason")


def rejects_frame(rows: Sequence[Reject]) -> pd.DataFrame:
    """Return bad values (row label, column, value, reason) as a frame of these columns."""
    return _framed(rows) if rows else _no_rejects().copy()


@cache
def _no_rejects() -> pd.DataFrame:
    return _framed(())


def _framed(rows: Sequence[Reject]) -> pd.DataFrame:
    rows = [(_showable(row), _printable(name), _showable(value), reason) for row, name, value, reason in rows]
    columns = zip(*rows, strict=True) if rows else [()] * len(REJECT_COLUMNS)
    named = zip(REJECT_COLUMNS, columns, strict=True)
    frame = pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, values in named})
    return frame.astype({"column": "str", "reason": "str"})


SKIP = "on_invalid='skip' loads the valid rows."


def refused(
    rejects: pd.DataFrame, meanings: Mapping[str, str], advice: str | None = SKIP, place: str = ""
) -> InvalidFrameError:
    """Return the error that says, per column and reason, how many values are bad and where the first is.

    `advice` is what to type next, None where nothing helps; `place` says where the first is in a file.
    """
    groups = list(rejects.groupby(["column", "reason"], sort=False))
    parts = [_described(str(column), str(reason), group) for (column, reason), group in groups[:_SHOWN]]
    if len(groups) > _SHOWN:
        parts.append(f"and {len(groups) - _SHOWN:,} more reasons")
    broken = set(rejects["column"])
    rules = [meaning for column, meaning in meanings.items() if column in broken and meaning]
    rules += [place] if place else []
    if advice == SKIP:
        hint = " ".join([*rules, f"See citykit.last_rejects() for all; {SKIP}"])
    else:
        hint = " ".join([*rules, "See citykit.last_rejects() for all."]) + (f"\n{advice}" if advice else "")
    return InvalidFrameError(f"{'; '.join(parts)}; nothing was loaded.\n{hint}", rejects)


def _described(column: str, reason: str, group: pd.DataFrame) -> str:
    label, value = group["row"].iloc[0], group["value"].iloc[0]
    where = f"first at row label {_shown(label, str)}"
    if not column:  # a trigger's, for example
        return f"{len(group):,} {'row' if len(group) == 1 else 'rows'} {reason} ({where})"
    return f"column {column!r} has {_counted(len(group), reason)} ({where}: {shown_value(value)})"


def _counted(count: int, reason: str) -> str:
    values = "value" if count == 1 else "values"
    return f"{count:,} {values} {reason}" if " " in reason else f"{count:,} {reason} {values}"


def shown_value(value: object) -> str:
    """Write a value in a message, shortened."""
    return _shown(value, _SHORT.repr)


def _shown(value: object, show: Callable[[object], str]) -> str:
    if isinstance(value, (np.number, np.bool_)) and not isinstance(value, np.timedelta64):
        value = value.item()
    try:
        return show(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a very long {type(value).__name__}"
    except Exception:  # of the caller's own objects, or lists that are too deep
        return f"a {type(value).__name__} that cannot be shown"


def _showable(value: object) -> object:
    """Return a value that a frame can show: in place of an integer of very many digits, a text about it."""
    if isinstance(value, (Rational, Collection, np.ndarray)) and not isinstance(value, (str, bytes)):
        try:
            str(value)
        except Exception:  # also of the caller's own objects
            return shown_value(value)
    return value


def _printable(text: object) -> str:
    return str(text).encode(errors="backslashreplace").decode()
