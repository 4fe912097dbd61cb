"""Lines of JSON objects, read block by block: by Arrow where every value is of its column's type."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

_BLOCK_BYTES = 2**20
_TYPES = {"int64": pa.int64(), "float64": pa.float64()}  # by dtype


def read(path: Path, dtypes: Mapping[str, str]) -> Iterator[pd.DataFrame]:
    """Yield the objects of a file in blocks, as frames whose columns are the names in the first block.

    `dtypes` says which columns are of numbers (int64, float64); all others are taken for text. Empty lines
    are skipped. Rows are labelled by their number, from 0.

    Raises
    ------
    ValueError
        If a line is no JSON object; it says which. If a later block has other names than the first.
    """
    names: list[str] | None = None
    start = line = 0
    with path.open("rb") as file:
        for block in _blocks(file):
            frame = None if names is None else _typed(block, names, dtypes)
            if frame is None:
                objects = list(_objects(block, line))
                found = list(dict.fromkeys(name for each in objects for name in each))
                names = found if names is None else names
                if other := [name for name in found if name not in names]:
                    raise ValueError(
                        f"an object after line {line} has {other[0]!r}, which none before it has"
                    )
                columns = {name: [each.get(name) for each in objects] for name in names}
                for name in names:
                    if dtypes.get(name) != "int64":
                        columns[name] = [float(v) if isinstance(v, Decimal) else v for v in columns[name]]
                frame = pd.DataFrame({name: pd.Series(columns[name], dtype=object) for name in names})
            line += block.count(b"\n")
            yield frame.set_axis(pd.RangeIndex(start, start + len(frame)))
            start += len(frame)
    if names is None:
        raise ValueError("it is empty")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file, cut where lines end."""
    rest = b""
    while part := file.read(_BLOCK_BYTES):
        rest += part
        end = rest.rfind(b"\n") + 1
        if len(part) < _BLOCK_BYTES:  # the last
            break
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _BLOCK_BYTES:
            raise ValueError(f"a line of it is longer than {_BLOCK_BYTES:,} bytes")
    if rest:
        yield rest


def _typed(block: bytes, names: list[str], dtypes: Mapping[str, str]) -> pd.DataFrame | None:
    """Read a block whose values all have their columns' types. Returns None if one has not."""
    schema = pa.schema([(name, _TYPES.get(dtypes.get(name, ""), pa.string())) for name in names])
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    whole = arrow_json.ReadOptions(block_size=2 * _BLOCK_BYTES, use_threads=False)
    try:
        table = arrow_json.read_json(io.BytesIO(block), whole, options)
        table.validate(full=True)
    except pa.ArrowException:
        return None
    frame: pd.DataFrame = table.select(names).to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _objects(block: bytes, line: int) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(block.split(b"\n"), line + 1):
        if text.strip():
            try:
                found = json.loads(text, parse_float=Decimal)  # a float would round a population
            except (ValueError, ArithmeticError, RecursionError) as exc:
                raise ValueError(f"line {number} is no JSON that can be read: {exc}") from exc
            if not isinstance(found, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield found
