"""Delimited text: every field is text, and an empty one is missing. The header tells the delimiter."""

from __future__ import annotations

import csv
import io
import itertools
import mmap
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv as arrow_csv

from citykit.files.columns import Columns
from citykit.files.streams import ReadError, Stream, in_utf8, on_disk, parts_of

BLOCK_BYTES = 2**20  # Arrow reads a few blocks ahead; no row may be longer
_SAMPLE_BYTES = 2**20
_SAMPLE_ROWS = 100
_DELIMITERS = (",", "\t", ";", "|")
_ONE_COLUMN = "\x1f"  # the unit separator, which no text has
# A line before the header that tells Excel the delimiter: sep=;
_FOR_EXCEL = re.compile(rb'\s*("?)sep=([^\w\s"\x80-\xff]|\t)\1[ \t]*(?:\r\n|\n|\r)', re.IGNORECASE)


def read(
    path: Path, columns: Columns, delimiter: str | None, seen: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches, every column as text.

    Arrow reads ahead in threads of its own. It is given a file on disk: a thread that calls a Python file
    while the interpreter shuts down keeps the process from ending.

    Parameters
    ----------
    path : Path
        In UTF-8.
    columns : Columns
    delimiter : str, optional
        None: the one that the header and the first rows have.
    seen : callable
        Called after each batch with the number of bytes that Arrow has taken from the file.
    """
    with _body(path) as (text, skipped, said):
        sample = text.head(_SAMPLE_BYTES)
    if not sample.strip():
        raise ReadError("it is empty")
    delimiter = delimiter or said or _delimiter(sample)
    names, *rows = _records(sample, delimiter)
    _check_no_nul(names)
    positions, renamed = columns.of(names)
    fields = [f"f{number}" for number in range(len(names))]  # so that names may repeat, or have line ends
    taken = [*(fields[position] for position in positions), fields[-1]]
    ragged: list[arrow_csv.InvalidRow] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    no_rows = pa.RecordBatch.from_arrays([pa.array([], pa.large_string())] * len(renamed), renamed)
    if not rows and len(sample) < _SAMPLE_BYTES:  # Arrow refuses a header without a line end
        yield no_rows
        return
    before = skipped + sample[: len(sample) - len(sample.lstrip(b"\r\n"))]
    last: str | None = ""
    try:
        with (
            ExitStack() as stack,
            pa.OSFile(str(_for_arrow(path, stack))) as file,
            _arrow_reader(file, delimiter, len(before.splitlines()), fields, taken, note) as reader,
        ):
            held = None
            for batch in reader:
                seen(file.tell())
                if held is not None:
                    yield held
                last = batch.column(len(renamed))[-1].as_py() if batch.num_rows else last
                held = batch.select(range(len(renamed))).rename_columns(renamed)
    except pa.ArrowInvalid as exc:
        _check_utf8(path)
        if ragged:
            raise _ragged(ragged[0], len(names), delimiter, path) from exc
        if str(exc).startswith("straddling object"):  # Arrow has no error code for a row beyond a block
            where = _begun(path, delimiter)
            raise ReadError(
                f"{where} is longer than {BLOCK_BYTES:,} bytes; perhaps a quote is never closed"
            ) from exc
        raise
    if _may_be_open(path, delimiter, last) and not _closes(path, delimiter, last):
        raise ReadError(f"a quote is opened in {_begun(path, delimiter)} and never closed")
    yield no_rows if held is None else held


def _arrow_reader(
    file: pa.NativeFile,
    delimiter: str,
    before: int,
    fields: list[str],
    taken: list[str],
    note: Callable[[arrow_csv.InvalidRow], str],
) -> arrow_csv.CSVStreamingReader:
    """Open a text whose header comes after so many lines; its columns are called `fields`."""
    return arrow_csv.open_csv(
        file,
        arrow_csv.ReadOptions(
            block_size=BLOCK_BYTES,
            autogenerate_column_names=True,
            skip_rows=before,
            skip_rows_after_names=1,
        ),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(fields, pa.large_string()),  # the type of text in `encode`
            include_columns=taken,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


@contextmanager
def _text(path: Path) -> Iterator[Stream]:
    with path.open("rb") as file:
        yield in_utf8(Stream(parts_of(file)), "utf-8")


def _check_no_nul(names: list[str]) -> None:
    if any("\0" in name for name in names):
        raise ReadError(
            "its first line has NUL bytes: it is no text, or UTF-16 without its byte order mark",
            encoding="utf-16-be" if names[0].startswith("\0") else "utf-16-le",
        )


def _check_utf8(path: Path) -> None:
    """Raise the error of the first byte that is not UTF-8, with its line."""
    with _text(path) as text:
        while text.read(BLOCK_BYTES):
            pass


@contextmanager
def _body(path: Path) -> Iterator[tuple[Stream, bytes, str | None]]:
    """Yield a text without a line for Excel, that line, and the delimiter that it names."""
    with _text(path) as text:
        found = _FOR_EXCEL.match(text.head())
        yield text, text.read(found.end()) if found else b"", found and found[2].decode()


def _for_arrow(path: Path, stack: ExitStack) -> Path:
    """Return a file from which Arrow reads this one's text: this one, or a temporary copy.

    Where a block ends between CR and LF, Arrow drops the LF, also within quotes; the copy has it twice there.
    """
    with path.open("rb") as file:
        for end in range(BLOCK_BYTES, path.stat().st_size, BLOCK_BYTES):
            file.seek(end - 1)
            if file.read(2) == b"\r\n":
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                    if text.find(b'"') < 0:
                        return path
                file.seek(0)
                return on_disk(Stream(_with_dropped_line_feeds(file)), stack)
    return path


def _with_dropped_line_feeds(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in Arrow's blocks, with a second LF wherever Arrow drops one."""
    begin = b""
    while block := begin + file.read(BLOCK_BYTES - len(begin)):
        yield block
        following = file.read(1) if len(block) == BLOCK_BYTES and block.endswith(b"\r") else b""
        begin = b"\n\n" if following == b"\n" else following


def _may_be_open(path: Path, delimiter: str, last: str | None) -> bool:
    """Tell by the end of a file whether the quote of its last value may never be closed.

    Arrow closes an open quote at the end of a file without an error.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - BLOCK_BYTES))
        end = file.read().rstrip(b"\r\n")
    before = end.rstrip(b'"')
    if (len(end) - len(before)) % 2:  # the first of these quotes may open a value
        return before.endswith((b"\n", b"\r", delimiter.encode()))
    if not last:
        return False
    in_last_line = b'"' in end[max(end.rfind(b"\n"), end.rfind(b"\r")) + 1 :]
    return in_last_line or "\n" in last or "\r" in last


def _closes(path: Path, delimiter: str, last: str | None) -> bool:
    """Tell whether the last quote of a file is closed: only then is a line after it a row of its own."""
    with _text(path) as text, io.TextIOWrapper(io.BufferedReader(text), "utf-8", newline="") as lines:
        records = csv.reader(itertools.chain(lines, ["\n", "end\n"]), delimiter=delimiter)
        try:
            return deque(records, maxlen=1).pop() == ["end"]
        except csv.Error:  # a field of more than 128 KiB
            return len(last or "") < csv.field_size_limit()


def _records(sample: bytes, delimiter: str) -> list[list[str]]:
    """Return the first complete rows of a text."""
    found: list[list[str]] = []
    try:
        for record in csv.reader(
            io.StringIO(sample.decode(errors="ignore"), newline=""), delimiter=delimiter
        ):
            if record:  # no empty line
                found.append(record)
            if len(found) > _SAMPLE_ROWS:
                return found
    except csv.Error:  # a field of more than 128 KiB
        return found or [[]]
    return found[:-1] if len(sample) == _SAMPLE_BYTES and len(found) > 1 else found


def _delimiter(sample: bytes) -> str:
    """Return the delimiter that splits the header; of several, the one that splits all rows alike."""
    split = {delimiter: [len(row) for row in _records(sample, delimiter)] for delimiter in _DELIMITERS}
    heads = [delimiter for delimiter, fields in split.items() if fields[0] > 1]
    alike = [each for each in heads if len({*split[each]}) == 1 < len(split[each])]
    found = alike if len(heads) > 1 else heads
    if len(heads) > 1 and len(found) != 1:
        both = " or ".join(map(repr, heads))
        raise ReadError(f"its columns may be separated by {both}: its header has each", delimiter=heads[0])
    if found:
        return found[0]
    if alike := [
        each for each, fields in split.items() if len(fields) > 1 and len({*fields[1:]}) == 1 < fields[1]
    ]:
        many = split[alike[0]][1]
        raise ReadError(
            f"its header is one column, and all rows have {many} fields separated by {alike[0]!r}",
            "Name each column in the header; if it is one column, name a delimiter that it does not have.",
        )
    return _ONE_COLUMN


def _ragged(row: arrow_csv.InvalidRow, expected: int, delimiter: str, path: Path) -> ReadError:
    text = row.text if len(row.text) <= 80 else f"{row.text[:80]}…"
    fields = f"{row.actual_columns} field{'s' * (row.actual_columns != 1)}"
    what = f"{_begun(path, delimiter, expected)} has {fields} where the header has {expected}: {text!r}"
    if "\n" in row.text:
        return ReadError(f"{what}; perhaps a quote is never closed")
    more = row.actual_columns > expected and delimiter == ","
    return ReadError(
        what, "A comma within a value, or a decimal comma, needs quotes around the value." if more else ""
    )


def _begun(path: Path, delimiter: str, expected: int | None = None) -> str:
    """Say in which line the first row without `expected` fields begins; None: the last row."""
    begun = 1
    for line, record in _located(path, delimiter):
        begun = line
        if expected is not None and len(record) != expected:
            break
    return f"the row that begins in line {begun:,}"


def lines_of(rows: Collection[int], path: Path, delimiter: str | None) -> dict[int, int]:
    """Return the line (from 1) in which each of these rows begins; rows count from 0, after the header."""
    if not delimiter:
        with _body(path) as (text, _, said):
            delimiter = said or _delimiter(text.head(_SAMPLE_BYTES))
    rows = set(rows)
    located = enumerate(itertools.islice(_located(path, delimiter), 1, max(rows, default=0) + 2))
    return {row: line for row, (line, _) in located if row in rows}


def _located(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each row that is not empty.

    A row with a field of more than 128 KiB is the last, and has no fields.
    """
    with (
        _body(path) as (text, skipped, _),
        io.TextIOWrapper(io.BufferedReader(text), "utf-8", newline="") as lines,
    ):
        start = first = len(skipped.splitlines()) + 1
        records = csv.reader(lines, delimiter=delimiter)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error:  # a field of more than 128 KiB
                yield start, []
                return
            if record:
                yield start, record
            start = records.line_num + first
