"""`citykit serve`, and what its OpenAPI document promises."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import citykit


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `citykit serve` on a free port; give the process and what it says first."""
    command = [sys.executable, "-m", "citykit", "serve", "--port", "0", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stderr is not None
    said: list[str] = []
    try:
        while not said or "Serving" not in said[-1]:
            said.append(running.stdout.readline())
            assert said[-1], running.stderr.read()
        yield running, said
    finally:
        running.terminate()
        running.wait(timeout=30)
        running.stdout.close()
        running.stderr.close()


def url_of(said: list[str]) -> str:
    return said[-1].split()[1]


@pytest.fixture
def empty_table() -> Iterator[None]:
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    yield
    citykit.run(engine.dispose())


@pytest.mark.usefixtures("empty_table")
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_a_signal(way: signal.Signals) -> None:
    with serving() as (running, said):
        url = url_of(said)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/cities/biggest", timeout=30).json() == []
        assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400
        running.send_signal(way)
        assert running.wait(timeout=30) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


@pytest.mark.usefixtures("empty_table")
def test_serve_says_who_else_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYKIT_TOKEN", raising=False)
    with serving("--host", "0.0.0.0") as (_, said):  # noqa: S104  the point
        assert "CITYKIT_TOKEN" in said[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--port", "70000"], "--port"), (["--host", "nowhere.invalid"], "nowhere.invalid"), ([], "in use")],
)
def test_a_place_that_cannot_be_served(words: list[str], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = words or ["--port", str(taken.getsockname()[1])]
        command = [sys.executable, "-m", "citykit", "serve", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("citykit: ")
    assert said in line


def test_a_database_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_URL", "postgresql://ada:s3cr3t@127.0.0.1:1/geo")
    command = [sys.executable, "-m", "citykit", "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "ada:***@127.0.0.1:1/geo" in line
    assert "Serving" not in done.stdout


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    citykit.run(citykit.load_cities(engine, citykit.world_cities(2_000_000)))
    citykit.run(engine.dispose())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITYKIT_TOKEN", "secret")
        with serving() as (_, said):
            yield schemathesis.openapi.from_url(f"{url_of(said)}/openapi.json")


OPERATIONS = [
    "GET /cities/biggest", "GET /cities/bulk", "GET /cities/search", "GET /cities/{id}", "GET /countries",
    "GET /healthz", "POST /cities/", "POST /cities/bulk",
]  # fmt: skip


CASES = [
    (label, mode)
    for label in OPERATIONS
    for mode in schemathesis.GenerationMode
    if mode.is_positive or label not in ("GET /countries", "GET /healthz")  # in which nothing can be wrong
]


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_nothing_is_answered_that_is_not_documented(
    api: Any, label: str, mode: schemathesis.GenerationMode
) -> None:
    """CITYKIT_EXAMPLES is how many requests of each kind are tried."""
    operations = {found.ok().label: found.ok() for found in api.get_all_operations()}
    assert sorted(operations) == OPERATIONS

    @settings(
        max_examples=int(os.environ.get("CITYKIT_EXAMPLES", "15")),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operations[label].as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.call_and_validate(
            headers={"Authorization": "Bearer secret"},
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ],
        )

    holds()
