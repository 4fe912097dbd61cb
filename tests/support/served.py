"""The web application on a real uvicorn, in the loop of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from citykit.web.server import configured


def direct(app: FastAPI) -> httpx.AsyncClient:
    """A client that needs no server."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cities.example")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """Serve the application; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(configured(app))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not task.done()
            await asyncio.sleep(0.01)
        try:
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            await task
