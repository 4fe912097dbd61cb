"""The embedded server: started, shared, stopped, and what it does about everything that is in its way."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

import citykit
from citykit import account, local

HOLD = """
import asyncio, citykit, sys
async def main():
    engine = await citykit.connect()
    await citykit.create_tables(engine)
    await engine.dispose()
citykit.run(main())
print("ready", flush=True)
sys.stdin.readline()
"""
as_root = pytest.mark.skipif(
    not account.is_root(),
    reason="what root does is tested by root: sudo .venv/bin/pytest tests/test_local.py",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of its own, whose users and server are gone at the end."""
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    yield tmp_path / "home"
    for user in User.all:
        if user.process.poll() is None:
            user.kill()
    User.all.clear()
    if pid := server(tmp_path / "home"):
        os.kill(pid, signal.SIGQUIT)
        psutil.Process(pid).wait(10)


def server(home: Path) -> int | None:
    """The number of the running server, if one runs."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, NotADirectoryError):
        return None
    return pid if psutil.pid_exists(pid) else None


class User:
    """A process that uses the embedded server until it is told to leave."""

    all: ClassVar[list[User]] = []

    def __init__(self, python: str = HOLD) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", python], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.all.append(self)

    def ready(self) -> User:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def leave(self) -> None:
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_started_shared_and_stopped_by_the_last_to_leave(home: Path) -> None:
    first, second = User().ready(), User().ready()
    pid = server(home)
    assert pid is not None
    first.leave()
    assert server(home) == pid
    third = User().ready()
    assert server(home) == pid
    second.leave()
    assert server(home) == pid
    third.leave()
    assert server(home) is None


def test_many_start_at_once_and_find_one_server(home: Path) -> None:
    users = [User() for _ in range(5)]
    for user in users:
        user.ready()
    pid = server(home)
    assert pid is not None
    for user in users:
        user.leave()
    assert server(home) is None


def test_a_killed_user_is_not_counted(home: Path) -> None:
    killed, other = User().ready(), User().ready()
    killed.kill()
    other.leave()
    assert server(home) is None
    alone = User().ready()
    alone.kill()
    assert server(home) is not None  # nobody was left to stop it
    User().ready().leave()
    assert server(home) is None


def test_data_survives_a_killed_server(home: Path) -> None:
    user = User().ready()
    pid = server(home)
    assert pid is not None
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.add_city(engine, "Reykjavík", 118_918))
    psutil.Process(pid).kill()
    until(lambda: server(home) is None)
    citykit.run(engine.dispose())
    engine = citykit.run(citykit.connect())  # recovers
    assert citykit.run(citykit.biggest_cities(engine))["name"].tolist() == ["Reykjavík"]
    citykit.run(engine.dispose())
    user.leave()
    local._servers.pop(home).leave()
    assert server(home) is None


def test_a_stale_pid_file_with_the_number_of_another_program(home: Path) -> None:
    User().ready().leave()
    (home / "postgres" / "postmaster.pid").write_text(
        f"{os.getppid()}\n{home}/postgres\n1700000000\n5432\n{home}/postgres\n\n  1 2\nready   \n"
    )
    User().ready().leave()
    assert server(home) is None


def test_a_server_that_is_stopping_is_waited_for(home: Path) -> None:
    user = User().ready()
    pid = server(home)
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    User().ready().leave()
    user.leave()
    assert server(home) is None


def test_a_program_that_has_the_number_of_a_crashed_server_is_left_alone(home: Path) -> None:
    other = User().ready()
    running = server(home)
    assert running is not None
    second = home / "second"
    local.attach(second)
    local._servers.pop(second).leave()
    lines = (home / "postgres" / "postmaster.pid").read_text()
    (second / "postgres" / "postmaster.pid").write_text(lines)  # names the other server
    local.attach(second)
    local._servers.pop(second).leave()
    assert server(second) is None
    assert server(home) == running
    other.leave()


def test_the_socket_is_reached_by_its_owner_alone_and_nothing_listens_on_a_port(home: Path) -> None:
    user = User().ready()
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
    pid = server(home)
    assert pid is not None
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    assert not [c for p in processes for c in p.net_connections("inet")]
    user.leave()


def test_a_home_too_deep_for_a_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = home.joinpath(*["directory"] * 12)
    monkeypatch.setenv("CITYKIT_HOME", str(deep))
    first, second = User().ready(), User().ready()
    first.leave()
    second.leave()
    assert server(deep) is None


def test_a_home_with_blanks_and_quotes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = home / 'it\'s my "data" $HOME; é'
    monkeypatch.setenv("CITYKIT_HOME", str(odd))
    User().ready().leave()
    assert server(odd) is None


def test_settings_of_another_postgresql_do_no_harm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "nowhere", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)
    User().ready().leave()
    assert server(home) is None


def test_an_interrupted_first_start_is_made_good(home: Path) -> None:
    (home / "postgres.new" / "base").mkdir(parents=True)
    User().ready().leave()
    assert (home / "postgres" / "PG_VERSION").exists()
    assert not (home / "postgres.new").exists()


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        (lambda home: (home / "postgres").write_text("a file"), "could not be started"),
        (lambda home: _write(home / "postgres" / "notes.txt", "mine"), "neither empty nor a PostgreSQL"),
        (lambda home: _write(home / "postgres" / "PG_VERSION", "15\n"), "PostgreSQL 15.*nothing was touched"),
    ],
)
def test_what_is_in_the_way_is_named_and_left_alone(
    home: Path, obstacle: Callable[[Path], object], said: str
) -> None:
    home.mkdir(exist_ok=True)
    obstacle(home)
    before = sorted(str(path) for path in home.rglob("*") if path.suffix != ".lock")
    with pytest.raises(citykit.DatabaseUnavailableError, match=said) as caught:
        local.attach(home)
    assert "CITYKIT_HOME" in str(caught.value)
    assert sorted(str(path) for path in home.rglob("*") if path.suffix != ".lock") == before


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_the_servers_own_last_words_are_in_the_error(home: Path) -> None:
    User().ready().leave()
    with (home / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(citykit.DatabaseUnavailableError, match="no_such_setting"):
        local.attach(home)


def test_a_home_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_HOME", "/proc/citykit")
    with pytest.raises(citykit.DatabaseUnavailableError, match="/proc/citykit could not be started"):
        local.attach()


def test_the_home_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYKIT_HOME", "relative")
    assert local.default_home() == tmp_path / "relative"
    monkeypatch.setenv("CITYKIT_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(account, "is_root", lambda: False)
    if sys.platform == "linux":
        assert local.default_home() == tmp_path / "citykit"
        monkeypatch.setattr(account, "is_root", lambda: True)
        assert local.default_home() == Path("/var/lib/citykit")


@as_root
def test_root_opens_nothing_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("CITYKIT_HOME", str(closed / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    User().ready().leave()
    assert not closed.stat().st_mode & stat.S_IRWXO
    assert not (closed / "home").stat().st_mode & stat.S_IRWXO
    assert (closed / "home" / "postgres").stat().st_uid not in (0, closed.stat().st_uid)


@as_root
def test_where_there_are_no_access_control_lists_others_may_pass_and_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(account, "_grant_search", none)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    account.for_server(closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701


@as_root
def test_what_a_chmod_has_taken_away_stays_away() -> None:
    closed = Path(tempfile.mkdtemp())
    closed.chmod(0o750)
    owner = account._service_account()
    account._grant_search(closed, owner)
    closed.chmod(0o700)
    account._grant_search(closed, owner)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o710  # the mask lets one account search
    group = account.Owner(12346, closed.stat().st_gid)
    assert not account._may_search(group, closed)
    assert account._may_search(owner, closed)
    closed.rmdir()


@as_root
def test_root_uses_the_home_of_a_user_as_that_user(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 12345, 12345)
    assert account.for_server(tmp_path) == account.Owner(12345, 12345)


@as_root
def test_an_access_control_list_that_is_there_is_kept() -> None:
    closed = Path(tempfile.mkdtemp())  # not in tmp_path, whose parents are closed too
    closed.chmod(0o750)
    owner, other = account._service_account(), account.Owner(12345, 12345)
    account._grant_search(closed, other)
    account._grant_search(closed, owner)
    account._grant_search(closed, owner)
    assert account._may_search(owner, closed)
    assert account._may_search(other, closed)
    assert not account._may_search(account.Owner(12346, 12346), closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o750
    closed.rmdir()


@as_root
def test_programs_installed_under_a_strict_umask_can_be_run(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "bin" / "program"
    program.parent.mkdir(mode=0o700)
    program.write_text("#!/bin/sh\ncat $(dirname $0)/../data")
    program.chmod(0o700)
    (closed / "data").write_text("works")
    (closed / "data").chmod(0o600)
    owner = account.for_server(tmp_path, closed)
    done = subprocess.run([program], capture_output=True, text=True, check=True, **owner.popen_options())
    assert done.stdout == "works"
