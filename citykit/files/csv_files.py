"""CSV: every field is text, except in the columns of numbers; only an empty field is missing."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

BLOCK_BYTES = 2**20  # Arrow reads a few blocks ahead
_PARSE: dict[str, Callable[[str], object]] = {"int64": Decimal, "float64": float}  # by dtype


def read(path: Path, dtypes: Mapping[str, str]) -> Iterator[pd.DataFrame]:
    """Yield the rows of a file in blocks; a row of another length than the first is an error.

    `dtypes` says which columns are of numbers (int64, float64); an empty field is missing.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), None)
        if names is None:
            raise ValueError("it is empty")
        if next(file, None) is None:  # Arrow reads no header that is the whole file
            yield pd.DataFrame(columns=names, dtype=object)
            return
    start = 0
    with arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    ) as reader:
        for batch in reader:
            frame = batch.to_pandas().set_axis(pd.RangeIndex(start, start + batch.num_rows))
            parsed = {
                name: _numbers(frame[name], _PARSE[dtype])
                for name, dtype in dtypes.items()
                if dtype in _PARSE and names.count(name) == 1
            }
            yield frame.assign(**parsed)
            start += len(frame)
    if not start:  # the names of the columns are checked, too
        yield pd.DataFrame(columns=names, dtype=object)


def _numbers(texts: pd.Series[Any], parse: Callable[[str], object]) -> pd.Series[Any]:
    """Convert texts to numbers; one that is no number stays, so that the check can name its row."""
    if parse is float or texts.dropna().str.fullmatch(r"[0-9]{1,15}").all():
        try:
            return pd.Series(
                pa.array(texts, pa.string(), from_pandas=True)
                .cast(pa.float64())
                .to_numpy(zero_copy_only=False),
                index=texts.index,
            )
        except pa.ArrowInvalid:
            pass
    values: list[object] = []
    for text in texts:
        try:
            values.append(parse(text) if isinstance(text, str) else None)
        except (ValueError, ArithmeticError):
            values.append(text)
    return pd.Series(values, index=texts.index, dtype=object)
