"""asyncpg's names that are not public: without each of them everything still works, by the ordinary way."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import asyncpg
import pandas as pd
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from tests.database.test_faults import idle_sessions, until_gone
from tests.support.database import stored

APPLICATION = "citykit-idle"
# What becomes slower, or is lost, without each of them.
LOST = {
    "_transport": "Rows come by way of asyncpg's COPY, which is slower, and is refused where a "
    "NOTICE comes between them. Sockets are not kept alive. The connections of a loop that was closed "
    "without ending its generators stay open until they are garbage.",
    "_cancel_current_command": "A CancelRequest that the server has lost is not sent again: the connection "
    "is closed after 2 s, and the statement goes on until the server notices.",
    "_loop": "A connection that is used in another event loop fails with an error of asyncpg's.",
}


def connection_without(name: str) -> tuple[type[asyncpg.Connection], list[str]]:
    """Return asyncpg's connection in which citykit does not find a name, and who has looked for it."""
    asked: list[str] = []

    class Connection(asyncpg.Connection):  # type: ignore[misc]  # it has no types
        def __getattribute__(self, wanted: str) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if wanted == name and caller.startswith("citykit."):
                asked.append(caller)
                raise AttributeError(name)
            return super().__getattribute__(wanted)

    return Connection, asked


async def connected(engine: AsyncEngine, name: str) -> tuple[AsyncEngine, list[str]]:
    class_, asked = connection_without(name)
    options = {"connection_class": class_, "server_settings": {"application_name": APPLICATION}}
    return await citykit.connect(engine.url, connect_args=options), asked


@pytest.mark.parametrize("name", LOST)
async def test_without_a_name_of_asyncpgs_everything_works(engine: AsyncEngine, name: str) -> None:
    other, asked = await connected(engine, name)
    for count in (10, FEW_ROWS):
        await citykit.create_tables(engine, reset=True)
        frame = pd.DataFrame({"name": [f"n{n}" for n in range(count)], "population": range(count)})
        assert (await citykit.load_cities(other, frame)).inserted == count
        changed = frame.assign(population=1)
        assert (await citykit.load_cities(other, changed, on_conflict="update")).updated == count - 1
        assert {row[0] for row in (await stored(engine)).values()} == {1}

    for columns in ("i", "i, now()"):
        sql = f"SELECT {columns} FROM generate_series(1, 50000) AS i"  # noqa: S608
        assert (await citykit.read_frame(other, sql))["i"].tolist() == list(range(1, 50_001))
        frames = citykit.stream_frames(other, sql, chunk_rows=1000)
        assert [len(frame) async for frame in frames] == [1000] * 50
    assert (await citykit.biggest_cities(other, 3))["name"].tolist() == ["n0", "n1", "n10"]
    assert (await citykit.find_cities(other, "N10"))["name"].tolist()[0] == "n10"

    async with engine.connect() as watching, other.connect() as connection:
        raw = (await watching.get_raw_connection()).driver_connection
        for columns in ("i", "i, now()"):
            for bind in (other, connection):
                await cancelled(bind, f"SELECT {columns} FROM generate_series(1, 9) AS i, pg_sleep(600)", raw)  # noqa: S608
                assert len(await citykit.biggest_cities(bind, 3)) == 3
    assert asked
    await other.dispose()


async def cancelled(bind: Any, sql: str, watching: Any) -> None:
    """Cancel a statement while it runs on the server, where it has ended soon after."""
    busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'"
    busy += " AND datname = current_database()"
    reading = asyncio.ensure_future(citykit.read_frame(bind, sql))
    async with asyncio.timeout(30):
        # It runs: between Bind and Execute, where it is 'active' too, the server ignores a CancelRequest.
        while not await watching.fetchval(f"{busy} AND wait_event = 'PgSleep'", APPLICATION):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reading.cancel()
        assert isinstance((await asyncio.gather(reading, return_exceptions=True))[0], asyncio.CancelledError)
        while await watching.fetchval(busy, APPLICATION):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", LOST)
def test_without_a_name_of_asyncpgs_an_engine_survives_a_loop_that_was_closed(name: str) -> None:
    engine = citykit.run(citykit.connect())
    loop = asyncio.new_event_loop()
    other, asked = loop.run_until_complete(connected(engine, name))
    loop.close()

    async def goes_on() -> None:
        await citykit.create_tables(other)
        await citykit.biggest_cities(other, 3)
        await other.dispose()
        gc.collect()
        async with engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await until_gone(raw, await idle_sessions(raw))
        await engine.dispose()

    citykit.run(goes_on())
    assert asked or name != "_transport"
