"""The text of COPY as typed values, by the server's column types. No I/O, no database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from citykit.decode.moments import READERS, UnfitValueError, check_python_holds
from citykit.decode.rounding import EXACT_IN_FLOAT, rounded, shown
from citykit.pgtypes import TEXT, Type

Values: TypeAlias = Any  # an Arrow array, or a NumPy array of Python objects where Arrow has no such type


class UnfitColumnError(ValueError):
    """A value that a column of a frame cannot hold, and the number of the column."""

    def __init__(self, column: int, unfit: UnfitValueError) -> None:
        super().__init__(*unfit.args)
        self.column, self.position = column, unfit.position


def decode(data: bytes, types: Sequence[Type], lost: dict[int, str] | None = None) -> list[Values]:
    r"""Decode whole lines of ``COPY … TO STDOUT (FORMAT text)``.

    Parameters
    ----------
    data : bytes
        UTF-8, zero or more lines.
    types : sequence of Type
        The type of each column.
    lost : dict, optional
        Filled, for columns of numerics read as floats, with the first value whose whole part no float holds.

    Returns
    -------
    list of pyarrow.Array or numpy.ndarray
        One for each column, as long as there are lines.

    Raises
    ------
    UnfitColumnError
        If Arrow has no such value: the timestamp 'infinity', for example.

    Examples
    --------
    >>> name, population = decode(b"\\N\t1\nR\xc3\xa9\\tk\t2\n", [Type("text"), Type("int4")])
    >>> name.to_pylist(), population.to_pylist()
    ([None, 'Ré\tk'], [1, 2])
    """
    if not data:
        return [values_of(pa.array([], TEXT), type_) for type_ in types]
    if data.startswith(b"\xef\xbb\xbf"):
        # The parser takes a first character U+FEFF for a byte order mark and skips it.
        data = b"\xef\xbb\xbf" + data
    table = _parsed(data, types)
    escaped = b"\\" in data and data.count(b"\\") != data.count(b"\\N")
    columns = []
    lost = {} if lost is None else lost
    for number, type_ in enumerate(types):
        column = table.column(number).combine_chunks()
        if escaped and column.type == TEXT:
            column = _unescaped(column)
        try:
            columns.append(values_of(column, type_, partial(lost.setdefault, number)))
        except UnfitValueError as exc:
            raise UnfitColumnError(number, exc) from exc
    return columns


def _parsed(data: bytes, types: Sequence[Type]) -> pa.Table:
    """Parse lines; dates and rounded numerics stay text if Arrow cannot read one, or would round one."""
    always = [type_.row.arrow if type_.row.is_csv and not type_.array else TEXT for type_ in types]
    mostly = [
        type_.row.arrow if type_.row.is_mostly_csv and not type_.array else known
        for type_, known in zip(types, always, strict=True)
    ]
    with suppress(pa.ArrowInvalid):  # a date BC, for example
        table = _read_csv(data, mostly)
        floats = (column for column, type_ in zip(table.columns, types, strict=True) if type_.row.is_rounded)
        if all(_hold_whole_numbers(column) for column in floats):
            return table
    return _read_csv(data, always)


def _hold_whole_numbers(numbers: pa.ChunkedArray) -> bool:
    """Tell whether all doubles of a column are in the range in which no whole part is rounded."""
    return numbers.type == TEXT or (pc.max(pc.abs(numbers)).as_py() or 0) < EXACT_IN_FLOAT


def _read_csv(data: bytes, types: Sequence[pa.DataType]) -> pa.Table:
    names = [str(number) for number in range(len(types))]
    return csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False
        ),
        csv.ConvertOptions(
            column_types=dict(zip(names, types, strict=True)),
            null_values=["\\N"],
            strings_can_be_null=True,
            true_values=["t"],
            false_values=["f"],
        ),
    )


# How COPY writes these characters. NUL, which no text of PostgreSQL has, stands for a backslash meanwhile.
_ESCAPES = {"\\\\": "\0", "\\b": "\b", "\\f": "\f", "\\n": "\n", "\\r": "\r", "\\t": "\t", "\\v": "\v"}


def _unescaped(texts: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring(texts, "\\")).as_py():
        return texts
    for escape, character in _ESCAPES.items():
        texts = pc.replace_substring(texts, escape, character)
    return pc.replace_substring(texts, "\0", "\\")


def values_of(texts: pa.Array, type_: Type, lost: Callable[[str], object] = str) -> Values:
    """Return the values that `texts` stand for; a column that the CSV parser has typed stays as it is.

    `lost`: see :func:`rounded`.
    """
    if type_.array:
        return _arrays(texts, type_, lost)
    row = type_.row
    if texts.type == row.arrow and row.parse is None:
        return texts
    if row.is_rounded:
        return rounded(texts, lost)
    if row.parse is Decimal:
        return _decimals(texts)
    if row.parse is not None:
        values = parsed(texts.to_pylist(), row.parse)
        return objects(values) if row.arrow is None else pa.array(values, row.arrow)
    if row.arrow in READERS:
        return READERS[row.arrow](texts)
    return pc.equal(texts, "t") if pa.types.is_boolean(row.arrow) else texts.cast(row.arrow)


def parsed(values: Iterable[Any], parse: Callable[[Any], object]) -> list[object]:
    """Return what `parse` makes of each value but None.

    Raises
    ------
    UnfitValueError
        If it cannot: JSON has values that Python has not.
    """
    made = []
    for position, value in enumerate(values):
        try:
            made.append(None if value is None else parse(value))
        except (RecursionError, ValueError) as exc:
            text = value if isinstance(value, str) else ascii(value)
            raise UnfitValueError(position, shown(text), "a JSON value of Python") from exc
    return made


def _decimals(texts: pa.Array) -> Values:
    """Return numbers as Python's objects, each distinct one made once: a column of money has few."""
    coded = texts.dictionary_encode()
    numbers = objects([*map(Decimal, coded.dictionary.to_pylist()), None])
    return numbers[coded.indices.fill_null(len(numbers) - 1).to_numpy()]


