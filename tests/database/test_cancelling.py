"""A helper that is cancelled leaves nothing behind, whenever and however it is cancelled.

The tests cancel at every fifth await. At each:
``CITYKIT_EVERY_AWAIT=1 pytest tests/database/test_cancelling.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.database.driver import started
from tests.support.cancelling import APPLICATION, WAYS, Watch, Way, bound, cancelled_at, plain_connection
from tests.support.database import scalar
from tests.support.pgbouncer import needs_pgbouncer, pooled
from tests.support.proxy import proxied
from tests.support.tls import needs_tls, tls_server

STEP = 1 if os.environ.get("CITYKIT_EVERY_AWAIT") else 5
new_names = (f"added {number}" for number in itertools.count())
CITIES = pd.DataFrame({"name": [f"n{number}" for number in range(300)], "population": range(300)})


async def streamed(bind: Any, statement: str) -> None:
    async for _ in citykit.stream_frames(bind, statement, chunk_rows=100):
        pass


HELPERS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "biggest_cities": lambda bind: citykit.biggest_cities(bind, 5),
    "summarize_countries": lambda bind: citykit.summarize_countries(bind),
    "nearest_cities": lambda bind: citykit.nearest_cities(bind, 64, -21, 5),
    "find_cities": lambda bind: citykit.find_cities(bind, "reykj"),
    "read_frame in binary": lambda bind: citykit.read_frame(
        bind, "SELECT name, population FROM cities LIMIT 5"
    ),
    "read_frame by COPY": lambda bind: citykit.read_frame(bind, "SELECT name, now() FROM cities LIMIT 5"),
    "read_frame of a write": lambda bind: citykit.read_frame(
        bind, "UPDATE cities SET population = population WHERE name = 'b' RETURNING name, now()"
    ),
    "execute": lambda bind: citykit.execute(
        bind, "UPDATE cities SET population = population WHERE name = 'b'"
    ),
    "stream_frames": lambda bind: streamed(bind, "SELECT i, now() FROM generate_series(1, 500) AS i"),
    "add_city": lambda bind: citykit.add_city(bind, next(new_names), 1),
    "load_cities": lambda bind: citykit.load_cities(bind, CITIES, on_conflict="skip"),
    "load_cities, update": lambda bind: citykit.load_cities(bind, CITIES, on_conflict="update"),
    "create_table": lambda bind: citykit.create_table(bind, "made", CITIES, if_exists="replace"),
    "load_frame, create": lambda bind: citykit.load_frame(bind, CITIES, "pg_temp.made", create=True),
    "create_tables": lambda bind: citykit.create_tables(bind),
    "create_tables, reset": lambda bind: citykit.create_tables(bind, reset=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("helper", HELPERS)
async def test_cancelled_at_any_await_a_helper_leaves_nothing_behind(
    cancelling: AsyncEngine, watch: Watch, helper: str, way: Way
) -> None:
    number, reached = 1 + WAYS.index(way), True
    while reached:
        for kind in ("session", "connection", "engine"):
            async with bound(cancelling, kind) as bind:
                came = await cancelled_at(lambda bind=bind: HELPERS[helper](bind), number, way)  # type: ignore[misc]
            reached = came
            assert await watch.left_running() == []
            await citykit.create_tables(cancelling)
            await citykit.add_city(cancelling, f"after {number} {kind}", 1)
            assert f"after {number} {kind}" in await watch.names()
        number += STEP


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_at_any_await_the_first_search_leaves_nothing_behind(
    cancelling: AsyncEngine, watch: Watch, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setattr("citykit.cities.search._LARGE_BYTES", 0)  # else few cities get no index
    await citykit.load_cities(cancelling, CITIES)
    await citykit.add_city(cancelling, "Reykjavík", 1)
    number, reached = 1 + WAYS.index(way), True
    while reached:
        async with cancelling.begin() as connection:
            await connection.execute(text("DROP INDEX IF EXISTS cities_by_name"))
        reached = await cancelled_at(lambda: citykit.find_cities(cancelling, "reykj"), number, way)
        assert await watch.left_running() == []
        await citykit.add_city(cancelling, f"after {number}", 1)
        assert f"after {number}" in await watch.names()
        number += STEP
    assert number > 10
    assert await scalar(cancelling, "SELECT to_regclass('cities_by_name') IS NOT NULL")


async def test_cancelled_after_the_server_has_refused_it_a_copy_does_not_wait_for_another_answer(
    engine: AsyncEngine,
) -> None:
    """asyncpg sends what is left of its source, and waits for a second ReadyForQuery when it is cancelled."""
    raw = await plain_connection(engine)
    never, refused_state = asyncio.Event(), "idle in transaction (aborted)"

    async def source() -> AsyncIterator[bytes]:
        yield b"no number\n"
        await never.wait()

    async def copies() -> None:
        copy = raw.copy_to_table("numbers", source=source(), format="csv")
        async with started(raw, copy):
            while await state_of(engine, raw.get_server_pid()) != refused_state:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    await raw.execute("CREATE TEMPORARY TABLE numbers (n integer)")
    await raw.execute("BEGIN")
    async with asyncio.timeout(30):
        await copies()
    assert raw.is_closed()


WAITING: dict[str, Callable[[Any], Awaitable[Any]]] = {
    **{name: HELPERS[name] for name in ("biggest_cities", "find_cities", "read_frame by COPY", "add_city")},
    "load_cities": HELPERS["load_cities"],
}


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
@pytest.mark.parametrize("helper", WAITING)
async def test_a_cancel_that_the_server_did_not_hear_is_repeated(
    engine: AsyncEngine, watch: Watch, helper: str, kind: str
) -> None:
    """PostgreSQL 15 loses one that comes while it compiles a statement for the first time (JIT)."""
    async with (
        proxied(engine, lambda data: ([data], False), lost_cancels=1) as url,
        engine.connect() as holder,
    ):
        options: dict[str, Any] = {"connect_args": {"server_settings": {"application_name": APPLICATION}}}
        other = await citykit.connect(url, **options)
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        async with bound(other, kind) as bind, asyncio.timeout(30):
            waiting = asyncio.ensure_future(WAITING[helper](bind))
            while not await watch.waiting():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            waiting.cancel()
            assert isinstance(
                (await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError
            )
            assert await watch.waiting() == []  # though the lock is still held
            await holder.rollback()
        assert len(await citykit.biggest_cities(other)) == 0
        await other.dispose()


async def state_of(engine: AsyncEngine, pid: int) -> str | None:
    """The state of a session, as another one is told."""
    async with engine.connect() as connection:
        state: str | None = await connection.scalar(
            text("SELECT state FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
        )
        return state


@asynccontextmanager
async def over(way: str, engine: AsyncEngine) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    """An engine whose CancelRequest goes over a pooler or TLS, and one on the same server."""
    if way == "pgbouncer":
        async with pooled(engine) as url:
            other = await citykit.connect(url)
            yield other, engine
    else:
        with tls_server() as server:
            other = await citykit.connect(server.url(sslmode="require"))
            yield other, other
    await other.dispose()


@pytest.mark.parametrize(
    "way", [pytest.param("pgbouncer", marks=needs_pgbouncer), pytest.param("TLS", marks=needs_tls)]
)
async def test_a_statement_is_cancelled_over(engine: AsyncEngine, way: str) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)%'"
    busy += " AND pid <> pg_backend_pid() AND datname = current_database()"
    async with over(way, engine) as (other, watching), asyncio.timeout(60):
        reading = asyncio.ensure_future(citykit.read_frame(other, "SELECT pg_sleep(600)::text"))
        while not await scalar(watching, busy):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        while await scalar(watching, busy):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(await citykit.read_frame(other, "SELECT 1 AS n")) == 1
