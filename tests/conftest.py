"""The database of the tests: the embedded server, or the one that CITYKIT_TEST_URL names (it is emptied)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import matplotlib
import pandas as pd
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.database import embedded
from tests.support.grids import beyond

matplotlib.use("agg")
# How long an example takes depends on what else the machine does.
settings.register_profile("citykit", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("citykit")
sys.dont_write_bytecode = False  # here and in the processes that tests start: each would compile citykit anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell: what the tests start would ignore interrupts, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise, under nohup


# What a test needs, by the fixtures that it uses. One that starts a server, a kernel or a browser by itself
# says so with a mark.
MARKS = {
    "server": {
        "api",
        "empty_table",
        "engine",
        "home",
        "initialised",
        "open_connections",
        "publishing",
        "tutorial",
    },
    "kernel": {"fresh", "started"},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests by what they need; leave those out that take long and that -m does not name.

    Who names a test, by -k or as file::test, gets all of its cases.
    """
    for item in items:
        for mark, fixtures in MARKS.items():
            if not fixtures.isdisjoint(getattr(item, "fixturenames", ())):
                item.add_marker(mark)
    if not config.option.keyword and not any("::" in argument for argument in config.args):
        for item in beyond(items):
            item.add_marker("campaign")
    selected = config.option.markexpr
    long = {"campaign", "slow"} if selected else {"campaign"}
    left_out = {
        item for item in items for mark in long if mark not in selected and item.get_closest_marker(mark)
    }
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def database() -> Iterator[dict[str, str]]:
    """The settings by which every process of the tests finds the same server.

    Not in pytest's own folder for temporary files: another run of pytest takes the rights of others off that
    one, with them those of the server's account, and removes what it finds there of older runs.
    """
    home = tempfile.mkdtemp(prefix="citykit-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)  # after citykit's own, which stops the server
    variables = {"CITYKIT_HOME": home}
    if url := os.environ.get("CITYKIT_TEST_URL"):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # each has a database of its own
        variables["CITYKIT_URL"] = asyncio.run(emptied(url, worker)) if worker else url
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CITYKIT_URL", raising=False)
        patch.setenv("PYTHONWARNINGS", "default")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CITYKIT_HOME as the first start of the embedded server leaves it, to be copied (`copy_home`)."""
    home = tmp_path_factory.mktemp("initialised") / "home"
    embedded.attach(home)
    embedded._servers.pop(home).leave()
    return home


async def emptied(url: str, worker: str) -> str:
    """Make a new database for a worker of pytest-xdist; return its URL."""
    engine = await citykit.connect(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"DROP DATABASE IF EXISTS citykit_{worker} WITH (FORCE)"))
        await connection.execute(text(f"CREATE DATABASE citykit_{worker}"))
    await engine.dispose()
    return engine.url.set(database=f"citykit_{worker}").render_as_string(hide_password=False)


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    """An engine on a database whose table is empty."""
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    yield engine
    await engine.dispose()


@pytest.fixture
def tutorial(database: dict[str, str]) -> Iterator[AsyncEngine]:
    """An engine on the database of the notebooks and the demo, whose table is empty.

    On another server than the embedded one, it is made first, and no other worker has it meanwhile.
    """
    with contextlib.ExitStack() as held:
        if url := database.get("CITYKIT_URL", "").replace("+asyncpg", ""):
            taken = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)
            with psycopg.connect(url, autocommit=True) as connection, contextlib.suppress(*taken):
                connection.execute("CREATE DATABASE tutorial")
            lock = held.enter_context(psycopg.connect(url, dbname="tutorial", autocommit=True))
            lock.execute("SELECT pg_advisory_lock(1)")
        engine = citykit.run(citykit.connect(database="tutorial"))
        citykit.run(citykit.create_tables(engine, reset=True))
        yield engine
        citykit.run(engine.dispose())


@pytest.fixture(scope="session")
def world() -> pd.DataFrame:
    """Real cities, read once."""
    return citykit.world_cities()


@pytest.fixture
def three_cities() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["Reykjavík", "London", "London"],
            "country": ["IS", "GB", "CA"],
            "region": ["39", "ENG", "08"],
            "population": [118_918, 8_961_989, 422_324],
            "latitude": [64.13548, 51.50853, None],
            "longitude": [-21.89541, -0.12574, None],
        }
    )
