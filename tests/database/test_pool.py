"""One engine, many event loops: it works on each, and nothing is left open or crashed."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import AsyncAdaptedQueuePool, NullPool, StaticPool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import citykit
from citykit.database.pool import PoolPerLoop
from tests.support.database import scalar

NAME = "citykit-loops"
SESSIONS = "FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()"
# Python warns of what a loop leaves open that is closed without shutdown_asyncgens().
LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def connecting(**options: Any) -> Coroutine[Any, Any, AsyncEngine]:
    """An engine whose connections can be counted."""
    return citykit.connect(connect_args={"server_settings": {"application_name": NAME}}, **options)


async def use(engine: AsyncEngine) -> None:
    """Take several connections at once."""
    await asyncio.gather(*(citykit.biggest_cities(engine, 1) for _ in range(3)))


@pytest.fixture
def open_connections() -> Iterator[Callable[[int], int]]:
    """Return the number of connections of `connecting` engines, waiting a moment for it to be the wanted."""
    watching = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(watching))

    def count(wanted: int) -> int:
        gc.collect()
        deadline = time.monotonic() + 5
        while True:
            found: int = citykit.run(scalar(watching, f"SELECT count(*) {SESSIONS}", name=NAME))
            if found == wanted or time.monotonic() > deadline:
                return found

    yield count
    assert count(0) == 0
    citykit.run(watching.dispose())


def test_one_asyncio_run_after_the_other(open_connections: Callable[[int], int]) -> None:
    engine = asyncio.run(connecting())
    for _ in range(3):
        asyncio.run(use(engine))
        assert open_connections(0) == 0  # a loop's connections end with it


@LEFT_OPEN
def test_connections_of_a_loop_that_was_closed_without_shutdown_are_ended_by_the_next_use(
    open_connections: Callable[[int], int],
) -> None:
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(connecting())
    loop.close()
    assert open_connections(1) == 1
    asyncio.run(use(engine))
    assert open_connections(0) == 0


@pytest.mark.parametrize("how", [asyncio.run, citykit.run], ids=["asyncio.run", "citykit.run"])
def test_a_loop_per_thread_at_the_same_time(how: Any, open_connections: Callable[[int], int]) -> None:
    engine = citykit.run(connecting())
    together = threading.Barrier(6)

    def work(_: int) -> int:
        together.wait(30)
        for _ in range(5):
            how(use(engine))
        return len(how(citykit.biggest_cities(engine, 1)).columns)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(work, range(6))) == [6] * 6
    assert len(citykit.run(citykit.biggest_cities(engine, 1)).columns) == 6
    assert open_connections(1) == 1  # this loop's own
    citykit.run(engine.dispose())


def test_a_callback_on_another_thread_while_a_load_goes_on(open_connections: Callable[[int], int]) -> None:
    async def main() -> tuple[int, int]:
        engine = await connecting()
        await citykit.create_tables(engine, reset=True)
        frame = pd.DataFrame({"name": [str(number) for number in range(15_000)], "population": 1})
        callbacks: list[Any] = []

        def clicked() -> int:
            return len(citykit.run(citykit.biggest_cities(engine, 5)))

        def progress(_done: int, _total: int) -> None:
            callbacks.append(asyncio.get_running_loop().run_in_executor(None, clicked))

        report = await citykit.load_cities(engine, frame, progress=progress)
        seen = await asyncio.gather(*callbacks)
        await engine.dispose()
        return report.inserted, max(seen)

    assert asyncio.run(main()) == (15_000, 0)  # nobody saw a part of it
    assert open_connections(0) == 0


@LEFT_OPEN
def test_an_engine_that_is_forgotten(open_connections: Callable[[int], int]) -> None:
    async def forget() -> None:
        engine = await connecting()
        await use(engine)
        del engine
        gc.collect()

    async def main() -> None:
        await forget()
        assert await asyncio.to_thread(open_connections, 0) == 0  # while the loop runs

    asyncio.run(main())
    for close_first in (True, False):
        loop = asyncio.new_event_loop()
        engine = loop.run_until_complete(connecting())
        if close_first:
            loop.close()
        del engine
        assert open_connections(0) == 0
        loop.close()
        del loop
        asyncio.run(forget())  # the next use gives up what is left of it
        gc.collect()  # Python warns here, and not in the next test


def test_dispose_closes_what_other_loops_have_idle_and_the_engine_works_on(
    open_connections: Callable[[int], int],
) -> None:
    engine = citykit.run(connecting())
    citykit.run(use(engine))
    assert open_connections(3) == 3

    async def use_and_dispose() -> None:
        await use(engine)
        await engine.dispose()

    asyncio.run(use_and_dispose())
    assert open_connections(0) == 0
    citykit.run(use(engine))
    assert open_connections(3) == 3
    citykit.run(engine.dispose())


def test_dispose_leaves_a_connection_in_use_until_it_is_given_back(
    open_connections: Callable[[int], int],
) -> None:
    async def main() -> int:
        engine = await connecting()
        async with engine.connect() as connection:
            await asyncio.to_thread(lambda: citykit.run(engine.dispose()))
            found: int = await connection.scalar(text("SELECT 42")) or 0
        return found

    assert asyncio.run(main()) == 42
    assert open_connections(0) == 0


def test_a_server_that_restarted_is_noticed_on_every_loop(open_connections: Callable[[int], int]) -> None:
    engine = citykit.run(connecting())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(engine))
    assert open_connections(4) == 4
    cut = f"SELECT count(pg_terminate_backend(pid)) {SESSIONS}"

    async def cut_all() -> None:
        other = await citykit.connect()
        assert await scalar(other, cut, name=NAME) == 4
        await other.dispose()

    asyncio.run(cut_all())
    citykit.run(citykit.add_city(engine, "a", 1))
    citykit.run(use(engine))
    loop.run_until_complete(use(engine))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    citykit.run(engine.dispose())


@pytest.mark.server
def test_the_pool_speaks_for_all_loops() -> None:
    engine = citykit.run(citykit.connect(pool_size=3, max_overflow=1))

    async def held() -> tuple[int, int]:
        async with engine.connect(), engine.connect():
            pool: Any = engine.pool
            return pool.checkedout(), pool.checkedin()

    assert asyncio.run(held()) == (2, 1)  # this loop's two, and the idle one of the loop that connected
    assert "Pool size: 3  Connections in pool: 1 " in engine.pool.status()
    citykit.run(engine.dispose())


@pytest.mark.parametrize(
    "options",
    [
        {"poolclass": NullPool},
        {"poolclass": AsyncAdaptedQueuePool},
        {"pool_size": 1, "max_overflow": 0, "pool_timeout": 20},
        {"pool_pre_ping": True, "pool_recycle": 1, "pool_use_lifo": True},
    ],
    ids=str,
)
def test_options_of_the_pool_hold_on_every_loop(
    options: dict[str, Any], open_connections: Callable[[int], int]
) -> None:
    engine = citykit.run(connecting(**options))
    for _ in range(2):
        asyncio.run(use(engine))
    citykit.run(engine.dispose())
    assert open_connections(0) == 0


@pytest.mark.server
def test_events_hold_on_every_loop() -> None:
    engine = citykit.run(citykit.connect())
    seen: list[int] = []
    event.listen(engine.sync_engine, "checkout", lambda *_: seen.append(threading.get_ident()))
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: asyncio.run(citykit.biggest_cities(engine))).result()
    citykit.run(citykit.biggest_cities(engine))
    assert len(set(seen)) == len(seen) == 2
    citykit.run(engine.dispose())


# A question gives its connection back


async def backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_an_idle_connection_that_was_given_up_is_opened_again(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url, pool_size=1, max_overflow=0)
    async with other.connect() as connection:
        await connection.invalidate()
    await citykit.biggest_cities(other)
    assert "Connections in pool: 1 " in other.pool.status()
    await other.dispose()


async def test_a_connection_more_than_the_pool_keeps_is_closed(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    other = await citykit.connect(engine.url, pool_size=1, max_overflow=1)
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        question = asyncio.create_task(citykit.biggest_cities(other))
        await asyncio.sleep(0)  # it has the one connection now, and waits for the table
        await backend(other)  # over a second connection, which takes the only place
    await question
    assert "Connections in pool: 1 Current Overflow: 0 " in other.pool.status()
    assert not caplog.records
    await other.dispose()


async def test_a_question_cancelled_twice_gives_its_connection_back_in_silence(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    other = await citykit.connect(engine.url, pool_size=1, max_overflow=1)
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        question = asyncio.create_task(citykit.biggest_cities(other))
        await asyncio.sleep(0)
        await backend(other)  # as above: the question's is one too many now
        question.cancel()
        asyncio.get_running_loop().call_soon(question.cancel)  # while it is closed
        with pytest.raises(asyncio.CancelledError):
            await question
    async with asyncio.timeout(5):
        while "Connections in pool: 1 Current Overflow: 0 " not in other.pool.status():
            await backend(engine)
    assert not caplog.records
    await other.dispose()


async def test_a_question_waits_for_a_full_pool_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await citykit.connect(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    waits: list[Any] = []
    get = PoolPerLoop._do_get

    def counted(pool: PoolPerLoop) -> Any:
        waits.append(pool)
        return get(pool)

    async with other.connect():
        monkeypatch.setattr(PoolPerLoop, "_do_get", counted)
        with pytest.raises(citykit.DatabaseUnavailableError, match="pool_timeout") as caught:
            await citykit.biggest_cities(other)
        assert caught.value.transient
    assert len(waits) == 1
    await citykit.biggest_cities(other)
    await other.dispose()


# What belongs to one loop says so


@pytest.mark.server
def test_a_connection_and_a_session_of_another_loop_are_refused_unharmed() -> None:
    engine = citykit.run(citykit.connect())

    async def opened() -> AsyncConnection:
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        return connection

    connection, session = citykit.run(opened()), citykit.sessions(engine)()
    citykit.run(citykit.biggest_cities(session))
    for bind in (connection, session):
        with pytest.raises(citykit.WrongLoopError, match="Open one in this loop"):
            asyncio.run(citykit.biggest_cities(bind))
        assert len(citykit.run(citykit.biggest_cities(bind, 1)).columns) == 6  # unharmed
        citykit.run(bind.close())
    citykit.run(engine.dispose())


@pytest.mark.parametrize("made", ["by SQLAlchemy", "with a pool that has one connection"])
def test_an_engine_that_serves_one_loop_is_refused_on_another(made: str, engine: AsyncEngine) -> None:
    url = engine.url
    if made == "by SQLAlchemy":
        other = create_async_engine(url)
    else:
        other = citykit.run(citykit.connect(url, poolclass=StaticPool))
    citykit.run(citykit.biggest_cities(other))
    with pytest.raises(citykit.WrongLoopError, match=r"citykit\.connect"):
        asyncio.run(citykit.biggest_cities(other))
    citykit.run(citykit.biggest_cities(other))
    citykit.run(other.dispose())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connections_alone(open_connections: Callable[[int], int]) -> None:
    engine = citykit.run(connecting())
    citykit.run(use(engine))
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(use(engine))
            engine.sync_engine.pool = engine.pool.recreate()
            gc.collect()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    citykit.run(use(engine))
    assert open_connections(3) == 3
    citykit.run(engine.dispose())


class _Counting(selectors.DefaultSelector):
    """Counts how often the loop looks for something to do."""

    looks = 0

    def select(self, timeout: float | None = None) -> Any:
        self.looks += 1
        return super().select(timeout)


WAITING = """SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass('cities')::oid
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


async def test_the_loop_sleeps_while_an_answer_takes_long(engine: AsyncEngine) -> None:
    async def asked() -> None:
        other = await citykit.connect(engine.url)
        question = asyncio.create_task(citykit.biggest_cities(other))
        while not await scalar(other, WAITING):
            assert not question.done()
        before = selector.looks
        await asyncio.sleep(1)
        assert selector.looks - before < 20
        assert not question.done()
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)
        await other.dispose()

    def in_a_loop() -> None:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(asked())

    selector = _Counting()
    await citykit.create_tables(engine)
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        await asyncio.to_thread(in_a_loop)
