"""``citykit serve``: the web application on uvicorn, until Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import pyarrow as pa

from citykit.web import create_app  # first: it says what to install

import uvicorn  # isort: skip

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Server(uvicorn.Server):
    """uvicorn without its second life for signals: what comes after it here still has to run."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, self.handle_exit, each, None)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


def serve(host: str, port: int, *, max_body_bytes: int, say: Callable[[str], object]) -> None:
    """Serve until a signal ends it, having said where."""
    with suppress(NotImplementedError):  # where Arrow lacks it
        # Gives back what a large body took. Arrow's default keeps 100 MiB of it, for each thread its own.
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    local = _is_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        # asyncio does this only for sockets of its own; without it, answers may wait for 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = create_app(
            max_body_bytes=max_body_bytes, allowed_hosts=(*_LOOPBACK, host.lower()) if local else ()
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        if not local and not os.environ.get("CITYKIT_TOKEN"):
            say(f"Whoever reaches {shown} may add cities: CITYKIT_TOKEN=… lets only those who know it.")
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )

        async def work() -> None:
            async with app.router.lifespan_context(app):  # here, so that its errors are this command's
                gc.collect()
                gc.freeze()  # what pandas and the others brought is not gone through again and again
                say(f"Serving {url} (its API: {url}/docs); Ctrl-C ends it.")
                await _Server(config).serve(sockets=[listening])

        asyncio.run(work())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
