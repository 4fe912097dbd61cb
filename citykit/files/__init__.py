"""CSV, JSON, Parquet and Arrow files to frames."""

from citykit.files.reader import read_cities

__all__ = ["read_cities"]
