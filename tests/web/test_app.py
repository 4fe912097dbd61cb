"""The cities over HTTP, as programs ask for them."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import citykit
from citykit.web.app import create_app
from tests.support.database import scalar, stored
from tests.support.served import direct, served

NAMES = ["name", "country", "region", "population", "latitude", "longitude"]


@pytest.fixture
async def client(engine: AsyncEngine, three_cities: pd.DataFrame) -> AsyncIterator[httpx.AsyncClient]:
    await citykit.load_cities(engine, three_cities)
    async with direct(create_app(engine)) as client:
        yield client


async def test_the_biggest(client: httpx.AsyncClient) -> None:
    answer = await client.get("/cities/biggest", params={"limit": 2})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {
            "name": "London",
            "country": "GB",
            "region": "ENG",
            "population": 8_961_989,
            "latitude": 51.50853,
            "longitude": -0.12574,
        },
        {
            "name": "London",
            "country": "CA",
            "region": "08",
            "population": 422_324,
            "latitude": None,
            "longitude": None,
        },
    ]
    of_one = (await client.get("/cities/biggest", params={"country": "IS"})).json()
    assert [city["name"] for city in of_one] == ["Reykjavík"]
    assert (await client.get("/cities/biggest", params={"country": "'; DROP TABLE cities; --"})).json() == []


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("/cities/biggest?limit=0", "limit"),
        ("/cities/biggest?limit=1001", "limit"),
        ("/cities/biggest?limit=1e9", "limit"),
        ("/cities/biggest?limit=" + "9" * 5000, "limit"),
        ("/cities/biggest?limit=1&limit=x", "limit"),
        ("/cities/biggest?limit=1_0", "limit"),
        ("/cities/biggest?limit=%201", "limit"),
        ("/cities/biggest?limit=+1", "limit"),
        ("/cities/search?q=a&limit=%2B1", "limit"),
        ("/cities/biggest?limit=1.0", "limit"),
        ("/cities/biggest?limit=01", "limit"),
        ("/cities/biggest?limit=", "limit"),
        ("/cities/1_0", "id"),
        ("/cities/+1", "id"),
        ("/cities/1.0", "id"),
        ("/cities/1%0A", "id"),
        ("/cities/%D9%A1", "id"),
        ("/cities/biggest?country=%00", "country"),
        ("/cities/biggest?country=" + "x" * 101, "country"),
        ("/cities/search", "q"),
        ("/cities/search?q=", "q"),
        ("/cities/search?q=%20", "q"),
        ("/cities/search?q=%00", "q"),
        ("/cities/0", "id"),
        ("/cities/first", "id"),
        ("/cities/9223372036854775808", "id"),
        ("/cities/bulk?format=xml", "format"),
        ("/cities/biggest?limt=5", "limt"),
        ("/cities/search?q=a&offset=1", "offset"),
        ("/cities/search?q=a&q=b", "q"),
        ("/cities/1?limit=1", "limit"),
        ("/countries?country=IS", "country"),
        ("/healthz?verbose", "verbose"),
    ],
)
async def test_an_invalid_question_names_its_parameter(
    client: httpx.AsyncClient, url: str, field: str
) -> None:
    answer = await client.get(url)
    assert answer.status_code == 422
    assert [each["loc"][-1] for each in answer.json()["detail"]] == [field]


async def test_a_misspelled_parameter_of_a_load_is_refused(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    body = {"content": b"name,population\na,1\n", "headers": {"content-type": "text/csv"}}
    answer = await client.post("/cities/bulk?on_conflit=update", **body)  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert "did you mean 'on_conflict'" in answer.json()["detail"][0]["msg"]
    assert (await client.get("/cities/search?q=a&limit=1000")).status_code == 200
    assert await scalar(engine, "SELECT count(*) FROM cities WHERE name = 'a'") == 0


@pytest.mark.parametrize("url", ["/", "/cities/biggest?limit=1", "/cities/0", "/cities/bulk", "/nowhere"])
async def test_head_is_answered_as_get_is(client: httpx.AsyncClient, url: str) -> None:
    got, headers_alone = await client.get(url), await client.head(url)
    assert headers_alone.status_code == got.status_code
    assert headers_alone.headers.items() == got.headers.items()


async def test_search_and_countries(client: httpx.AsyncClient) -> None:
    found = (await client.get("/cities/search", params={"q": "REYKJAVIK"})).json()
    assert [(city["name"], city["matched"]) for city in found] == [("Reykjavík", "Reykjavík")]
    only = {"q": "london", "country": "CA"}
    assert [city["country"] for city in (await client.get("/cities/search", params=only)).json()] == ["CA"]
    assert (await client.get("/cities/search", params={"q": "london", "country": "ca"})).json() == []
    assert (await client.get("/cities/search", params={"q": "%"})).json() == []
    countries = (await client.get("/countries")).json()
    assert [country["country"] for country in countries] == ["GB", "CA", "IS"]
    assert [country["name"] for country in countries] == ["United Kingdom", "Canada", "Iceland"]
    assert list(countries[0]) == [
        "country", "name", "cities", "total_population", "largest_population", "share",
    ]  # fmt: skip


async def test_adding_a_city(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    brigadoon = {"name": "Brigadoon", "population": 1_000, "country": "GB", "latitude": 57.5}
    answer = await client.post("/cities/", json=brigadoon)
    assert answer.status_code == 201
    city = answer.json()
    assert city == {**brigadoon, "region": "", "longitude": None, "id": city["id"]}
    assert (await client.get(answer.headers["location"])).json() == city
    assert (await stored(engine))["Brigadoon", "GB", ""] == (1_000, 57.5, None)
    again = await client.post("/cities/", json={**brigadoon, "population": 5})
    assert (again.status_code, again.json()) == (409, {"detail": "The city is already stored"})
    assert (await client.post("/cities/", json={"name": "Brigadoon", "population": 5})).status_code == 201
    assert (await client.get("/cities/9223372036854775807")).status_code == 404


VALID = b'{"name": "a", "population": 1, "latitude": 1.5}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "name"),
        (b"", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b"{", 1),
        (b"\xff\xfe", 0),
        (VALID.replace(b'"a"', b'""'), "name"),
        (VALID.replace(b'"a"', b"1"), "name"),
        (VALID.replace(b'"a"', b'"\\u0000"'), "name"),
        (VALID.replace(b'"a"', b'"\\ud800"'), "name"),
        (VALID.replace(b'"a"', b'"%s"' % (b"a" * 401)), "name"),
        (VALID.replace(b"1,", b"-1,"), "population"),
        (VALID.replace(b"1,", b"2147483648,"), "population"),
        (VALID.replace(b"1,", b"1e400,"), "population"),
        (VALID.replace(b"1,", b"NaN,"), "population"),
        (VALID.replace(b"1,", b"true,"), "population"),
        (VALID.replace(b"1,", b'"1",'), "population"),
        (VALID.replace(b"1,", b"1.00000000000000000001,"), "population"),
        (VALID.replace(b"1,", b"0.99999999999999999999,"), "population"),
        (VALID.replace(b"1,", b"1e999999999,"), "population"),
        (VALID.replace(b"1,", b"Infinity,"), "population"),
        (VALID.replace(b"1,", b"null,"), "population"),
        (VALID.replace(b"1.5", b"false"), "latitude"),
        (VALID.replace(b"1.5", b'"1.5"'), "latitude"),
        (VALID.replace(b"1.5", b"1e400"), "latitude"),
        (VALID.replace(b"1.5", b"1" + b"0" * 400), "latitude"),
        (VALID.replace(b"1.5", b"[1.5]"), "latitude"),
        (VALID.replace(b"1.5", b"91"), "latitude"),
        (VALID.replace(b"1.5", b"NaN"), "latitude"),
        (VALID.replace(b"latitude", b"lattitude"), "lattitude"),
        (VALID.replace(b"latitude", b"population"), 0),
        (VALID.replace(b"1.5", b'{"a": 1, "a": 2}'), 0),
    ],
)
async def test_a_city_that_cannot_be_stored(
    client: httpx.AsyncClient, engine: AsyncEngine, body: bytes, field: str | int
) -> None:
    answer = await client.post("/cities/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert field in [each["loc"][-1] for each in answer.json()["detail"]]
    assert len(await stored(engine)) == 3


async def test_a_field_that_is_there_twice_is_named(engine: AsyncEngine) -> None:
    twice = VALID.replace(b"latitude", b"population")
    async with direct(create_app(engine)) as client:
        answer = await client.post("/cities/", content=twice, headers={"content-type": "application/json"})
        assert "the field 'population' is there twice" in answer.json()["detail"][0]["msg"]
        lines = b"".join(VALID.replace(b'"a"', b'"a%d"' % number) + b"\n" for number in range(30_000))
        for before in (b"", lines):  # lines of another block are read by Arrow
            answer = await bulk(client, before + twice, "application/x-ndjson")
            assert answer.status_code == 422
            line = before.count(b"\n") + 1
            assert f"the object in line {line} has 'population' twice" in answer.json()["detail"]
    assert not await stored(engine)


@pytest.mark.parametrize(
    ("written", "population"),
    [(b"2900.0", 2900), (b"29e2", 2900), (b"-0.0", 0), (b"2147483647.00", 2**31 - 1)],
)
async def test_a_number_without_a_fraction_is_an_integer(
    client: httpx.AsyncClient, engine: AsyncEngine, written: bytes, population: int
) -> None:
    """So JSON Schema has it, and so the OpenAPI document."""
    answer = await client.post(
        "/cities/", content=VALID.replace(b"1,", written + b","), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201
    assert (await stored(engine))["a", "", ""] == (population, 1.5, None)


HUGE = b"1e" + b"9" * 30


@pytest.mark.parametrize(
    "body", [b'{"name": "a", "population": %s}' % number for number in (b"9" * 5000, HUGE)] + [b"[" * 30_000]
)
async def test_a_body_that_cannot_be_read(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/cities/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def as_csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def as_ndjson(frame: pd.DataFrame) -> bytes:
    return frame.to_json(orient="records", lines=True, force_ascii=False).encode()


def as_parquet(frame: pd.DataFrame) -> bytes:
    frame.to_parquet(out := io.BytesIO(), index=False)
    return out.getvalue()


def as_arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_stream(out := io.BytesIO(), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


KINDS = {
    "text/csv": as_csv,
    "application/x-ndjson": as_ndjson,
    "application/vnd.apache.parquet": as_parquet,
    "application/vnd.apache.arrow.stream": as_arrow,
}


@pytest.fixture
async def empty(engine: AsyncEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with direct(create_app(engine, max_body_bytes=100_000)) as client:
        yield client


def bulk(client: httpx.AsyncClient, content: Any, kind: str = "text/csv", **params: str) -> Any:
    return client.post("/cities/bulk", content=content, headers={"content-type": kind}, params=params)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bulk_load(
    empty: httpx.AsyncClient, engine: AsyncEngine, three_cities: pd.DataFrame, kind: str
) -> None:
    three_cities.loc[0, ["name", "country"]] = 'A "name",\nof two lines', "NA"
    answer = await bulk(empty, KINDS[kind](three_cities), kind)
    assert answer.status_code == 200
    report = answer.json()
    assert {name: report[name] for name in ("inserted", "updated", "skipped", "rejects_total")} == {
        "inserted": 3, "updated": 0, "skipped": 0, "rejects_total": 0,
    }  # fmt: skip
    assert (await stored(engine))['A "name",\nof two lines', "NA", "39"] == (118_918, 64.13548, -21.89541)

    again = await bulk(empty, KINDS[kind](three_cities), kind)
    assert again.status_code == 409
    assert again.json()["keys_total"] == 3
    assert again.json()["keys"][1] == ["London", "GB", "ENG"]
    three_cities["population"] += 1
    updated = await bulk(empty, KINDS[kind](three_cities), kind, on_conflict="update")
    assert updated.json()["updated"] == 3

    three_cities["population"] = [-1, 2, 3]
    refused = await bulk(empty, KINDS[kind](three_cities), kind, on_conflict="update")
    assert refused.status_code == 422
    [reject] = refused.json()["rejects"]
    assert {**reject, "value": int(reject["value"])} == {
        "row": 0, "column": "population", "value": -1, "reason": "negative",
    }  # fmt: skip
    skipped = await bulk(empty, KINDS[kind](three_cities), kind, on_conflict="update", on_invalid="skip")
    assert (skipped.json()["updated"], skipped.json()["rejects_total"]) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"rubbish",
        b"PAR1PAR1",
        b"name,population\n\xe9t\xe9,1\n",
        b"name,population\na,1,2\n",
        b"name,people\na,1\n",
        b"name,people\n",
        b'{"name": "a", "population": "many"}',
        b'{"name": "\\ud800", "population": 1}',
        b'{"name": "a", "population": 1e400}',
        b'{"name": "a", "population": 1.00000000000000000001}',
        b'{"name": "a", "population": 1e99999999999999999999}',
        b'{"name": "a", "population": true}',
        b'{"name": "a", "population": 1, "population": 1}',
        b'{"name": "a", "population": %s}' % (b"9" * 5000),
        b'{"name": "a", "population": 1}\n[1]',
        b"[" * 20_000,
        pytest.param(as_parquet(pd.DataFrame({"name": ["a"], "population": [1]}))[:-9], id="cut parquet"),
        pytest.param(as_parquet(pd.DataFrame({"name": [["a"]], "population": [1]})), id="nested parquet"),
        pytest.param(as_arrow(pd.DataFrame({"name": ["a"] * 9, "population": 1}))[:-50], id="cut arrow"),
    ],
)
async def test_a_bulk_body_that_cannot_be_loaded(
    empty: httpx.AsyncClient, engine: AsyncEngine, kind: str, body: bytes
) -> None:
    answer = await bulk(empty, body, kind)
    assert answer.status_code == 422
    assert "/" not in answer.json()["detail"].replace("N/A", "")  # no path
    assert not await stored(engine)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"name,people\na,1\n", 'map them: rename "people" to "population" in the body'),
        (b"name,population,mayor\na,1,b\n", 'alone: keep only "name", "population" in the body'),
    ],
)
async def test_what_to_do_with_other_columns_can_be_done_over_http(
    empty: httpx.AsyncClient, body: bytes, said: str
) -> None:
    detail = (await bulk(empty, body)).json()["detail"]
    assert said in detail
    assert "=" not in detail


async def test_a_bulk_load_names_the_columns_that_it_leaves_out(empty: httpx.AsyncClient) -> None:
    report = (await bulk(empty, b"id,name,population\n7,a,1\n")).json()
    assert (report["inserted"], report["left_out"]) == (1, ["id"])
    assert (await bulk(empty, b"name,population\nb,1\n")).json()["left_out"] == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "multipart/form-data"])
async def test_a_bulk_body_of_another_kind(empty: httpx.AsyncClient, kind: str) -> None:
    assert (await bulk(empty, b"name,population\na,1\n", kind)).status_code == 415


async def test_ndjson_in_several_blocks(
    empty: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citykit.files.json_files.BLOCK_BYTES", 100)
    lines = [json.dumps({"name": f"é {n}", "population": n if n % 7 else float(n)}) for n in range(50)]
    answer = await bulk(empty, "\n\n".join(lines).encode(), "application/x-ndjson")
    assert answer.json()["inserted"] == 50
    assert (await stored(engine))["é 49", "", ""][0] == 49
    lines += ['{"name": "other", "population": 1, "country": "IS"}']
    refused = await bulk(empty, "\n".join(lines).encode(), "application/x-ndjson")
    assert "'country'" in refused.json()["detail"]


async def test_a_body_over_the_limit_is_refused_before_it_is_read(engine: AsyncEngine) -> None:
    async with served(create_app(engine, max_body_bytes=100_000)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /cities/bulk HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\n")
        writer.write(b"Content-Length: 100001\r\n\r\n")
        assert b"413" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(1_000):
                yield b"x" * 10_000

        async with httpx.AsyncClient(base_url=url) as client:
            answer = await bulk(client, endless())
            assert answer.status_code == 413
            assert "100,000 bytes" in answer.json()["detail"]
            assert (await client.post("/cities/", content=b" " * 70_000)).status_code == 413
            assert (await bulk(client, b"name,population\n" + b"a,1\n" * 5)).status_code == 409


async def test_exporting_what_can_be_loaded(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    before = await stored(engine)
    for kind, format_ in (("text/csv", "csv"), ("application/x-ndjson", "ndjson")):
        answer = await client.get("/cities/bulk", params={"format": format_})
        assert answer.headers["content-type"].startswith(kind)
        await citykit.create_tables(engine, reset=True)
        assert (await bulk(client, answer.content, kind)).json()["inserted"] == 3
        assert await stored(engine) == before
    only = (await client.get("/cities/bulk", params={"format": "ndjson", "country": "IS"})).text
    assert [json.loads(line)["name"] for line in only.splitlines()] == ["Reykjavík"]


async def test_many_at_once_add_the_same_city(engine: AsyncEngine) -> None:
    async with direct(create_app(engine)) as client:
        posts = [client.post("/cities/", json={"name": "New", "population": 1}) for _ in range(40)]
        statuses = [answer.status_code for answer in await asyncio.gather(*posts)]
    assert sorted(statuses) == [201] + [409] * 39


async def statements(engine: AsyncEngine) -> list[str]:
    """What waits for a lock on the server."""
    async with engine.connect() as connection:
        waiting = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        waiting += " AND datname = current_database()"
        return list((await connection.execute(text(waiting))).scalars())


async def until(engine: AsyncEngine, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await statements(engine)) != count:
            pass


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_goes_away_cancels_its_statement(engine: AsyncEngine, method: str) -> None:
    asked: dict[str, Any] = {"method": method, "url": "/cities/biggest"}
    if method == "POST":
        body = {"content": b"name,population\na,1\n", "headers": {"content-type": "text/csv"}}
        asked |= {"url": "/cities/bulk", **body}
    async with served(create_app(engine, patience=60)) as url, httpx.AsyncClient(base_url=url) as client:
        async with engine.connect() as other:
            await other.execute(text("LOCK TABLE cities"))
            asking = asyncio.create_task(client.request(**asked))
            await until(engine, 1)
            asking.cancel()
            await until(engine, 0)
            await other.rollback()
        assert (await client.get("/cities/biggest")).json() == []


async def test_a_full_pool_and_a_locked_table_are_503_within_the_patience(engine: AsyncEngine) -> None:
    small = await citykit.connect(pool_size=1, max_overflow=0)
    async with direct(create_app(small, patience=0.2)) as client:
        for locked in (False, True):
            async with (engine if locked else small).connect() as other:
                if locked:
                    await other.execute(text("LOCK TABLE cities"))
                for answer in (
                    await client.get("/cities/biggest"),
                    await client.post("/cities/", json={"name": "a", "population": 1}),
                    await client.get("/"),
                ):
                    assert answer.status_code == 503
                    assert int(answer.headers["retry-after"]) > 0
            assert (await client.get("/cities/biggest")).status_code == 200
    await small.dispose()


async def test_a_page_that_asks_several_times_has_one_patience_for_all(engine: AsyncEngine) -> None:
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    async with direct(create_app(engine, patience=1)) as client, engine.connect() as other:
        await other.execute(text("LOCK TABLE cities"))
        for method, url, typed in (
            ("GET", "/cities/1", None),
            ("GET", "/?stored=5", None),
            ("POST", "/", {"name": "a", "population": "1"}),
        ):
            began = loop.time()
            assert (await client.request(method, url, data=typed)).status_code == 503
            seconds.append(loop.time() - began)
    once, *pages = seconds
    assert max(pages) < 1.5 * once


QUESTIONS = [
    "/cities/biggest", "/cities/search?q=a", "/cities/1", "/cities/bulk", "/countries",
    "/", "/?q=a", "/city/1", "/city/1/map.svg", "/map.svg", "/biggest.svg",
]  # fmt: skip


@pytest.mark.parametrize("url", [*QUESTIONS, "/healthz"])
async def test_an_unreachable_database_is_503(url: str) -> None:
    nowhere = create_async_engine("postgresql+asyncpg://ada:s3cr3t@127.0.0.1:1/geo")
    async with direct(create_app(nowhere)) as client:
        answer = await client.get(url)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        for secret in ("s3cr3t", "ada", "SELECT", "asyncpg", "127.0.0.1"):
            assert secret not in answer.text


@pytest.mark.parametrize("url", QUESTIONS)
async def test_a_missing_table_is_500_and_names_the_command_that_creates_it(
    engine: AsyncEngine, url: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE cities"))
    async with direct(create_app(engine)) as client:
        answer = await client.get(url)
        assert answer.status_code == 500
        assert "retry-after" not in answer.headers
        assert "citykit init" in answer.text
        assert (await client.get("/healthz")).status_code == 200


async def test_writing_needs_the_token_where_there_is_one(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYKIT_TOKEN", "größer")
    city = {"name": "a", "population": 1}
    async with direct(create_app(engine)) as client:
        for given in ("", "Bearer wrong", "Bearer ", "Basic größer"):
            headers = [(b"authorization", given.encode())]
            answer = await client.post("/cities/", json=city, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (await bulk(client, b"name,population\na,1\n")).status_code == 401
        assert (await client.post("/", data=city)).status_code == 401
        assert not await stored(engine)
        assert (await client.get("/cities/biggest")).status_code == 200
        right = [(b"authorization", "Bearer größer".encode())]
        assert (await client.post("/cities/", json=city, headers=right)).status_code == 201
        assert (await client.post("/", data={**city, "name": "b", "token": "größer"})).status_code == 303
        schemes = (await client.get("/openapi.json")).json()["components"]["securitySchemes"]
        assert [scheme["scheme"] for scheme in schemes.values()] == ["bearer"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://cities.example"}, 201),
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_pages_of_other_sites_change_nothing(
    engine: AsyncEngine, headers: dict[str, str], status: int
) -> None:
    async with direct(create_app(engine)) as client:
        answer = await client.post("/cities/", json={"name": "a", "population": 1}, headers=headers)
        assert answer.status_code == status


async def test_only_allowed_hosts_are_answered(engine: AsyncEngine) -> None:
    async with direct(create_app(engine, allowed_hosts=["localhost", "::1", "MyHost"])) as client:
        for host, status in (
            ("localhost:8000", 200), ("[::1]:8000", 200), ("myhost", 200), ("MyHost:8000", 200),
            ("evil.example", 400), ("[", 400),
        ):  # fmt: skip
            assert (await client.get("/cities/biggest", headers={"host": host})).status_code == status


async def test_the_application_disposes_of_its_own_engine_only(engine: AsyncEngine) -> None:
    app = create_app()
    async with direct(app) as client:
        assert (await client.get("/cities/biggest")).status_code == 503  # not started yet
        async with app.router.lifespan_context(app):
            own = app.state.engine
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert own.pool.checkedin() == 1
    assert own.pool.checkedin() == 0
    app = create_app(engine)
    async with app.router.lifespan_context(app):
        pass
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]


async def test_a_405_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    for url, allowed in (
        ("/cities/biggest", "GET, HEAD"), ("/cities/bulk", "GET, HEAD, POST"), ("/cities/1", "GET, HEAD"),
        ("/", "GET, HEAD, POST"),
        ("/cities/", "POST"), ("/openapi.json", "GET, HEAD"), ("/docs", "GET, HEAD"),
        ("/docs/files/favicon.png", "GET, HEAD"),
        ("/city/1", "GET, HEAD"), ("/city/1/map.svg", "GET, HEAD"), ("/map.svg", "GET, HEAD"),
        ("/biggest.svg", "GET, HEAD"),
    ):  # fmt: skip
        for method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"} - set(allowed.split(", ")):
            answer = await client.request(method, url)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed), (method, url)
    assert (await client.get("/cities/../../etc/passwd")).status_code == 404
    assert (await client.get("/docs")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("package", ["fastapi", "fastapi_offline", "jinja2", "pydantic", "uvicorn"])
def test_without_the_extra_the_error_has_the_pip_command(package: str) -> None:
    script = f"import sys, citykit; sys.modules[{package!r}] = None\nfrom citykit.web import serve"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr.splitlines()[-1]
    assert "pip install 'citykit[web]'" in done.stderr.splitlines()[-1]
