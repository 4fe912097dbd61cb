"""Rows to any table."""

from citykit.load.creating import create_table
from citykit.load.loading import LoadReport, OnInvalid, last_rejects, load_frame, load_rows
from citykit.load.merge import OnConflict
from citykit.load.named import parsed, written
from citykit.load.order import settle_numbers
from citykit.load.source import Source
from citykit.load.staging import Target
from citykit.load.table_errors import violated_by

__all__ = [
    "LoadReport", "OnConflict", "OnInvalid", "Source", "Target", "create_table", "last_rejects", "load_frame",
    "load_rows", "parsed", "settle_numbers", "violated_by", "written",
]  # fmt: skip
