from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

import citykit
from citykit.database.driver import KEEPALIVE
from citykit.database.transactions import in_transaction
from citykit.database.urls import asyncpg_url, shown_url, socket_options
from tests.support.database import scalar, stored
from tests.support.ports import held_port
from tests.support.proxy import proxied

SECRET = "s3cr3t-w0rd"  # noqa: S105


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    with held_port() as port:
        yield port


@asynccontextmanager
async def until_closed() -> AsyncIterator[None]:
    """Wait until the connections that were opened meanwhile are closed.

    asyncpg leaves that of a refused login to the loop to close; over TLS this waits for the server's answer,
    and the loop of a test could end before.
    """
    loop = asyncio.get_running_loop()
    create, opened = loop.create_connection, list[asyncio.Transport]()

    async def noted(*args: Any, **options: Any) -> Any:
        made = await create(*args, **options)
        opened.append(made[0])
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "create_connection", noted)
        yield
    while not all(transport.is_closing() for transport in opened):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def refusal(url: Any, **options: Any) -> str:
    """The message, after having seen that no secret is anywhere in the traceback."""
    async with asyncio.timeout(60), until_closed():
        with pytest.raises(citykit.DatabaseUnavailableError) as caught:
            await citykit.connect(url, **options)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


async def test_a_server_that_is_not_there(closed_port: int) -> None:
    said = await refusal(f"postgresql://ada:{SECRET}@127.0.0.1:{closed_port}/geo")
    assert f"postgresql://ada:***@127.0.0.1:{closed_port}/geo" in said
    assert "CITYKIT_URL" in said


async def test_a_server_that_never_answers(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citykit.database.engine.CONNECT_SECONDS", 0.5)  # instead of 4.5
    said = await refusal(f"postgresql://ada:{SECRET}@127.0.0.1:{silent_port}/geo")
    assert "no answer within 0.5 s" in said


async def test_a_host_that_does_not_exist() -> None:
    said = await refusal(f"postgresql://ada:{SECRET}@no-such-host.invalid/geo")
    assert "no-such-host.invalid" in said


async def test_a_socket_that_does_not_exist() -> None:
    said = await refusal(f"postgresql://ada:{SECRET}@/geo?host=/nowhere")
    assert "/nowhere" in said


async def test_a_database_and_a_user_that_do_not_exist(engine: AsyncEngine) -> None:
    url = engine.url.set(database="no_such_database")
    said = await refusal(url)
    assert "no_such_database" in said
    assert said.endswith("CREATE DATABASE no_such_database")
    said = await refusal(engine.url.set(username="no_such_user", password=SECRET))
    assert "no_such_user" in said


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://ada:{SECRET}@localhost/geo",
        f"sqlite:///{SECRET}.db",
        "sqlite://",
        f"http://ada:{SECRET}@localhost",
        f"ada {SECRET}",
        "cities",
        f"postgresql://ada:{SECRET}@localhost:port/geo",
        f"postgresql://127.0.0.1:1/geo?password={SECRET}",
        f"postgresql://ada:p@{SECRET}@127.0.0.1:1/geo",
        f"postgresql://ada:p@127.0.0.1:1/{SECRET}@127.0.0.1:1/geo",
        f"postgresql://ada:p@{SECRET}@127.0.0.1:1,127.0.0.1:2/geo",
        f"postgresql://ada:p@h?{SECRET}@127.0.0.1:1/geo",
        f"postgresql://ada:p@h?a={SECRET}@127.0.0.1:1/geo",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/geo?no_such_option=1",
    ],
)
async def test_urls_that_cannot_be_used(url: str) -> None:
    said = await refusal(url)
    assert SECRET not in said
    if url.count("@") > 1:
        assert "The database URL cannot be read" in said


async def test_a_port_that_cannot_be(engine: AsyncEngine) -> None:
    assert engine.url
    said = await refusal(f"postgresql://ada:{SECRET}@127.0.0.1:99999/geo")
    assert "99999" in said


