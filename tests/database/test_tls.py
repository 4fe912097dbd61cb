"""A server that is reached over TLS; several hosts; the environment's PG* variables."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import make_url

import citykit
from tests.database.test_engine import closed_port, refusal, silent_port
from tests.database.test_faults import idle_sessions, until_gone
from tests.support.database import scalar
from tests.support.tls import PASSWORD, TlsServer, needs_tls, tls_server

__all__ = ["closed_port", "silent_port"]  # fixtures
pytestmark = [pytest.mark.server, needs_tls]
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
NAMED = "citykit-idle"


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with tls_server() as running:
        yield running


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home directory without certificates."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


async def asked(url: Any, sql: str) -> Any:
    engine = await citykit.connect(url)
    try:
        return await scalar(engine, sql)
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("localhost", {}),
        ("127.0.0.1", {"sslmode": "require"}),
        ("127.0.0.1", {"sslmode": "verify-ca", "sslrootcert": "{}/ca.crt"}),
        ("localhost", {"sslmode": "verify-full", "sslrootcert": "{}/ca.crt"}),
        ("localhost", {"sslmode": "require", "ssl_min_protocol_version": "TLSv1.3"}),
        ("localhost", {"sslmode": "require", "direct_tls": "false"}),  # the server has it from version 17 on
    ],
    ids=str,
)
async def test_a_server_is_reached_over_tls(server: TlsServer, host: str, options: dict[str, str]) -> None:
    given = {name: value.format(server.folder) for name, value in options.items()}
    assert await asked(server.url(host=host, **given), ENCRYPTED)


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("localhost", {"sslmode": "disable"}, "pg_hba.conf"),
        ("127.0.0.1", {"sslmode": "verify-ca", "sslrootcert": "{}/other.crt"}, "certificate verify failed"),
        ("localhost", {"sslmode": "verify-full", "sslrootcert": "{}/other.crt"}, "certificate verify failed"),
        ("127.0.0.1", {"sslmode": "verify-full", "sslrootcert": "{}/ca.crt"}, "127.0.0.1"),
        ("localhost", {"sslmode": "verify-full"}, "root.crt"),
    ],
    ids=str,
)
async def test_a_server_that_cannot_be_trusted_is_refused(
    server: TlsServer, host: str, options: dict[str, str], said: str
) -> None:
    given = {name: value.format(server.folder) for name, value in options.items()}
    message = await refusal(server.url(host=host, **given))
    assert said in message
    assert "server runs there" not in message


@pytest.mark.parametrize("where", ["sslrootcert=", "PGSSLROOTCERT"])
async def test_the_authorities_of_the_system_are_trusted_by_what_the_refusal_says(
    server: TlsServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    options = {"sslrootcert": "system"} if where == "sslrootcert=" else {}
    if where == "PGSSLROOTCERT":
        monkeypatch.setenv(where, "system")
    said = await refusal(server.url(sslmode="verify-full", **options))
    typed = re.search(r"connect_args=(.*\)})", said)
    assert typed
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    for authority, trusted in (("ca", True), ("other", False)):
        monkeypatch.setenv("SSL_CERT_FILE", str(server.folder / f"{authority}.crt"))
        arguments = eval(typed[1], {"ssl": ssl})  # noqa: S307
        if trusted:
            await (await citykit.connect(server.url(), connect_args=arguments)).dispose()
        else:
            assert "certificate verify failed" in await refusal(server.url(), connect_args=arguments)


async def test_a_client_is_let_in_by_its_certificate(server: TlsServer) -> None:
    options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": server.folder / "ca.crt"}
    files: dict[str, Any] = {"sslcert": server.folder / "ada.crt", "sslkey": server.folder / "ada.key"}
    assert await asked(server.url("ada", **options, **files), "SELECT current_user") == "ada"
    said = await refusal(server.url("ada", **options))
    assert "certificate" in said
    assert "server runs there" not in said
    files = {"sslcert": server.folder / "other.crt", "sslkey": server.folder / "other.key"}
    said = await refusal(server.url("ada", **options, **files))
    assert "server runs there" not in said, said


@pytest.mark.parametrize("rows", [10, 25_000])
async def test_helpers_work_over_tls(server: TlsServer, rows: int) -> None:
    engine = await citykit.connect(server.url(sslmode="require"))
    await citykit.create_tables(engine, reset=True)
    frame = pd.DataFrame({"name": [str(number) for number in range(rows)], "population": range(rows)})
    assert (await citykit.load_cities(engine, frame)).inserted == rows
    for columns in ("name, population", "name, population, CURRENT_DATE AS day"):
        sql = f"SELECT {columns} FROM cities ORDER BY population"  # noqa: S608
        read = await citykit.read_frame(engine, sql)
        assert read["name"].tolist() == frame["name"].tolist()
        frames = [part async for part in citykit.stream_frames(engine, sql, chunk_rows=1000)]
        assert pd.concat(frames).equals(read)
    await engine.dispose()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the loop that is only closed
@pytest.mark.parametrize("how", ["ended", "closed"])
def test_the_connections_of_a_loop_end_with_it_over_tls(server: TlsServer, how: str) -> None:
    url = server.url(sslmode="require", application_name=NAMED)
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(citykit.connect(url))
    if how == "ended":
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

    async def goes_on() -> None:
        await citykit.create_tables(engine)
        watching = await citykit.connect(server.url())
        async with watching.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            mine = await scalar(engine, "SELECT pg_backend_pid()")
            await until_gone(raw, await idle_sessions(raw) - {mine})
        await watching.dispose()

    asyncio.run(goes_on())
    gc.collect()


# Several hosts


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://postgres@127.0.0.1:{closed},localhost:{port}/postgres",
        "postgresql://postgres@/postgres?host=127.0.0.1,localhost&port={closed},{port}",
        "postgresql://postgres@/postgres?host=/nowhere,localhost&port={port}",
        "postgresql://postgres@/postgres?host=127.0.0.1:{closed}&host=localhost:{port}",
        "postgresql://postgres@[::1]:{closed},localhost:{port}/postgres",
    ],
)
async def test_the_next_of_several_hosts_is_tried(server: TlsServer, closed_port: int, form: str) -> None:
    url = form.format(closed=closed_port, port=server.port)
    assert await asked(url, ENCRYPTED)
    engine = await citykit.connect(url)
    assert await asked(engine.url, ENCRYPTED)  # and in the form that the engine shows
    await engine.dispose()


async def test_hosts_without_a_port_have_that_of_the_environment(
    server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", str(server.port))
    assert await asked("postgresql://postgres@127.0.0.2,localhost/postgres", ENCRYPTED)
    assert await asked("postgresql://postgres@/postgres?host=127.0.0.2,localhost", ENCRYPTED)


async def test_ports_that_do_not_fit_the_hosts_are_refused() -> None:
    said = await refusal("postgresql://a/geo?host=a,b,c&port=1,2")
    assert "'port'" in said
    assert "3 hosts" in said


# Timeouts and the environment


async def test_connect_timeout_bounds_each_attempt(silent_port: int) -> None:
    said = await refusal(f"postgresql://ada@127.0.0.1:{silent_port}/geo?connect_timeout=1")
    assert "no answer within 1 s" in said


async def test_connect_timeout_may_be_longer_than_the_default() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://ada@127.0.0.1:{listener.getsockname()[1]}/geo?connect_timeout=6"
        assert "no answer within 6 s" in await refusal(url)


async def test_what_the_url_leaves_out_comes_from_the_environment(
    server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"HOST": "localhost", "PORT": str(server.port), "USER": "babbage", "PASSWORD": PASSWORD}
    settings |= {"DATABASE": "postgres", "SSLMODE": "require"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PG{name}", value)
    monkeypatch.setenv("CITYKIT_URL", "postgresql://")
    assert await asked(None, "SELECT current_user") == "babbage"
    assert await asked(None, ENCRYPTED)
    assert await asked("postgresql://postgres@", "SELECT current_user") == "postgres"


@pytest.mark.parametrize("file", [None, "/nowhere", "{}/of_another", "{}/escaped"])
async def test_a_password_that_is_given_nowhere_is_not_a_wrong_one(
    server: TlsServer, home: Path, monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    for name, line in (("of_another", "*:*:*:charles:secret"), ("escaped", "*:*:*:babbage:p\\@ss/word")):
        (home / name).write_text(line, encoding="utf-8")
        (home / name).chmod(0o600)
    url = server.url("babbage", **({"passfile": file.format(home)} if file else {}))
    said = await refusal(url)
    assert "The URL has no password, nor has PGPASSWORD" in said
    assert "asyncpg takes a \\ for a character" in said  # libpq does not
    assert "ALTER ROLE" not in said
    typed = make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)
    assert await asked(typed, "SELECT current_user") == "babbage"
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    said = await refusal(url)
    assert "The password is wrong" in said
    assert "wr0ng" not in said


@pytest.mark.parametrize("where", ["~/.pgpass", "PGPASSFILE", "passfile="])
async def test_a_password_comes_from_the_password_file(
    server: TlsServer, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    file = home / (".pgpass" if where == "~/.pgpass" else "elsewhere")
    file.write_text(f"localhost:{server.port}:*:babbage:{PASSWORD}\n", encoding="utf-8")
    file.chmod(0o600)
    if where == "PGPASSFILE":
        monkeypatch.setenv(where, str(file))
    options: dict[str, Any] = {"passfile": file} if where == "passfile=" else {}
    assert await asked(server.url("babbage", **options), "SELECT current_user") == "babbage"
