"""The columns of a frame for a chart: checked numbers, lines of text, the largest first."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]


def check(frame: pd.DataFrame, columns: Sequence[str], *optional: str) -> None:
    """Raise unless it is a frame that has each of these columns once, and the optional ones at most once."""
    if not isinstance(frame, pd.DataFrame):
        hint = ": it wants an await" if hasattr(frame, "__await__") else ""
        raise TypeError(f"a chart is drawn of a DataFrame, not of a {type(frame).__name__}{hint}")
    if missing := [column for column in columns if column not in frame.columns]:
        there = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(f"the frame has no column {', '.join(map(repr, missing))} to draw (it has: {there})")
    if repeated := [column for column in (*columns, *optional) if list(frame.columns).count(column) > 1]:
        raise ValueError(f"the frame has more than one column {', '.join(map(repr, repeated))}")


def numbers(frame: pd.DataFrame, column: str, lowest: float, highest: float, unit: str) -> Floats:
    """Return a column as floats, NaN where missing; raise if a value is no number within the limits."""
    values = frame[column]
    if values.dtype.kind in "mMcb":
        raise ValueError(f"column {column!r} is of dtype {values.dtype}, not of numbers ({unit})")
    found = pd.to_numeric(values, errors="coerce").to_numpy("float64", na_value=np.nan)
    with np.errstate(invalid="ignore"):
        wrong = values.notna().to_numpy(bool) & ~(np.isfinite(found) & (found >= lowest) & (found <= highest))
    if wrong.any():
        place = int(wrong.argmax())
        label, value = (
            repr(thing.item() if isinstance(thing, np.generic) else thing)
            for thing in (frame.index[place], values.iloc[place])
        )
        raise ValueError(
            f"column {column!r} holds values that cannot be drawn ({wrong.sum():,} of {len(wrong):,} values, "
            f"first at row label {label}: {value}). It wants {unit}."
        )
    return found


def populations(frame: pd.DataFrame, column: str = "population") -> Floats:
    """Return a column of persons."""
    return numbers(frame, column, 0, 1e15, "persons, 0 or more; missing where unknown")


def texts(frame: pd.DataFrame, column: str, order: Positions) -> list[str]:
    """Return values of a column as lines of text, '' where missing or where there is no such column."""
    if column not in frame:
        return [""] * len(order)
    values = frame[column].iloc[order].astype(object)
    return [clean(value) if there else "" for value, there in zip(values, values.notna(), strict=True)]


def told_apart(frame: pd.DataFrame, order: Positions, *, with_country: bool) -> list[str]:
    """Return the names of cities; where they repeat with the country, and then with the region too.

    >>> frame = pd.DataFrame({"name": ["Paris", "Paris"], "country": "US", "region": ["TX", "TN"]})
    >>> told_apart(frame, np.arange(2), with_country=False)
    ['Paris, TX, US', 'Paris, TN, US']
    """
    names, regions, countries = (texts(frame, column, order) for column in ("name", "region", "country"))
    in_country = [", ".join(filter(None, parts)) for parts in zip(names, countries, strict=True)]
    in_region = [", ".join(filter(None, parts)) for parts in zip(names, regions, countries, strict=True)]
    labels = in_country if with_country else names
    for longer in (in_country, in_region):
        count = Counter(labels)
        labels = [more if count[label] > 1 else label for label, more in zip(labels, longer, strict=True)]
    return labels


def descending(values: Floats) -> Positions:
    """Return the positions of values that are not NaN, largest first, ties in the order of the frame."""
    order = np.argsort(-values, kind="stable")
    return order[: len(values) - int(np.isnan(values).sum())]


def in_order(style: dict[str, Any], order: Positions, length: int) -> dict[str, Any]:
    """Return the styles; those with a value for each row of the frame in the order of the drawn rows."""

    def one_colour(key: str, values: list[Any]) -> bool:
        return key != "c" and "c" in key and all(isinstance(value, float | int) for value in values)

    ordered = dict(style)
    for key, value in style.items():
        if isinstance(value, list | np.ndarray | pd.Series) and len(value) == length:
            values = list(value)
            ordered[key] = value if one_colour(key, values) else [values[i] for i in order]
    return ordered


def clean(text: object, width: int = 40) -> str:
    """Return one line of at most `width` columns, without control characters, cut with an ellipsis."""
    kept = "".join(
        "\ufffd" if kind == "Cs" else " " if kind == "Cc" else character
        for character in str(text)
        if (kind := unicodedata.category(character))
    )
    kept = " ".join(kept.split())
    columns = 0
    for place, character in enumerate(kept):
        if not unicodedata.combining(character):
            columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns > width:
            return kept[: place - 1].rstrip() + "…"
    return kept
