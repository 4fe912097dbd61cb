"""Typed columns as the bytes that COPY takes. No I/O, no database."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

# Every text is quoted and a NULL is not, which is how COPY tells '' from NULL (and keeps \. a text).
_OPTIONS = csv.WriteOptions(include_header=False, quoting_style="needed")
_DAY = 86_400_000_000  # microseconds


def encode_csv(rows: pa.Table | pa.RecordBatch) -> bytes:
    r"""Encode rows for ``COPY … FROM STDIN (FORMAT csv)``.

    Examples
    --------
    >>> import pyarrow as pa
    >>> encode_csv(pa.record_batch({"name": ["Åre", "", None], "latitude": [63.4, None, -0.5]}))
    b'"\xc3\x85re",63.4\n"",\n,-0.5\n'
    >>> tags = pa.array([["a b", None], []], pa.large_list(pa.large_string()))
    >>> encode_csv(pa.record_batch({"tags": tags}))
    b'"{""a b"",NULL}"\n"{}"\n'
    """
    sink = pa.BufferOutputStream()
    columns = {name: _written(rows.column(name)) for name in rows.schema.names}
    csv.write_csv(pa.table(columns), sink, _OPTIONS)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _written(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column that Arrow writes as PostgreSQL reads it: as it is, or as text."""
    if pa.types.is_large_list(column.type) or _is_special(column.type):
        return _text(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return column


def _is_special(type_: pa.DataType) -> bool:
    return bool(pa.types.is_large_binary(type_) or pa.types.is_duration(type_))


def _text(array: pa.Array) -> pa.Array:
    if pa.types.is_large_list(array.type):
        return _array_literals(array)
    if pa.types.is_large_binary(array.type):
        texts = [None if value is None else "\\x" + value.hex() for value in array.to_pylist()]
        return pa.array(texts, pa.large_string())
    if pa.types.is_duration(array.type):
        ticks = array.cast(pa.int64()).to_pandas(integer_object_nulls=True)
        # Both with their sign: in one interval style a leading minus would hold for what follows too.
        texts = [None if t is None else f"{t // _DAY:+d} days {t % _DAY:+d} microseconds" for t in ticks]
        return pa.array(texts, pa.large_string())
    return array.cast(pa.large_string())


def _array_literals(array: pa.Array) -> pa.Array:
    """Write ``{1,NULL}``; whatever is no number is quoted, so that NULL and a comma can be elements."""
    elements = _text(array.values)
    if not pa.types.is_integer(array.type.value_type) and not pa.types.is_floating(array.type.value_type):
        escaped = pc.replace_substring(pc.replace_substring(elements, "\\", "\\\\"), '"', '\\"')
        elements = pc.binary_join_element_wise(_of('"'), escaped, _of('"'), _of(""))
    elements = elements.fill_null("NULL")
    mask = array.is_null() if array.null_count else None
    joined = pc.binary_join(pa.LargeListArray.from_arrays(array.offsets, elements, mask=mask), _of(","))
    return pc.binary_join_element_wise(_of("{"), joined, _of("}"), _of(""))


def _of(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())
