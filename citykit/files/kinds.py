"""The kind of a file: by its first bytes, else by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

from citykit.files.streams import ReadError

Kind: TypeAlias = Literal["csv", "json", "ndjson", "parquet", "arrow file", "arrow stream", "excel"]

_MAGIC: dict[bytes, Kind] = {
    b"PAR1": "parquet", b"ARROW1": "arrow file", b"\xff\xff\xff\xff": "arrow stream",
    b"PK\x03\x04": "excel", b"PK\x05\x06": "excel",
}  # fmt: skip
_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet", ".arrow": "arrow file", ".arrows": "arrow stream", ".feather": "arrow file",
    ".xlsx": "excel", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
_OTHER = {  # the first bytes of formats that cannot be read
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls), or one with a password",
    b"FEA1": "a Feather file of version 1",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "a SQLite database",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89HDF": "an HDF5 file",
}
_TEXT = re.compile(rb"[^\x00-\x08\x0e-\x1f]*")  # without control characters, which every binary format has
_HTML = re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE)
_READS = "CSV, TSV, JSON, Parquet, Arrow and Excel (.xlsx) files can be read."


def kind_of(head: bytes, name: str) -> Kind:
    """Return the kind of a file, or raise `ReadError` if it cannot be read."""
    for magic, other in _OTHER.items():
        if head.startswith(magic):
            raise ReadError(f"it is {other}", _READS)
    if _HTML.match(head):
        raise ReadError("it is a web page", "Download the file itself.")
    if not _TEXT.fullmatch(head):  # the first column of a CSV file may be called PAR1
        for begin, kind in _MAGIC.items():
            if head.startswith(begin):
                return kind
    named = _SUFFIXES.get(Path(name).suffix.lower())
    if named in ("parquet", "arrow file", "arrow stream", "excel") and head:
        raise ReadError(
            f"by its name it is a file of kind {named!r}, and it begins with {head[:20]!r}", _READS
        )
    if named:
        return named
    begin = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")  # after byte order marks and blanks
    return "json" if begin.startswith((b"{", b"[")) else "csv"
