"""Decoded columns as a frame, whose dtypes follow from the server's types alone. No I/O, no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from citykit.decode.copy_text import UnfitColumnError, Values
from citykit.decode.moments import UnfitValueError, check_python_holds
from citykit.pgtypes import TEXT, DtypeBackend, PgType, Type

_STRINGS: Mapping[str, Any] = {
    "string": pd.StringDtype("pyarrow", na_value=pd.NA),
    "str": pd.StringDtype("pyarrow", na_value=np.nan),
}


def to_frame(
    names: Sequence[str], types: Sequence[Type], columns: list[list[Values]], backend: DtypeBackend
) -> pd.DataFrame:
    """Make a frame of decoded columns, each a list of the parts in which it came.

    The lists are emptied. Names may repeat. The dtypes follow from `types` and `backend`, never from values.

    Raises
    ------
    UnfitColumnError
        If a column of that dtype cannot hold or show one of its values.
    """
    arrays = {}
    for number, (type_, parts) in enumerate(zip(types, columns, strict=True)):
        try:
            values = _column(type_, parts, backend)
        except UnfitValueError as exc:
            raise UnfitColumnError(number, exc) from exc
        if isinstance(values, np.ndarray) and values.dtype == object:
            # If all objects are str, pandas would infer a string dtype.
            values = pd.Series(values, dtype=object)
        arrays[number] = values
        parts.clear()  # so that only one column at a time is in memory twice
    if len(set(names)) == len(names):
        return pd.DataFrame(dict(zip(names, arrays.values(), strict=True)), copy=False)
    frame = pd.DataFrame(arrays, copy=False)
    frame.columns = pd.Index(list(names), dtype="str")
    return frame


def _column(type_: Type, parts: list[Values], backend: DtypeBackend) -> Any:
    row, dtype = type_.row, type_.dtype(backend)
    if dtype == "category":
        return _categorical(pa.chunked_array(parts, TEXT), type_.labels)
    if dtype.endswith("[pyarrow]"):
        return pd.arrays.ArrowExtensionArray(_for_arrow(row, parts))
    if type_.array or row.arrow is None:
        return np.concatenate(parts)
    chunked = pa.chunked_array(parts, row.arrow)
    if dtype in _STRINGS:
        return _STRINGS[dtype].__from_arrow__(chunked)
    if pa.types.is_time(row.arrow):
        return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in chunked.chunks])
    if pa.types.is_temporal(row.arrow):
        if getattr(row.arrow, "tz", None):
            check_python_holds(chunked)  # pandas cannot print the others
        seconds = pa.types.is_date(row.arrow)
        return (chunked.cast(pa.timestamp("s")) if seconds else chunked).to_pandas().array
    if dtype == "object":
        return _objects(chunked)
    if backend == "numpy":
        return chunked.cast(pa.from_numpy_dtype(np.dtype(dtype))).to_numpy()
    extension: Any = pd.api.types.pandas_dtype(dtype)
    return extension.construct_array_type()(_filled(chunked), _missing(chunked))


def _filled(chunked: pa.ChunkedArray) -> Any:
    if chunked.null_count:
        chunked = chunked.fill_null(pa.scalar(0, pa.int8()).cast(chunked.type))
    return chunked.to_numpy()


def _missing(chunked: pa.ChunkedArray) -> Any:
    return chunked.is_null().to_numpy() if chunked.null_count else np.zeros(len(chunked), bool)


def _objects(chunked: pa.ChunkedArray) -> Any:
    """Return Python's objects, None for NULL: for types of which NumPy has no exact one that holds NULL."""
    if pa.types.is_large_binary(chunked.type):
        return chunked.to_numpy()
    values = _filled(chunked).astype(object)
    values[_missing(chunked)] = None
    return values


def _categorical(chunked: pa.ChunkedArray, labels: Sequence[str]) -> pd.Categorical:
    codes = pc.index_in(chunked, pa.array(labels, TEXT)).fill_null(-1).to_numpy()
    dtype = pd.CategoricalDtype(pd.Index(list(labels), dtype="str"), ordered=True)
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _for_arrow(row: PgType, parts: list[Values]) -> pa.ChunkedArray:
    chunked = pa.chunked_array(parts, row.arrow)
    if pa.types.is_date(row.arrow) or getattr(row.arrow, "tz", None):
        check_python_holds(chunked)  # pandas cannot print the others
    if row.arrow == TEXT:
        return chunked.cast(pa.string())
    return chunked.cast(pa.binary()) if pa.types.is_large_binary(row.arrow) else chunked
