"""The process: waiting from a cell, a forgotten await, Jupyter's kernel, progress bars."""

from citykit.runtime.awaiting import says_await
from citykit.runtime.callers import CallersError, callers_code
from citykit.runtime.kernel import in_kernel
from citykit.runtime.progress import Meter, Phase, Progress, reporting
from citykit.runtime.waiting import BETWEEN_FRAMES, WORKING, run
from citykit.runtime.warning import warn_at_caller

__all__ = [
    "BETWEEN_FRAMES", "WORKING", "CallersError", "Meter", "Phase", "Progress", "callers_code", "in_kernel",
    "reporting", "run", "says_await", "warn_at_caller",
]  # fmt: skip
