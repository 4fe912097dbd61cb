"""Large results past the driver, against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.decode.data_rows import unpack as unpack_rows
from citykit.read import messages
from tests.read.test_reading import KILL, failure, running
from tests.support.database import scalar
from tests.support.proxy import READY, proxied

EVERY_TYPE = """
SELECT i, i::bigint * 68719476736 AS wide, i::smallint AS narrow, i % 2 = 0 AS even, i::real / 8 AS single,
    sqrt(i) AS double, repeat('é', i % 5) AS text, NULLIF(i % 3, 0) AS some, NULLIF('x', 'x') AS nothing,
    (i * 1000)::oid AS oid, 'D'::char(2) AS fixed, i::text::name AS name, i::text::varchar AS varying
FROM generate_series(1, {}) AS i
"""


async def by_the_driver(engine: AsyncEngine, sql: str) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        return [tuple(record) for record in await raw.fetch(sql)]


async def values(bind: Any, sql: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    frame = await citykit.read_frame(bind, sql, params, dtype_backend="pyarrow")
    columns = [frame.iloc[:, n].array.__arrow_array__().to_pylist() for n in range(frame.shape[1])]
    return list(zip(*columns, strict=True))


async def counted(frames: AsyncIterator[pd.DataFrame], seconds: float) -> int:
    """Take so long for each frame; return the number of rows."""
    rows = 0
    async for frame in frames:
        rows += len(frame)
        await asyncio.sleep(seconds)
    return rows


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks end anywhere in a message, and rows reach over several."""
    monkeypatch.setattr(messages, "ROOM_BYTES", 8)
    monkeypatch.setattr(messages, "HEAD_BYTES", 30)
    monkeypatch.setattr(messages, "THREAD_BYTES", 300)
    monkeypatch.setattr(messages, "PIECE_BYTES", 0)


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=30)
@given(size=st.integers(1, 400), count=st.integers(0, 40))
async def test_where_chunks_end_changes_nothing(engine: AsyncEngine, size: int, count: int) -> None:
    sql = EVERY_TYPE.format(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "CHUNK_BYTES", size)
        assert await values(engine, sql) == await by_the_driver(engine, sql)


async def test_a_row_may_be_larger_than_all_buffers(engine: AsyncEngine) -> None:
    sql = "SELECT i, repeat(chr(64 + i), 3000000 * (i % 2)) AS t FROM generate_series(1, 4) AS i"
    frame = await citykit.read_frame(engine, sql)
    assert frame["t"].str.len().tolist() == [3_000_000, 0, 3_000_000, 0]
    assert frame["t"].iloc[2] == "C" * 3_000_000


async def test_parameters_and_statements_that_copy_cannot_run(engine: AsyncEngine) -> None:
    sql = "SELECT i, :t AS t FROM generate_series(1, :n) AS i WHERE i = ANY (:some) OR i > 2000"
    found = await values(engine, sql, {"n": 3_000, "some": [7, 9], "t": "it's $1"})
    assert found == [(i, "it's $1") for i in [7, 9, *range(2_001, 3_001)]]
    assert (await values(engine, "EXPLAIN SELECT 1"))[0][0].startswith("Result")
    async with engine.connect() as connection:
        await connection.execute(text("DECLARE many CURSOR FOR SELECT generate_series(1, 3000) AS i"))
        assert await values(connection, "FETCH ALL FROM many") == [(i,) for i in range(1, 3_001)]


@pytest.fixture
async def noisy(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """A server whose function noisy() says something else between two rows."""
    async with engine.begin() as connection:
        await connection.execute(text("DROP FUNCTION IF EXISTS noisy"))
        await connection.execute(
            text("""
            CREATE FUNCTION noisy(n integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
                IF n % 1000 = 0 THEN
                    RAISE NOTICE 'row %', n;
                    PERFORM set_config('application_name', 'row ' || n, false);
                END IF;
                RETURN n;
            END $$
        """)
        )
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("DROP FUNCTION noisy"))


