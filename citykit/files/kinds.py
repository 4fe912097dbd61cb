"""What a file is: by its first bytes where they tell, else by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

from citykit.files.streams import ReadError

Kind: TypeAlias = Literal["csv", "json", "ndjson", "parquet", "arrow file", "arrow stream", "excel"]

_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow file", b"\xff\xff\xff\xff": "arrow stream"}
_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet", ".arrow": "arrow file", ".arrows": "arrow stream", ".feather": "arrow file",
    ".xlsx": "excel", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
_OTHER = {  # what begins so is none of the files that can be read
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
_HTML = re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE)
_READS = "CSV, TSV, JSON, Parquet, Arrow and Excel (.xlsx) files can be read."


def kind_of(head: bytes, name: str) -> Kind:
    """Return what a file is, or raise `ReadError` for one that cannot be read."""
    for magic, other in _OTHER.items():
        if head.startswith(magic):
            raise ReadError(f"it is {other}", _READS)
    if _HTML.match(head):
        raise ReadError("it is a web page", "Download the file itself.")
    for begin, kind in _MAGIC.items():
        if head.startswith(begin):
            return kind
    if head.startswith(b"PK"):
        return "excel"
    named = _SUFFIXES.get(Path(name).suffix.lower())
    if named in ("parquet", "arrow file", "arrow stream", "excel") and head:
        raise ReadError(
            f"by its name it is a file of kind {named!r}, and it begins with {head[:20]!r}", _READS
        )
    if named:
        return named
    return "json" if head.lstrip().startswith((b"{", b"[")) else "csv"
