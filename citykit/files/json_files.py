"""JSON: lines of objects, read block by block, or one array of objects, read as a whole."""

from __future__ import annotations

import io
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from citykit.files.columns import CHUNK_ROWS, Columns
from citykit.files.streams import ReadError, Stream, parts_of

BLOCK_BYTES = 2**20
MOST_LISTED = 100  # names that an error gives as columns=: with more, they are data
# Numbers that Arrow may round: of more than 15 characters, or with an exponent.
_LONG_NUMBER = re.compile(rb"[0-9][0-9.]{15}|[0-9.][eE][-+0-9]")
_DIGITS = 15


def read_lines(text: Stream, columns: Columns) -> Iterator[pd.DataFrame]:
    """Yield the objects of UTF-8 text block by block, as frames with the columns of the first block.

    A column that `columns` names may come later. Empty lines are skipped. Strings stay text, and no number
    is rounded.

    Raises
    ------
    ReadError
        If a line is no JSON object (it is named), if a later block has names that the first has not, and
        `columns` does not pick any, or if no object has a column that `columns` names.
    """
    blocks = _blocks(text)
    first = next(blocks)
    there = _names(_objects(first, 0))
    names = list(dict.fromkeys([*there, *columns.asked]))
    types: dict[str, pa.DataType] | None = None
    line = 0
    with tempfile.TemporaryFile() as kept:
        if len(names) > len(there):  # the others come late, or never
            for block, found in _with_names(blocks, first.count(b"\n")):
                there |= found
                kept.write(block)
            columns.of(list(there))
            names = list(there)
            kept.seek(0)
            blocks = _blocks(Stream(parts_of(kept)))
        for block in itertools.chain([first], blocks):
            frame = None if types is None else _typed(block, names, types)
            if frame is None:
                objects = list(_objects(block, line))
                late = [name for name in _names(objects) if name not in names]
                if late and columns.wanted is None:
                    for _, found in _with_names(itertools.chain([block], blocks), line):
                        there |= found
                    pick: dict[str, Any] = {"columns": list(there)} if len(there) <= MOST_LISTED else {}
                    raise ReadError(
                        f"an object after line {line} has {late[0]!r}, which none before it has", **pick
                    )
                frame = _framed(objects, names)
                types = _types(frame)
            line += block.count(b"\n")
            yield _picked(frame, columns)


def _with_names(blocks: Iterable[bytes], line: int) -> Iterator[tuple[bytes, dict[str, None]]]:
    """Yield each of the blocks after a line, and the names in it."""
    for block in blocks:
        yield block, _names(_objects(block, line))
        line += block.count(b"\n")


def _names(objects: Iterable[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(name for each in objects for name in each)


def read_array(text: Stream, columns: Columns) -> Iterator[pd.DataFrame]:
    """Yield the objects of an array as frames of all their columns; the whole text is in memory meanwhile.

    Raises
    ------
    ReadError
        If it is no array of objects.
    """
    found = _parsed(text.read(), "it is no JSON that can be read")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ReadError("it is no array of JSON objects")
    for number, each in enumerate(found, 1):
        if isinstance(each, _Twice):
            raise ReadError(f"object {number} of it has {each.name!r} twice")
    names = list(dict.fromkeys(name for each in found for name in each))
    for start in range(0, max(len(found), 1), CHUNK_ROWS):
        yield _picked(_framed(found[start : start + CHUNK_ROWS], names), columns)


def _framed(objects: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series([each.get(name) for each in objects], dtype=object) for name in names},
        index=pd.RangeIndex(len(objects)),
    )


def _picked(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    positions, renamed = columns.of(list(frame.columns))
    return frame.iloc[:, positions].set_axis(renamed, axis=1)


def _blocks(text: Stream) -> Iterator[bytes]:
    """Yield the bytes of a text, cut where lines end."""
    rest = b""
    while part := text.read(BLOCK_BYTES):
        rest += part
        end = rest.rfind(b"\n") + 1
        if len(part) < BLOCK_BYTES:  # the last
            break
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > BLOCK_BYTES:
            raise ReadError(f"a line of it is longer than {BLOCK_BYTES:,} bytes")
    if rest:
        yield rest


def _types(frame: pd.DataFrame) -> dict[str, pa.DataType] | None:
    """Return the Arrow types with which later blocks can be read; None unless each column has one type."""
    types = {"string": pa.string(), "integer": pa.int64(), "floating": pa.float64(), "boolean": pa.bool_()}
    kinds = {str(name): pd.api.types.infer_dtype(frame[name], skipna=True) for name in frame}
    return (
        {name: types[kind] for name, kind in kinds.items()} if set(kinds.values()) <= types.keys() else None
    )


def _typed(block: bytes, names: list[str], types: dict[str, pa.DataType]) -> pd.DataFrame | None:
    """Read a block with Arrow. Returns None if a value has not its column's type, or might be rounded."""
    if _LONG_NUMBER.search(block):
        return None
    schema = pa.schema([(name, types[name]) for name in names])
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    whole = arrow_json.ReadOptions(block_size=2 * BLOCK_BYTES, use_threads=False)
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
            found = _parsed(text, f"line {number} is no JSON that can be read")
            if not isinstance(found, dict):
                raise ReadError(f"line {number} is no JSON object")
            if isinstance(found, _Twice):
                raise ReadError(f"the object in line {number} has {found.name!r} twice")
            yield found


class _Twice(dict[str, Any]):
    """An object with a name twice. As a row it is an error; of a value, the last counts, as in jsonb."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        made = _Twice(made)
        made.name = next(name for name in names if names.count(name) > 1)
    return made


def _parsed(text: bytes, otherwise: str) -> Any:
    try:
        return json.loads(text, parse_float=_number, object_pairs_hook=_object)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        raise ReadError(f"{otherwise}: {exc}") from exc


def _number(text: str) -> float | Decimal:
    """Return a number as a float; as a Decimal where a float would round it."""
    if len(text) <= _DIGITS and "e" not in text.lower():
        return float(text)
    number = Decimal(text)
    return float(text) if number.is_finite() and Decimal(repr(float(text))) == number else number
