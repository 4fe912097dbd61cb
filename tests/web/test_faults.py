"""What is said over HTTP when the database or its connections fail, and what is stored then."""

from __future__ import annotations

import asyncio
import logging
import random
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pandas as pd
import pytest
from fastapi import Depends
from fastapi.responses import StreamingResponse
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import citykit
from citykit.web.app import create_app
from tests.support.database import stored
from tests.support.proxy import proxied
from tests.support.served import direct, served

CSV = {"content-type": "text/csv"}
BULK = b"name,population\nBulk,1\n"

# Every route, and what it answers where one city is stored.
READS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", url, {}, 200)
    for url in (
        "/cities/biggest", "/cities/search?q=akur", "/countries", "/cities/bulk", "/cities/1", "/healthz",
        "/", "/biggest.svg",
    )
]  # fmt: skip
WRITES: list[tuple[str, str, dict[str, Any], int]] = [
    ("POST", "/cities/", {"json": {"name": "New", "population": 1}}, 201),
    ("POST", "/cities/bulk", {"content": BULK, "headers": CSV}, 200),
    ("POST", "/", {"data": {"name": "New", "population": "1"}}, 303),
]
ROUTES = READS + WRITES


def name_of(value: object) -> str | None:
    return value.replace("/", " ").strip() or "page" if isinstance(value, str) else ""


every_route = pytest.mark.parametrize(("method", "url", "asked", "status"), ROUTES, ids=name_of)
every_write = pytest.mark.parametrize(("method", "url", "asked", "status"), WRITES, ids=name_of)


