"""What the error of each SQLSTATE says to type works when it is typed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import citykit
from citykit.database.server_errors import _CONNECTION_HINTS, _STATEMENT_HINTS
from citykit.database.sqlstates import Condition
from tests.database.test_conflicts import refused
from tests.support.database import copy_home, crash, execute, scalar
from tests.support.pgbouncer import needs_pgbouncer
from tests.support.pgbouncer import pooled as behind_pgbouncer
from tests.support.tls import TlsServer, needs_tls, tls_server

FRAME = pd.DataFrame({"name": ["a"], "population": [1]})
ROLE = "citykit_newcomer"
SECRET = "n3wc0mer"  # noqa: S105


async def said(helper: Awaitable[Any], code: str) -> str:
    """Return the message of an error that has this SQLSTATE as its cause."""
    with pytest.raises(citykit.CitykitError) as caught:
        await helper
    assert code_of(caught.value) == code
    return str(caught.value)


def code_of(error: citykit.CitykitError) -> str | None:
    """Return the SQLSTATE of the server's error that is the cause of this one."""
    cause: Any = error.__cause__
    return getattr(getattr(cause, "orig", cause), "sqlstate", None)


def after_the_colon(message: str) -> str:
    return message.rpartition(": ")[2]


async def type_python(line: str, **names: Any) -> Any:
    """Execute what a user types in a cell; return the value of the last expression."""
    *before, last = line.split("; ")
    body = "".join(f"    {statement}\n" for statement in [*before, f"return {last}"])
    made: dict[str, Any] = {}
    exec(f"async def typed({', '.join(names)}):\n{body}", {"citykit": citykit}, made)  # noqa: S102
    return await made["typed"](**names)


@asynccontextmanager
async def with_settings(engine: AsyncEngine, **settings: str) -> AsyncIterator[AsyncEngine]:
    other = await citykit.connect(engine.url, connect_args={"server_settings": settings})
    yield other
    await other.dispose()


async def connects_anew(engine: AsyncEngine, message: str, helper: Callable[[Any], Awaitable[Any]]) -> None:
    """Type the call of `connect` that a message ends with, and use the engine that it makes."""
    found = re.search(r"await citykit\.connect\(.*\)", message)
    assert found
    typed = await type_python(found[0], url=engine.url)
    await helper(typed)
    await typed.dispose()


async def dependent(engine: AsyncEngine) -> None:
    await execute(engine, "CREATE VIEW big AS SELECT * FROM cities")
    message = await said(citykit.create_tables(engine, reset=True), "2BP01")
    await execute(engine, after_the_colon(message))
    await citykit.create_tables(engine, reset=True)


async def no_table(engine: AsyncEngine) -> None:
    made = "CREATE MATERIALIZED VIEW cities AS SELECT * FROM kept"
    await execute(engine, "ALTER TABLE cities RENAME TO kept", made)
    message = await said(citykit.add_city(engine, "a", 1), "42809")
    await execute(engine, after_the_colon(message), "DROP MATERIALIZED VIEW other_name", "DROP TABLE kept")
    await citykit.create_tables(engine)
    await citykit.add_city(engine, "a", 1)


async def read_only(engine: AsyncEngine) -> None:
    async with with_settings(engine, default_transaction_read_only="on") as other:
        message = await said(citykit.add_city(other, "a", 1), "25006")
    await connects_anew(engine, message, lambda typed: citykit.add_city(typed, "a", 1))


