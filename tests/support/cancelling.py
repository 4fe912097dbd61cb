"""Cancelling a helper at each of its awaits, in each of the ways in which Python and its libraries do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, get_args

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit

APPLICATION = "citykit-cancelled"  # of the sessions that a `Watch` looks at

Way = Literal["while it waits", "with the answer", "twice", "again and again"]
WAYS: tuple[Way, ...] = get_args(Way)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells of everything it waits for."""

    def __init__(self, coroutine: Any, waits: Callable[[Any], None]) -> None:
        self._coroutine, self._waits = coroutine, waits

    def send(self, value: Any) -> Any:
        return self._told(self._coroutine.send(value))

    def throw(self, *exc: Any) -> Any:
        return self._told(self._coroutine.throw(*exc))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def _told(self, future: Any) -> Any:
        self._waits(future)
        return future


@contextmanager
def every_await(waits: Callable[[Any], None]) -> Iterator[None]:
    """Tell of everything that a task begun in the block waits for."""
    loop = asyncio.get_running_loop()

    def made(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        return asyncio.Task(_Counted(coroutine, waits), loop=loop, **options)

    loop.set_task_factory(made)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def cancelled_at(helper: Callable[[], Awaitable[Any]], number: int, way: Way) -> bool:
    """Call a helper and cancel it at its await of that number; return whether it came to that."""
    waits = 0
    task: asyncio.Task[Any] | None = None

    def cancel(*_: object) -> None:
        assert task is not None
        task.cancel()
        if way == "twice":
            asyncio.get_running_loop().call_soon(task.cancel)
        elif way == "again and again" and not task.done():
            asyncio.get_running_loop().call_soon(cancel)  # as a cancel scope of anyio does

    def count(future: Any) -> None:
        nonlocal waits
        waits += 1
        if waits == number:
            if way == "with the answer" and future is not None:
                future.add_done_callback(cancel)  # before the task that waits for it goes on
            else:
                asyncio.get_running_loop().call_soon(cancel)

    async def call() -> None:
        await helper()

    with every_await(count):
        task = asyncio.ensure_future(call())
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # it had ended before, or its last answer was there
    return waits >= number


class Watch:
    """Looks at the sessions of one application on this database, over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection, application: str) -> None:
        self._connection, self._application = connection, application

    async def left_running(self) -> list[Any]:
        """What is active, in a transaction or holds a lock, once it has had two seconds to end."""
        found: list[Any] = []
        for _ in range(40):
            found = await self._connection.fetch(_BUSY, self._application)
            if not found:
                break
            await asyncio.sleep(0.05)
        return found

    async def waiting(self) -> list[Any]:
        """The sessions that wait for a lock."""
        asked = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        asked += " AND datname = current_database()"
        return list(await self._connection.fetch(asked, self._application))

    async def names(self) -> set[str]:
        """The names of the cities that are stored."""
        return {row["name"] for row in await self._connection.fetch("SELECT name FROM cities")}


_BUSY = """
SELECT pid, state, query, ARRAY(
    SELECT format('%s on %s', mode, relation::regclass) FROM pg_locks l
    WHERE l.pid = a.pid AND locktype <> 'virtualxid'
) AS locks
FROM pg_stat_activity a
WHERE application_name = $1 AND state <> 'idle' AND datname = current_database()
"""


async def plain_connection(engine: AsyncEngine) -> asyncpg.Connection:
    """A connection of asyncpg's alone to the server of an engine."""
    url = engine.url
    place: dict[str, Any] = {"host": url.host, "port": url.port} if url.host else dict(url.query)
    place["port"] = int(place["port"])
    return await asyncpg.connect(**place, user=url.username, password=url.password, database=url.database)


@asynccontextmanager
async def bound(engine: AsyncEngine, kind: str) -> AsyncIterator[Any]:
    """The engine, or a connection or a session of it."""
    if kind == "engine":
        yield engine
    elif kind == "connection":
        async with engine.connect() as connection:
            yield connection
    else:
        async with citykit.sessions(engine)() as session:
            yield session
