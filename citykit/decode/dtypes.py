"""The dtype contract: decoded columns as pandas' own, by the server's types alone. No I/O, no database."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.internals import create_dataframe_from_blocks  # type: ignore[import-not-found]
from pandas.arrays import BooleanArray, FloatingArray, IntegerArray

from citykit.decode.copy_text import UnfitColumnError, Values
from citykit.decode.moments import UnfitValueError
from citykit.pgtypes import ARROW, TEXT, Type

DtypeBackend: TypeAlias = Literal["numpy_nullable", "numpy", "pyarrow"]

# Exact for 38 digits before and 38 after the point: asyncpg does not tell a column's own scale.
DECIMAL = pa.decimal256(76, 38)

_NULLABLE: Mapping[str, Callable[..., Any]] = {
    "boolean": BooleanArray,
    "smallint": IntegerArray,
    "integer": IntegerArray,
    "bigint": IntegerArray,
    "real": FloatingArray,
    "double": FloatingArray,
}
_TEXT: Mapping[str, Any] = {
    "numpy_nullable": pd.StringDtype("pyarrow", na_value=pd.NA),
    "numpy": pd.StringDtype("pyarrow", na_value=np.nan),
}


def to_frame(
    names: Sequence[str], types: Sequence[Type], columns: list[list[Values]], backend: DtypeBackend
) -> pd.DataFrame:
    """Make a frame of decoded columns, each a list of the parts in which it came; the lists are emptied.

    Names may repeat. The dtypes follow from `types` and `backend`, never from values.
    """
    arrays = {}
    for number, (type_, parts) in enumerate(zip(types, columns, strict=True)):
        try:
            values = _column(type_, parts, backend)
        except UnfitValueError as exc:
            raise UnfitColumnError(number, exc) from exc
        if isinstance(values, np.ndarray) and values.dtype == object:
            values = pd.Series(
                values, dtype=object
            )  # where all are text, pandas would make it a column of text
        arrays[number] = values
        parts.clear()  # so that no more than one column is in memory twice
    if len(set(names)) == len(names):
        return pd.DataFrame(dict(zip(names, arrays.values(), strict=True)), copy=False)
    frame = pd.DataFrame(arrays, copy=False)
    frame.columns = pd.Index(list(names), dtype="str")
    return frame


def frame_of_records(records: Sequence[Sequence[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Make a small frame of a driver's records: "str" columns without NULL, and those of NumPy's dtypes."""
    # What pandas offers to Arrow for this; pandas.DataFrame(…) takes ten times as long, most of a question.
    names, texts, numbers = _layout(tuple(dtypes.items()))
    count = len(records)
    columns: list[tuple[Any, ...]] = list(zip(*records, strict=True)) or [()] * len(names)
    blocks: list[tuple[Any, Any]] = [
        (np.array([columns[place] for place in places], dtype), places) for dtype, places in numbers
    ]
    together = pa.array([text for place in texts for text in columns[place[0]]], pa.large_string())
    values = _TEXT["numpy"].__from_arrow__(together)
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


def _column(type_: Type, parts: list[Values], backend: DtypeBackend) -> Any:
    kind = type_.kind
    if type_.array or kind in ("uuid", "json"):
        return np.concatenate(parts)
    if kind == "enum":
        return _categorical(_chunked(parts, TEXT), type_.labels)
    if backend == "pyarrow":
        return pd.arrays.ArrowExtensionArray(_for_arrow(kind, parts))
    if kind in ("numeric", "bytea"):
        return np.concatenate(parts)
    chunked = _chunked(parts, ARROW[kind])
    if kind == "text":
        return _TEXT[backend].__from_arrow__(chunked)
    if kind == "time":
        return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in chunked.chunks])
    if kind == "date":
        return chunked.cast(pa.timestamp("s")).to_pandas().array
    if kind not in _NULLABLE:
        return chunked.to_pandas().array
    if backend == "numpy":
        return _numpy(kind, chunked)
    return _NULLABLE[kind](_filled(chunked), _missing(chunked))


def _chunked(parts: list[Values], type_: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array(parts, type_)


def _filled(chunked: pa.ChunkedArray) -> Any:
    if chunked.null_count:
        chunked = chunked.fill_null(pa.scalar(0, pa.int8()).cast(chunked.type))
    return chunked.to_numpy()


def _missing(chunked: pa.ChunkedArray) -> Any:
    return chunked.is_null().to_numpy() if chunked.null_count else np.zeros(len(chunked), bool)


def _numpy(kind: str, chunked: pa.ChunkedArray) -> Any:
    """Return what NumPy holds NULL and every value of the kind in: floats if they are exact, else objects."""
    if kind in ("boolean", "bigint"):
        values = _filled(chunked).astype(object)
        values[_missing(chunked)] = None
        return values
    floating = pa.float32() if kind == "real" else pa.float64()
    return chunked.cast(floating).to_numpy()


def _categorical(chunked: pa.ChunkedArray, labels: Sequence[str]) -> pd.Categorical:
    codes = pc.index_in(chunked, pa.array(labels, TEXT)).fill_null(-1).to_numpy()
    dtype = pd.CategoricalDtype(pd.Index(list(labels), dtype="str"), ordered=True)
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _for_arrow(kind: str, parts: list[Values]) -> pa.ChunkedArray:
    if kind == "text":
        return _chunked(parts, TEXT).cast(pa.string())
    if kind == "bytea":
        return pa.chunked_array([pa.array(part, pa.binary()) for part in parts], pa.binary())
    if kind == "numeric":
        return _decimals(parts)
    return _chunked(parts, ARROW[kind])


def _decimals(parts: list[Values]) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.array(part, DECIMAL) for part in parts], DECIMAL)
    except pa.ArrowInvalid:
        for position, value in enumerate(np.concatenate(parts)):
            try:
                pa.scalar(value, DECIMAL)
            except pa.ArrowInvalid as exc:
                raise UnfitValueError(position, str(value), f"a column of {DECIMAL}") from exc
        raise
