"""citykit in a real Jupyter kernel: cells that queue, stop, fail, and speak SQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support import soak_notebook
from tests.support.database import scalar, stored
from tests.support.kernels import Kernel, kernel, plain

SETUP = """
%load_ext citykit
import citykit, pandas as pd
from sqlalchemy import text
engine = await citykit.connect()
async def sleep():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(30), 'the long one'"))
"""


SLOW = "INSERT INTO cities (name, population) SELECT 'the long one', 1 FROM pg_sleep(30)"


@pytest.fixture(scope="module")
def started() -> Iterator[Kernel]:
    with kernel() as running:
        assert running.shown(SETUP) == ""
        yield running


@pytest.fixture
def jupyter(started: Kernel, engine: AsyncEngine) -> Kernel:
    """A kernel with an engine, on a database whose table is empty."""
    assert engine
    return started


def readable(outputs: list[dict[str, Any]]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", plain(outputs))


# Interrupts


async def running(engine: AsyncEngine, words: str) -> int:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE :like"
    found: int = await scalar(
        engine, f"{asked} AND pid <> pg_backend_pid() AND datname = current_database()", like=f"%{words}%"
    )
    return found


async def wait_until(engine: AsyncEngine, words: str, wanted: int) -> None:
    async with asyncio.timeout(60):
        while await running(engine, words) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "source",
    [
        "await sleep()",
        "citykit.run(sleep())",
        "await engine.dispose()\ncitykit.run(sleep())",
        "%%cities\nSELECT pg_sleep(30), 'the long one'",
        f"await citykit.execute(engine, {SLOW!r})",
        f"%%cities\n{SLOW}",
        f"%%cities\nINSERT INTO cities (name, population) VALUES ('a', 1); {SLOW}",
    ],
    ids=["await", "run", "run beside await", "SQL cell", "execute", "cell of a write", "cell of two writes"],
)
async def test_an_interrupt_stops_a_query(jupyter: Kernel, engine: AsyncEngine, source: str) -> None:
    cell = jupyter.send(source)
    await wait_until(engine, "the long one", 1)
    jupyter.interrupt()
    ended = jupyter.wait(cell)[-1]
    assert ended["ename"] in ("CancelledError", "KeyboardInterrupt")
    await wait_until(engine, "the long one", 0)
    assert jupyter.shown("len(await citykit.biggest_cities(engine))") == "0\n"


LOAD = "citykit.load_cities(engine, many, progress=False, on_conflict='{}')"
UPDATE = LOAD.format("update")


@pytest.mark.parametrize(
    ("source", "statement"),
    [
        (f"await {UPDATE}", "INSERT INTO cities"),
        (f"citykit.run({UPDATE})", "INSERT INTO cities"),
        (f"await {LOAD.format('error')}", 'COPY "cities"'),
        (f"citykit.run({LOAD.format('error')})", 'COPY "cities"'),
    ],
    ids=["await", "run", "await COPY", "run COPY"],
)
async def test_an_interrupt_stops_a_load_and_nothing_is_stored(
    jupyter: Kernel, engine: AsyncEngine, source: str, statement: str
) -> None:
    jupyter.run("many = pd.DataFrame({'name': [str(i) for i in range(1000)], 'population': 1})")
    async with engine.begin() as connection:  # holds the load up where it merges
        await connection.execute(text("INSERT INTO cities (name, population) VALUES ('0', 1)"))
        cell = jupyter.send(source)
        await wait_until(engine, statement, 1)
        jupyter.interrupt()
        [ended] = jupyter.wait(cell)  # while what it waits for is still held
        assert ended["ename"] in ("CancelledError", "KeyboardInterrupt")
        said = f"{ended['ename']}: the load was interrupted; nothing was loaded"
        assert readable([ended]) == said
        await connection.rollback()
    everything = readable(jupyter.run("%tb"))
    assert "citykit/" in everything
    assert everything.rstrip().endswith(said)
    assert await stored(engine) == {}
    assert "1,000 inserted" in jupyter.shown(source)


async def test_a_cancelled_load_says_so_in_one_line(jupyter: Kernel, engine: AsyncEngine) -> None:
    jupyter.run(
        "import asyncio\n"
        "many = pd.DataFrame({'name': [str(i) for i in range(1000)], 'population': 1})\n"
        "stop = lambda *_: loading.cancel()\n"
        "loading = asyncio.ensure_future(citykit.load_cities(engine, many, progress=stop))"
    )
    [ended] = jupyter.run("await loading")
    assert readable([ended]) == "CancelledError: the load was interrupted; nothing was loaded"
    assert await stored(engine) == {}


ENDLESS = "SELECT i, 'the long one' FROM generate_series(1, 1000000000) AS i"


@pytest.mark.parametrize(
    "statement", ["SELECT pg_sleep(30), 'the long one'", ENDLESS], ids=["slow", "endless"]
)
@pytest.mark.parametrize("where", ["cell", "run"])
async def test_an_interrupted_stream_says_so_in_one_line(
    jupyter: Kernel, engine: AsyncEngine, where: str, statement: str
) -> None:
    source = f"async for frame in citykit.stream_frames(engine, {statement!r}):\n    len(frame)"
    if where == "run":
        inner = source.replace("\n", "\n    ")
        source = f"async def streamed():\n    {inner}\ncitykit.run(streamed())"
    cell = jupyter.send(source)
    await wait_until(engine, "the long one", 1)
    jupyter.interrupt()
    [ended] = jupyter.wait(cell)
    assert ended["ename"] in ("CancelledError", "KeyboardInterrupt")
    assert readable([ended]) == f"{ended['ename']}: the statement was interrupted; nothing was changed"
    await wait_until(engine, "the long one", 0)


def test_an_interrupt_of_other_work_says_no_more_than_that(jupyter: Kernel) -> None:
    jupyter.run(
        "import asyncio\nasync def work():\n    print('begun', flush=True)\n    await asyncio.sleep(30)"
    )
    cell = jupyter.send("citykit.run(work())")
    jupyter.wait_for(cell, "begun")
    jupyter.interrupt()
    [_, ended] = jupyter.wait(cell)
    assert readable([ended]) == "KeyboardInterrupt: interrupted"


@pytest.mark.kernel
async def test_a_restart_stops_a_load_and_nothing_is_stored(engine: AsyncEngine) -> None:
    with kernel() as jupyter:
        jupyter.run(SETUP + "many = pd.DataFrame({'name': [str(i) for i in range(1000)], 'population': 1})")
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO cities (name, population) VALUES ('0', 1)"))
            jupyter.send(f"await {UPDATE}")
            await wait_until(engine, "INSERT INTO cities", 1)
            jupyter.restart()
            await connection.rollback()
        assert jupyter.shown(SETUP + "len(await citykit.biggest_cities(engine))") == "0\n"
        await wait_until(engine, "INSERT INTO cities", 0)
    assert await stored(engine) == {}


@pytest.fixture
def fresh(engine: AsyncEngine) -> Iterator[Kernel]:
    """A kernel in which nothing ran before."""
    assert engine
    with kernel() as running:
        assert running.shown(soak_notebook.SETUP) == ""
        yield running


def test_interrupts_at_any_moment_leave_a_kernel_that_works(fresh: Kernel) -> None:
    assert soak_notebook.interrupt_twice(fresh, seed=1, seconds=6) > 1


def test_runs_nested_at_random_leave_a_kernel_that_works(fresh: Kernel) -> None:
    soak_notebook.nest(fresh, seed=1, count=300)


# Run All


def test_cells_that_are_sent_all_at_once_all_run(jupyter: Kernel) -> None:
    sources = [
        "mine = citykit.run(citykit.connect())",
        "citykit.run(citykit.add_city(mine, 'a', 3))",
        "await citykit.add_city(engine, 'b', 2)",
        "citykit.run(citykit.add_city(engine, 'c', 1))",
        "%%cities found\nSELECT name FROM cities ORDER BY population",
        "citykit.run(citykit.biggest_cities(mine))['name'].tolist() + found['name'].tolist()",
        "citykit.run(mine.dispose())",
    ]
    cells = [jupyter.send(source) for source in sources]
    shown = [readable(jupyter.wait(cell)) for cell in cells]
    assert shown[-2] == "['a', 'b', 'c', 'c', 'b', 'a']\n"
    assert not [text for text in shown if "Traceback" in text]


# SQL cells


async def test_a_sql_cell_shows_and_assigns_what_it_reads(
    jupyter: Kernel, engine: AsyncEngine, three_cities: Any
) -> None:
    await citykit.load_cities(engine, three_cities)
    jupyter.run("country = 'GB'; least = 5")
    sql = "SELECT name FROM cities WHERE country = :country AND population > :least"
    [shown] = jupyter.run(f"%%cities found\n{sql}")
    assert "London" in shown["data"]["text/html"]
    assert jupyter.shown("found['name'].tolist()") == "['London']\n"
    assert jupyter.shown(f"%%cities --param country=IS -p least=5\n{sql}").split() == [
        "name",
        "0",
        "Reykjavík",
    ]
    assert jupyter.shown("country") == "'GB'\n"


async def test_variables_are_values_and_never_sql(jupyter: Kernel, engine: AsyncEngine) -> None:
    jupyter.run("""evil = "'; DROP TABLE cities; --" """)
    assert "DROP TABLE" in jupyter.shown("%%cities got\nSELECT CAST(:evil AS text) AS said")
    assert jupyter.shown("got['said'][0] == evil") == "True\n"
    assert await stored(engine) == {}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%%cities\nSELECT :no_such", "no variable 'no_such'"),
        ("%%cities --param other=1\nSELECT 1", "no parameter :other"),
        ("%%cities --param 3\nSELECT 1", "--param country=IS"),
        ("%%cities SELECT 1\nSELECT 1", "unrecognized arguments: 1"),
        ("%%cities 1st\nSELECT 1", "'1st' is not a variable name"),
        ("%%cities class\nSELECT 1", "'class' is not a variable name"),
        ("%%cities 'x\nSELECT 1", "No closing quotation"),
        ("%%cities\n\n", "There is no SQL"),
        ("%cities SELECT 1", "below %%cities"),
    ],
)
def test_a_sql_cell_says_in_one_line_what_is_wrong_with_it(jupyter: Kernel, source: str, said: str) -> None:
    [shown] = readable(jupyter.run(source)).splitlines()
    assert shown.startswith("UsageError: ")
    assert said in shown


def test_a_sql_cell_explains_itself(jupyter: Kernel) -> None:
    reply = jupyter.client.inspect("%%cities", reply=True, timeout=30)
    assert "Python literal" in reply["content"]["data"]["text/plain"]


async def test_cities_alone_shows_the_connection_and_the_table(
    jupyter: Kernel, engine: AsyncEngine, three_cities: Any
) -> None:
    await citykit.load_cities(engine, three_cities)
    [shown] = jupyter.run("%cities")
    for kind in ("text/plain", "text/html"):
        assert "3 rows" in shown["data"][kind]
        assert "kB" in shown["data"][kind]
        assert engine.url.password is None or str(engine.url.password) not in shown["data"][kind]
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
    assert "create_tables" in jupyter.shown("%cities")


def test_a_sql_cell_needs_no_engine_of_ones_own(jupyter: Kernel) -> None:
    jupyter.run("kept, engine = engine, None")
    assert jupyter.shown("%%cities\nSELECT 42 AS answer").split() == ["answer", "0", "42"]
    assert "rows" in jupyter.shown("%cities")
    jupyter.run("engine = kept")


# Errors


@pytest.mark.parametrize(
    "source",
    [
        "await twice()",
        "citykit.run(twice())",
        "%%cities\nSELECT * FROM no_such_table",
        "await citykit.load_cities(engine, pd.DataFrame({'name': ['']}))",
    ],
)
def test_an_error_ends_with_what_matters_and_tb_has_all_of_it(jupyter: Kernel, source: str) -> None:
    jupyter.run("async def twice():\n    await citykit.add_city(engine, 'a', 1)\n    await twice()")
    [error] = jupyter.run(source)
    shown = readable([error])
    assert shown.splitlines()[-error["evalue"].count("\n") - 1] == (
        f"{error['ename']}: {error['evalue'].splitlines()[0]}"
    )
    assert len(shown.splitlines()) < 25
    assert "Cell In[" in shown
    assert "File " not in shown  # nobody else's
    assert "sqlalchemy" not in shown
    everything = readable(jupyter.run("%tb"))
    assert "citykit/" in everything
    assert everything.endswith(shown.splitlines()[-1])


@pytest.mark.parametrize(
    "source",
    [
        "await citykit.load_cities(engine, 5)",
        "await citykit.load_cities(engine, frame, on_conflict='replace')",
        "await citykit.load_cities(engine, frame, rename='name')",
        "await citykit.load_cities(engine, frame, frame=frame)",
        "await citykit.load_frame(engine, frame, citykit.City, key='population')",
        "await citykit.load_frame(engine, frame, frame)",
        "citykit.run(citykit.load_cities(engine, 5))",
        "citykit.run(5)",
        "await citykit.find_cities(engine, '')",
        "citykit.biggest_cities(engine)['name']",
        "citykit.world_cities(3)",
        "citykit.plot_biggest(5)",
        "[part async for part in citykit.stream_frames(engine, 'SELECT 1', chunk_rows=0)]",
    ],
)
def test_a_type_error_or_value_error_shows_the_lines_of_the_user(jupyter: Kernel, source: str) -> None:
    jupyter.run("frame = pd.DataFrame({'name': ['a'], 'population': [1]})")
    [*_, error] = jupyter.run(source)  # after what matplotlib may say of its fonts
    shown = readable([error])
    assert error["ename"] in ("TypeError", "ValueError")
    assert f"1 {source}" in shown
    assert "File " not in shown
    assert "citykit/" not in shown
    assert "citykit/" in readable(jupyter.run("%tb"))


def test_the_way_out_of_a_run_that_needs_await_is_shown(jupyter: Kernel) -> None:
    source = "async with engine.connect() as mine:\n    citykit.run(citykit.biggest_cities(mine))"
    shown = readable(jupyter.run(source))
    assert "WrongLoopError" in shown
    assert "Write await instead of citykit.run(…)" in shown


def test_an_error_in_the_users_own_code_shows_where(jupyter: Kernel) -> None:
    jupyter.run("def mine(done, total):\n    return done + 'rows'")
    shown = readable(jupyter.run("await citykit.load_cities(engine, frame, progress=mine)"))
    assert "return done + 'rows'" in shown
    assert "citykit/" in shown


def test_what_an_error_says_can_be_typed(jupyter: Kernel) -> None:
    loading = "await citykit.load_cities(engine, pd.DataFrame({'name': ['a'], 'population': [-1]}))"
    shown = readable(jupyter.run(loading))
    assert "See citykit.last_rejects() for all" in shown
    assert "negative" in jupyter.shown("citykit.last_rejects()")


# Progress


@pytest.mark.parametrize("source", ["await {}", "citykit.run({})"])
def test_a_load_shows_one_bar_of_its_own(jupyter: Kernel, source: str) -> None:
    jupyter.run("many = pd.DataFrame({'name': [str(i) for i in range(250_000)], 'population': 1})")
    [bar, report] = jupyter.run(source.format("citykit.load_cities(engine, many, on_conflict='skip')"))
    assert bar["output_type"] == "display_data"
    assert "done: 100 % of 250,000 rows" in bar["data"]["text/html"]
    assert "script" not in bar["data"]["text/html"]
    assert "250,000 inserted" in report["data"]["text/plain"]


async def test_a_load_that_fails_leaves_a_bar_that_is_not_full(jupyter: Kernel, engine: AsyncEngine) -> None:
    jupyter.run("many = pd.DataFrame({'name': [str(i) for i in range(250_000)], 'population': 1})")
    await citykit.add_city(engine, "249999", 1)
    [bar, error] = jupyter.run("await citykit.load_cities(engine, many)")
    assert "stopped while" in bar["data"]["text/html"]
    assert "width:100.0%" not in bar["data"]["text/html"]
    assert error["ename"] == "DuplicateCityError"


def test_an_error_that_is_shown_has_its_rejects(jupyter: Kernel) -> None:
    bad = "pd.DataFrame({'name': ['<b>'], 'population': [-1]})"
    loading = f"    await citykit.load_cities(engine, {bad})"
    [shown] = jupyter.run(f"try:\n{loading}\nexcept citykit.CitykitError as e:\n    error = e\nerror")
    assert "negative" in shown["data"]["text/html"]
    assert "<b>InvalidFrameError" in shown["data"]["text/html"]
