"""Servers and networks that fail: nothing is lost or done twice, and every wait ends in a helpful error."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pandas as pd
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import citykit
from citykit.database import embedded
from citykit.database.options import SILENCE_OPTION
from citykit.read.result import _is_utf8
from tests.support.cancelling import plain_connection
from tests.support.database import copy_home, crash
from tests.support.ports import held_port
from tests.support.proxy import proxied

CITIES = pd.DataFrame({"name": [f"n{number}" for number in range(50)], "population": range(50)})


ADD = "INSERT INTO cities (name, population) VALUES ('executed', 1)"


async def streamed(bind: Any, statement: str) -> list[int]:
    return [len(frame) async for frame in citykit.stream_frames(bind, statement)]


READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "biggest_cities": lambda bind: citykit.biggest_cities(bind, 5),
    "summarize_countries": lambda bind: citykit.summarize_countries(bind),
    "nearest_cities": lambda bind: citykit.nearest_cities(bind, 64, -21, 5),
    "find_cities": lambda bind: citykit.find_cities(bind, "reykj"),
    "read_frame": lambda bind: citykit.read_frame(bind, "SELECT name FROM cities"),
    "read_frame by COPY": lambda bind: citykit.read_frame(bind, "SELECT name, now() FROM cities"),
    "stream_frames": lambda bind: streamed(bind, "SELECT name FROM cities"),
}
WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "add_city": lambda bind: citykit.add_city(bind, "added", 1),
    "load_cities": lambda bind: citykit.load_cities(bind, CITIES),
    "execute": lambda bind: citykit.execute(bind, ADD),
    "create_tables": lambda bind: citykit.create_tables(bind),
}
HELPERS = {**READS, **WRITES}


@pytest.fixture
async def beside(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """A connection of asyncpg's alone, which sees what is stored."""
    connection = await plain_connection(engine)
    yield connection
    await connection.close()


# Something else between the rows

CHECKED = """
CREATE OR REPLACE FUNCTION checked(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF n % 3 = 0 THEN RAISE NOTICE 'three %', n; END IF;
    RETURN n;
END $$
"""
KEPT = """
CREATE TABLE kept (k int, v text);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE NOTICE 'row %', NEW.k;
    RETURN NEW;
END $$;
CREATE TRIGGER told BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION told()
"""


@pytest.fixture
async def noisy(engine: AsyncEngine, beside: asyncpg.Connection) -> AsyncIterator[AsyncEngine]:
    await beside.execute(CHECKED)
    await beside.execute(KEPT)
    yield engine
    await beside.execute("DROP TABLE kept; DROP FUNCTION told; DROP FUNCTION checked")


@pytest.mark.parametrize("rows", [10, 10_000])
@pytest.mark.parametrize("columns", ["", ", CURRENT_DATE AS day"], ids=["in binary", "by COPY"])
async def test_a_notice_between_rows_loses_none(noisy: AsyncEngine, rows: int, columns: str) -> None:
    heard: list[str] = []
    async with noisy.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        raw.add_log_listener(lambda _, message: heard.append(message.message))
        sql = f"SELECT checked(i) AS n{columns} FROM generate_series(1, {rows}) AS i"  # noqa: S608
        frame = await citykit.read_frame(connection, sql)
        assert frame["n"].tolist() == list(range(1, rows + 1))
        assert heard == [f"three {n}" for n in range(3, rows + 1, 3)]


@pytest.mark.parametrize("columns", ["k", "k, v, now()"], ids=["in binary", "by COPY"])
async def test_a_notice_of_a_trigger_loses_no_row_that_was_written(
    noisy: AsyncEngine, beside: asyncpg.Connection, columns: str
) -> None:
    sql = f"INSERT INTO kept SELECT i, 'v' FROM generate_series(1, 500) AS i RETURNING {columns}"  # noqa: S608
    assert len(await citykit.read_frame(noisy, sql)) == 500
    assert await beside.fetchval("SELECT count(*) FROM kept") == 500


