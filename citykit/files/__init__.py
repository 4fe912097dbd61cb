"""Files to frames, and back: delimited text, JSON, Parquet, Arrow, Excel."""

from citykit.files.file_source import FileSource, ManyFiles
from citykit.files.kinds import Kind
from citykit.files.printing import as_table, visible
from citykit.files.reader import located, open_file, read_file
from citykit.files.writers import FileFormat, format_of, write_bytes, writing

__all__ = [
    "FileFormat",
    "FileSource",
    "Kind",
    "ManyFiles",
    "as_table",
    "format_of",
    "located",
    "open_file",
    "read_file",
    "visible",
    "write_bytes",
    "writing",
]
