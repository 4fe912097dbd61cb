"""Rows to any table."""

from citykit.load.loading import LoadReport, OnInvalid, last_rejects, load_frame
from citykit.load.merge import OnConflict
from citykit.load.order import settle_numbers
from citykit.load.refusals import violated_by
from citykit.load.source import Source

__all__ = [
    "LoadReport", "OnConflict", "OnInvalid", "Source", "last_rejects", "load_frame", "settle_numbers",
    "violated_by",
]  # fmt: skip
