"""What may be in a frame: every value checked and typed, or rejected with its reason. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.columns import convert, python_values
from citykit.encode.names import Names
from citykit.encode.rejects import Reject, rejects_frame
from citykit.encode.rules import Rule
from citykit.encode.text_numbers import notes_of
from citykit.encode.wrong_dtypes import wrong_dtype
from citykit.errors import InvalidFrameError
from citykit.pgtypes import PGTYPES, TEXT

# The column of each row's position in its frame: where two rows have one key, their order counts.
# No column of PostgreSQL can have this name.
POSITION = "\0position"
ROW_BYTES = 2**30 - 2**16  # PostgreSQL's limit of 1 GB, less what the values do not take


def validate(
    frame: pd.DataFrame, rules: Sequence[Rule], start: int = 0, names: Names | None = None
) -> tuple[pa.Table, pd.DataFrame]:
    """Check every value of a frame and type its columns.

    Parameters
    ----------
    frame : DataFrame, shape (n, any of the rules' columns in any order)
        It is not changed. Its index only labels the rejects.
    rules : sequence of Rule
        A column that has a value for what is missing is filled with it where the frame lacks it. Those
        that are needed must be there.
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
        If the columns are not the table's (unknown, missing or repeated), or one is of a dtype of which it
        takes no value.
    """
    names, notes = names or Names(), notes_of(frame)
    frame = names.take(frame, rules)
    _check_dtypes(frame, rules, names, values=False)
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
    """Tell of the commonest values that the column stores them as they are; False: `convert` has to tell."""
    if value is None:
        return rule.nullable and rule.missing is None
    check = rule.type and rule.type.check
    if rule.item is not None:
        return value == ()
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
            lengths[number] = each * (1 if in_binary or type_ == TEXT else 2)  # as hexadecimal digits
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
        taken = python_values(frame[rules[number].name].iloc[positions])
        values.update(zip(((position, number) for position in positions), taken, strict=True))
    labels = frame.index[[position for position, *_ in bad]]
    return rejects_frame(
        [
            (label, rules[number].name, values[position, number], reason)
            for label, (position, number, reason) in zip(labels, bad, strict=True)
        ]
    )


def check_dtypes(frame: pd.DataFrame, rules: Sequence[Rule], names: Names) -> None:
    """Look at the dtypes of a whole frame, and at the types of the values in columns of dtype object.

    Raises
    ------
    InvalidFrameError
        If its columns are not the table's, or one is of a dtype of which the table takes no value.
    """
    _check_dtypes(names.take(frame, rules), rules, names, values=True)


def _check_dtypes(frame: pd.DataFrame, rules: Sequence[Rule], names: Names, *, values: bool) -> None:
    problems = []
    for rule in rules:
        if rule.name in frame.columns:
            wrong = wrong_dtype(frame[rule.name], rule, names.in_source(rule.name), values=values)
            if wrong:
                problems.append((rule.name, *wrong))
    if problems:
        said = "; ".join(f"column {name!r} is {reason}" for name, reason, _ in problems)
        hints = "".join(f"\n{hint}" for *_, hint in problems if hint)
        rejects = [(None, name, None, f"{reason}. {hint}".strip()) for name, reason, hint in problems]
        raise InvalidFrameError(f"{said}; nothing was loaded.{hints}", rejects_frame(rejects))
