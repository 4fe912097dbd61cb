"""The web application against a bare route and one written with the ORM, each on a uvicorn of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import citykit
from citykit.web import routes
from tests.benchmarks.bench import Contender, Job, Target
from tests.benchmarks.loading import NAMES, Server, cities

CONNECTIONS = 64
REQUESTS = 8_000  # so many that opening the connections is less than one in a hundred
KINDS = ("citykit", "bare", "orm")
ORDER = "population DESC, name, country, region"


def bare() -> Any:
    """Return the route without citykit: asyncpg, and JSON."""
    import asyncpg
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(os.environ["BENCH_URI"], min_size=10, max_size=10) as app.state.pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/cities/biggest")
    async def biggest(limit: int = 20) -> JSONResponse:
        sql = f"SELECT {NAMES} FROM cities ORDER BY {ORDER} LIMIT $1"  # noqa: S608  constants
        rows = await app.state.pool.fetch(sql, limit)
        return JSONResponse([dict(row) for row in rows])

    return app


def orm() -> Any:
    """Return the route as one would write it: an ORM query, `scalars().all()`, a model for each row."""
    from fastapi import FastAPI
    from sqlalchemy import make_url, select
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    from citykit.cities.model import City
    from citykit.web.schemas import ListedCity

    app = FastAPI()
    url = make_url(os.environ["BENCH_URI"]).set(drivername="postgresql+asyncpg")
    sessions = async_sessionmaker(create_async_engine(url, pool_size=10, max_overflow=0))
    order = (City.population.desc(), City.name, City.country, City.region)

    @app.get("/cities/biggest", response_model=list[ListedCity])
    async def biggest(limit: int = 20) -> Any:
        async with sessions() as session:
            return (await session.scalars(select(City).order_by(*order).limit(limit))).all()

    return app


@contextmanager
def serving(kind: str, uri: str) -> Iterator[tuple[int, int]]:
    """Serve one of the applications in a process of its own; give its port and its process."""
    command = [sys.executable, "-m", "tests.benchmarks.web", kind]
    if kind == "citykit":
        command = [sys.executable, "-m", "citykit", "serve", "--port", "0"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "BENCH_URI": uri}
    )
    assert running.stdout is not None
    try:
        found = re.search(r":(\d+)", running.stdout.readline())
        assert found is not None
        yield int(found[1]), running.pid
    finally:
        running.terminate()
        running.wait()
        running.stdout.close()


async def ask(port: int, request: bytes, count: int, connections: int) -> tuple[list[float], Counter[bytes]]:
    """Send a request so many times over so many connections; return the seconds and the statuses."""
    left = iter(range(count))
    seconds: list[float] = []
    statuses: Counter[bytes] = Counter()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            await reader.readexactly(int(found[1]))
            seconds.append(time.perf_counter() - started)
            statuses[head[9:12]] += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return seconds, statuses


def verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


async def biggest(server: Server) -> list[str]:
    """Ask for the biggest of 100,000 cities."""
    await server.fill(cities(100_000))
    request = b"GET /cities/biggest?limit=20 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    times: list[float] = []
    with ExitStack() as stack:
        ports = {
            kind: stack.enter_context(serving(kind, server.uri))[0] for kind in ("citykit", "bare", "orm")
        }

        def asking(kind: str) -> Callable[[], Awaitable[Any]]:
            async def run() -> None:
                seconds, statuses = await ask(ports[kind], request, REQUESTS, CONNECTIONS)
                assert set(statuses) == {b"200"}
                if kind == "citykit":
                    times.extend(seconds)

            return run

        for port in ports.values():
            await ask(port, request, 500, CONNECTIONS)
        job = Job(
            f"GET /cities/biggest on 100,000 cities: {REQUESTS:,} requests, {CONNECTIONS} connections",
            {
                "citykit": asking("citykit"),
                "a bare route with asyncpg": asking("bare"),
                "a route with the ORM": asking("orm"),
            },
            [Target("a bare route with asyncpg", 1 / 0.8), Target("a route with the ORM", 1 / 1.5)],
        )
        await job.run()
        median, last = np.percentile(times, [50, 99])
        lines = job.lines()
        lines[-1:] = [
            f"- p50 {median * 1000:.1f} ms, p99 {last * 1000:.1f} ms: {last / median:.2f} times; "
            f"the target is 3: {verdict(last <= 3 * median)}"
        ]
        body = json.dumps({"name": "Brigadoon", "population": 1}).encode()
        head = "POST /cities/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        _, statuses = await ask(ports["citykit"], head.encode() + body, 1_000, 1_000)
    found = ", ".join(f"{count} times {status.decode()}" for status, count in sorted(statuses.items()))
    exact = statuses == {b"201": 1, b"409": 999}
    return [*lines, f"- 1,000 POSTs of the same new city at once: {found}: {verdict(exact)}", ""]


async def bulk(server: Server, rows: int) -> list[str]:
    """Load the same rows by HTTP and by `load_cities`."""
    frame = cities(rows)
    bodies = {
        media: server.disk / f"bulk.{kind}" for media, kind in routes.KINDS.items() if kind != "arrow stream"
    }
    frame.to_csv(bodies["text/csv"], index=False)
    frame.to_parquet(bodies["application/vnd.apache.parquet"], index=False, row_group_size=100_000)
    frame.to_json(bodies["application/x-ndjson"], orient="records", lines=True, force_ascii=False)

    async def empty() -> None:
        await server.fill(None)

    async def load() -> None:
        await citykit.load_cities(server.engine, frame)

    with serving("citykit", server.uri) as (port, pid):

        def post(kind: str) -> Callable[[], None]:
            def run() -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                with bodies[kind].open("rb") as file:
                    size = str(os.fstat(file.fileno()).st_size)
                    connection.request(
                        "POST", "/cities/bulk", file, {"Content-Type": kind, "Content-Length": size}
                    )
                answer = json.load(connection.getresponse())
                assert answer["inserted"] == rows, answer

            return run

        await asyncio.to_thread(lambda: pd.read_csv(bodies["text/csv"], nrows=1))
        await ask(port, b"GET /cities/biggest HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 1, 1)
        idle = memory(pid, "VmRSS")
        contenders: dict[str, Contender] = {"citykit": post("text/csv"), "load_cities": load}
        contenders |= {kind: post(kind) for kind in bodies if kind != "text/csv"}
        job = Job(f"POST /cities/bulk of {rows:,} rows", contenders, [Target("load_cities", 1.3)], empty)
        await job.run()
        added = memory(pid, "VmHWM") - idle
    lines = job.lines()
    lines[-1:] = [
        f"- {added:.0f} MiB above idle ({idle:.0f} MiB); the target is 256: {verdict(added <= 256)}",
        "",
    ]
    return lines


def memory(pid: int, word: str) -> float:
    """Return a figure of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"{word}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def lines(server: Server, rows: int) -> list[str]:
    """Run the jobs of the web application, and return them as Markdown."""
    return [*await biggest(server), *await bulk(server, rows)]


if __name__ == "__main__":
    import socket

    import uvicorn

    application = {"bare": bare, "orm": orm}[sys.argv[1]]()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)  # noqa: T201  read by the benchmark
        config = uvicorn.Config(application, log_level="warning", access_log=False, server_header=False)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
