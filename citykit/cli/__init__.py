"""The command line: each command calls a few of the package's helpers."""

import signal
import sys

from citykit.cli import cities, data, pictures, servers  # noqa: F401  they register their commands
from citykit.cli.group import app
from citykit.cli.interrupts import interrupts, say_unraisable

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line (the entry point ``citykit``)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup has it ignored
        signal.signal(signal.SIGINT, interrupts)
        sys.unraisablehook = say_unraisable
    app()