async def test_engine_options_that_do_not_exist(engine: AsyncEngine) -> None:
    said = await refusal(engine.url, no_such_option=1)
    assert "no_such_option" in said


@pytest.mark.parametrize("name", ["lock_timeout", "silence_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, None, "30", True, np.int64(0), float("nan"), float("inf"), 3e6])
async def test_a_timeout_is_a_number_of_seconds_above_0(
    engine: AsyncEngine, name: str, seconds: object
) -> None:
    options: Any = {name: seconds}
    with pytest.raises(ValueError, match=f"{name} is a number of seconds above 0"):
        await citykit.connect(engine.url, **options)


@pytest.mark.parametrize("name", ["pool_size", "max_overflow", "pool_timeout", "pool_recycle"])
@pytest.mark.parametrize("value", [None, "3"])
async def test_an_option_of_the_pool_is_a_number(engine: AsyncEngine, name: str, value: object) -> None:
    options: Any = {name: value}
    with pytest.raises(ValueError, match=f"{name} is a number, not {value!r}"):
        await citykit.connect(engine.url, **options)


async def test_engine_options_are_passed_on(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url, pool_size=3, echo=False)
    assert other.pool.size() == 3  # type: ignore[attr-defined]
    await other.dispose()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://ada@h:1/geo", "postgresql+asyncpg://ada@h:1/geo"),
        ("postgres://ada@h:1/geo", "postgresql+asyncpg://ada@h:1/geo"),
        ("postgresql+asyncpg://ada@h/geo", "postgresql+asyncpg://ada@h/geo"),
        ("postgresql+psycopg://ada@h/geo", "postgresql+asyncpg://ada@h/geo"),
        ("postgresql://ada:p@%2Fsrv%2fa%20b/geo", "postgresql+asyncpg://ada:p@/geo?host=/srv/a+b"),
        ("postgresql://ada@%2Fsrv:1/geo?geqo=on", "postgresql+asyncpg://ada@/geo?host=/srv&port=1&geqo=on"),
        (
            "postgresql://ada@%2Fsrv,%2ftmp:1/geo",
            "postgresql+asyncpg://ada@/geo?host=/srv,/tmp&port=5432,1",
        ),
        ("postgresql://ada@[fe80::1%252F]/geo", "postgresql+asyncpg://ada@[fe80::1%252F]/geo"),
        ("postgresql://ada:p,w@h/geo", "postgresql+asyncpg://ada:p%2Cw@h/geo"),
        ("postgresql://ada:1,secret@h?ssl=require", "postgresql+asyncpg://ada:1%2Csecret@h?ssl=require"),
        ("postgresql://ada:p,w@h,i:2/geo", "postgresql+asyncpg://ada:p%2Cw@/geo?host=h,i&port=5432,2"),
        (
            "postgresql://h/geo?sslmode=require&channel_binding=prefer&fallback_application_name=x",
            "postgresql+asyncpg://h/geo?application_name=x&ssl=require",
        ),
    ],
)
def test_urls_are_sent_through_asyncpg(given: str, used: str) -> None:
    assert asyncpg_url(given) == make_url(used)
    assert asyncpg_url(make_url(given)) == make_url(used)


