"""The helpers on a loop of another kind, as uvicorn and scripts of users have it."""

from __future__ import annotations

import asyncio

import pandas as pd
import pytest

import citykit

uvloop = pytest.importorskip("uvloop", reason="pip install uvloop, not on Windows", exc_type=ImportError)
pytestmark = pytest.mark.server


async def stop_a_statement() -> None:
    engine = await citykit.connect(connect_args={"server_settings": {"application_name": "on uvloop"}})
    asked = """SELECT count(*) AS n FROM pg_stat_activity
               WHERE application_name = 'on uvloop' AND state = 'active' AND query ~ 'pg_sleep.60'"""
    reading = asyncio.ensure_future(citykit.read_frame(engine, "SELECT pg_sleep(60)"))
    watching = await citykit.connect()

    async def running() -> int:
        return int((await citykit.read_frame(watching, asked))["n"][0])

    async with asyncio.timeout(30):
        while not await running():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(30):
        while await running():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await citykit.read_frame(engine, "SELECT 1 AS one"))["one"].tolist() == [1]
    await engine.dispose()
    await watching.dispose()


async def load_and_read(count: int) -> None:
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    frame = pd.DataFrame({"name": [f"city {n}" for n in range(count)], "population": range(count)})
    assert (await citykit.load_cities(engine, frame)).inserted == count
    read = await citykit.read_frame(engine, "SELECT name FROM cities ORDER BY population")
    assert read["name"].tolist() == frame["name"].tolist()
    frames = [part async for part in citykit.stream_frames(engine, "TABLE cities", chunk_rows=1_000)]
    assert sum(map(len, frames)) == count
    assert (await citykit.find_cities(engine, "city 7"))["name"][0] == "city 7"
    await engine.dispose()


@pytest.mark.parametrize("count", [10, 25_000])
def test_loads_and_reads_work_on_uvloop(count: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load_and_read(count))


def test_a_cancelled_read_ends_on_the_server_on_uvloop() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stop_a_statement())


def test_run_works_inside_of_uvloop_and_patches_nothing() -> None:
    async def main() -> None:
        before = (asyncio.run, asyncio.Task, type(asyncio.get_running_loop()))
        assert citykit.run(asyncio.sleep(0, "done")) == "done"
        engine = await citykit.connect()
        assert citykit.run(citykit.read_frame(engine, "SELECT 1 AS one"))["one"].tolist() == [1]
        assert (asyncio.run, asyncio.Task, type(asyncio.get_running_loop())) == before
        await engine.dispose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
