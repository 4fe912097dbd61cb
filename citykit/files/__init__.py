"""CSV, JSON, Parquet and Arrow files to frames."""

from citykit.files.reader import read_file

__all__ = ["read_file"]
