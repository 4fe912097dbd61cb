"""Databases of one's own on the embedded server: made when new, listed, dropped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

import citykit
from citykit.database import drop_database, list_databases
from tests.support.database import scalar

pytestmark = pytest.mark.server

NAMES = [
    "census",
    "Zählung 2026 東京",
    'say "hi"',
    "it's; DROP TABLE x --",
    "a/b?c=d#e%20",
    " ",
    "ä" * 31 + "x",
    "template2",
]


@pytest.fixture(autouse=True)
async def embedded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The embedded server, without databases of the tests' own afterwards."""
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.delenv("CITYKIT_DATABASE", raising=False)
    yield
    for name in await names():
        if name not in ("postgres", "tutorial"):
            await drop_database(name)


async def names() -> list[str]:
    return [database.name for database in await list_databases()]


async def stored(database: str | None) -> int:
    """How many cities are in a database, after one was added."""
    engine = await citykit.connect(database=database)
    await citykit.create_tables(engine)
    await citykit.add_city(engine, str(database), 1)
    count = await scalar(engine, "SELECT count(*) FROM cities WHERE region = ''")
    await engine.dispose()
    return int(count)


@pytest.mark.parametrize("name", NAMES)
async def test_a_new_database_is_made_and_found_again(name: str) -> None:
    for expected in (False, True):
        assert (name in await names()) is expected
        engine = await citykit.connect(database=name)
        assert await scalar(engine, "SELECT current_database()") == name
        await engine.dispose()


async def test_what_is_in_one_database_is_in_no_other() -> None:
    assert await stored("census") == 1
    assert await stored("other") == 1


async def test_a_new_database_is_in_utf8_and_compares_as_the_default_one_does() -> None:
    sql = (
        "SELECT pg_encoding_to_char(encoding) || datcollate || datctype || datlocprovider::text || "
        "coalesce(to_jsonb(d) ->> 'datlocale', '') FROM pg_database d WHERE datname = current_database()"
    )
    found = []
    for name in ("census", None):
        engine = await citykit.connect(database=name)
        found.append(await scalar(engine, sql))
        await engine.dispose()
    assert found[0] == found[1]
    assert found[0].startswith("UTF8")


async def test_what_is_in_template1_is_in_no_new_database() -> None:
    engine = await citykit.connect(database="template1")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE left_behind ()")
    await engine.dispose()
    try:
        engine = await citykit.connect(database="census")
        assert await scalar(engine, "SELECT to_regclass('left_behind')") is None
        await engine.dispose()
    finally:
        engine = await citykit.connect(database="template1")
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE left_behind")
        await engine.dispose()


@pytest.mark.parametrize("name", ["x" * 64, "ä" * 32, "a\0b", "\ud800"], ids=ascii)
async def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(citykit.DatabaseUnavailableError, match=r"1 to 63 bytes.*nothing was sent"):
        await citykit.connect(database=name)


async def test_the_environment_names_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_DATABASE", "census")
    for given, expected in ((None, "census"), ("other", "other")):
        engine = await citykit.connect(database=given)
        assert await scalar(engine, "SELECT current_database()") == expected
        await engine.dispose()
    monkeypatch.setenv("CITYKIT_DATABASE", "")
    engine = await citykit.connect()
    assert await scalar(engine, "SELECT current_database()") == "postgres"
    await engine.dispose()


async def test_two_processes_and_many_tasks_make_the_same_database_at_once() -> None:
    script = "import citykit; citykit.run(citykit.connect(database='census'))"
    words = (sys.executable, "-c", script)
    processes = [await asyncio.create_subprocess_exec(*words, stderr=subprocess.PIPE) for _ in range(2)]
    engines = await asyncio.gather(*(citykit.connect(database="census") for _ in range(5)))
    for engine in engines:
        assert await scalar(engine, "SELECT current_database()") == "census"
        await engine.dispose()
    for process in processes:
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("polls", range(0, 40, 4))
async def test_a_cancelled_connect_leaves_nothing_that_is_in_the_way(polls: int) -> None:
    connecting = asyncio.ensure_future(citykit.connect(database="census"))
    for _ in range(polls):
        await asyncio.sleep(0.002)
    connecting.cancel()
    done = await asyncio.gather(connecting, return_exceptions=True)
    if not isinstance(done[0], BaseException):
        await done[0].dispose()
    assert await stored("census") == 1


