"""A port of the loopback interface for a server that a test starts, or for none."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a port on which nothing listens, and keep it from everybody who asks for any free one.

    A server that sets SO_REUSEADDR, as PostgreSQL and pgbouncer do, can still listen on it.
    """
    with socket.socket() as holding:
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("127.0.0.1", 0))
        port: int = holding.getsockname()[1]
        if sys.platform != "linux":  # elsewhere no server could listen on a port that is held
            holding.close()
        yield port
