"""Text in a column of dates, times or booleans: ISO 8601 as PostgreSQL, pandas and JSON write it. No I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from citykit.encode.rules import Rule
from citykit.pgtypes import TEXT, Check

# PostgreSQL has no year 0, which is 1 BC to Arrow.
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE, _TIME = f"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}", r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
# The pattern of the texts that are read, and the reason of a reject.
_WRITTEN: dict[Check, tuple[str, str]] = {
    "date": (rf"^{_DATE}(?:[ T]00:00(?::00(?:\.0+)?)?)?$", "not a date such as 2024-01-31"),
    "time": (rf"^{_TIME}$", "not a time of day such as 12:30:00"),
    "timestamp": (rf"^{_DATE}(?:[ T]{_TIME})?$", "not a timestamp such as 2024-01-31 12:30:00"),
    "timestamptz": (
        rf"^{_DATE}[ T]{_TIME}(?:Z|[-+][0-9]{{2}}(?::?[0-9]{{2}})?)$",
        "not a timestamp with its zone, such as 2024-01-31 12:30:00+01:00",
    ),
    "boolean": ("^(?:true|false|True|False|TRUE|FALSE|t|f)$", "neither true nor false"),
}
READ_FROM_TEXT = tuple(_WRITTEN)


def times_in(texts: pa.Array, rule: Rule) -> tuple[pa.Array, dict[int, str]]:
    """Type texts as the dates, times or booleans of a column; give the others a reason, by position."""
    assert rule.check is not None  # noqa: S101
    pattern, reason = _WRITTEN[rule.check]
    texts = texts.cast(TEXT)
    fits = pc.match_substring_regex(texts, pattern)
    written = pc.if_else(fits, texts, pa.scalar(None, TEXT))
    if rule.check == "date":
        written = pc.utf8_slice_codeunits(written, 0, 10)
    try:
        typed = _typed(written, rule)
    except pa.ArrowInvalid:  # a 30th of February: find which texts are none
        typed = pa.concat_arrays(
            [_or_null(written[place : place + 1], rule) for place in range(len(written))]
        )
    bad = pc.and_(texts.is_valid(), typed.is_null()).to_numpy(zero_copy_only=False)
    return typed, dict.fromkeys(np.flatnonzero(bad).tolist(), reason)


def _typed(written: pa.Array, rule: Rule) -> pa.Array:
    if rule.check == "boolean":
        return pc.starts_with(pc.utf8_lower(written), "t")
    if rule.check == "time":  # Arrow reads one in a timestamp only
        dated = pc.binary_join_element_wise(pa.scalar("1970-01-01 ", TEXT), written, pa.scalar("", TEXT))
        return dated.cast(pa.timestamp("us")).cast(rule.typed)
    return written.cast(rule.typed)


def _or_null(written: pa.Array, rule: Rule) -> pa.Array:
    try:
        return _typed(written, rule)
    except pa.ArrowInvalid:
        return pa.nulls(1, rule.typed)