async def autocommit(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        message = await said(citykit.load_cities(connection, FRAME), "25P01")
        await type_python(message.partition("or first: ")[2], connection=connection)
        await citykit.load_cities(connection, FRAME)
        await connection.commit()
    assert await scalar(engine, "SELECT count(*) FROM cities") == 1


async def failed(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.exec_driver_sql("SELECT 1/0")
        message = await said(citykit.biggest_cities(connection), "25P02")
        await type_python(after_the_colon(message), connection=connection)
        await citykit.biggest_cities(connection)


def run_again(code: str) -> Callable[[AsyncEngine], Awaitable[None]]:
    async def again(engine: AsyncEngine) -> None:
        await refused(engine, code, 3, deferred=False)
        message = await said(citykit.add_city(engine, "a", 1), code)
        if code == Condition.DISK_FULL:
            await refused(engine, code, 0, deferred=False)
        assert "run it again" in message
        await citykit.add_city(engine, "a", 1)

    return again


async def without_a_right(engine: AsyncEngine) -> None:
    await execute(engine, f"DROP ROLE IF EXISTS {ROLE}", f"CREATE ROLE {ROLE} LOGIN PASSWORD '{SECRET}'")
    other = await citykit.connect(engine.url.set(username=ROLE, password=SECRET))
    message = await said(citykit.biggest_cities(other), "42501")
    await execute(engine, after_the_colon(message))
    await citykit.add_city(other, "a", 1)
    await citykit.load_cities(other, FRAME, on_conflict="update")
    assert len(await citykit.biggest_cities(other)) == 1
    await other.dispose()
    await execute(engine, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


async def test_where_no_grant_helps_the_servers_own_hint_is_said(engine: AsyncEngine) -> None:
    await execute(engine, f"DROP ROLE IF EXISTS {ROLE}", f"CREATE ROLE {ROLE} LOGIN PASSWORD '{SECRET}'")
    other = await citykit.connect(engine.url.set(username=ROLE, password=SECRET))
    await execute(engine, f"GRANT ALL ON cities TO {ROLE}")
    message = await said(citykit.execute(other, "COPY cities FROM '/etc/passwd'"), "42501")
    assert message.count("HINT") == 1
    assert "GRANT" not in message
    await other.dispose()
    await execute(engine, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


async def other_columns(engine: AsyncEngine) -> None:
    await execute(engine, "ALTER TABLE cities DROP COLUMN region")
    message = await said(citykit.biggest_cities(engine), "42703")
    await type_python(after_the_colon(message), engine=engine)
    await citykit.biggest_cities(engine)


async def pooled(engine: AsyncEngine, spoiled: str, code: str) -> None:
    async with engine.connect() as connection:
        await citykit.add_city(connection, "a", 1)
        await connection.exec_driver_sql(spoiled)
        message = await said(citykit.add_city(connection, "b", 1), code)
        assert "pooler" in message
    await connects_anew(engine, message, lambda typed: citykit.add_city(typed, "a", 1))


async def statement_is_gone(engine: AsyncEngine) -> None:
    await pooled(engine, "DEALLOCATE ALL", "26000")


async def statement_is_there(engine: AsyncEngine) -> None:
    # asyncpg numbers the statements of a process: those after the last one are taken here.
    last = "max(('x' || lpad(substring(name FROM '__asyncpg_stmt_(.*)__'), 8, '0'))::bit(32)::int)"
    await pooled(
        engine,
        f"DO $$ DECLARE last int := (SELECT {last} FROM pg_prepared_statements); "  # noqa: S608
        "BEGIN FOR n IN last + 1 .. last + 2000 LOOP BEGIN "
        "EXECUTE format('PREPARE __asyncpg_stmt_%s__ AS SELECT 1', to_hex(n)); "
        "EXCEPTION WHEN duplicate_prepared_statement THEN NULL; END; END LOOP; END $$",
        "42P05",
    )


@asynccontextmanager
async def locked(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        yield connection


async def held(engine: AsyncEngine) -> None:
    async with with_settings(engine, lock_timeout="50ms") as other:
        async with locked(engine):
            message = await said(citykit.biggest_cities(other), "55P03")
        assert "run it again" in message
        await citykit.biggest_cities(other)


async def no_schema(engine: AsyncEngine) -> None:
    async with with_settings(engine, search_path="nowhere") as other:
        message = await said(citykit.create_tables(other), "3F000")
    await connects_anew(engine, message, citykit.create_tables)


async def too_slow(engine: AsyncEngine) -> None:
    async with with_settings(engine, statement_timeout="1s") as other, locked(engine):
        message = await said(citykit.biggest_cities(other), "57014")
    await connects_anew(engine, message, citykit.biggest_cities)


STATEMENTS: dict[str, Callable[[AsyncEngine], Awaitable[None]]] = {
    Condition.DEPENDENT_OBJECTS_STILL_EXIST: dependent,
    Condition.WRONG_OBJECT_TYPE: no_table,
    Condition.READ_ONLY_SQL_TRANSACTION: read_only,
    Condition.NO_ACTIVE_SQL_TRANSACTION: autocommit,
    Condition.IN_FAILED_SQL_TRANSACTION: failed,
    Condition.SERIALIZATION_FAILURE: run_again("40001"),
    Condition.DEADLOCK_DETECTED: run_again("40P01"),
    Condition.INSUFFICIENT_PRIVILEGE: without_a_right,
    Condition.UNDEFINED_COLUMN: other_columns,
    Condition.INVALID_SQL_STATEMENT_NAME: statement_is_gone,
    Condition.DUPLICATE_PREPARED_STATEMENT: statement_is_there,
    Condition.DISK_FULL: run_again("53100"),
    Condition.LOCK_NOT_AVAILABLE: held,
    Condition.INVALID_SCHEMA_NAME: no_schema,
    Condition.QUERY_CANCELED: too_slow,
}


def test_each_hint_about_a_statement_is_typed() -> None:
    assert STATEMENTS.keys() == _STATEMENT_HINTS.keys()


@pytest.mark.parametrize("code", STATEMENTS)
async def test_what_the_error_of_a_statement_says_works(engine: AsyncEngine, code: str) -> None:
    await STATEMENTS[code](engine)


# Connections


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with tls_server() as running:
        yield running


@pytest.fixture
async def admin(server: TlsServer) -> AsyncIterator[AsyncEngine]:
    engine = await citykit.connect(server.url(sslmode="require"), isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


async def refusal(url: URL | str, code: str) -> str:
    message = await said(citykit.connect(url), code)
    assert message.startswith("No connection to ")
    return message


async def connects(url: URL | str) -> None:
    await (await citykit.connect(url)).dispose()


async def connected_in_time(url: URL) -> AsyncEngine:
    """Connect when the server, which may count a closed connection a moment longer, allows one more."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await citykit.connect(url)
            except citykit.DatabaseUnavailableError as error:
                if code_of(error) != "53300":
                    raise


async def command(engine: AsyncEngine, sql: str) -> None:
    async with engine.connect() as connection:
        await connection.exec_driver_sql(sql)


async def a_newcomer(server: TlsServer, admin: AsyncEngine) -> URL:
    """A role that is made, let in and given a password by what three errors say."""
    url = make_url(server.url(ROLE, host="127.0.0.1")).set(password="new")  # noqa: S106
    message = await refusal(url, "28000")
    created = re.search(r"CREATE ROLE \w+ LOGIN", message)
    assert created
    hba = server.folder / "data" / "pg_hba.conf"
    await command(admin, f"DROP ROLE IF EXISTS {ROLE}")
    await command(admin, created[0])
    hba.write_text(f"{hba.read_text(encoding='utf-8')}{after_the_colon(message)}\n", encoding="utf-8")
    await command(admin, "SELECT pg_reload_conf()")
    await command(admin, after_the_colon(await refused_in_time(url, "28P01")))
    await connects(url)
    return url


async def refused_in_time(url: URL, code: str) -> str:
    """Return the refusal of this SQLSTATE, which comes once the server has read its pg_hba.conf again."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(AssertionError):
                return await refusal(url, code)


# What follows -c, and the SQLSTATE by which a server refuses it.
OPTIONS = {
    "no_such_setting=1": "42704",
    "work_mem=much": "22023",
    "work_mem": "42601",
    "port=1": "55P02",
    "local_preload_libraries=nowhere": "58P01",
}


@needs_tls
@pytest.mark.server
async def test_a_server_that_takes_encrypted_connections_alone(server: TlsServer) -> None:
    message = await refusal(server.url(sslmode="disable"), "28000")
    [asked, instead] = re.findall(r"sslmode=(\w+)", message.partition("(hostssl")[2])
    assert instead == "disable"
    await connects(server.url(sslmode=asked))


@needs_tls
@pytest.mark.server
async def test_what_the_error_of_a_connection_says_works(server: TlsServer, admin: AsyncEngine) -> None:
    url = await a_newcomer(server, admin)
    # The role may not log in.
    await command(admin, f"ALTER ROLE {ROLE} NOLOGIN")
    allowed = re.search(r"ALTER ROLE \w+ LOGIN", await refusal(url, "28000"))
    assert allowed
    await command(admin, allowed[0])
    await connects(url)
    # A database that is not there, with a name that SQL has to quote.
    hba = server.folder / "data" / "pg_hba.conf"
    hba.write_text(f"{hba.read_text(encoding='utf-8')}host all {ROLE} all scram-sha-256\n", encoding="utf-8")
    await command(admin, "SELECT pg_reload_conf()")
    elsewhere = url.set(database="No such")
    await command(admin, after_the_colon(await refused_in_time(elsewhere, "3D000")))
    await connects(elsewhere)
    # A right that is lacking.
    await command(admin, 'REVOKE CONNECT ON DATABASE "No such" FROM PUBLIC')
    await command(admin, after_the_colon(await refusal(elsewhere, "42501")))
    await connects(elsewhere)
    # An option that the server does not know, or whose value it does not take.
    for option, code in OPTIONS.items():
        odd = url.update_query_dict({"options": f"-c {option}"})
        assert "Change that in the URL" in await refusal(odd, code)
        await connects(odd.difference_update_query(["options"]))
    # One that the role may not set.
    odd = url.update_query_dict({"options": "-c log_statement=all"})
    assert "leave that out of the URL" in await refusal(odd, "42501")
    await connects(odd.difference_update_query(["options"]))
    # No connection left.
    await command(admin, f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    engine = await connected_in_time(url)
    await type_python(after_the_colon(await refusal(url, "53300")), engine=engine)
    await (await connected_in_time(url)).dispose()


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialised: Path) -> AsyncIterator[Path]:
    copy_home(initialised, tmp_path / "home")
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    yield tmp_path / "home"
    with contextlib.suppress(FileNotFoundError):
        crash(tmp_path / "home", signal.SIGQUIT)


@needs_pgbouncer
async def test_a_setting_that_a_pooler_does_not_take(engine: AsyncEngine) -> None:
    async with behind_pgbouncer(engine) as url:
        in_url = url.update_query_dict({"options": "-c statement_timeout=600s"})
        in_args: dict[str, Any] = {"server_settings": {"statement_timeout": "600s"}}
        for target, arguments in ((in_url, {}), (url, in_args)):
            with pytest.raises(citykit.DatabaseUnavailableError) as caught:
                await citykit.connect(target, connect_args=arguments)
            assert "leave that out of the URL, of connect_args and of the environment" in str(caught.value)
        try:
            await execute(engine, after_the_colon(str(caught.value)).replace("ada", "CURRENT_USER"))
            other = await citykit.connect(url)
            shown = await citykit.read_frame(other, "SHOW statement_timeout")
            assert shown.iloc[0, 0] == "10min"
            await other.dispose()
        finally:
            await execute(engine, "ALTER ROLE CURRENT_USER RESET statement_timeout")


async def test_a_server_that_stops_is_there_in_a_moment(home: Path) -> None:
    engine = await citykit.connect()
    url = make_url(engine.url)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
        postmaster = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGTERM)  # it stops when this connection has ended
        assert "try again in a moment" in await refusal(url, "57P03")
    await engine.dispose()
    await connects(await _started_again())


async def _started_again() -> URL:
    engine = await citykit.connect()
    await engine.dispose()
    return engine.url


@pytest.mark.server
def test_each_hint_about_a_connection_is_typed() -> None:
    tried = {"08P01", "22", "28P01", "28000", "3D000", "42", "42501", "53300", "55P02", "57P03", "58P01"}
    assert set(_CONNECTION_HINTS) == tried
