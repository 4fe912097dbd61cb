"""One engine for every event loop: each loop gets a pool of its own, and loses it when it ends.

A connection of asyncpg works on the loop that opened it and on no other: used from a second one it fails or
poisons its pool, and shared by the loops of two threads it has crashed the process.

A loop that ends soon (of a script's asyncio.run) cannot be told from one that lasts (uvicorn's). So each has
a pool: without one, a server would open a connection for each request. An asynchronous generator notices that
the loop ends (`_keep`); asyncio has no other hook for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.pool import ConnectionPoolEntry

from citykit.database.driver import hang_up


class PoolPerLoop(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, once for each loop; the options (``pool_size`` and so on) hold for each of them."""

    def __init__(self, creator: Any, **options: Any) -> None:
        super().__init__(creator, **options)
        self._options = options
        self._pools: dict[asyncio.AbstractEventLoop, AsyncAdaptedQueuePool] = {}
        self._opened: set[_Opened] = set()
        # Not at exit: what still runs is first cancelled, for which its connections are needed.
        weakref.finalize(self, _give_up, self._opened).atexit = False

    def _of_this_loop(self) -> AsyncAdaptedQueuePool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            _cut_those_of_closed_loops()
            for closed in [known for known in self._pools.copy() if known.is_closed()]:
                self._pools.pop(closed, None)
            self._opened.difference_update([past for past in self._opened.copy() if past.loop.is_closed()])
            opened = _Opened(loop)
            self._opened.add(opened)
            pool = _PoolOfLoop(opened.noting(self._invoke_creator), **self._options)
            pool._dialect = self._dialect
            pool.dispatch = self.dispatch  # events hold for every loop
            self._pools[loop] = pool
        return pool

    def _living(self) -> list[AsyncAdaptedQueuePool]:
        return [pool for loop, pool in self._pools.copy().items() if not loop.is_closed()]

    def _do_get(self) -> ConnectionPoolEntry:
        return self._of_this_loop()._do_get()

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        super()._invalidate(connection, exception, _checkin)
        for pool in self._living():  # they connect to the same server
            pool._invalidate_time = self._invalidate_time

    def recreate(self) -> PoolPerLoop:
        """Return a pool with the same options and events, and no connections."""
        fresh = super().recreate()
        assert isinstance(fresh, PoolPerLoop)  # noqa: S101  for the type checker
        fresh.dispatch = self.dispatch  # a copy would run the event first_connect again
        return fresh

    def dispose(self) -> None:
        """Close this loop's idle connections; those of others, when this object is collected (`_give_up`)."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            pool.dispose()

    def overflow(self) -> int:
        """Return by how many connections the pools exceed their sizes; below 0 where they are not full."""
        return sum(pool.overflow() for pool in self._living())

    def checkedin(self) -> int:
        """Return the number of idle connections, of all loops."""
        return sum(pool.checkedin() for pool in self._living())

    def checkedout(self) -> int:
        """Return the number of connections in use, in all loops."""
        return sum(pool.checkedout() for pool in self._living())


class _PoolOfLoop(AsyncAdaptedQueuePool):
    """The pool of one loop."""

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if terminate:  # a statement may run there: it is cancelled, which takes 2 s at most
            super()._close_connection(connection, terminate=True)
        else:  # an idle one; asyncpg's close() would wait without end for a server that is silent
            connection.driver_connection.terminate()


class _Opened:
    """The connections that one loop has opened for one pool. It does not keep the pool alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.connections: set[Any] = set()
        _opened_by.setdefault(loop, set()).add(self)
        if loop not in _keepers:
            _keepers[loop] = _keep(loop)

    def noting(self, creator: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `creator` whose connections are noted here."""
        connections = self.connections

        def noted(record: Any) -> Any:
            adapted = creator(record)
            connections.difference_update([known for known in connections if known.is_closed()])
            connections.add(adapted.driver_connection)
            return adapted

        return noted

    def close(self) -> None:
        """Close every connection; in the loop's own thread."""
        if self.pid == os.getpid():  # a forked child has only copies, and would end its parent's
            for connection in self.connections.copy():
                connection.terminate()
        self._forget()

    def give_up(self) -> None:
        """Close every connection, from any thread, at any time."""
        if self.pid != os.getpid():
            return
        try:
            self.loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed
            self._hang_up()
            self._forget()
        else:
            if not self.loop.is_running():  # and may never run again
                self._hang_up()

    def _hang_up(self) -> None:
        for connection in self.connections.copy():
            hang_up(connection)

    def _forget(self) -> None:
        self.connections.clear()
        _opened_by.get(self.loop, set()).discard(self)


_opened_by: dict[asyncio.AbstractEventLoop, set[_Opened]] = {}
_keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}


def _keep(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
    """Close the connections of `loop` before the loop is closed.

    asyncio.run, asyncio.Runner, `citykit.run`, uvloop and pytest-asyncio end a loop's asynchronous generators
    (``loop.shutdown_asyncgens``) before they close it; this one closes the connections when it is ended.
    """

    async def keep() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            for opened in _opened_by.pop(loop, set()):
                opened.close()
            _keepers.pop(loop, None)
            await asyncio.sleep(0)  # in which the sockets are closed

    keeper = keep()
    with contextlib.suppress(StopIteration):
        keeper.__anext__().send(None)  # to its yield; nothing is awaited on the way
    return keeper


def _give_up(everything: set[_Opened]) -> None:
    """Close the connections that a pool has left open when it was garbage-collected."""
    for opened in everything.copy():
        opened.give_up()


def _cut_those_of_closed_loops() -> None:
    """Close the connections of loops that were closed without shutdown_asyncgens()."""
    for loop in [known for known in _opened_by.copy() if known.is_closed()]:
        for opened in _opened_by.pop(loop, set()):
            opened.give_up()
        _keepers.pop(loop, None)