def test_a_url_object_may_have_the_directory_of_a_socket_as_its_host() -> None:
    url = URL.create("postgresql", "ada", host="/run/postgresql", database="geo")
    assert asyncpg_url(url) == make_url("postgresql+asyncpg://ada@/geo?host=/run/postgresql")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("channel_binding=require", "sslmode=verify-full"),
        ("client_encoding=latin1", "UTF-8"),
        ("gssencmode=require", "sslmode=require"),
        ("hostaddr=127.0.0.1", "as the host"),
        ("load_balance_hosts=random", "in their order"),
        ("require_auth=scram-sha-256", "sslmode=verify-full"),
        ("requiressl=1", "sslmode=require"),
        (f"sslpassword={SECRET}", "SSLContext"),
        ("service=geo", "into the URL"),
        ("sslmodes=require", "did you mean 'sslmode'"),
        ("connect_timeout=soon", "whole number"),
        ("statement_cache_size=-1", "whole number"),
        ("direct_tls=maybe", "1 or 0"),
        ("sslrootcert=/no/such/file&sslmode=verify-full", "/no/such/file"),
        ("sslrootcert=system", "ssl.create_default_context()"),
        ("requirepeer=postgres", "sslmode=verify-full"),
        ("sslcertmode=require", "SSLContext"),
        ("sslcrldir=/revoked", "sslcrl=FILE"),
        ("min_protocol_version=3.2", "3.0"),
        ("target_session_attrs=nothing", "target_session_attrs"),
    ],
)
async def test_an_option_of_the_url_is_refused_by_its_name(closed_port: int, option: str, said: str) -> None:
    message = await refusal(f"postgresql://ada@127.0.0.1:{closed_port}/geo?{option}")
    assert option.partition("=")[0] in message
    assert said in message
    assert "server runs there" not in message


@pytest.mark.parametrize("name", ["client_encoding", "Client_Encoding"])
async def test_another_encoding_than_utf_8_is_refused_in_the_server_settings(
    engine: AsyncEngine, name: str
) -> None:
    for url in (engine.url, None):
        for value in ("LATIN1", "sql_ascii"):
            said = await refusal(url, connect_args={"server_settings": {name: value}})
            assert f"The setting '{name}' of connect_args is not supported: leave it out" in said
    for value in ("UTF8", "utf-8"):
        other = await citykit.connect(engine.url, connect_args={"server_settings": {name: value}})
        read = await citykit.read_frame(other, "SELECT :v AS v, 'ü' AS w", {"v": "ü"})
        assert read.to_numpy().tolist() == [["ü", "ü"]]
        await other.dispose()


