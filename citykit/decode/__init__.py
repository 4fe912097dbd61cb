"""The server's bytes to Arrow columns, and those to a frame. Pure: no I/O."""

from citykit.decode.copy_text import UnfitColumnError, Values, decode, objects, parsed, values_of
from citykit.decode.data_rows import COPIED, ROW, SLACK, Bytes, copied_lines, unpack, whole_copies, whole_rows
from citykit.decode.dtypes import to_frame
from citykit.decode.moments import UnfitValueError
from citykit.decode.records import frame_of_records
from citykit.decode.rounding import shown
from citykit.pgtypes import DtypeBackend

__all__ = [
    "COPIED",
    "ROW",
    "SLACK",
    "Bytes",
    "DtypeBackend",
    "UnfitColumnError",
    "UnfitValueError",
    "Values",
    "copied_lines",
    "decode",
    "frame_of_records",
    "objects",
    "parsed",
    "shown",
    "to_frame",
    "unpack",
    "values_of",
    "whole_copies",
    "whole_rows",
]  # fmt: skip
