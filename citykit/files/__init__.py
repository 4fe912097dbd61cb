"""Files to frames: delimited text, JSON, Parquet, Arrow, Excel."""

from citykit.files.reader import FileSource, Kind, open_file, read_file

__all__ = ["FileSource", "Kind", "open_file", "read_file"]