@asynccontextmanager
async def disposed(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    try:
        yield engine
    finally:
        await engine.dispose()


def has_no_secret(answer: httpx.Response) -> bool:
    said = answer.text.lower()
    secrets = (
        "traceback",
        "s3cr3t",
        "asyncpg",
        "sqlalchemy",
        "from cities",
        "insert into",
        "errno",
        "error:",
    )
    return not any(secret in said for secret in secrets)


@pytest.fixture
async def akureyri(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "Akureyri", 19_219, country="IS")


@pytest.fixture
async def direct_connection(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A second way to the server, on which citykit has no part."""
    url = engine.url
    connection = await asyncpg.connect(
        host=url.host or str(url.query["host"]),
        port=url.port or int(str(url.query["port"])),
        user=url.username,
        password=url.password,
        database=url.database,
    )
    yield connection
    await connection.close()


# A lost connection


class Network:
    """What the proxy does with the server's answers: all of it passes until something is set."""

    def __init__(self) -> None:
        self.cut_at = b""  # the answer that is swallowed, and the connection with it
        self.slow_at = b""  # the answer that takes half a second

    def __call__(self, data: bytes) -> tuple[list[bytes], bool]:
        if self.cut_at and self.cut_at in data:
            return [], True
        if self.slow_at and self.slow_at in data:
            return [b""] * 25 + [data], False
        return [data], False


COMMITTED = b"C\0\0\0\x0bCOMMIT\0"
INSERTED = b"INSERT 0 1\0"
COPIED = b"COPY 1\0"


@asynccontextmanager
async def behind(engine: AsyncEngine, network: Network, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        proxied(engine, network) as url,
        disposed(await citykit.connect(url)) as far,
        direct(create_app(far, **options)) as client,
    ):
        yield client


@every_write
@pytest.mark.usefixtures("akureyri")
async def test_a_commit_whose_answer_is_lost_is_in_doubt(
    engine: AsyncEngine, method: str, url: str, asked: dict[str, Any], status: int
) -> None:
    network = Network()
    async with behind(engine, network) as client:
        network.cut_at = COMMITTED
        answer = await client.request(method, url, **asked)
        network.cut_at = b""
        assert len(await stored(engine)) == 2
        assert answer.status_code == 503
        assert "retry-after" not in answer.headers
        assert "may have been stored" in answer.text
        assert "Look before you send it again" in answer.text.replace("look", "Look")
        assert has_no_secret(answer)
        if url != "/":
            assert answer.json()["in_doubt"] is True
        again = await client.request(method, url, **asked)
        assert again.status_code == 409 != status


@every_write
@pytest.mark.usefixtures("akureyri")
async def test_a_connection_lost_before_the_commit_is_not_in_doubt(
    engine: AsyncEngine, method: str, url: str, asked: dict[str, Any], status: int
) -> None:
    network = Network()
    async with behind(engine, network) as client:
        network.cut_at = COPIED if "bulk" in url else INSERTED
        answer = await client.request(method, url, **asked)
        network.cut_at = b""
        assert len(await stored(engine)) == 1
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "may have been stored" not in answer.text
        if url != "/":
            assert answer.json()["in_doubt"] is False
        again = await client.request(method, url, **asked)
        assert again.status_code == status


@every_write
@pytest.mark.usefixtures("akureyri")
async def test_a_commit_slower_than_the_patience_is_answered_with_its_outcome(
    engine: AsyncEngine, method: str, url: str, asked: dict[str, Any], status: int
) -> None:
    """The patience ends while the COMMIT is out."""
    network = Network()
    async with behind(engine, network, patience=0.3) as client:
        network.slow_at = COMMITTED
        answer = await client.request(method, url, **asked)
        assert (answer.status_code, len(await stored(engine))) == (status, 2)


@every_route
@pytest.mark.usefixtures("akureyri")
async def test_connections_that_the_server_closed_while_they_were_idle_fail_no_request(
    direct_connection: asyncpg.Connection[Any],
    method: str,
    url: str,
    asked: dict[str, Any],
    status: int,
) -> None:
    async with (
        disposed(await citykit.connect()) as own,
        served(create_app(own)) as base,
        httpx.AsyncClient(base_url=base) as client,
    ):
        health = [client.get("/healthz") for _ in range(5)]
        assert {answer.status_code for answer in await asyncio.gather(*health)} == {200}
        assert own.pool.checkedin() > 1  # type: ignore[attr-defined]
        await direct_connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE state = 'idle' AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
            "AND datname = current_database()"
        )
        answer = await client.request(method, url, **asked)
        assert answer.status_code == status, answer.text
        assert await direct_connection.fetchval("SELECT count(*) FROM cities") == 1 + (method == "POST")


@pytest.mark.usefixtures("akureyri")
async def test_after_searches_that_clients_abandoned_every_acknowledged_write_is_stored(
    engine: AsyncEngine,
    direct_connection: asyncpg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first search of a large table makes its index, in a transaction of its own."""
    monkeypatch.setattr("citykit.web.guard.WATCH_AFTER", 0)  # so that searches are cancelled at every moment
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(60_000)], "population": 1})
    await citykit.load_cities(engine, frame)
    random.seed(19)
    # asyncpg leaves an error for asyncio to log where it is cancelled while it negotiates TLS.
    url = engine.url.update_query_dict({"sslmode": "disable"})
    async with (
        disposed(await citykit.connect(url, pool_size=5, max_overflow=0, pool_timeout=10)) as own,
        served(create_app(own)) as base,
        httpx.AsyncClient(base_url=base) as client,
    ):
        host, port = base.removeprefix("http://").split(":")

        async def search_and_go_away(delay: float) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /cities/search?q=city+59 HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(delay)
            writer.transport.abort()

        for _ in range(40):
            await search_and_go_away(random.uniform(0, 0.03))  # noqa: S311
        await direct_connection.execute("DROP INDEX IF EXISTS cities_by_name")
        async with asyncio.timeout(10):
            while await direct_connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND backend_type = 'client backend' AND state <> 'idle' AND datname = current_database()"
            ):
                pass
        posts = [client.post("/cities/", json={"name": f"New {n}", "population": n}) for n in range(40)]
        assert [answer.status_code for answer in await asyncio.gather(*posts)] == [201] * 40
        assert (await client.post("/cities/bulk", content=BULK, headers=CSV)).status_code == 200
        counted = "SELECT count(*) FROM cities WHERE name LIKE 'New %' OR name = 'Bulk'"
        assert await direct_connection.fetchval(counted) == 41
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_bulk_load_waits_for_a_lock_no_longer_than_its_engine_says(engine: AsyncEngine) -> None:
    app = create_app(patience=0.5)
    async with app.router.lifespan_context(app), direct(app) as client:
        async with engine.connect() as other:
            await other.execute(text("LOCK TABLE cities"))
            async with asyncio.timeout(20):
                answer = await client.post("/cities/bulk", content=BULK, headers=CSV)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["in_doubt"] is False
        assert (await client.post("/cities/bulk", content=BULK, headers=CSV)).status_code == 200


# Refusals of the server


@pytest.fixture
async def role(engine: AsyncEngine) -> AsyncIterator[URL]:
    """A user of the database who may do nothing in it yet."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE ROLE visitor LOGIN PASSWORD 's3cr3t'"))
    yield engine.url.set(username="visitor", password="s3cr3t")  # noqa: S106
    async with engine.begin() as connection:
        await connection.execute(text("DROP OWNED BY visitor"))
        await connection.execute(text("DROP ROLE visitor"))


