"""`citykit serve`, and what its OpenAPI document promises."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

import citykit
from tests.support.database import copy_home
from tests.support.processes import Forked


def served(*words: str) -> Forked:
    """Run `citykit serve` with these words; what it complains of is in its output too."""
    command = ["citykit", "serve", *words]
    return Forked(
        f"import sys; from citykit import cli; sys.stderr = sys.stdout; sys.argv = {command}; cli.main()"
    )


@contextmanager
def serving(*words: str, before: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `citykit serve` on a free port as it is typed; give the process and what it says first."""
    command = [*before, sys.executable, "-m", "citykit", "serve", "--port", "0", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert running.stdout is not None
        yield running, first_words(running.stdout)
    finally:
        running.terminate()
        running.communicate(timeout=30)


def first_words(output: IO[str]) -> list[str]:
    said: list[str] = []
    while not said or "Serving" not in said[-1]:
        said.append(output.readline())
        assert said[-1], said
    return said


def url_of(said: list[str]) -> str:
    return said[-1].split()[1]


@pytest.fixture
def empty_table() -> Iterator[None]:
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    yield
    citykit.run(engine.dispose())


@pytest.fixture
def home(empty_home: Path, initialised: Path) -> Path:
    """A directory as `empty_home`, in which the first start was made."""
    copy_home(initialised, empty_home)
    return empty_home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for a data directory of its own, with a server that only `citykit serve` uses."""
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    yield tmp_path / "home"
    for left in servers(tmp_path / "home"):
        with suppress(psutil.NoSuchProcess):
            left.send_signal(signal.SIGQUIT)
            left.wait(10)


def servers(home: Path) -> list[psutil.Process]:
    """The processes of the embedded server in that home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()) == home / "postgres":
                found.append(process)
    return found


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_serve_and_its_server(home: Path, way: signal.Signals, times: int) -> None:
    """A terminal that is closed sends SIGHUP more than once."""
    running = served("--port", "0")
    said = first_words(running.stdout)
    assert httpx.get(f"{url_of(said)}/healthz", timeout=30).json() == {"status": "ok"}
    assert servers(home)
    for _ in range(times):
        running.send_signal(way)
        time.sleep(0.02)
    assert running.communicate(timeout=30) == ""
    assert running.returncode == 0
    assert servers(home) == []


@pytest.mark.server
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_serve_begins_leaves_no_server(empty_home: Path, way: signal.Signals) -> None:
    running = served("--port", "0")
    deadline = time.monotonic() + 60
    while not (empty_home / "start.lock").exists():  # it begins to make its server
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    running.send_signal(way)
    assert running.communicate(timeout=60) == ""
    assert running.returncode == 0
    assert servers(empty_home) == []


@pytest.mark.usefixtures("empty_table")
def test_serve_outlives_its_terminal_where_nohup_says_so() -> None:
    with serving(before=["nohup"]) as (running, said):
        running.send_signal(signal.SIGHUP)
        assert httpx.get(f"{url_of(said)}/healthz", timeout=30).json() == {"status": "ok"}
        assert running.poll() is None


@pytest.mark.usefixtures("empty_table")
def test_serve_answers_only_to_the_names_of_loopback() -> None:
    with serving() as (_, said):
        url = url_of(said)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/cities/biggest", timeout=30).json() == []
        assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400


@pytest.mark.usefixtures("empty_table")
def test_serve_warns_that_others_may_write_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYKIT_TOKEN", raising=False)
    with serving("--host", "0.0.0.0") as (_, said):  # noqa: S104  the point
        assert "CITYKIT_TOKEN" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--port", "70000"], "--port", 2),
        (["--host", "nowhere.invalid"], "nowhere.invalid", 1),
        ([], "in use", 1),
    ],
)
def test_an_address_that_cannot_be_served_is_one_line_on_stderr(
    words: list[str], said: str, code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = served(*(words or ["--port", str(taken.getsockname()[1])]))
        [line] = running.communicate(timeout=60).splitlines()
    assert running.returncode == code
    assert line.startswith(("citykit: ", "citykit serve: "))
    assert said in line


@pytest.mark.slow
def test_a_database_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_URL", "postgresql://ada:s3cr3t@127.0.0.1:1/geo")
    running = served("--port", "0")
    [line] = running.communicate(timeout=60).splitlines()  # which does not say that it serves
    assert running.returncode == 1
    assert line.startswith("citykit: ")
    assert "ada:***@127.0.0.1:1/geo" in line


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    citykit.run(citykit.load_cities(engine, citykit.world_cities(2_000_000)))
    citykit.run(engine.dispose())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITYKIT_TOKEN", "secret")
        with serving() as (_, said):
            yield url_of(said)


def test_schemathesis_finds_nothing(api: str, tmp_path: Path) -> None:
    """All of its checks and phases; CITYKIT_EXAMPLES is how many requests of each kind it makes up."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{api}/openapi.json"]
    command += ["--checks=all", "--phases=examples,coverage,fuzzing,stateful", "--seed=1", "--no-color"]
    command += [f"--max-examples={os.environ.get('CITYKIT_EXAMPLES', '15')}", "--suppress-health-check=all"]
    command += ["--continue-on-failure", "--header=Authorization: Bearer secret"]
    root = Path(__file__).parents[2]
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.bodies", "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=hooks, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert "Selected: 8/8" in done.stdout
