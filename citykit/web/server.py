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
from types import FrameType
from typing import TYPE_CHECKING

import pyarrow as pa

from citykit.errors import MissingDependencyError
from citykit.web.app import create_app  # first: it says what to install

try:
    import uvicorn
except ModuleNotFoundError as exc:
    raise MissingDependencyError(
        f"citykit serve needs {exc.name}, which is not installed: pip install 'citykit[web]'"
    ) from exc

if TYPE_CHECKING:
    from fastapi import FastAPI

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Seconds for which a connection may be idle: longer than clients reuse one (httpx 5, proxies 60), so that no
# request meets the close. uvicorn's default is 5.
KEEP_ALIVE = 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: `_ended_by_signals` also covers the time before it serves."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configured(app: FastAPI) -> uvicorn.Config:
    """Return uvicorn's configuration; the caller runs the lifespan of the application."""
    return uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
    )


def serve(host: str, port: int, *, max_body_bytes: int, say: Callable[[str], object]) -> None:
    """Print the URL, and serve until a signal."""
    with suppress(NotImplementedError):  # where Arrow lacks it
        # jemalloc gives the memory of a large body back; Arrow's default pool keeps 100 MiB for each thread.
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    local = _is_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        # asyncio sets it only on sockets that it opens itself; without it, answers may wait for 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = create_app(max_body_bytes=max_body_bytes, allowed_hosts=(*_LOOPBACK, host) if local else ())
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        if not local and not os.environ.get("CITYKIT_TOKEN"):
            say(f"Anyone who can reach {shown} may add cities. CITYKIT_TOKEN=… requires that token for it.")
        server = _Server(configured(app))

        async def work() -> None:
            with _ended_by_signals(server):
                async with app.router.lifespan_context(app):  # uvicorn would hide its errors
                    gc.collect()
                    gc.freeze()  # the collector skips the objects of the imports from here on
                    say(f"Serving {url} (its API: {url}/docs); Ctrl-C ends it.")
                    await server.serve(sockets=[listening])

        with suppress(asyncio.CancelledError):  # a signal came before it served
            asyncio.run(work())


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """On a signal, shut uvicorn down; before it serves, cancel the current task.

    When a terminal is closed, SIGHUP comes twice: from the shell and from the kernel. Signals are ignored
    once uvicorn has ended, so that the process stops the embedded PostgreSQL before it ends.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def end(number: int, frame: FrameType | None) -> None:
        if server.started:
            server.handle_exit(number, frame)
        elif task is not None:
            loop.call_soon_threadsafe(task.cancel)

    heard = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # nohup ignores SIGHUP
    for each in heard:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, signal.SIG_IGN)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