async def test_an_encoding_among_the_options_changes_no_text(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url.update_query_dict({"options": "-c client_encoding=LATIN1"}))
    read = await citykit.read_frame(other, "SELECT :v AS v, 'ü' AS w", {"v": "ü"})
    assert read.to_numpy().tolist() == [["ü", "ü"]]
    await other.dispose()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PGCHANNELBINDING", "require", "sslmode=verify-full"),
        ("PGCLIENTENCODING", "LATIN1", "UTF-8"),
        ("PGCONNECT_TIMEOUT", "soon", "whole number"),
        ("PGGSSDELEGATION", "1", "credentials"),
        ("PGGSSENCMODE", "require", "sslmode=require"),
        ("PGHOSTADDR", "192.0.2.1", "as the host"),
        ("PGLOADBALANCEHOSTS", "random", "in their order"),
        ("PGMINPROTOCOLVERSION", "3.2", "3.0"),
        ("PGREQUIREAUTH", "none", "sslmode=verify-full"),
        ("PGREQUIREPEER", "postgres", "sslmode=verify-full"),
        ("PGSERVICE", "geo", "into the URL"),
        ("PGSSLCERTMODE", "require", "SSLContext"),
        ("PGSSLCRLDIR", "/revoked", "sslcrl=FILE"),
        ("PGSSLROOTCERT", "system", "ssl.create_default_context()"),
        ("PGSSLSNI", "0", "host's name"),
    ],
)
async def test_a_variable_that_cannot_be_honoured_is_refused_by_its_name(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    message = await refusal(engine.url)
    assert f"The environment variable '{name}'" in message
    assert said in message
    exec(message.rpartition(": ")[2], {"os": os})  # noqa: S102  what it says to type
    await (await citykit.connect(engine.url)).dispose()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGCHANNELBINDING", "prefer"),
        ("PGCHANNELBINDING", "disable"),
        ("PGCHANNELBINDING", ""),
        ("PGCLIENTENCODING", "UTF8"),
        ("PGCLIENTENCODING", "UNICODE"),
        ("PGGSSDELEGATION", "0"),
        ("PGGSSENCMODE", "prefer"),
        ("PGGSSENCMODE", "disable"),
        ("PGLOADBALANCEHOSTS", "disable"),
        ("PGMAXPROTOCOLVERSION", "latest"),
        ("PGMINPROTOCOLVERSION", "3.0"),
        ("PGOPTIONS", ""),
        ("PGREQUIRESSL", "0"),
        ("PGSERVICEFILE", "/nowhere"),
        ("PGSSLCERTMODE", "allow"),
        ("PGSSLCOMPRESSION", "0"),
        ("PGSSLMODE", "prefer"),
        ("PGSSLSNI", "1"),
        ("PGTARGETSESSIONATTRS", "any"),
    ],
)
async def test_a_variable_that_asks_for_what_is_done_anyway_is_no_obstacle(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    other = await citykit.connect(engine.url)
    assert other.url == engine.url
    await other.dispose()


@pytest.mark.parametrize(
    ("name", "value", "setting", "shown"),
    [
        ("PGAPPNAME", "ada", "application_name", "ada"),
        ("PGDATESTYLE", "German", "DateStyle", "German, DMY"),
        ("PGGEQO", "off", "geqo", "off"),
        ("PGOPTIONS", "-c work_mem=7MB -c geqo=off", "work_mem", "7MB"),
        ("PGTZ", "Asia/Tokyo", "TimeZone", "Asia/Tokyo"),
    ],
)
async def test_a_setting_of_the_environment_reaches_the_session(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, name: str, value: str, setting: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    other = await citykit.connect(engine.url)
    assert await scalar(other, f"SHOW {setting}") == shown
    await other.dispose()
    monkeypatch.setenv(name, "nonsense")
    again = await citykit.connect(other.url)  # what a URL has goes before it
    assert await scalar(again, f"SHOW {setting}") == shown
    await again.dispose()


@pytest.mark.parametrize(
    ("variables", "given", "used"),
    [
        ({"PGREQUIRESSL": "1"}, "", "ssl=require"),
        ({"PGREQUIRESSL": "1"}, "sslmode=verify-full", "ssl=verify-full"),
        ({"PGREQUIRESSL": "1", "PGSSLMODE": "verify-full"}, "", ""),  # asyncpg reads PGSSLMODE
        ({"PGCONNECT_TIMEOUT": "7"}, "", "connect_timeout=7"),
        ({"PGCONNECT_TIMEOUT": "7"}, "connect_timeout=2", "connect_timeout=2"),
        ({"PGCONNECT_TIMEOUT": "7"}, "timeout=2", "timeout=2"),
        ({"PGAPPNAME": "ada"}, "fallback_application_name=kit", "application_name=ada"),
        ({"PGCHANNELBINDING": "require"}, "channel_binding=disable", ""),
    ],
    ids=str,
)
def test_the_environment_supplies_the_options_that_a_url_leaves_out(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], given: str, used: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert asyncpg_url(f"postgresql://h/geo?{given}") == make_url(f"postgresql+asyncpg://h/geo?{used}")


async def test_a_setting_that_the_server_does_not_know_is_not_the_servers_absence(
    engine: AsyncEngine,
) -> None:
    said = await refusal(engine.url.update_query_dict({"options": "-c no_such_setting=1"}))
    assert "no_such_setting" in said
    assert "server runs there" not in said


async def test_a_server_in_another_role_is_not_a_server_that_is_absent(engine: AsyncEngine) -> None:
    said = await refusal(engine.url.update_query_dict({"target_session_attrs": "standby"}))
    assert "standby" in said
    assert "server runs there" not in said


async def test_of_several_hosts_one_may_be_absent_and_another_in_the_wrong_role(
    closed_port: int, engine: AsyncEngine
) -> None:
    async with proxied(engine, lambda data: ([data], False)) as url:
        ports = (closed_port, url.port), (url.port, closed_port)
        for first, second in ports:
            user = f"{url.username}:{quote(url.password or '', safe='')}"
            several = f"postgresql://{user}@127.0.0.1:{first},127.0.0.1:{second}"
            several += f"/{url.database}?target_session_attrs=read-only&sslmode=disable"
            said = await refusal(several)
            assert f"Connect call failed ('127.0.0.1', {closed_port})" in said
            assert "or is not what target_session_attrs=read-only asks for" in said
            await (await citykit.connect(several.replace("read-only", "read-write"))).dispose()


@pytest.mark.parametrize("part", ["username", "password", "host", "database", "application_name", "options"])
@pytest.mark.parametrize("odd", ["\udc80", "a\0b"], ids=ascii)
async def test_a_character_that_cannot_be_sent_is_refused(closed_port: int, part: str, odd: str) -> None:
    parts: Any = {"username": "ada", "password": "b", "host": "127.0.0.1", "database": "geo"}
    query = {part: odd} if part not in parts else {}
    parts |= {part: odd} if part in parts else {}
    said = await refusal(URL.create("postgresql", port=closed_port, query=query, **parts))
    assert part in said
    assert "nothing was sent" in said
    assert odd not in said


@pytest.mark.parametrize("variable", ["PGUSER", "PGPASSWORD", "PGDATABASE"])
async def test_a_byte_of_the_environment_that_is_no_utf_8_is_refused(
    monkeypatch: pytest.MonkeyPatch, closed_port: int, variable: str
) -> None:
    monkeypatch.setenv(variable, "\udcff")  # as which Python reads the byte
    assert variable in await refusal(f"postgresql://127.0.0.1:{closed_port}")
    assert "Connect call failed" in await refusal(f"postgresql://a:b@127.0.0.1:{closed_port}/geo")


async def test_a_password_of_connect_args_that_is_no_utf_8_is_not_the_servers_absence() -> None:
    login = b"R\0\0\0\x08\0\0\0\x03"  # AuthenticationCleartextPassword

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(login)
        await reader.read()  # to its end
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as serving:
        port = serving.sockets[0].getsockname()[1]
        said = await refusal(
            f"postgresql://ada@127.0.0.1:{port}/geo?sslmode=disable", connect_args={"password": "\udcff"}
        )
    assert "surrogates" in said
    assert "server runs there" not in said


async def test_an_option_of_the_url_reaches_the_session(engine: AsyncEngine) -> None:
    options = {"application_name": "ada", "options": "-c statement_timeout=61s -c geqo=off"}
    options |= {"target_session_attrs": "read-write", "connect_timeout": "4", "keepalives_idle": "7"}
    url = engine.url.update_query_dict(options)
    other = await citykit.connect(url)
    for _ in range(2):
        assert await scalar(other, "SHOW application_name") == "ada"
        assert await scalar(other, "SHOW statement_timeout") == "61s"
        assert await scalar(other, "SHOW geqo") == "off"
        await other.dispose()
    again = await citykit.connect(other.url)  # which has them still
    assert await scalar(again, "SHOW application_name") == "ada"
    await again.dispose()


@pytest.mark.parametrize(
    "option",
    [
        "statement_cache_size=0",
        "max_cacheable_statement_size=0",
        "max_cached_statement_lifetime=9",
        "prepared_statement_cache_size=0",
        "direct_tls=0",
        "direct_tls=false",
    ],
)
async def test_an_option_of_asyncpg_may_stand_in_the_url(engine: AsyncEngine, option: str) -> None:
    name, _, value = option.partition("=")
    other = await citykit.connect(engine.url.update_query_dict({name: value}))
    for _ in range(2):
        assert await scalar(other, "SELECT 1") == 1
        await other.dispose()


async def test_the_cache_of_statements_is_of_the_size_that_the_url_says(engine: AsyncEngine) -> None:
    for size, kept in (("0", 0), ("100", 1)):
        options = {"statement_cache_size": size, "prepared_statement_cache_size": "0"}
        other = await citykit.connect(engine.url.update_query_dict(options))
        async with other.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.fetch("SELECT 4711")
            counted = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 4711'"
            assert await raw.fetchval(counted) == kept
        await other.dispose()


async def test_a_socket_may_stand_in_the_place_of_the_host(engine: AsyncEngine) -> None:
    if not str(engine.url.query.get("host", "")).startswith("/"):
        pytest.skip("the server of the tests is reached over TCP")
    folder, port = str(engine.url.query["host"]).replace("/", "%2F"), engine.url.query["port"]
    user = engine.url.username
    for place in (f"{folder}:{port}", f"%2Fnowhere:{port},{folder}:{port}"):
        other = await citykit.connect(f"postgresql://{user}@{place}/{engine.url.database}")
        assert await scalar(other, "SELECT 1") == 1
        shown = shown_url(other.url)
        await other.dispose()
        again = await citykit.connect(shown)  # which is typed as it is shown
        assert await scalar(again, "SELECT 1") == 1
        await again.dispose()


@pytest.mark.parametrize(("asked", "seconds"), [("keepalives_idle=7", 7), ("keepalives=1", 30)])
def test_the_options_of_a_socket_come_from_the_url(asked: str, seconds: int) -> None:
    assert socket_options(asyncpg_url(f"postgresql://h/geo?{asked}"), KEEPALIVE)["TCP_KEEPIDLE"] == seconds
    assert socket_options(asyncpg_url("postgresql://h/geo?keepalives=0"), KEEPALIVE) == {}


async def test_the_url_comes_from_the_environment(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("CITYKIT_URL", f"postgresql://127.0.0.1:{closed_port}/geo")
    with pytest.raises(citykit.DatabaseUnavailableError, match=str(closed_port)):
        await citykit.connect()
    other = await citykit.connect(engine.url)  # an argument goes before it
    await other.dispose()


async def test_a_password_is_in_no_repr(engine: AsyncEngine) -> None:
    other = await citykit.connect(
        engine.url.set(password=SECRET) if engine.url.password is None else engine.url
    )
    password = other.url.password or SECRET
    assert password not in repr(other) + str(other) + repr(other.url)
    await other.dispose()


def test_a_password_among_the_options_is_hidden_too() -> None:
    url = asyncpg_url(f"postgresql://ada@h/geo?password={SECRET}")
    assert url.password == SECRET
    assert SECRET not in repr(url) + str(url)


async def test_a_connection_that_was_never_opened_is_said(engine: AsyncEngine) -> None:
    for helper in (citykit.biggest_cities, citykit.create_tables):
        with pytest.raises(citykit.CitykitError, match=r"never opened; nothing was sent\. Open it"):
            await helper(engine.connect())


async def test_a_session_without_an_engine_is_said(engine: AsyncEngine) -> None:
    for session in (AsyncSession(), AsyncSession(binds={citykit.City: engine})):
        with pytest.raises(citykit.CitykitError, match="bind"):
            await citykit.biggest_cities(session)
        await session.close()


async def test_a_lost_connection_is_said_and_the_next_call_works(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await scalar(engine, "SELECT pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises(citykit.DatabaseUnavailableError, match="lost"):
            await citykit.biggest_cities(connection)
    assert (await citykit.biggest_cities(engine)).empty


async def test_the_error_of_the_caller_passes_through(engine: AsyncEngine) -> None:
    async def insert_and_fail(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO cities (name, population) VALUES ('a', 1)"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await in_transaction(engine, insert_and_fail)
    assert await stored(engine) == {}


async def test_sessions_do_not_expire(engine: AsyncEngine) -> None:
    async with citykit.sessions(engine).begin() as session:
        city = await citykit.add_city(session, "Reykjavík", 118_918, country="IS")
    assert city.country == "IS"


async def test_connecting_can_be_cancelled(silent_port: int) -> None:
    connecting = asyncio.create_task(citykit.connect(f"postgresql://127.0.0.1:{silent_port}/geo"))
    await asyncio.wait([connecting], timeout=0.1)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


# Tables


async def test_creating_tables_is_idempotent_and_keeps_rows(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    await citykit.load_cities(engine, three_cities)
    await citykit.create_tables(engine)
    assert len(await stored(engine)) == 3
    await citykit.create_tables(engine, reset=True)
    assert await stored(engine) == {}


async def test_two_create_tables_at_once(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
    await asyncio.gather(*(citykit.create_tables(engine) for _ in range(4)))
    assert await stored(engine) == {}


async def test_resetting_and_asking_again_in_one_process(
    engine: AsyncEngine, three_cities: pd.DataFrame
) -> None:
    for _ in range(8):  # asyncpg keeps prepared statements: they must not outlive the table
        await citykit.create_tables(engine, reset=True)
        await citykit.load_cities(engine, three_cities)
        await citykit.load_cities(engine, three_cities, on_conflict="update")
        assert len(await citykit.biggest_cities(engine)) == 3


async def test_a_table_of_somebody_else_is_left_alone(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
        await connection.execute(text("CREATE TABLE cities (name text PRIMARY KEY, population integer)"))
        await connection.execute(text("INSERT INTO cities VALUES ('London', 5)"))
    with pytest.raises(citykit.CitykitError, match=r"not citykit's.*'country'.*reset=True"):
        await citykit.create_tables(engine)
    assert await scalar(engine, "SELECT count(*) FROM cities") == 1


async def test_a_table_without_the_key_is_not_citykits(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE cities DROP CONSTRAINT cities_key"))
    with pytest.raises(citykit.CitykitError, match=r"no unique key \(name, country, region\)"):
        await citykit.create_tables(engine)


async def test_a_reset_of_a_table_that_a_view_needs(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE VIEW big AS SELECT * FROM cities"))
    with pytest.raises(citykit.CitykitError, match="DROP TABLE cities CASCADE"):
        await citykit.create_tables(engine, reset=True)
    async with engine.begin() as connection:
        await connection.execute(text("DROP VIEW big"))


async def test_with_a_connection_the_caller_decides_about_the_tables(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("DROP TABLE cities"))
        await citykit.create_tables(connection)
        await connection.rollback()
    assert await stored(engine) == {}


@pytest.mark.parametrize(
    "values",
    ["('', 1)", "(repeat('x', 401), 1)", "('a', -1)", "(NULL, 1)", "('a', NULL)"],
)
async def test_the_table_itself_refuses_what_breaks_its_rules(engine: AsyncEngine, values: str) -> None:
    with pytest.raises(Exception, match="constraint"):
        async with engine.begin() as connection:
            await connection.execute(text(f"INSERT INTO cities (name, population) VALUES {values}"))  # noqa: S608


async def test_the_columns_and_indexes_are_those_of_the_house(engine: AsyncEngine) -> None:
    columns = await scalar(
        engine,
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || "
        "CASE WHEN attcollation = '\"C\"'::regcollation THEN ' C' ELSE '' END || "
        "CASE WHEN attnotnull THEN ' not null' ELSE '' END, ', ' ORDER BY attnum) "
        "FROM pg_attribute WHERE attrelid = 'cities'::regclass AND attnum > 0",
    )
    assert columns == (
        "id bigint not null, name text C not null, country text C not null, region text C not null, "
        "population integer not null, latitude double precision, longitude double precision"
    )
    indexes = await scalar(
        engine,
        "SELECT string_agg(substring(indexdef from '\\((.*)\\)'), '; ' ORDER BY indexdef) FROM pg_indexes "
        "WHERE tablename = 'cities'",
    )
    assert sorted(indexes.split("; ")) == [
        "country, population DESC, name",
        "id",
        "name, country, region",
        "population DESC, name",
    ]
