"""A statement to frames, or to its command tag."""

from citykit.read.execution import Executed, execute, run_cell
from citykit.read.parameters import param_of
from citykit.read.reading import read_frame, stream_frames
from citykit.read.statement import Statement
from citykit.read.tokens import parameter_names

__all__ = [
    "Executed", "Statement", "execute", "param_of", "parameter_names", "read_frame", "run_cell",
    "stream_frames",
]  # fmt: skip
