"""Processes that use citykit, forked from one that has imported it: a new Python would do that each time.

``python tests/support/processes.py N`` is that one. It has no threads and no loop, and forks for every
message on the socket N. What it forks ends as any Python does, by way of ``atexit`` or by a signal.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress

STATUS = struct.Struct("i")


class Forked:
    """A process that runs a script, with as much of `subprocess.Popen` as the tests use."""

    def __init__(self, script: str) -> None:
        child_reads, self._input = os.pipe()
        output, child_writes = os.pipe()
        self._status, waiter_writes = os.pipe()
        theirs = [child_reads, child_writes, waiter_writes]
        message = json.dumps({"script": script, "environ": dict(os.environ), "cwd": os.getcwd()}).encode()
        channel = _channel()
        channel.sendall(STATUS.pack(len(message)))
        socket.send_fds(channel, [message], theirs)
        for number in theirs:
            os.close(number)
        self.stdin = os.fdopen(self._input, "w", encoding="utf-8")
        self.stdout = os.fdopen(output, "r", encoding="utf-8")
        [self.pid] = STATUS.unpack(os.read(self._status, STATUS.size))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = os.waitstatus_to_exitcode(STATUS.unpack(os.read(self._status, STATUS.size))[0])
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, text: str = "", timeout: float = 60) -> str:
        """Write `text` to it, close that, wait until it has ended, and return the rest of what it printed."""
        if not self.stdin.closed:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(text)
        self.wait(timeout)
        if self.stdout.closed:
            return ""
        with self.stdout:  # a child of its own may have it open, too
            return self.stdout.read() if select.select([self.stdout], [], [], 0)[0] else ""


@functools.cache
def _channel() -> socket.socket:
    """Return the socket of the process that forks, which ends when this one does."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            pass_fds=[its.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)  # and keeps `process` till then
    return ours


def _script_of_a_child(channel: socket.socket) -> str:
    """Fork for every message; return the script in the children alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the waiters are not waited for
    while True:
        if not (length := channel.recv(STATUS.size)):
            os._exit(0)
        size = STATUS.unpack(length)[0]
        message, numbers, _, _ = socket.recv_fds(channel, size, 3)
        while len(message) < size:
            message += channel.recv(size - len(message))
        if os.fork():
            for number in numbers:
                os.close(number)
            continue
        reads, writes, status = numbers
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        child = os.fork()
        if child:  # the waiter
            os.close(reads)
            os.close(writes)
            os.write(status, STATUS.pack(child))
            os.write(status, STATUS.pack(os.waitpid(child, 0)[1]))
            os._exit(0)
        os.close(status)
        os.dup2(reads, 0)
        os.dup2(writes, 1)
        os.close(reads)
        os.close(writes)
        for name in ("stdin", "stdout"):  # the old ones remember what they were made on, a file for example
            old = getattr(sys, name)
            setattr(sys, name, open(old.fileno(), old.mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        asked = json.loads(message)
        os.environ.clear()
        os.environ.update(asked["environ"])
        os.chdir(asked["cwd"])
        return str(asked["script"])


if __name__ == "__main__":
    import asyncpg  # noqa: F401
    import pandas as pd  # noqa: F401

    import citykit
    from citykit.cli import commands  # noqa: F401
    from citykit.database import embedded  # noqa: F401
    from citykit.web import serve  # noqa: F401

    for name in citykit.__all__:
        getattr(citykit, name)  # imports what it needs
    gc.freeze()  # or each would get a copy of these pages when it collects
    exec(  # noqa: S102
        compile(_script_of_a_child(socket.socket(fileno=int(sys.argv[1]))), "<script>", "exec"),
        {"__name__": "__main__"},
    )
