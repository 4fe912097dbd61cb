"""In a notebook, the event loop wakes up every 0.2 s while it waits for the server."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from citykit.runtime import in_kernel

WAKE_SECONDS = 0.2


def wake_for_interrupts(engine: AsyncEngine) -> None:
    """In a notebook, wake the loop up regularly while a connection of `engine` is in use.

    The kernel handles Interrupt when the loop next wakes up, which is not before a long query has ended
    (ipykernel#881).
    """
    if in_kernel():
        event.listen(engine.sync_engine, "checkout", start_waking)


def start_waking(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Start a timer that goes on as long as this connection is in use, unless one does already."""
    loop, about = asyncio.get_running_loop(), record.record_info
    if about is not None and loop.time() - about.get("citykit_woken", 0) > 2 * WAKE_SECONDS:
        _wake(loop, record, about, about.get("citykit_woken"))


def _wake(
    loop: asyncio.AbstractEventLoop, record: ConnectionPoolEntry, about: dict[Any, Any], last: float | None
) -> None:
    if about.get("citykit_woken") != last:
        return  # an interrupt has ended this timer, and another was started since
    if record.in_use:
        about["citykit_woken"] = loop.time()
        loop.call_later(WAKE_SECONDS, _wake, loop, record, about, about["citykit_woken"])
    else:
        about.pop("citykit_woken", None)
