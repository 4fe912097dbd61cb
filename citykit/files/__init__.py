"""Files to frames, and back: delimited text, JSON, Parquet, Arrow, Excel."""

from citykit.files.reader import FileSource, Kind, located, open_file, read_file
from citykit.files.writers import FileFormat, as_texts, format_of, writing

__all__ = [
    "FileFormat",
    "FileSource",
    "Kind",
    "as_texts",
    "format_of",
    "located",
    "open_file",
    "read_file",
    "writing",
]