@pytest.mark.parametrize("columns", ["", ", CURRENT_DATE AS day"], ids=["in binary", "by COPY"])
async def test_without_the_drivers_transport_an_answer_is_whole_or_an_error(
    noisy: AsyncEngine, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setattr("citykit.read.result.transport_of", lambda _: None)
    sql = f"SELECT i AS n{columns} FROM generate_series(1, 100000) AS i"  # noqa: S608
    assert (await citykit.read_frame(noisy, sql))["n"].tolist() == list(range(1, 100_001))
    with pytest.raises(citykit.CitykitError, match="sent 10 rows, of which"):
        await citykit.read_frame(noisy, sql.replace("i AS n", "checked(i) AS n").replace("100000", "10"))
    with pytest.raises(citykit.CitykitError, match="line 1"):
        await citykit.read_frame(noisy, "SELECT nothing FROM cities")
    frames: Any = citykit.stream_frames(noisy, sql, chunk_rows=10)
    assert len(await anext(frames)) == 10
    await frames.aclose()
    assert len(await citykit.biggest_cities(noisy)) == 0


# A network that loses the server's answers


@dataclass
class Cut:
    """Ends the connection instead of an answer that contains certain bytes, so many times."""

    at: bytes
    times: int = 1
    cut: int = field(default=0, init=False)

    def __call__(self, data: bytes) -> tuple[list[bytes], bool]:
        if self.cut < self.times and self.at in data:
            self.cut += 1
            return [], True
        return [data], False


def completed(tag: str) -> bytes:
    """The CommandComplete message with this tag."""
    return b"C" + (len(tag) + 5).to_bytes(4, "big") + tag.encode() + b"\0"


@asynccontextmanager
async def through(engine: AsyncEngine, passing: Any, **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine behind a proxy."""
    async with proxied(engine, passing) as url:
        other = await citykit.connect(url, **options)
        try:
            yield other
        finally:
            await other.dispose()


LOGGED = {
    "WITH": "WITH new AS (INSERT INTO log VALUES (1) RETURNING n) SELECT n FROM new LIMIT 5",
    "function": "SELECT logged() LIMIT 3",
    "INSERT": "INSERT INTO log VALUES (1) RETURNING n",
    "by COPY": "WITH new AS (INSERT INTO log VALUES (1) RETURNING n) SELECT n, now() FROM new LIMIT 5",
}


@pytest.fixture
async def log(beside: asyncpg.Connection) -> AsyncIterator[None]:
    await beside.execute("CREATE TABLE log (n int)")
    await beside.execute(
        "CREATE FUNCTION logged() RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (1) RETURNING n'"
    )
    yield
    await beside.execute("DROP FUNCTION logged; DROP TABLE log")


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("read", [citykit.read_frame, streamed], ids=["read_frame", "stream_frames"])
@pytest.mark.parametrize("statement", LOGGED)
async def test_a_statement_whose_answer_is_lost_has_its_effect_once(
    engine: AsyncEngine, beside: asyncpg.Connection, statement: str, read: Any
) -> None:
    tags = [b"SELECT 1\0", b"INSERT 0 1\0", b"COPY 1\0"]
    for tag in tags:
        cut = Cut(tag, times=0)
        async with through(engine, cut) as other:
            cut.times = 1
            await beside.execute("TRUNCATE log")
            done = await asyncio.gather(read(other, LOGGED[statement]), return_exceptions=True)
            failed = isinstance(done[0], citykit.DatabaseUnavailableError)
            assert failed or (isinstance(done[0], pd.DataFrame | list) and len(done[0]) == 1)
            assert await beside.fetchval("SELECT count(*) FROM log") == 1 - failed


@pytest.fixture
async def viewed(log: None, beside: asyncpg.Connection) -> AsyncIterator[None]:
    """`cities` as a view that writes whenever it is read."""
    assert log is None
    await beside.execute("ALTER TABLE cities RENAME TO stored")
    await beside.execute(
        "INSERT INTO stored (name, population, latitude, longitude) VALUES ('reykjavik', 1, 64, 2)"
    )
    await beside.execute("CREATE VIEW cities AS SELECT * FROM stored WHERE logged() = 1")
    yield
    await beside.execute("DROP VIEW cities; DROP TABLE stored")


@pytest.mark.usefixtures("viewed")
@pytest.mark.parametrize("helper", ["biggest_cities", "summarize_countries", "nearest_cities", "find_cities"])
async def test_a_question_to_a_view_that_writes_has_its_effect_once(
    engine: AsyncEngine, beside: asyncpg.Connection, helper: str
) -> None:
    cut = Cut(b"SELECT 1\0", times=0)
    async with through(engine, cut) as other:
        assert len(await READS[helper](other)) == 1
        once = await beside.fetchval("SELECT count(*) FROM log")
        assert once > 0
        await beside.execute("TRUNCATE log")
        cut.times = 1
        with pytest.raises(citykit.DatabaseUnavailableError, match="may have been stored") as caught:
            await READS[helper](other)
        assert caught.value.in_doubt
        # Nothing where the answer was lost by which find_cities looks for its index.
        assert await beside.fetchval("SELECT count(*) FROM log") in (0, once)
        assert len(await READS[helper](other)) == 1


@pytest.mark.usefixtures("log")
async def test_a_write_whose_commit_is_lost_is_in_doubt_and_not_repeated(
    engine: AsyncEngine, beside: asyncpg.Connection
) -> None:
    helpers: list[Callable[[AsyncEngine], Awaitable[Any]]] = [
        *(lambda other, sql=sql: citykit.read_frame(other, sql) for sql in LOGGED.values()),
        WRITES["add_city"],
        WRITES["load_cities"],
    ]
    for helper in helpers:
        await beside.execute("TRUNCATE log, cities")
        cut = Cut(completed("COMMIT"), times=0)
        async with through(engine, cut) as other:
            cut.times = 1
            with pytest.raises(citykit.DatabaseUnavailableError, match="may have been stored") as caught:
                await helper(other)
            assert caught.value.in_doubt
        counts = await beside.fetchrow("SELECT (SELECT count(*) FROM log), (SELECT count(*) FROM cities)")
        assert sorted(counts) in ([0, 1], [0, len(CITIES)])


@pytest.mark.parametrize("helper", READS)
async def test_a_read_that_loses_its_connection_at_any_answer_is_repeated(
    engine: AsyncEngine, helper: str
) -> None:
    await citykit.load_cities(engine, CITIES)
    answers = 0

    def count(data: bytes) -> tuple[list[bytes], bool]:
        nonlocal answers
        answers += 1
        return ([], True) if answers == lost else ([data], False)

    lost = 0
    async with through(engine, count, pool_size=1, max_overflow=0) as other:
        await READS[helper](other)
        answers = 0
        expected = await READS[helper](other)
        for lost in range(1, answers + 1):  # noqa: B007  which `count` looks at
            answers = 0
            try:
                assert len(await READS[helper](other)) == len(expected)
            except citykit.DatabaseUnavailableError:
                if helper != "stream_frames":  # whose first frame may have been handed over
                    raise


# The server restarts, or is not there


async def end_sessions(connection: asyncpg.Connection, application: str) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = $1 AND datname = current_database()",
        application,
    )


NAMED: dict[str, Any] = {"connect_args": {"server_settings": {"application_name": "citykit-idle"}}}
STORED = {"add_city": ["added"], "execute": ["executed"], "load_cities": sorted(CITIES["name"])}


async def idle_sessions(connection: asyncpg.Connection) -> set[int]:
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'citykit-idle'"
    asked += " AND datname = current_database()"
    return {row["pid"] for row in await connection.fetch(asked)}


async def until_gone(connection: asyncpg.Connection, pids: set[int]) -> None:
    async with asyncio.timeout(30):
        while pids & await idle_sessions(connection):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("noticed", [True, False], ids=["the loop has noticed", "the loop has not noticed"])
@pytest.mark.parametrize("helper", HELPERS)
async def test_connections_that_ended_while_idle_are_replaced(
    engine: AsyncEngine, beside: asyncpg.Connection, helper: str, noticed: bool
) -> None:
    other = await citykit.connect(engine.url, pool_size=5, max_overflow=0, **NAMED)
    await asyncio.gather(*(citykit.biggest_cities(other) for _ in range(5)))
    ended = await idle_sessions(beside)
    if noticed:
        await end_sessions(beside, "citykit-idle")
        await until_gone(beside, ended)
        await asyncio.sleep(0.1)  # in which the loop hears of it
    else:  # within one turn of the loop
        ending = threading.Thread(target=asyncio.run, args=(end_beside(engine),))
        ending.start()
        ending.join()
    await HELPERS[helper](other)  # which meets the first of them
    answers = await asyncio.gather(*(READS[name](other) for name in READS))
    assert [len(answer) for answer in answers] == [len(await READS[name](engine)) for name in READS]
    assert len(ended) == 5
    assert not ended & await idle_sessions(beside)
    assert await beside.fetchval("SELECT array_agg(name ORDER BY name) FROM cities") == STORED.get(helper)
    await other.dispose()


async def end_beside(engine: AsyncEngine) -> None:
    connection = await plain_connection(engine)
    ended = await idle_sessions(connection)
    await end_sessions(connection, "citykit-idle")
    await until_gone(connection, ended)
    await connection.close()


async def test_connections_that_the_server_ends_when_idle_are_replaced(
    engine: AsyncEngine, beside: asyncpg.Connection
) -> None:
    # Long enough for what a connection is asked when it is opened, also on a busy machine.
    url = engine.url.update_query_dict({"options": "-c idle_session_timeout=1s"})
    others = {helper: await citykit.connect(url, pool_size=3, max_overflow=0, **NAMED) for helper in HELPERS}
    for _ in range(2):
        for other in others.values():
            await asyncio.gather(*(citykit.biggest_cities(other) for _ in range(3)))
        await until_gone(beside, await idle_sessions(beside))
        for helper, other in others.items():
            await beside.execute("TRUNCATE cities")
            await HELPERS[helper](other)
            stored = await beside.fetchval("SELECT array_agg(name ORDER BY name) FROM cities")
            assert stored == STORED.get(helper), helper
    for other in others.values():
        await other.dispose()


async def test_questions_that_wait_for_the_pool_end_with_the_fault_and_not_with_its_timeout(
    engine: AsyncEngine, beside: asyncpg.Connection
) -> None:
    other = await citykit.connect(engine.url, pool_size=3, max_overflow=2, **NAMED)
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        questions = [asyncio.create_task(citykit.biggest_cities(other)) for _ in range(50)]
        await asyncio.sleep(0.5)  # five wait for the table, the others for the pool
        await end_sessions(beside, "citykit-idle")
    async with asyncio.timeout(10):
        done = await asyncio.gather(*questions, return_exceptions=True)
    assert all(isinstance(each, pd.DataFrame | citykit.DatabaseUnavailableError) for each in done)
    async with asyncio.timeout(10):
        assert len(await citykit.biggest_cities(other)) == 0
    await other.dispose()


def silent_from_now() -> tuple[Callable[[bytes], tuple[list[bytes], bool]], Callable[[], None]]:
    """A network that passes everything on until it is told to swallow the server's answers."""
    swallows = False

    def passing(data: bytes) -> tuple[list[bytes], bool]:
        return ([] if swallows else [data]), False

    def swallow() -> None:
        nonlocal swallows
        swallows = True

    return passing, swallow


@pytest.mark.parametrize("helper", HELPERS)
async def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, helper: str
) -> None:
    monkeypatch.setattr("citykit.database.transactions.ANSWER_SECONDS", 0.5)
    passing, swallow = silent_from_now()
    async with proxied(engine, passing) as url:
        other = await citykit.connect(url, silence_timeout=0.5)
        await citykit.biggest_cities(other)
        swallow()
        async with asyncio.timeout(30):
            with pytest.raises(citykit.DatabaseUnavailableError, match="answers no new connection"):
                await HELPERS[helper](other)
            await other.dispose()


async def test_a_statement_that_takes_long_is_not_ended_by_the_silence(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url, silence_timeout=0.1)
    frame = await citykit.read_frame(other, "SELECT 1 AS one FROM pg_sleep(1)")
    assert frame["one"].tolist() == [1]
    await other.dispose()


async def test_idle_connections_to_a_silent_server_are_closed(
    engine: AsyncEngine, beside: asyncpg.Connection
) -> None:
    passing, swallow = silent_from_now()
    async with proxied(engine, passing) as url:
        other = await citykit.connect(url, **NAMED)
        await asyncio.gather(*(citykit.biggest_cities(other) for _ in range(5)))
        swallow()
        opened = await idle_sessions(beside)
        assert len(opened) == 5
        async with asyncio.timeout(30):
            await other.dispose()
        await until_gone(beside, opened)


async def test_a_login_that_is_not_answered_is_given_up(engine: AsyncEngine) -> None:
    async with asyncio.timeout(30):
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"postgresql://u:secret@127.0.0.1:{deaf.getsockname()[1]}/d"
            with pytest.raises(citykit.DatabaseUnavailableError, match=r"no answer within 4\.5 s") as caught:
                await citykit.connect(url)
            assert "secret" not in str(caught.value)
        passing, swallow = silent_from_now()
        async with proxied(engine, passing) as url_of_proxy:
            swallow()
            with pytest.raises(citykit.DatabaseUnavailableError, match=r"no answer within 4\.5 s"):
                await citykit.connect(url_of_proxy)


# A server that lets no more in


@pytest.fixture
async def limited(engine: AsyncEngine, beside: asyncpg.Connection) -> AsyncIterator[AsyncEngine]:
    """An engine of a role that may have one connection at a time."""
    await beside.execute("DROP ROLE IF EXISTS citykit_single")
    await beside.execute("CREATE ROLE citykit_single LOGIN CONNECTION LIMIT 1 PASSWORD 'single'")
    await beside.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO citykit_single")
    await beside.execute("GRANT ALL ON SCHEMA public TO citykit_single")
    other = await citykit.connect(
        engine.url.set(username="citykit_single", password="single"),  # noqa: S106
        pool_size=2,
        connect_args={"server_settings": {"application_name": "citykit-single"}},
    )
    yield other
    await other.dispose()
    await beside.execute("DROP OWNED BY citykit_single; DROP ROLE citykit_single")


# What an administrator may do while a statement of the role runs: a new connection is refused from then on.
REFUSALS = {
    "connection limit": "ALTER ROLE citykit_single CONNECTION LIMIT 1",
    "no login": "ALTER ROLE citykit_single NOLOGIN CONNECTION LIMIT -1",
    "no right": "REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
    "no connections": "UPDATE pg_database SET datallowconn = false WHERE datname = current_database()",
}
UNDONE = {
    "no right": "GRANT CONNECT ON DATABASE {database} TO PUBLIC",
    "no connections": "UPDATE pg_database SET datallowconn = true WHERE datname = current_database()",
}
SLOW: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "read_frame": lambda bind: citykit.read_frame(bind, "SELECT 1 AS one FROM pg_sleep(1)"),
    "execute": lambda bind: citykit.execute(bind, "INSERT INTO kept SELECT 1 FROM pg_sleep(1)"),
}