async def test_what_else_the_server_says_reaches_the_driver(noisy: AsyncEngine) -> None:
    heard: list[str] = []
    async with noisy.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        raw.add_log_listener(lambda _, message: heard.append(message.message))
        found = await values(connection, "SELECT noisy(i) AS n FROM generate_series(1, 20000) AS i")
        assert found == [(i,) for i in range(1, 20_001)]
        assert heard == [f"row {n}" for n in range(1_000, 20_001, 1_000)]
        assert raw.get_settings().application_name == "row 20000"
        await connection.execute(text("RESET application_name"))


def message(kind: bytes, text: bytes) -> bytes:
    return kind + (len(text) + 4).to_bytes(4, "big") + text


NOTICE = message(b"N", b"SNOTICE\0C00000\0Mby the way\0\0")
FAREWELL = message(b"E", b"SFATAL\0C57P01\0Mshutting down\0\0")
BOUND = message(b"2", b"")


@dataclass
class Large:
    """Holds the next large answer of the server back to its end, and says something more then."""

    more: bytes
    ends: bool = False  # the connection, after that
    together: bool = True
    armed: bool = False
    held: bytes = b""

    def __call__(self, data: bytes) -> tuple[list[bytes], bool]:
        if not self.held and not (self.armed and data.startswith(BOUND)):
            return [data], False
        self.held += data
        if self.held[-6:-1] != READY:
            return [], False
        passed, self.held = self.held, b""
        if len(passed) < 10_000:
            return [passed], False
        self.armed = False
        return [passed + self.more] if self.together else [passed, self.more], self.ends


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
async def test_what_follows_upon_the_end_of_an_answer_keeps_nobody_waiting(
    engine: AsyncEngine, together: bool
) -> None:
    heard: list[str] = []
    answer = Large(more=NOTICE, together=together)
    async with proxied(engine, answer) as url:
        other = await citykit.connect(url)
        async with other.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            raw.add_log_listener(lambda _, message: heard.append(message.severity))
            for _ in range(2):
                answer.armed = True
                sql = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 400) AS i"
                assert await counted(citykit.stream_frames(connection, sql, chunk_rows=50), 0.01) == 400
        assert heard == ["NOTICE"] * 2
        await other.dispose()


def causes(exc: BaseException | None) -> str:
    """Return all that an exception tells of how it came to be."""
    return f"{exc}; {causes(exc.__cause__ or exc.__context__)}" if exc else ""


@pytest.mark.parametrize("waits", [False, True], ids=["while rows come", "while none come"])
async def test_a_connection_that_is_lost_in_the_middle_is_said(engine: AsyncEngine, waits: bool) -> None:
    sql = "SELECT generate_series(1, 2000000000) AS i, 'x' AS lost"
    if waits:
        sql = (
            "SELECT i, repeat('x', 200000 * (1 - i)), pg_sleep(i * 100)::text AS lost "
            "FROM generate_series(0, 1) AS i"
        )
    other = await citykit.connect(engine.url)
    async with other.connect() as connection:
        reading = asyncio.create_task(citykit.read_frame(connection, sql))
        await running(engine, "%AS lost%", True)
        await scalar(engine, KILL)
        with pytest.raises(citykit.DatabaseUnavailableError, match="lost") as caught:
            await reading
    if waits:  # the server can say why
        assert "administrator" in causes(caught.value)
    assert len(await values(other, EVERY_TYPE.format(2_000))) == 2_000
    await other.dispose()


async def test_an_answer_is_whole_or_an_error_where_the_connection_ends_behind_it(
    engine: AsyncEngine,
) -> None:
    sql = "SELECT generate_series(1, 200000) AS i"
    answer = Large(more=FAREWELL, ends=True)
    async with proxied(engine, answer) as url:
        other = await citykit.connect(url)
        answer.armed = True
        async with other.connect() as connection:
            with pytest.raises(citykit.DatabaseUnavailableError, match="lost"):
                await values(connection, sql)
        answer.armed = True
        assert len(await values(other, sql)) == 200_000  # on another connection
        answer.armed = True
        async with other.connect() as connection:
            frames = citykit.stream_frames(connection, sql, chunk_rows=1_000)
            with pytest.raises(citykit.DatabaseUnavailableError, match="lost"):
                await counted(frames, 0.001)
        await other.dispose()


