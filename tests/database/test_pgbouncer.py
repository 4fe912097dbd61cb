"""Behind pgbouncer every helper works without any option; in session mode its sessions are a limit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import citykit
from tests.database.test_faults import READS
from tests.support.database import scalar
from tests.support.pgbouncer import needs_pgbouncer, pooled

pytestmark = needs_pgbouncer

TASKS = 6  # for two connections to the server
ROWS = 25_000  # which another plan of a load, and another way of a read, is taken for
# Types that asyncpg has to ask the server for, in the middle of a statement.
ODD_TYPES = """
SELECT i, 'sad'::mood AS mood, ARRAY['ok']::mood[] AS moods, CURRENT_DATE AS at FROM generate_series(1, 9) i
"""


@pytest.fixture
async def behind(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    async with pooled(engine) as url:
        other = await citykit.connect(url, pool_size=TASKS)
        yield other
        await other.dispose()


async def load(engine: AsyncEngine, name: str, rows: int) -> None:
    frame = pd.DataFrame({"name": [f"{name} {number}" for number in range(rows)], "population": range(rows)})
    assert (await citykit.load_cities(engine, frame)).inserted == rows
    frame["population"] += 1
    assert (await citykit.load_cities(engine, frame, on_conflict="update")).updated == rows
    assert (await citykit.load_cities(engine, frame, on_conflict="skip")).skipped == rows
    with pytest.raises(citykit.DuplicateCityError):
        await citykit.load_cities(engine, frame)


async def read(engine: AsyncEngine, name: str, rows: int) -> None:
    like = {"name": f"{name} %"}
    for columns in ("name, population", "name, population, CURRENT_DATE AS at"):
        sql = f"SELECT {columns} FROM cities WHERE name LIKE :name ORDER BY population"  # noqa: S608
        frame = await citykit.read_frame(engine, sql, like)
        assert frame["population"].tolist() == list(range(1, rows + 1))
        chunks = [chunk async for chunk in citykit.stream_frames(engine, sql, like, chunk_rows=1000)]
        assert pd.concat(chunks).equals(frame)


@pytest.mark.parametrize(("rows", "tasks"), [(10, TASKS), (ROWS, 3)])
async def test_all_helpers_work_for_several_tasks_at_once(behind: AsyncEngine, rows: int, tasks: int) -> None:
    await citykit.create_tables(behind)

    async def work(number: int) -> None:
        name = f"task{number}"
        await citykit.add_city(behind, f"{name} alone", 100 * ROWS, country="IS", latitude=1, longitude=1)
        await load(behind, name, rows)
        await citykit.add_city(behind, f"{name}x", 1)
        assert len(await citykit.find_cities(behind, f"{name} alone")) == 1
        for question in READS.values():
            await question(behind)
        async with citykit.sessions(behind).begin() as session:
            counted = text("SELECT count(*) FROM cities WHERE name = :name")
            assert await session.scalar(counted, {"name": f"{name}x"}) == 1
            await citykit.biggest_cities(session)

    await asyncio.gather(*(work(number) for number in range(tasks)))
    async with behind.begin() as connection:
        await connection.execute(text("DELETE FROM cities WHERE name LIKE '% alone'"))
    for number in range(tasks):
        await read(behind, f"task{number}", rows)


async def test_types_that_the_driver_asks_for_in_the_middle(engine: AsyncEngine, behind: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TYPE IF EXISTS mood"))
        await connection.execute(text("CREATE TYPE mood AS ENUM ('sad', 'ok')"))
    expected = await citykit.read_frame(engine, ODD_TYPES)
    frames = await asyncio.gather(*(citykit.read_frame(behind, ODD_TYPES) for _ in range(3 * TASKS)))
    assert all(frame.equals(expected) for frame in frames)

    async with behind.begin() as connection:
        await connection.exec_driver_sql(f"DECLARE odd CURSOR FOR SELECT i, mood FROM ({ODD_TYPES}) AS odd")  # noqa: S608
        for start in (0, 4):  # the second time the driver knows the types
            read = await citykit.read_frame(connection, "FETCH 4 FROM odd")
            assert read.equals(expected[["i", "mood"]][start : start + 4].reset_index(drop=True))


async def test_an_engine_that_sqlalchemy_has_made_is_told_what_to_use(engine: AsyncEngine) -> None:
    async with pooled(engine) as url:
        others = [create_async_engine(url.set(drivername="postgresql+asyncpg")) for _ in range(2)]
        first, second = others
        await citykit.biggest_cities(first)  # prepared on the pooler's connection
        async with second.begin() as connection:  # which this takes, as it was used last
            await connection.execute(text("SELECT 1"))
            with pytest.raises(citykit.CitykitError) as error:
                await citykit.biggest_cities(first)
        for other in others:
            await other.dispose()
    assert re.search(r"(?s)nothing was changed.*pooler.*await citykit\.connect\(", str(error.value))


async def test_connections_that_have_taken_each_session_of_a_pooler_are_named_with_what_to_type(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.database.transactions.ANSWER_SECONDS", 0.5)
    cities = pd.DataFrame({"name": ["a"], "population": [1]})
    async with pooled(engine, pool_mode="session", default_pool_size=3) as url, AsyncExitStack() as held:
        greedy = await citykit.connect(url, silence_timeout=0.5)
        for _ in range(3):
            connection = await held.enter_async_context(greedy.connect())
            await citykit.biggest_cities(connection)
        with pytest.raises(citykit.DatabaseUnavailableError, match="let in but not answered") as caught:
            await citykit.load_cities(greedy, cities)
        assert "restarted" not in str(caught.value)
        await held.aclose()
        await greedy.dispose()
        # What it says to type: then a session is left for the connection that asks for the server.
        assert str(caught.value).endswith("await citykit.connect(url, pool_size=2, max_overflow=0)")
        modest = await citykit.connect(url, pool_size=2, max_overflow=0, silence_timeout=0.5)
        slow = (citykit.read_frame(modest, "SELECT 1 FROM pg_sleep(2)") for _ in range(2))
        await asyncio.gather(*slow)
        # Questions have their usual time again: each one that is given up sends a CancelRequest, by which
        # pgbouncer 1.18 may end (its issue 801).
        monkeypatch.undo()
        loads = (citykit.load_cities(modest, cities.assign(name=f"n{number}")) for number in range(12))
        assert [report.inserted for report in await asyncio.gather(*loads)] == [1] * 12
        await modest.dispose()


async def test_a_statement_goes_on_that_has_the_only_session_of_a_pooler(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.database.transactions.ANSWER_SECONDS", 0.2)
    async with pooled(engine, pool_mode="session", default_pool_size=1) as url:
        behind = await citykit.connect(url, pool_size=1, max_overflow=0, silence_timeout=0.2)
        assert len(await citykit.read_frame(behind, "SELECT 1 FROM pg_sleep(2)")) == 1
        await behind.dispose()


async def test_on_a_plain_server_a_question_is_one_statement_that_stays_prepared(engine: AsyncEngine) -> None:
    """What works behind pgbouncer costs more round trips: it is done there alone."""
    for _ in range(2):
        await citykit.biggest_cities(engine)
    asked = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%ORDER BY population DESC%'"
    assert await scalar(engine, asked) == 2  # the question, and this one