READ, WRITE = READS[0], WRITES[0]
REFUSALS = {  # what the server is told, which request it then refuses, with which status, and a word of why
    "a login that was withdrawn": ("ALTER ROLE visitor NOLOGIN", READ, 500, "does not let this server in"),
    "a role without rights reads": ("SELECT 1", READ, 500, "has no right"),
    "a role without rights writes": ("SELECT 1", WRITE, 500, "has no right"),
    "a role without rights loads": ("SELECT 1", WRITES[1], 500, "has no right"),
    "a role without rights types": ("SELECT 1", WRITES[2], 500, "has no right"),
    "a database that may only be read": (
        "GRANT ALL ON cities TO visitor; ALTER ROLE visitor SET default_transaction_read_only = on",
        WRITE, 500, "may only be read",
    ),
    "a load into a database that may only be read": (
        "GRANT ALL ON cities TO visitor; ALTER ROLE visitor SET default_transaction_read_only = on",
        WRITES[1], 500, "may only be read",
    ),
    "a table of another make": (
        "GRANT ALL ON cities TO visitor; ALTER TABLE cities DROP COLUMN latitude",
        READ, 500, "not as this server needs it",
    ),
    "a sequence that has ended": (
        "GRANT ALL ON cities TO visitor; ALTER SEQUENCE cities_id_seq MAXVALUE 5; "
        "SELECT setval('cities_id_seq', 5)",
        WRITE, 500, "no more ids",
    ),
    "an id that is there already": (
        "GRANT ALL ON cities TO visitor; "
        "INSERT INTO cities (id, name, population) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 2)",
        WRITE, 500, "an id that is there already",
    ),
    "a column that citykit does not fill": (
        "GRANT ALL ON cities TO visitor; ALTER TABLE cities ADD founded integer NOT NULL",
        WRITE, 500, "not as this server needs it",
    ),
    "a unique constraint of others": (
        "GRANT ALL ON cities TO visitor; INSERT INTO cities (name, population) VALUES ('x', 1); "
        "ALTER TABLE cities ADD UNIQUE (population)",
        WRITE, 409, "only once",
    ),
    "a load against a unique constraint of others": (
        "GRANT ALL ON cities TO visitor; INSERT INTO cities (name, population) VALUES ('x', 1); "
        "ALTER TABLE cities ADD UNIQUE (population)",
        WRITES[1], 409, "(population)=(1)",
    ),
    "a check of others": (
        "GRANT ALL ON cities TO visitor; ALTER TABLE cities ADD CHECK (population > 1)",
        WRITE, 422, "cannot store such a value",
    ),
    "row security": (
        "GRANT ALL ON cities TO visitor; ALTER TABLE cities ENABLE ROW LEVEL SECURITY",
        WRITE, 500, "has no right",
    ),
    "a role without a connection left": ("ALTER ROLE visitor CONNECTION LIMIT 0", READ, 503, "Try again"),
    "a statement that takes too long": (
        "GRANT ALL ON cities TO visitor; ALTER ROLE visitor SET statement_timeout = 1; "
        "CREATE RULE slow AS ON INSERT TO cities DO ALSO SELECT pg_sleep(1)",
        WRITE, 503, "Try again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_of_the_server_is_answered_with_its_reason(
    engine: AsyncEngine, role: URL, direct_connection: asyncpg.Connection[Any], refusal: str
) -> None:
    told, (method, url, asked, _), status, said = REFUSALS[refusal]
    await direct_connection.execute(told)
    async with disposed(create_async_engine(role)) as visitor, direct(create_app(visitor)) as client:
        answer = await client.request(method, url, **asked)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
        assert has_no_secret(answer)
        if url != "/" and status >= 500:
            assert answer.json()["in_doubt"] is False
        if method == "POST" and status != 503:
            assert (await client.get("/healthz")).json() == {"status": "ok"}  # for the database answers
    await citykit.create_tables(engine, reset=True)


@pytest.fixture
async def other_database(
    engine: AsyncEngine, direct_connection: asyncpg.Connection[Any]
) -> AsyncIterator[URL]:
    """A database in LATIN1."""
    create = "CREATE DATABASE citykit_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    await direct_connection.execute(create)
    yield engine.url.set(database="citykit_latin1")
    await direct_connection.execute("DROP DATABASE citykit_latin1 WITH (FORCE)")


BEIJING = "name,population\n北京,1\n"


@pytest.mark.parametrize(
    ("method", "url", "asked", "status"),
    [
        ("GET", "/cities/search?q=北京", {}, 200),
        ("GET", "/cities/biggest?country=北", {}, 200),
        ("GET", "/cities/bulk?country=北", {}, 422),
        ("GET", "/?country=北", {}, 200),
        ("POST", "/cities/", {"json": {"name": "北京", "population": 1}}, 422),
        ("POST", "/cities/bulk", {"content": BEIJING.encode(), "headers": CSV}, 422),
        ("POST", "/", {"data": {"name": "北京", "population": "1"}}, 422),
    ],
    ids=name_of,
)
async def test_text_that_the_encoding_lacks_is_not_to_be_sent_again(
    other_database: URL, method: str, url: str, asked: dict[str, Any], status: int
) -> None:
    async with disposed(create_async_engine(other_database)) as latin1:
        await citykit.create_tables(latin1)
        await citykit.add_city(latin1, "Bern", 1)
        async with direct(create_app(latin1)) as client:
            answer = await client.request(method, url, **asked)
            assert answer.status_code == status, answer.text
            if status == 200:  # no city has such a name or country
                assert answer.text == "[]" or ("<td" not in answer.text and "<html" in answer.text)
            assert "retry-after" not in answer.headers
            added = await client.post("/cities/", json={"name": "Köln", "population": 1})
            assert added.json()["name"] == "Köln"


async def test_a_database_that_accepts_no_connections_is_not_to_be_asked_again(
    other_database: URL, direct_connection: asyncpg.Connection[Any]
) -> None:
    await direct_connection.execute("ALTER DATABASE citykit_latin1 ALLOW_CONNECTIONS false")
    async with (
        disposed(create_async_engine(other_database)) as closed,
        direct(create_app(closed)) as client,
    ):
        for method, url, asked, _ in [READ, *READS[5:7], *WRITES]:
            answer = await client.request(method, url, **asked)
            assert (answer.status_code, "accepts no connections" in answer.text) == (500, True), answer.text
            assert "retry-after" not in answer.headers


NOWHERE: dict[str, tuple[dict[str, Any], int, str]] = {
    "a database that does not exist": ({"database": "nowhere"}, 500, "does not exist"),
    "a user who does not exist": ({"username": "nobody_s3cr3t"}, 500, "does not let this server in"),
    "a port on which nobody listens": ({"host": "127.0.0.1", "port": 1, "query": {}}, 503, "Try again"),
    "a host that has no address": ({"host": "nowhere.invalid", "query": {}}, 503, "Try again"),
}


@pytest.mark.parametrize("nowhere", NOWHERE)
@pytest.mark.parametrize(
    ("method", "url", "asked", "status"), [*READS[:1], *READS[4:7], *WRITES], ids=name_of
)
async def test_a_failed_login_is_answered_with_its_reason(
    engine: AsyncEngine, nowhere: str, method: str, url: str, asked: dict[str, Any], status: int
) -> None:
    changed, status, said = NOWHERE[nowhere]
    lost = create_async_engine(engine.url.set(**changed))
    async with disposed(lost), direct(create_app(lost)) as client:
        answer = await client.request(method, url, **asked)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
        assert has_no_secret(answer)
        if url != "/":
            assert answer.json()["in_doubt"] is False


@pytest.mark.parametrize(("method", "url", "asked", "status"), [READ, *WRITES], ids=name_of)
@pytest.mark.usefixtures("engine")
async def test_a_full_pool_is_503(method: str, url: str, asked: dict[str, Any], status: int) -> None:
    """The pool's own patience ends before the application's."""
    small = await citykit.connect(pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with disposed(small), direct(create_app(small)) as client:
        async with small.connect():
            answer = await client.request(method, url, **asked)
        assert (answer.status_code, "Try again" in answer.text) == (503, True), answer.text
        assert has_no_secret(answer)
        assert (await client.request(method, url, **asked)).status_code == status


# The disk


@contextmanager
def full_disk() -> Iterator[None]:
    """Let this process write no byte to a file: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("rows", [1, 200_000])
async def test_a_body_that_the_disk_cannot_hold_is_503_and_not_in_doubt(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int
) -> None:
    body = b"name,population\n" + b"".join(b"City %d,1\n" % number for number in range(rows))
    async with direct(create_app(engine)) as client:
        with full_disk():
            full = await client.post("/cities/bulk", content=body, headers=CSV)
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
            no_file = await client.post("/cities/bulk", content=body, headers=CSV)
        for answer in (full, no_file):
            assert (answer.status_code, answer.json()["in_doubt"]) == (503, False)
            assert int(answer.headers["retry-after"]) > 0
            assert has_no_secret(answer)
        assert (await client.post("/cities/bulk", content=body, headers=CSV)).json()["inserted"] == rows


# The connections of clients


class Raw:
    """A client that keeps its connection, whatever is written on it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Raw:
        host, port = self.url.removeprefix("http://").split(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, request: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = {"host": "a", "content_length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        self.writer.write(f"{request} HTTP/1.1\r\n{head}\r\n".encode() + body)
        status = int((await self.reader.readline()).split()[1])
        said: dict[str, str] = {}
        while line := (await self.reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            said[name.lower()] = value.strip()
        return status, said, await self.reader.readexactly(int(said["content-length"]))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            return not await self.reader.read(1)


async def test_a_client_that_does_not_read_the_end_of_an_answer_is_given_up(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.web.guard.SLOW_BODY", 0.5)
    app, ended = create_app(engine), asyncio.Event()

    async def until_the_end() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.set()

    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * 2**26  # more than the sockets hold

    @app.get("/large", dependencies=[Depends(until_the_end)])
    async def large() -> StreamingResponse:
        return StreamingResponse(parts())

    async with served(app) as url, asyncio.timeout(60), Raw(url) as client:
        client.writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await ended.wait()


@pytest.fixture
async def server(engine: AsyncEngine) -> AsyncIterator[str]:
    app = create_app(engine)

    @app.api_route("/broken", methods=["GET", "POST"])
    async def broken() -> None:
        raise ZeroDivisionError("s3cr3t")

    async with served(app) as url, asyncio.timeout(60):
        yield url


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "citykit"):
        yield caplog


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unforeseen_error_is_answered_and_closes_the_connection(
    server: str, log: pytest.LogCaptureFixture, method: str
) -> None:
    async with Raw(server) as client:
        status, headers, body = await client.ask(f"{method} /broken")
        assert (status, headers["connection"], headers["content-type"]) == (500, "close", "application/json")
        assert b"The server failed" in body
        assert (b'"in_doubt":true' in body) == (method == "POST")
        assert b"s3cr3t" not in body
        assert b"Zero" not in body
        assert "ZeroDivisionError" in log.text
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("request_", "headers", "status"),
    [
        ("POST /cities/bulk", {"content_type": "text/plain"}, 415),
        ("POST /broken", {}, 500),
        ("POST /nowhere", {}, 404),
        ("PUT /cities/biggest", {}, 405),
        ("POST /", {"origin": "https://evil.example"}, 403),
    ],
)
async def test_an_answer_before_the_end_of_the_body_closes_the_connection(
    server: str, request_: str, headers: dict[str, Any], status: int
) -> None:
    """What comes of the body afterwards would else be taken for the next request."""
    async with Raw(server) as client:
        answered, said, _ = await client.ask(request_, content_length="1000", **headers)
        assert (answered, said["connection"]) == (status, "close")
        client.writer.write(b"GET /healthz HTTP/1.1\r\n\r\n" * 40)
        assert await client.is_closed()


async def test_a_connection_is_good_for_longer_than_clients_use_it(server: str) -> None:
    """httpx sends on a connection that was idle for up to 5 s; proxies, for up to 60 s."""

    async def ask_twice(number: int) -> None:
        async with Raw(server) as client:
            for turn in (1, 2):
                body = b'{"name": "%d of %d", "population": 1}' % (turn, number)
                status, _, _ = await client.ask("POST /cities/", body, content_type="application/json")
                assert status == 201
                await asyncio.sleep((4.9 + number / 100) * (turn == 1))

    await asyncio.gather(*(ask_twice(number) for number in range(40)))


async def test_every_route_documents_its_errors(engine: AsyncEngine) -> None:
    async with direct(create_app(engine)) as client:
        document = (await client.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["Failure"]
    assert sorted(schema["required"]) == ["detail", "in_doubt"]
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            assert {"400", "405", "500", "503"} <= route["responses"].keys()
            assert ("403" in route["responses"]) == ("requestBody" in route)
            assert ("408" in route["responses"]) == ("413" in route["responses"]) == ("requestBody" in route)
            for status in ("500", "503"):
                content = route["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/Failure"), (path, method, status)