@pytest.mark.parametrize("helper", SLOW)
@pytest.mark.parametrize("refused", REFUSALS)
async def test_a_statement_goes_on_where_the_server_refuses_the_connection_that_asks_for_it(
    limited: AsyncEngine, beside: asyncpg.Connection, refused: str, helper: str
) -> None:
    other = limited.execution_options(**{SILENCE_OPTION: 0.1})  # by the one connection that the role may have
    await beside.execute("CREATE TABLE kept (k int); GRANT ALL ON kept TO citykit_single")
    database = await beside.fetchval("SELECT quote_ident(current_database())")
    try:
        statement = asyncio.ensure_future(SLOW[helper](other))
        await asyncio.sleep(0.05)
        await beside.execute("ALTER ROLE citykit_single CONNECTION LIMIT -1")
        await beside.execute(REFUSALS[refused].format(database=database))
        with pytest.raises(citykit.DatabaseUnavailableError):
            await citykit.connect(limited.url)
        assert len(await statement) == 1 if helper == "read_frame" else await statement
        assert await beside.fetchval("SELECT count(*) FROM kept") == (helper == "execute")
    finally:
        await beside.execute(UNDONE.get(refused, "SELECT 1").format(database=database))
        await beside.execute("DROP TABLE kept")


@pytest.mark.parametrize("by_url", [True, False], ids=["by its URL", "embedded"])
async def test_a_statement_goes_on_while_its_server_waits_for_it_to_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialised: Path, by_url: bool
) -> None:
    copy_home(initialised, home := tmp_path / "home")
    monkeypatch.setenv("CITYKIT_HOME", str(home))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    first = await citykit.connect(silence_timeout=0.1)
    other = await citykit.connect(first.url, silence_timeout=0.1) if by_url else first
    statement = asyncio.ensure_future(citykit.read_frame(other, "SELECT 1 AS one FROM pg_sleep(1)"))
    await asyncio.sleep(0.2)
    postmaster = int((home / "postgres" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    os.kill(postmaster, signal.SIGTERM)  # it ends with its last connection, and answers 57P03 till then
    assert (await statement)["one"].tolist() == [1]
    await other.dispose()
    await first.dispose()
    embedded._servers.pop(home).leave()


async def test_a_statement_goes_on_where_the_process_cannot_ask_for_it(engine: AsyncEngine) -> None:
    """A password may be a function, which asks a service: that one may fail."""
    asked = 0

    def password() -> str:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise RuntimeError("no token")
        return engine.url.password or "unused"

    other = await citykit.connect(engine.url, silence_timeout=0.1, connect_args={"password": password})
    assert len(await citykit.read_frame(other, "SELECT 1 AS one FROM pg_sleep(1)")) == 1
    assert asked > 1
    await other.dispose()


@pytest.mark.parametrize("columns", ["i", "i, now()"], ids=["in binary", "by COPY"])
@pytest.mark.parametrize("bound", ["engine", "connection"])
async def test_a_statement_is_cancelled_where_no_second_session_can_be_had(
    limited: AsyncEngine, beside: asyncpg.Connection, columns: str, bound: str
) -> None:
    sql = f"SELECT {columns} FROM generate_series(1, 1000000) AS i, pg_sleep(60)"  # noqa: S608
    connection = await limited.connect() if bound == "connection" else None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await citykit.read_frame(connection or limited, sql)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'"
    async with asyncio.timeout(5):
        while await beside.fetchval(busy, "citykit-single"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    if connection is not None:
        assert len(await citykit.biggest_cities(connection)) == 0  # the caller's transaction goes on
        await connection.close()
    assert len(await citykit.biggest_cities(limited)) == 0


@pytest.mark.parametrize("helper", HELPERS)
async def test_a_connection_too_many_is_named(limited: AsyncEngine, helper: str) -> None:
    async with limited.connect():
        with pytest.raises(citykit.DatabaseUnavailableError, match="too many connections") as caught:
            await HELPERS[helper](limited)
        assert caught.value.transient
        assert "single" not in str(caught.value).replace("citykit_single", "")


@pytest.mark.parametrize("helper", HELPERS)
async def test_a_full_pool_is_named(engine: AsyncEngine, helper: str) -> None:
    other = await citykit.connect(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    async with other.connect():
        with pytest.raises(citykit.DatabaseUnavailableError, match="pool_timeout") as caught:
            await HELPERS[helper](other)
        assert caught.value.transient
    await other.dispose()


@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("made", ["citykit.connect", "create_async_engine"])
async def test_a_server_that_is_gone_is_named(engine: AsyncEngine, helper: str, made: str) -> None:
    gone = 0

    def passing(data: bytes) -> tuple[list[bytes], bool]:
        return [data], bool(gone)

    async with proxied(engine, passing) as url:
        other = await citykit.connect(url) if made == "citykit.connect" else create_async_engine(url)
        await citykit.biggest_cities(other)
        gone = 1
        with pytest.raises(citykit.DatabaseUnavailableError):
            await HELPERS[helper](other)
    with pytest.raises(citykit.DatabaseUnavailableError, match="No connection to") as caught:
        await HELPERS[helper](other)
    assert caught.value.transient
    await other.dispose()


@pytest.mark.parametrize(
    ("host", "transient"), [("no-such-host.invalid", True), ("", True)], ids=["no such host", "nobody there"]
)
async def test_an_address_that_leads_nowhere_is_named(host: str, transient: bool) -> None:
    with held_port() as port:
        other = create_async_engine(f"postgresql+asyncpg://u:secret@{host or '127.0.0.1'}:{port}/d")
        for helper in HELPERS.values():
            with pytest.raises(citykit.DatabaseUnavailableError) as caught:
                await helper(other)
            assert caught.value.transient == transient
            assert "secret" not in str(caught.value)
        await other.dispose()


async def test_a_database_or_a_role_that_is_not_there_is_no_passing_fault(engine: AsyncEngine) -> None:
    for url in (engine.url.set(database="nowhere"), engine.url.set(username="nobody-here", password="x")):  # noqa: S106
        with pytest.raises(citykit.DatabaseUnavailableError) as connecting:
            await citykit.connect(url)
        assert not connecting.value.transient
        other = create_async_engine(url)
        with pytest.raises(citykit.DatabaseUnavailableError) as asking:
            await citykit.biggest_cities(other)
        assert not asking.value.transient
        await other.dispose()


async def test_a_socket_is_kept_alive(engine: AsyncEngine) -> None:
    async with through(engine, lambda data: ([data], False)) as other, other.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        connected = raw._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_utf8_is_known_by_each_of_its_names() -> None:
    assert all(map(_is_utf8, ("UTF8", "utf-8", "'utf-8'")))
    assert not any(map(_is_utf8, ("LATIN1", "SQL_ASCII", "MULE_INTERNAL")))


@pytest.mark.server
async def test_an_engine_starts_the_embedded_server_again_after_it_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "of-its-own"))
    other = await citykit.connect()
    await citykit.create_tables(other)
    crash(tmp_path / "of-its-own", signal.SIGKILL)
    for name in ("a", "b"):
        await citykit.add_city(other, name, 1)
    assert (await citykit.biggest_cities(other))["name"].tolist() == ["a", "b"]
    await other.dispose()
    embedded._servers.pop(tmp_path / "of-its-own").leave()
