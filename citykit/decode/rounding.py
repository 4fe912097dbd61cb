"""Numerics as doubles, rounded as float() rounds their text, and which of them lose digits. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from citykit.decode.moments import UnfitValueError

EXACT_IN_FLOAT = 2.0**53  # up to here a double holds every whole number
SHOWN_DIGITS = 40  # of a numeric, which may have 131,072 before its point


def rounded(texts: pa.Array, lost: Callable[[str], object]) -> pa.Array:
    """Read the text of numerics as doubles.

    `lost` is called with the first value whose whole part the double does not hold, if there is one.

    Raises
    ------
    UnfitValueError
        If a value is beyond the range of a double: infinity would be wrong.
    """
    values = texts.cast(pa.float64())
    largest = pc.max(pc.abs(pc.if_else(pc.is_finite(values), values, None))).as_py()
    if pc.any(pc.is_inf(values)).as_py():
        beyond = pc.and_(pc.is_inf(values), pc.invert(pc.match_substring(texts, "Infinity")))
        if (position := pc.index(beyond, True).as_py()) >= 0:
            raise UnfitValueError(position, shown(texts[position].as_py()), "a float (up to 1.8e308)")
    if largest is not None and largest >= EXACT_IN_FLOAT:
        large = pc.and_(pc.is_finite(values), pc.greater_equal(pc.abs(values), EXACT_IN_FLOAT))
        for text, value in zip(
            texts.filter(large).to_pylist(), values.filter(large).to_pylist(), strict=True
        ):
            if int(Decimal(text)) != int(value):
                lost(text)
                break
    return values


def shown(text: str) -> str:
    """Return a numeric's text, or the beginning of a long one."""
    return text if len(text) <= SHOWN_DIGITS else f"{text[:SHOWN_DIGITS]}… ({len(text)} characters)"
