"""The command line: each command calls a few of the package's helpers.

Importing it imports no command: that takes 0.2 s, in which `main` already takes care of Ctrl-C.
"""

import signal
import sys

from citykit.cli.interrupts import Interrupted, end_now, interrupts, say_unraisable

__all__ = ["main"]


def main() -> None:
    """Run the command line (the entry point ``citykit``)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup has it ignored
        signal.signal(signal.SIGINT, interrupts)
        sys.unraisablehook = say_unraisable
    from citykit.cli.commands import app

    try:
        app()
    except Interrupted as exc:  # while an error was being said
        interrupts.say(str(exc))
        end_now()
    finally:
        interrupts.cancel = lambda: None  # the command has ended, and the process is about to