@pytest.mark.parametrize(
    ("seconds", "unpacking"), [(0, 0), (0.01, 0), (0, 0.03)], ids=["at once", "slowly", "in a thread"]
)
async def test_a_time_out_of_the_driver_leaves_a_connection_that_works(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, seconds: float, unpacking: float
) -> None:
    def unpack(*args: Any) -> Any:
        time.sleep(unpacking)
        return unpack_rows(*args)

    monkeypatch.setattr(messages, "unpack", unpack)
    sql = "SELECT generate_series(1, 2000000000) AS i, repeat('x', 100) AS t"
    hasty = await citykit.connect(
        engine.url, pool_size=1, max_overflow=0, connect_args={"command_timeout": 0.2}
    )
    async with hasty.connect() as connection, asyncio.timeout(30):
        for _ in range(5):
            with pytest.raises(citykit.CitykitError, match="command_timeout"):
                await counted(citykit.stream_frames(connection, sql, chunk_rows=1_000), seconds)
            await connection.rollback()
            found = await values(connection, "SELECT generate_series(1, 2000) AS i")
            assert found == [(i,) for i in range(1, 2_001)]
    await hasty.dispose()


async def test_rows_that_come_slowly_are_not_kept_waiting(engine: AsyncEngine) -> None:
    lock = 0x6C61_7465
    sql = (  # in rows so large that the server sends each; the last waits for a lock
        "SELECT i, repeat('x', 20000) AS t FROM generate_series(1, 4) AS i, "  # noqa: S608
        f"LATERAL (SELECT CASE i WHEN 4 THEN pg_advisory_xact_lock({lock}) END) AS slow"
    )
    seen: list[int] = []
    async with engine.connect() as holder, asyncio.timeout(60):
        await holder.execute(text(f"SELECT pg_advisory_lock({lock})"))
        async for frame in citykit.stream_frames(engine, sql, chunk_rows=1):
            seen.extend(frame["i"])
            if seen == [1]:
                await holder.execute(text(f"SELECT pg_advisory_unlock({lock})"))
    assert seen == [1, 2, 3, 4]


async def test_a_value_that_cannot_be_sent_leaves_a_connection_that_works(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        sql = "SELECT i FROM generate_series(1, 5000) AS i WHERE i > :least"
        assert "'least' cannot be sent" in await failure(citykit.read_frame(connection, sql, {"least": 1j}))
        assert len(await citykit.read_frame(connection, sql, {"least": 10})) == 4_990


async def test_the_server_sends_no_text_that_is_not_utf8(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("DROP DATABASE IF EXISTS bytes"))
        await connection.execute(
            text("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        )
        other = await citykit.connect(engine.url.set(database="bytes"))
        sql = "SELECT E'caf{}' AS name FROM generate_series(1, 2000) AS i"
        assert "UTF8" in await failure(citykit.read_frame(other, sql.format("\\351")))
        assert len(await citykit.read_frame(other, sql.format("\\303\\251"))) == 2_000
        await other.dispose()
        await connection.execute(text("DROP DATABASE bytes"))


async def test_a_connection_in_another_encoding_reads_the_same(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET LOCAL client_encoding = 'LATIN1'"))
        found = await values(connection, "SELECT chr(233) AS t FROM generate_series(1, 2000)")
        assert found == [("é",)] * 2_000


async def test_two_reads_on_one_connection_are_refused_and_nothing_is_lost(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        raw: Any = (await connection.get_raw_connection()).driver_connection
        reading = asyncio.create_task(values(connection, "SELECT generate_series(1, 200000) AS i"))
        async with asyncio.timeout(5):
            while not isinstance(raw._transport.get_protocol(), asyncio.BufferedProtocol):  # noqa: ASYNC110
                await asyncio.sleep(0)
        with pytest.raises(asyncpg.InterfaceError, match="another operation"):
            await raw.fetch("SELECT 1")
        assert await reading == [(i,) for i in range(1, 200_001)]
