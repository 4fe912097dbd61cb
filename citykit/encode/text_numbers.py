"""Text in a column of numbers: one rule for its meaning, whatever holds the text. No I/O.

A whole number is ``-?[0-9]+``, also with ``.0``. A column that takes fractions reads a decimal point and an
exponent, too. Marks for thousands and decimal commas are read only where the source's notation names them.
Other text is a reject, whose reason says what it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.names import quoted
from citykit.encode.rejects import SKIP
from citykit.encode.rules import Rule
from citykit.encode.text_lists import NO_LIST, splitting
from citykit.encode.values import NUMERIC_DIGITS, checked
from citykit.pgtypes import TEXT

# The key, in a frame's `attrs` and in an Arrow schema's metadata, of a mapping that says how numbers are
# written in text (`decimal`, `thousands`), and by which call they were read (`read`, without its last
# parenthesis; "": by none); of Arrow data, the expression that makes a frame of it (`frame`).
NOTATION = "citykit"
NUMBERS = ("integer", "float", "numeric")

_MARKS = {
    "dots": ".", "commas": ",", "spaces": " ", "no-break spaces": "\xa0", "thin spaces": "\u2009",
    "narrow no-break spaces": "\u202f", "apostrophes": "'", "curly apostrophes": "\u2019", "underscores": "_",
}  # fmt: skip
_EITHER = "with a dot, for thousands or for decimals"
EXACT_DIGITS = 15  # a double holds every decimal number of so many digits


def notes_of(frame: pd.DataFrame) -> dict[str, str]:
    """Return the notation in the attributes of a frame (see `NOTATION`)."""
    notes = frame.attrs.get(NOTATION)
    return {k: v for k, v in notes.items() if isinstance(v, str)} if isinstance(notes, dict) else {}


def frame_made(notes: Mapping[str, str]) -> list[str] | None:
    """Return the line that makes a frame of a source with these notes: [] if it is one, None if none does."""
    if notes.get("read") == "":
        return None
    if "read" not in notes:
        return [f"frame = {notes['frame']}"] if "frame" in notes else []
    marks = "".join(f", {name}={quoted(notes[name])}" for name in ("decimal", "thousands") if name in notes)
    return [f"frame = {notes['read']}{marks})"]


def numbers_in(texts: pa.Array, rule: Rule) -> tuple[pa.Array, dict[int, str]]:
    """Type texts as the numbers of a column.

    Returns
    -------
    pyarrow.Array
        Null where there is no text, or none that is a number of the column's type.
    dict of int to str
        The reason, by position, of each text that is none.
    """
    texts = texts.cast(TEXT)
    if not (rule.decimal or rule.thousands) and (typed := _digits_alone(texts, rule)) is not None:
        return typed, {}
    plain = _plain(texts, rule)
    typed, reasons = typed_numbers(plain, rule)
    other = pc.and_(texts.is_valid(), plain.is_null())
    if pc.any(other).as_py():
        positions = np.flatnonzero(other.to_numpy(zero_copy_only=False))
        said = _looks(texts.filter(other), rule)
        reasons.update(zip(positions.tolist(), said, strict=True))
    return typed, reasons


def _digits_alone(texts: pa.Array, rule: Rule) -> pa.Array | None:
    """Type texts of digits, minus signs and points by one cast; None if they have other characters."""
    check = rule.check
    _, places, data = texts.buffers()
    if check == "numeric" or not len(texts) or not data:
        return None
    offsets = np.frombuffer(places, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    characters = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    # From - to 9 there are . and /, too, which the casts refuse where they are wrong. Of other characters
    # they would take a plus sign, hexadecimal digits and more.
    if not len(characters) or characters.min() < ord("-") or characters.max() > ord("9"):
        return None
    try:
        typed = texts.cast(pa.int64() if check == "integer" else pa.float64())
    except pa.ArrowInvalid:
        return None
    if check == "integer" or np.diff(offsets).max() <= EXACT_DIGITS:
        return typed
    return None if pc.any(pc.invert(_surely_held(typed, texts))).as_py() else typed


def _surely_held(numbers: pa.Array, texts: pa.Array) -> pa.Array:
    """Return a mask of the doubles that equal their text: of few digits, or printed as they were written."""
    short = pc.less_equal(pc.binary_length(texts), EXACT_DIGITS)
    return pc.or_(short, pc.equal(numbers.cast(TEXT), texts))


# With thousands="." and no mark for decimals: a dot that separates no group of three digits is a decimal
# point, dots between several such groups stand for thousands, and 1.234 may be either.
_POINTED = r"(?:[0-9]{4,}\.[0-9]*|0[0-9]*\.[0-9]*|[0-9]+\.(?:[0-9]{0,2}|[0-9]{4,})|\.[0-9]+)"
_GROUPS = r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}"


@cache
def _pattern(fractions: bool, decimal: str, thousands: str) -> str:
    whole = "[0-9]+"
    if fractions and thousands == "." and not decimal:
        return f"^-?(?:(?:[0-9]+|{_POINTED})(?:[eE][-+]?[0-9]+)?|{_GROUPS}|inf|Infinity)$"
    if thousands:
        whole = f"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{re.escape(thousands)}[0-9]{{3}})+)"
    point = re.escape(decimal or ("" if thousands == "." else "."))
    if not fractions:
        return f"^-?{whole}(?:{point}0+)?$" if point else f"^-?{whole}$"
    number = f"(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)" if point else whole
    return f"^-?(?:{number}(?:[eE][-+]?[0-9]+)?|inf|Infinity)$"


def _plain(texts: pa.Array, rule: Rule) -> pa.Array:
    """Return the texts that are numbers, as Python and PostgreSQL write numbers; others are null."""
    fractions = rule.takes_fractions
    fits = pc.match_substring_regex(texts, _pattern(fractions, rule.decimal, rule.thousands))
    if not fractions and not rule.decimal and rule.thousands != ".":  # 12.000 more likely means 12 thousand
        fits = pc.and_not(fits, pc.match_substring_regex(texts, _grouped(".")))
    plain = pc.if_else(fits, texts, pa.scalar(None, TEXT))
    if rule.thousands:
        joined = pc.replace_substring(plain, rule.thousands, "")
        if fractions and rule.thousands == "." and not rule.decimal:
            plain = pc.if_else(pc.match_substring_regex(plain, f"^-?{_GROUPS}$"), joined, plain)
        else:
            plain = joined
    return pc.replace_substring(plain, rule.decimal, ".") if rule.decimal not in ("", ".") else plain


def typed_numbers(plain: pa.Array, rule: Rule) -> tuple[pa.Array, dict[int, str]]:
    """Type texts that are numbers as Python and PostgreSQL write them; for the result see `numbers_in`."""
    check = rule.check
    nothing = pa.scalar(None, TEXT)
    if check == "float":
        typed = plain.cast(pa.float64())
        written = pc.replace_substring_regex(plain, r"(\.[0-9]*[1-9])0+$|\.0*$", r"\1")
        exponent = pc.match_substring_regex(plain, "[eEI]")
        sure = pc.and_(_surely_held(typed, written), pc.invert(exponent))
        sure = pc.or_(sure, pc.equal(typed.cast(TEXT), plain))
    elif check == "integer":
        plain = pc.replace_substring_regex(plain, r"\.0+$", "")
        sure = pc.less(pc.binary_length(plain), 19)  # 64 bits hold 18 digits
        typed = pc.if_else(sure, plain, nothing).cast(pa.int64())
    else:  # numeric: kept as it is written
        # A longer text may have more zeros after its point than the server takes.
        short = pc.less_equal(pc.binary_length(plain), NUMERIC_DIGITS[1])
        sure = pc.and_(short, pc.match_substring_regex(plain, _fitting(rule.precision, rule.scale or 0)))
        typed = pc.if_else(sure, pc.utf8_rtrim(plain, "."), nothing)
    doubtful = np.flatnonzero(pc.invert(sure).fill_null(False).to_numpy(zero_copy_only=False))
    if not len(doubtful):
        return typed, {}
    reasons: dict[int, str] = {}
    values: list[Any] = []
    for position, text in zip(doubtful.tolist(), plain.take(pa.array(doubtful)).to_pylist(), strict=True):
        value, reason = _one(text, rule)
        values.append(value)
        if reason:
            reasons[position] = reason
    mask = np.zeros(len(plain), dtype=bool)
    mask[doubtful] = True
    return pc.replace_with_mask(typed, pa.array(mask), pa.array(values, typed.type)), reasons


@cache
def _fitting(precision: int | None, scale: int) -> str:
    """Return a pattern of numbers that surely fit a numeric; others are checked one by one."""
    before, after = (100, 100) if precision is None else (precision - scale, scale)
    before, after = min(before, 1_000), min(after, 1_000)  # RE2 repeats no more often
    return rf"^-?0*[0-9]{{1,{before}}}(?:\.[0-9]{{0,{after}}}0*)?$" if before > 0 <= after else "^$"


def _one(text: str, rule: Rule) -> tuple[Any, str | None]:
    try:
        number = Decimal(text)
    except ArithmeticError:  # an exponent beyond any limit
        return None, "with an exponent that is out of range"
    if rule.check == "float" and _prints(number):
        return float(number), None
    return checked(number, rule)


def _prints(number: Decimal) -> bool:
    """Tell whether the nearest double, written with as many digits, is this number again."""
    try:
        held = Decimal(float(number))
        return number.is_infinite() or held.quantize(number) == number
    except ArithmeticError:  # an infinite double, or more digits than the decimal context has
        return False


@cache
def _grouped(mark: str, decimal: str = "", digits: str = "[0-9]+") -> str:
    fraction = f"{re.escape(decimal)}{digits}" if decimal else ""
    return f"^-?[1-9][0-9]{{0,2}}(?:{re.escape(mark)}[0-9]{{3}})+{fraction}$"


@cache
def _known(fractions: bool) -> list[tuple[str, str, dict[str, str]]]:
    """Return patterns, what a text that matches looks like, and the notation that reads it.

    The notation of each reason is the same for fractions and whole numbers; these have only zeros after the
    decimal mark.
    """
    digits, not_zeros = "[0-9]+" if fractions else "0+", "[0-9]*[1-9][0-9]*"
    looks: list[tuple[str, str, dict[str, str]]] = [
        (r"^$", "empty", {}),
        (r"^[\s\p{Z}]|[\s\p{Z}]$", "with a space before or after it", {}),
    ]
    for name, mark in _MARKS.items():
        reason = f"like a number with thousands {name}"
        if not (fractions and mark == ","):
            looks.append((_grouped(mark), reason, {"thousands": mark}))
        else:
            looks.append((_grouped(mark)[:-2] + "{2,}$", reason, {"thousands": mark}))
            looks.append((r"^-?[1-9][0-9]{0,2},[0-9]{3}$", "with a comma, for thousands or for decimals", {}))
        if mark != ",":
            notation = {"thousands": mark, "decimal": ","}
            looks.append((_grouped(mark, ",", digits), f"{reason} and a decimal comma", notation))
        if mark != ".":
            looks.append((_grouped(mark, ".", digits), f"{reason} and a decimal point", {"thousands": mark}))
        if not fractions:
            looks += [(_grouped(mark, each, not_zeros), "fractional", {}) for each in ".," if each != mark]
    if fractions:  # where thousands="." leaves it open
        looks.append((r"^-?[0-9]*\.[0-9]+$", _EITHER, {"decimal": "."}))
    looks.append((f"^-?[0-9]*,{digits}$", "like a number with a decimal comma", {"decimal": ","}))
    if not fractions:
        looks.append((f"^-?[0-9]*[.,]{not_zeros}$", "fractional", {}))
        looks.append((r"^-?[0-9.]+[eE][-+]?[0-9]+$", "like a number with an exponent", {}))
    other_digits = r"^-?[\p{Nd}.,\x{66b}\x{66c}]*[^\x00-\x7f][\p{Nd}.,\x{66b}\x{66c}]*$"
    return [
        *looks,
        (r"^\+[0-9.,eE+-]+$", "like a number with a plus sign", {}),
        (r"^[\x{2212}\x{2013}][0-9.,]+$", "like a number with another minus sign than -", {}),
        (other_digits, "in other digits than 0 to 9", {}),
    ]


def _looks(texts: pa.Array, rule: Rule) -> list[str]:
    said = np.full(len(texts), "not a number", dtype=object)
    marks = {"decimal": rule.decimal, "thousands": rule.thousands}
    if named := [f"{name}={mark!r}" for name, mark in marks.items() if mark]:
        said[:] = f"not a number with {' and '.join(named)}"
    unknown = np.ones(len(texts), dtype=bool)
    for pattern, reason, notation in _known(rule.takes_fractions):
        if rule.thousands and (
            reason == "fractional" or rule.thousands != notation.get("thousands", rule.thousands)
        ):
            continue
        if notation and notation.items() <= marks.items():
            continue  # it is named already: to name it again would not help
        found = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(bool) & unknown
        said[found] = reason
        unknown &= ~found
        if not unknown.any():
            break
    return list(said)


def advice(
    rejects: pd.DataFrame, rows: int, notes: Mapping[str, str], in_source: Callable[[str], str] = str
) -> str | None:
    """Return the line that reads a refused source, or that loads it without its bad rows.

    Parameters
    ----------
    rejects : DataFrame
    rows : int
        Of the source, valid or not.
    notes : mapping
        What the source says of itself: see `NOTATION`.
    in_source : callable
        Returns the name of a column in the source.
    """
    known = {reason: notation for each in (True, False) for _, reason, notation in _known(each) if notation}
    found: dict[str, str] = {}
    for _, reasons in rejects.groupby("column", sort=False)["reason"]:
        reason, count = next(iter(reasons.value_counts().items()))
        # A few that look alike may be mistakes; a dot that may be either is none.
        if str(reason) in known and (count * 10 >= rows or reason == _EITHER):
            found.update(known[str(reason)])
    if found and found.get("decimal") != found.get("thousands"):
        marks = {name: notes[name] for name in ("decimal", "thousands") if notes.get(name)} | found
        if (made := frame_made(notes)) is None:
            return None
        if "read" not in notes:
            return "\n".join([*made, f"frame.attrs[{NOTATION!r}] = {marks!r}"])
        return (
            f"{notes['read']}, " + ", ".join(f"{name}={quoted(mark)}" for name, mark in marks.items()) + ")"
        )
    lost = rejects["row"].nunique() if len(rejects) else 0
    return _as_lists(rejects, notes, in_source) if lost * 2 > rows else SKIP


def _as_lists(rejects: pd.DataFrame, notes: Mapping[str, str], in_source: Callable[[str], str]) -> str | None:
    """Return the lines that make lists of the texts in a column of arrays, where most rows have no list."""
    texts = rejects[rejects["reason"] == NO_LIST]
    lines = [
        splitting(list(group["value"]), f"frame[{quoted(in_source(str(name)))}]")
        for name, group in texts.groupby("column", sort=False)
    ]
    made = frame_made(notes)
    return "\n".join([*made, *filter(None, lines)]) if any(lines) and made is not None else None
