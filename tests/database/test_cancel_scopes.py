"""Helpers under the cancel scopes of anyio (Starlette, FastAPI): no statement is left running.

A cancel scope cancels its tasks again at every await until they have left it, and it does not close an
asynchronous generator that one of them was iterating over.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

import citykit
from tests.database.test_cancelling import HELPERS
from tests.support.cancelling import APPLICATION, Watch, bound

Work = Callable[[], Awaitable[Any]]

# Each waits for the table, which another session has locked.
WAITING = {
    name: HELPERS[name]
    for name in ("biggest_cities", "find_cities", "read_frame in binary", "read_frame by COPY", "add_city",
                 "load_cities", "load_cities, update")
}  # fmt: skip
WAITING["stream_frames"] = lambda bind: streamed(bind, "SELECT name, now() FROM cities")


async def streamed(bind: Any, statement: str) -> None:
    async for _ in citykit.stream_frames(bind, statement, chunk_rows=10):
        pass


async def scope_cancelled(work: Work, begun: Work) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(then, work, lambda: None)
            await begun()
            scope.cancel()


async def move_on_after(work: Work, begun: Work) -> None:
    with anyio.move_on_after(60) as scope:
        ending = asyncio.ensure_future(then(begun, lambda: setattr(scope, "deadline", -1)))
        await work()
    await ending


async def fail_after(work: Work, begun: Work) -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012
        with anyio.fail_after(60) as scope:
            ending = asyncio.ensure_future(then(begun, lambda: setattr(scope, "deadline", -1)))
            await work()
    await ending


async def nested_scopes(work: Work, begun: Work) -> None:
    with anyio.CancelScope() as outer, anyio.CancelScope() as inner, anyio.move_on_after(60):

        def cancel() -> None:
            inner.cancel()
            outer.cancel()

        ending = asyncio.ensure_future(then(begun, cancel))
        await work()
    await ending


async def asyncio_timeout(work: Work, begun: Work) -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with asyncio.timeout(60) as limit:
            ending = asyncio.ensure_future(then(begun, lambda: limit.reschedule(0)))
            await work()
    await ending


async def cancelled_thrice(work: Work, begun: Work) -> None:
    task = asyncio.ensure_future(then(work, lambda: None))
    await begun()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled()


async def then(first: Work, second: Callable[[], Any]) -> None:
    await first()
    second()


SCOPES = [scope_cancelled, move_on_after, fail_after, nested_scopes, asyncio_timeout, cancelled_thrice]


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("helper", WAITING)
async def test_a_helper_in_a_scope_that_is_cancelled_leaves_nothing_running(
    engine: AsyncEngine, cancelling: AsyncEngine, watch: Watch, helper: str, scope: Any, kind: str
) -> None:
    async def begun() -> None:
        while not await watch.waiting():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async with engine.connect() as holder, bound(cancelling, kind) as bind:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(30):
            await scope(lambda: WAITING[helper](bind), begun)
        assert await watch.waiting() == []
        await holder.rollback()
        if kind != "engine":
            await bind.rollback()  # SQLAlchemy invalidates a connection whose statement is cancelled
        assert len(await citykit.biggest_cities(bind)) == 1
    assert await watch.left_running() == []


# A client that leaves while its answer is sent. The statements write without end to a client that does not
# read, or wait on the server after their first rows.

ENDLESS = "SELECT i, now() FROM generate_series(1, 3000000) AS i"
SLOW = "SELECT i FROM generate_series(1, 100000) AS i WHERE i < 50000 OR pg_sleep(600) IS NULL"


async def leave_while(where: str, bind: Any, statement: str, spec_version: str) -> None:
    """Answer with the frames of a statement, and have the client leave."""
    left, sent = asyncio.Event(), 0

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            left.set()
            if spec_version == "2.4":
                raise OSError  # which is how a server tells of it from that version on
            if where == "sending":
                await asyncio.Event().wait()

    async def body() -> AsyncIterator[str]:
        async for frame in citykit.stream_frames(bind, statement, chunk_rows=1000):
            yield str(len(frame))

    answer = StreamingResponse(body())
    scope: Any = {"type": "http", "asgi": {"spec_version": spec_version}}
    with suppress(ClientDisconnect):
        await answer(scope, receive, send)


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
@pytest.mark.parametrize("statement", [ENDLESS, SLOW], ids=["endless", "slow"])
@pytest.mark.parametrize(
    ("where", "spec_version"), [("sending", "2.0"), ("waiting for a frame", "2.0"), ("sending", "2.4")]
)
async def test_a_client_that_leaves_a_streaming_response_leaves_nothing_running(
    cancelling: AsyncEngine, watch: Watch, where: str, spec_version: str, statement: str, kind: str
) -> None:
    gc.disable()  # which would else end it now and then
    try:
        async with asyncio.timeout(30):
            async with bound(cancelling, kind) as bind:
                await leave_while(where, bind, statement, spec_version)
            assert await watch.left_running() == []
            for _ in range(2):
                async with bound(cancelling, kind) as bind:
                    assert len(await citykit.biggest_cities(bind)) == 1
    finally:
        gc.enable()


@pytest.mark.parametrize("where", ["sending", "waiting for a frame"])
async def test_in_citykit_run_a_client_that_leaves_leaves_nothing_running(
    engine: AsyncEngine, watch: Watch, where: str
) -> None:
    async def cell() -> None:
        named = {"server_settings": {"application_name": APPLICATION}}
        other = await citykit.connect(engine.url, connect_args=named)
        async with asyncio.timeout(30):
            await leave_while(where, other, SLOW, "2.0")
        with anyio.move_on_after(0.01):
            await citykit.read_frame(other, SLOW)
        assert await citykit.read_frame(other, "SELECT 1 AS n") is not None
        await other.dispose()

    citykit.run(cell())  # inside of the running loop of this test, as in a cell of a notebook
    assert await watch.left_running() == []


async def left_by_break(frames: AsyncIterator[Any]) -> None:
    async for _ in frames:
        break


async def left_by_an_error(frames: AsyncIterator[Any]) -> None:
    async for _ in frames:
        raise ZeroDivisionError


async def left_at_the_end_of_its_task(frames: AsyncIterator[Any]) -> None:
    await asyncio.create_task(then_next(frames))


@pytest.mark.parametrize("leave", [left_by_break, left_by_an_error, left_at_the_end_of_its_task])
@pytest.mark.parametrize("kind", ["engine", "connection"])
@pytest.mark.parametrize("statement", [ENDLESS, SLOW], ids=["endless", "slow"])
async def test_citykit_run_returns_when_a_stream_that_was_left_has_ended(
    engine: AsyncEngine, watch: Watch, leave: Any, kind: str, statement: str
) -> None:
    other = await citykit.connect(
        engine.url, connect_args={"server_settings": {"application_name": APPLICATION}}
    )

    async def cell() -> None:
        async with bound(other, kind) as bind:
            await leave(citykit.stream_frames(bind, statement, chunk_rows=1000))

    with suppress(ZeroDivisionError):
        citykit.run(cell())
    assert await watch.left_running() == []  # its loop stands still now
    await other.dispose()


async def gathered(work: Awaitable[Any], begun: Work) -> None:
    async def fail() -> None:
        await begun()
        raise ZeroDivisionError

    await asyncio.gather(work, fail())


async def not_awaited(work: Awaitable[Any], begun: Work) -> None:
    asyncio.ensure_future(work)  # noqa: RUF006
    await begun()


@pytest.mark.parametrize("leave", [gathered, not_awaited])
@pytest.mark.parametrize("helper", WAITING)
async def test_citykit_run_ends_the_helpers_that_were_left_running(
    engine: AsyncEngine, watch: Watch, helper: str, leave: Any
) -> None:
    other = await citykit.connect(
        engine.url, connect_args={"server_settings": {"application_name": APPLICATION}}
    )

    async def begun() -> None:
        asked = "SELECT 1 FROM pg_stat_activity WHERE application_name = :name AND wait_event_type = 'Lock'"
        asked += " AND datname = current_database()"
        while (await citykit.read_frame(engine, asked, {"name": APPLICATION})).empty:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    before = await watch.names()
    async with engine.connect() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        with suppress(ZeroDivisionError):
            citykit.run(leave(WAITING[helper](other), begun))
        assert await watch.waiting() == []  # its loop stands still now
    assert await watch.left_running() == []
    assert await watch.names() == before
    await other.dispose()


def test_citykit_run_goes_on_with_a_stream_that_is_kept(engine: AsyncEngine) -> None:
    frames = citykit.stream_frames(engine, "SELECT i FROM generate_series(1, 100) AS i", chunk_rows=10)
    assert [len(citykit.run(then_next(frames))) for _ in range(10)] == [10] * 10
    citykit.run(frames.aclose())


async def test_a_stream_whose_transaction_was_ended_says_so(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        frames = citykit.stream_frames(connection, ENDLESS, chunk_rows=10)
        assert len(await anext(frames)) == 10
        await connection.rollback()
        with pytest.raises(citykit.CitykitError, match="rolled back before"):
            async for _ in frames:
                pass
        assert len(await citykit.biggest_cities(connection)) == 0


@pytest.mark.parametrize("kind", ["engine", "connection"])
async def test_a_stream_may_be_read_by_one_task_after_the_other(engine: AsyncEngine, kind: str) -> None:
    async with bound(engine, kind) as bind:
        frames = citykit.stream_frames(bind, "SELECT i FROM generate_series(1, 100) AS i", chunk_rows=10)
        for _ in range(10):
            assert len(await asyncio.create_task(then_next(frames))) == 10


async def then_next(frames: AsyncIterator[Any]) -> Any:
    return await anext(frames)
