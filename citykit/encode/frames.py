"""Check every value of a frame: typed columns of the valid rows, and a reason for each reject. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.columns import convert, values_at
from citykit.encode.names import Names
from citykit.encode.rejects import Reject, rejects_frame
from citykit.encode.rules import Rule
from citykit.encode.text_numbers import frame_made, notes_of
from citykit.encode.wrong_dtypes import wrong_dtype
from citykit.errors import InvalidFrameError
from citykit.pgtypes import PGTYPES, TEXT

# The column of each row's position in its frame: it decides between rows with the same key.
# No column of PostgreSQL has a NUL in its name.
POSITION = "\0position"
ROW_BYTES = 2**30 - 2**16  # PostgreSQL's limit of 1 GB, less room for what is not a value


def validate(
    frame: pd.DataFrame, rules: Sequence[Rule], start: int = 0, names: Names | None = None
) -> tuple[pa.Table, pd.DataFrame]:
    """Check every value of a frame and type its columns.

    Parameters
    ----------
    frame : DataFrame, shape (n, any of the rules' columns in any order)
        It is not changed. Its index only labels the rejects.
    rules : sequence of Rule
        A column with `Rule.missing` that the frame lacks is filled with that. Those with `Rule.needed`
        must be there.
    start : int
        The position of its first row, where the frame is a part of a larger one.
    names : Names, optional
        How its columns are renamed and picked. None: they are as they are.

    Returns
    -------
    pyarrow.Table, shape (number of valid rows, …)
        The valid rows, typed, after their positions in the frame (column `POSITION`, int64).
    DataFrame, shape (number of bad values, 4)
        ``row`` (index label), ``column``, ``value``, ``reason``, in the order of the frame.

    Raises
    ------
    InvalidFrameError
        If the columns are not the table's (unknown, missing or repeated), or one is of a dtype that its rule
        does not take.
    """
    names, notes = names or Names(), notes_of(frame)
    frame = names.take(frame, rules)
    if frame.attrs:  # pandas would copy them with each column
        frame = frame.copy(deep=False)
        frame.attrs = {}
    _check_dtypes(frame, rules, names, frame_made(notes), values=False)
    if notes:
        rules = [rule.written(notes.get("decimal", ""), notes.get("thousands", "")) for rule in rules]
    count = len(frame)
    columns: dict[str, pa.Array] = {}
    bad: list[tuple[int, int, str]] = []  # position, index of the rule, reason
    for number, rule in enumerate(rules):
        if rule.name in frame.columns:
            columns[rule.name], reasons = convert(frame[rule.name], rule)
            bad += [(position, number, reason) for position, reason in reasons.items()]
        elif rule.missing is not None and rule.type is not None:
            columns[rule.name] = pa.repeat(pa.scalar(rule.missing, rule.typed), count)
    bad += _too_long(columns, rules)
    typed = pa.table({POSITION: pa.array(np.arange(start, start + count)), **columns})
    if bad:
        bad.sort()
        valid = np.ones(count, dtype=bool)
        valid[[position for position, *_ in bad]] = False
        typed = typed.filter(pa.array(valid))
    return typed, _rejects(frame, rules, bad)


def validate_row(row: Mapping[str, object], rules: Sequence[Rule]) -> tuple[dict[str, Any], list[Reject]]:
    """Check the values of one row as `validate` does those of a frame of dtype object.

    Returns
    -------
    dict
        The values by column, as Python objects; None where one is bad.
    list of (row label, which is 0; column; value; reason)
        One for each bad value, for `rejects_frame`.
    """
    stored: dict[str, Any] = {}
    rejects: list[Reject] = []
    for rule in rules:
        if rule.name not in row:
            continue
        value = stored[rule.name] = row[rule.name]
        if not _surely_fits(value, rule):
            array, reasons = convert(pd.Series([value], dtype=object), rule)
            stored[rule.name] = array[0].as_py()
            rejects += [(0, rule.name, value, reason) for reason in reasons.values()]
    return stored, rejects


def _surely_fits(value: object, rule: Rule) -> bool:
    """Tell quickly whether the column stores a common value as it is; False: `convert` decides."""
    if value is None:
        return rule.nullable and rule.missing is None
    check = rule.check
    if rule.item is not None:
        return type(value) is tuple and not value  # an array of NumPy's would be compared value by value
    if rule.type is PGTYPES["float4"]:
        return False
    if type(value) is str and check == "text":
        fits = value.isascii() and "\0" not in value
        return fits and (rule.low or 0) <= len(value) and (rule.high is None or len(value) <= rule.high)
    if (type(value) is int and check == "integer") or (type(value) is float and check == "float"):
        return rule.low is not None and rule.high is not None and rule.low <= value <= rule.high
    return False


def _too_long(columns: Mapping[str, pa.Array], rules: Sequence[Rule]) -> list[tuple[int, int, str]]:
    """Return the rows that are longer than the server takes, each with its longest value."""
    sent = [(number, rule) for number, rule in enumerate(rules) if rule.name in columns]
    if 2 * sum(column.nbytes for column in columns.values()) < ROW_BYTES or any(
        r.binary is None for _, r in sent
    ):
        return []
    in_binary = all(rule.binary for _, rule in sent)
    lengths = {}
    for number, rule in sent:
        if (type_ := columns[rule.name].type) in (TEXT, pa.large_binary()):
            each = pc.binary_length(columns[rule.name]).fill_null(0).to_numpy(zero_copy_only=False)
            lengths[number] = each * (1 if in_binary or type_ == TEXT else 2)  # csv has hexadecimal digits
    whole = sum(lengths.values(), start=np.zeros(1))
    reason = "in a row of {:,} bytes, of which COPY takes {:,} at most"
    return [
        (
            position,
            max(lengths, key=lambda n: lengths[n][position]),
            reason.format(int(whole[position]), ROW_BYTES),
        )
        for position in np.flatnonzero(whole > ROW_BYTES).tolist()
    ]


def _rejects(frame: pd.DataFrame, rules: Sequence[Rule], bad: Sequence[tuple[int, int, str]]) -> pd.DataFrame:
    values: dict[tuple[int, int], object] = {}
    for number in {number for _, number, _ in bad}:
        positions = [position for position, other, _ in bad if other == number]
        taken = values_at(frame[rules[number].name], positions)
        values.update(zip(((position, number) for position in positions), taken, strict=True))
    labels = frame.index[[position for position, *_ in bad]]
    return rejects_frame(
        [
            (label, rules[number].name, values[position, number], reason)
            for label, (position, number, reason) in zip(labels, bad, strict=True)
        ]
    )


def check_dtypes(frame: pd.DataFrame, rules: Sequence[Rule], names: Names) -> None:
    """Check the dtypes of a whole frame, and the types of the values in columns of dtype object.

    Raises
    ------
    InvalidFrameError
        If its columns are not the table's, or one is of a dtype that its rule does not take.
    """
    _check_dtypes(names.take(frame, rules), rules, names, [], values=True)


def _check_dtypes(
    frame: pd.DataFrame, rules: Sequence[Rule], names: Names, made: list[str] | None, *, values: bool
) -> None:
    """Refuse columns of wrong dtypes. `made`: the line before those that convert them (see `frame_made`)."""
    problems = []
    for rule in rules:
        if rule.name in frame.columns:
            wrong = wrong_dtype(frame[rule.name], rule, names.in_source(rule.name), values=values)
            if wrong:
                reason, hint = wrong
                problems.append((rule.name, reason, "" if made is None else hint))
    if problems:
        said = "; ".join(f"column {name!r} is {reason}" for name, reason, _ in problems)
        hints = [hint for *_, hint in problems if hint]
        if made and hints:
            hints.insert(0, f"Make a frame of it: {made[0]}")
        rejects = [(None, name, None, f"{reason}. {hint}".strip()) for name, reason, hint in problems]
        raise InvalidFrameError("\n".join([f"{said}; nothing was loaded.", *hints]), rejects_frame(rejects))