async def test_a_database_that_is_dropped_under_an_engine_is_said_to_be_gone_and_can_be_made_again() -> None:
    engine = await citykit.connect(database="census")
    await engine.dispose()
    await drop_database("census")
    with pytest.raises(
        citykit.DatabaseUnavailableError,
        match=r'"census" does not exist.*citykit.connect\(database=…\) makes it',
    ) as caught:
        await citykit.create_tables(engine)
    assert not caught.value.transient
    again = await citykit.connect(database="census")
    await citykit.create_tables(engine)  # the old one finds it, too
    await again.dispose()
    await engine.dispose()


async def test_a_database_that_others_use_is_not_dropped_and_they_are_named() -> None:
    engine = await citykit.connect(database="census")
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(citykit.CitykitError, match=f"in use: server process {pid}.*nothing was dropped"):
            await drop_database("census")
    async with asyncio.timeout(60):  # the server still ends the connection by which connect() looked at it
        while ("census", 1) not in [  # noqa: ASYNC110
            (each.name, each.connections) for each in await list_databases()
        ]:
            await asyncio.sleep(0.01)
    await engine.dispose()
    await drop_database("census")
    assert "census" not in await names()


@pytest.mark.parametrize("name", ["postgres", "template0", "template1"])
async def test_the_servers_own_databases_are_not_dropped(name: str) -> None:
    with pytest.raises(citykit.CitykitError, match="belongs to the server itself; nothing was dropped"):
        await drop_database(name)


@pytest.mark.parametrize("longer", ["x" * 64, "x" * 63 + "y", "", "\0", "\ud800"])
async def test_a_name_that_no_database_can_have_drops_none(longer: str) -> None:
    await stored("x" * 63)  # as which the server reads a longer one
    with pytest.raises(citykit.CitykitError, match="nothing was dropped"):
        await drop_database(longer)
    assert "x" * 63 in await names()


async def test_a_database_that_is_not_there_is_named_with_one_that_is_near() -> None:
    await stored("census")
    with pytest.raises(
        citykit.CitykitError, match=r"no database 'cencus\'; nothing was dropped .did you mean 'census'"
    ):
        await drop_database("cencus")


async def test_on_another_server_the_database_is_selected_and_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await citykit.connect()  # a URL makes of the embedded server another one
    url = engine.url.set(database="template1").render_as_string(hide_password=False)
    await engine.dispose()
    engine = await citykit.connect(f"{url}&database=nowhere", database="postgres")
    assert await scalar(engine, "SELECT current_database()") == "postgres"
    await engine.dispose()
    monkeypatch.setenv("CITYKIT_DATABASE", "census")  # goes beside CITYKIT_URL, not beside an argument
    engine = await citykit.connect(url)
    assert await scalar(engine, "SELECT current_database()") == "template1"
    await engine.dispose()
    monkeypatch.setenv("CITYKIT_URL", url)
    with pytest.raises(
        citykit.DatabaseUnavailableError,
        match=r'"census" does not exist.*with SQL: CREATE DATABASE census$',
    ):
        await citykit.connect()
    with pytest.raises(citykit.CitykitError, match="unset CITYKIT_URL"):
        await list_databases()
    with pytest.raises(citykit.CitykitError, match="unset CITYKIT_URL"):
        await drop_database("census")
    monkeypatch.delenv("CITYKIT_URL")
    assert "census" not in await names()
