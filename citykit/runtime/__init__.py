"""The process: waiting from a cell, a forgotten await, Jupyter's kernel, progress bars."""

from citykit.runtime.awaiting import says_await
from citykit.runtime.kernel import in_kernel
from citykit.runtime.progress import Meter, Progress, reporting
from citykit.runtime.waiting import run

__all__ = ["Meter", "Progress", "in_kernel", "reporting", "run", "says_await"]
