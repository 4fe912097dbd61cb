"""A statement to frames."""

from citykit.read.reading import read_frame, stream_frames
from citykit.read.statement import Statement, parameter_names

__all__ = ["Statement", "parameter_names", "read_frame", "stream_frames"]
