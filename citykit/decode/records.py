"""asyncpg's records as a small frame, by a function that pandas has for pyarrow. No I/O."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

# pandas keeps this function stable for pyarrow only. Without it pd.DataFrame makes the frame, which takes
# 0.5 ms, ten times as long, of a question that takes 1 ms.
try:
    from pandas.api.internals import create_dataframe_from_blocks  # type: ignore[import-not-found]
except ImportError:
    create_dataframe_from_blocks = None

_STR: Any = pd.StringDtype("pyarrow", na_value=np.nan)


def frame_of_records(records: Sequence[Sequence[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Make a small frame of a driver's records, whose texts and integers are not NULL.

    `dtypes` has the name of each column and "str" or a dtype of NumPy; records may have more columns.
    """
    columns: list[tuple[Any, ...]] = list(zip(*records, strict=True)) or [()] * len(dtypes)
    if create_dataframe_from_blocks is None:
        named = zip(dtypes.items(), columns, strict=False)
        return pd.DataFrame({name: pd.Series(values, dtype=dtype) for (name, dtype), values in named})
    names, texts, numbers = _layout(tuple(dtypes.items()))
    count = len(records)
    blocks: list[tuple[Any, Any]] = [
        (np.array([columns[place] for place in places], dtype), places) for dtype, places in numbers
    ]
    together = pa.array([text for place in texts for text in columns[place[0]]], pa.large_string())
    values: Any = _STR.__from_arrow__(together)
    for number, place in enumerate(texts):
        blocks.append((values[number * count : (number + 1) * count], place))
    index = pd.RangeIndex.from_range(range(count))
    frame: pd.DataFrame = create_dataframe_from_blocks(blocks, index, names.view())
    return frame


@functools.cache
def _layout(dtypes: tuple[tuple[str, str], ...]) -> tuple[pd.Index[str], list[Any], list[tuple[Any, Any]]]:
    """Return the names of columns, the place of each with text, and the places of each dtype of numbers."""
    places: dict[str, list[int]] = {}
    for place, (_, dtype) in enumerate(dtypes):
        places.setdefault(dtype, []).append(place)
    texts = [np.array([place]) for place in places.pop("str", [])]
    names = pd.Index([name for name, _ in dtypes], dtype="str")
    return names, texts, [(np.dtype(dtype), np.array(those)) for dtype, those in places.items()]