def objects(values: Iterable[object]) -> Values:
    """Return a NumPy array of Python objects; a list stays one object."""
    return np.fromiter(values, dtype=object)


def _arrays(texts: pa.Array, type_: Type, lost: Callable[[str], object]) -> Values:
    """Read arrays as (nested) lists: type all elements as one column, then put each into its list."""
    delimiter = re.escape(type_.delimiter)
    token = re.compile(rf'[{{}}]|{delimiter}|"((?:[^"\\]|\\.)*)"|([^{{}}"{delimiter}]+)', re.DOTALL)
    places: list[tuple[list[Any], int, int]] = []
    elements: list[str | None] = []

    def read(text: str, position: int) -> list[Any]:
        outer: list[Any] = []
        stack = [outer]
        for found in token.finditer(text, text.index("{")):  # lower bounds other than 1 come before it
            if found[0] == "{":
                stack.append([])
                stack[-2].append(stack[-1])
            elif found[0] == "}":
                stack.pop()
            elif found[0] != type_.delimiter:
                places.append((stack[-1], len(stack[-1]), position))
                stack[-1].append(None)
                quoted = found[1]
                bare = None if found[2] == "NULL" else found[2]
                elements.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL))
        whole: list[Any] = outer[0]
        return whole

    lists = objects(
        None if text is None else read(text, position) for position, text in enumerate(texts.to_pylist())
    )
    texts = pa.array(elements, TEXT)
    try:
        values = values_of(texts, Type(type_.name), lost)
        if isinstance(values, pa.Array):
            check_python_holds(values, texts)
            values = values.to_pylist()
    except UnfitValueError as exc:
        holder = exc.holder if type_.row.is_rounded else "its list"
        raise UnfitValueError(places[exc.position][2], shown(elements[exc.position] or ""), holder) from exc
    for (place, number, _), value in zip(places, values, strict=True):
        place[number] = value
    return lists
