"""The embedded server: started, shared, stopped, and what it does about everything that is in its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from sqlalchemy import URL

import citykit
from citykit.database import account, embedded
from tests.support.database import copy_home, scalar
from tests.support.processes import Forked

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
    reason="what root does is tested by root: sudo .venv/bin/pytest tests/database/test_embedded.py",
)

with_setfacl = pytest.mark.skipif(
    shutil.which("setfacl") is None, reason="needs the program setfacl: apt-get install acl"
)


linux = pytest.mark.skipif(
    sys.platform != "linux",
    reason="a subreaper is Linux's: there, .venv/bin/pytest tests/database/test_embedded.py",
)


@pytest.fixture
def home(empty_home: Path, initialised: Path) -> Path:
    """A directory as `empty_home`, in which the first start was made."""
    copy_home(initialised, empty_home)
    return empty_home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for a data directory of its own, whose users and server are gone at the end."""
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    yield tmp_path / "home"
    for user in User.all:
        user.kill()
    User.all.clear()
    for held in list(embedded._servers):
        embedded._servers.pop(held).leave()
    for child in tmp_path.glob("**/forked"):
        os.kill(int(child.read_text()), signal.SIGKILL)
    for pid_file in tmp_path.glob("**/postmaster.pid"):
        if pid := server(pid_file.parents[1]):
            os.kill(pid, signal.SIGQUIT)
            until(lambda pid=pid: embedded._process(pid) is None)  # type: ignore[misc]
        if (
            sockets := embedded._Server(pid_file.parents[1])._socket_directory()
        ).parent == embedded.SHORT_PLACE:
            shutil.rmtree(sockets, ignore_errors=True)


def server(home: Path) -> int | None:
    """The number of the running server, if one runs."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, NotADirectoryError):
        return None
    return pid if embedded._process(pid) else None  # a zombie is none


class User:
    """A process that uses the embedded server until it is told to leave."""

    all: ClassVar[list[User]] = []

    def __init__(self, python: str = HOLD) -> None:
        self.process = Forked(python)
        self.all.append(self)

    def ready(self) -> User:
        assert select.select([self.process.stdout], [], [], 90)[0], "it hangs"
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


@pytest.mark.server
async def test_an_engine_stays_with_the_server_that_it_was_made_for(
    home: Path, initialised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await citykit.connect()
    copy_home(initialised, home.with_name("other"))
    monkeypatch.setenv("CITYKIT_HOME", str(home.with_name("other")))
    others = await citykit.connect()
    for engine, where in ((mine, home), (others, home.with_name("other")), (mine, home)):
        await engine.dispose()
        assert await scalar(engine, "SHOW data_directory") == str(where / "postgres")
        await engine.dispose()


@pytest.mark.server
def test_many_start_at_once_and_find_one_server(empty_home: Path) -> None:
    users = [User() for _ in range(5)]
    for user in users:
        user.ready()
    pid = server(empty_home)
    assert pid is not None
    for user in users:
        user.leave()
    assert server(empty_home) is None


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
    embedded._servers.pop(home).leave()
    assert server(home) is None


def crash(home: Path) -> None:
    """Kill the server of `home`, and only its first process."""
    pid = server(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: embedded._process(pid) is None)


def pg_ctl(home: Path, *words: str) -> None:
    """Do what somebody does who knows PostgreSQL and not citykit."""
    pgdata = home / "postgres"
    owner = (
        account.Owner(pgdata.stat().st_uid, pgdata.stat().st_gid) if account.is_root() else account.Owner()
    )
    subprocess.run(
        [embedded._programs() / "pg_ctl", "-D", pgdata, "-w", *words],
        check=True,
        cwd=pgdata.parent,
        stdout=subprocess.DEVNULL,
        **owner.popen_options(),
    )


def deep(home: Path) -> Path:
    """A directory whose path is too long for a socket."""
    return home.joinpath(*["directory"] * 12)


def answers(url: URL) -> bool:
    async def ask() -> bool:
        engine = await citykit.connect(url)
        try:
            return not (await citykit.read_frame(engine, "SELECT 1 AS one")).empty
        finally:
            await engine.dispose()

    return asyncio.run(ask())


def moved(home: Path) -> Path:
    """Move the data directory to where its path is too long for a socket."""
    deep(home).mkdir(mode=0o700, parents=True)
    (home / "postgres").rename(deep(home) / "postgres")
    return deep(home)


PLACES = pytest.mark.parametrize("place", [lambda home: home, moved], ids=["short", "too long for a socket"])


@linux
@PLACES
@pytest.mark.parametrize("who", ["another", "the same"])
def test_a_killed_server_that_nobody_waits_for_is_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], Path], who: str
) -> None:
    home = place(home)
    monkeypatch.setenv("CITYKIT_HOME", str(home))
    subreaper = "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
    again = HOLD.partition("import asyncio, citykit, sys")[2]
    user = User(subreaper + HOLD + again).ready()  # which gets the orphans, and does not wait for them
    killed = server(home)
    assert killed is not None
    crash(home)
    assert psutil.Process(killed).status() == psutil.STATUS_ZOMBIE
    if who == "another":
        User().ready().leave()
    else:
        user.process.stdin.write("\n")
        user.process.stdin.flush()
        user.ready()
    assert server(home) not in (None, killed)
    assert psutil.Process(killed).status() == psutil.STATUS_ZOMBIE


@PLACES
@pytest.mark.parametrize("end", ["killed", "stopped by somebody"])
def test_attach_always_returns_where_the_server_listens_now(
    home: Path, place: Callable[[Path], Path], end: str
) -> None:
    home = place(home)
    first = embedded.attach(home)
    assert embedded.attach(home) == first
    for _ in range(2):
        if end == "killed":
            crash(home)
        else:
            pg_ctl(home, "stop")
        assert embedded.attach(home) == first  # whoever has an engine finds it again
        assert answers(first)
    directory = Path(str(first.query["host"]))
    assert directory.stat().st_mode & 0o777 == 0o700
    embedded._servers.pop(home).leave()
    assert server(home) is None
    assert directory == home / "postgres" or not directory.exists()


def test_a_server_that_somebody_else_started_is_used_and_their_directory_left_alone(
    home: Path,
) -> None:
    embedded.attach(home)
    embedded._servers.pop(home).leave()
    elsewhere = Path(tempfile.mkdtemp())
    elsewhere.chmod(0o777)
    (elsewhere / "mine").touch()
    pg_ctl(
        home, "-l", f"{home}/postgres/log", "-o", f"-c listen_addresses='' -k {elsewhere} -p 6000", "start"
    )
    url = embedded.attach(home)
    assert url.query["host"] == str(elsewhere)
    assert answers(url)
    embedded._servers.pop(home).leave()
    assert server(home) is None
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    shutil.rmtree(elsewhere)


def _plant_link(path: Path) -> None:
    path.with_name(path.name + ".theirs").mkdir(mode=0o700, exist_ok=True)
    path.symlink_to(path.name + ".theirs")


def _plant_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _plant_as_another(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


@pytest.mark.server
@pytest.mark.parametrize(
    "plant", [_plant_link, _plant_open, Path.touch, pytest.param(_plant_as_another, marks=as_root)]
)
def test_a_socket_directory_that_somebody_else_has_put_there_is_refused(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(embedded, "SHORT_PLACE", tmp_path)
    directory = embedded._Server(deep(empty_home))._socket_directory()
    plant(directory)
    with pytest.raises(citykit.DatabaseUnavailableError, match=f"{directory.name}.*nothing was started"):
        embedded.attach(deep(empty_home))
    assert server(deep(empty_home)) is None
    assert directory.is_symlink() or not directory.is_dir() or not list(directory.iterdir())


def test_many_connect_after_a_crash_and_find_one_server(home: Path) -> None:
    for _ in range(2):
        users = [User().ready()]
        crash(home)
        users += [User() for _ in range(4)]
        for user in users[1:]:
            user.ready()
        found = [process for pid in psutil.pids() if (process := embedded._Server(home)._if_of_server(pid))]
        assert [process.pid for process in found if process.parent() not in found] == [server(home)]
        for user in users:
            user.kill()


def has_worked(process: psutil.Process) -> bool:
    try:
        return bool(process.cpu_times().user > 0.5)
    except psutil.NoSuchProcess:  # one of the server's workers that ended meanwhile
        return False


def test_a_process_that_a_killed_server_left_at_work_is_waited_for_and_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded.attach(home)
    pid = server(home)
    assert pid is not None
    busy = User(f"""
import asyncio, asyncpg
async def main():
    connection = await asyncpg.connect(host={url.query["host"]!r}, port=5432, user="postgres")
    await connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")
asyncio.run(main())
""")
    until(lambda: any(has_worked(process) for process in psutil.Process(pid).children()))
    crash(home)
    monkeypatch.setattr(embedded, "SERVER_SECONDS", 1)
    with pytest.raises(citykit.DatabaseUnavailableError, match=r": kill \d+\.") as caught:
        embedded.attach(home)
    monkeypatch.setattr(embedded, "SERVER_SECONDS", 60)
    thread = threading.Thread(target=embedded.attach, args=[home])
    thread.start()
    [kill] = re.findall(r"kill \d+", str(caught.value))
    subprocess.run(kill.split(), check=True)
    thread.join(60)
    busy.kill()
    assert answers(embedded.attach(home))


def test_an_empty_pid_file_is_none(home: Path) -> None:
    User().ready().leave()
    (home / "postgres" / "postmaster.pid").touch()
    User().ready().leave()
    assert server(home) is None


FORK = """
import fcntl, os, subprocess, sys, threading, time
from citykit.database import account, embedded

home = account.default_home()

def fork(fork=os.fork):
    child = fork()
    if child == 0:
        os.closerange(0, 3)
        time.sleep(600)
        os._exit(0)
    (home / "forked").write_text(str(child))

def starts():
    try:
        with (home / "start.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
"""
FORKS = {
    "while a thread starts it": """
thread = threading.Thread(target=embedded.attach)
thread.start()
while not starts():
    time.sleep(0.001)
fork()
""",
    "once it is attached": """
embedded.attach()
fork()
""",
    "and executes a program": """
embedded.attach()
nothing = subprocess.DEVNULL
child = subprocess.Popen(["sleep", "600"], close_fds=False, stdin=nothing, stdout=nothing)
(home / "forked").write_text(str(child.pid))
""",
}


ENDS = (User.leave, User.kill)
FORKED_BY_C = """
import ctypes
thread = threading.Thread(target=embedded.attach)
thread.start()
# Until initdb writes: a fork while Popen starts a program would keep the pipe open that Popen waits for.
while not any(home.glob("postgres.new*/*")):
    time.sleep(0.001)
assert starts()
fork(ctypes.PyDLL(None).fork)
thread.join()
"""


@pytest.mark.parametrize(
    ("fork", "end"),
    [
        *(pytest.param(FORKS[fork], end, id=f"{fork}-{end.__name__}") for fork in FORKS for end in ENDS),
        pytest.param(FORKED_BY_C, User.leave, id="by a library, past Python"),
    ],
)
@pytest.mark.server
def test_a_child_that_outlives_its_parent_holds_none_of_its_locks(
    empty_home: Path, initialised: Path, fork: str, end: Callable[[User], None]
) -> None:
    home = empty_home
    if "Thread" not in fork:
        copy_home(initialised, home)  # where a thread starts it, the first start gives more time to fork
    end(User(f"{FORK}{fork}\nprint('ready', flush=True)\nsys.stdin.readline()").ready())
    User().ready().leave()
    assert server(home) is None
    assert embedded._process(int((home / "forked").read_text())) is not None


@pytest.mark.server
def test_a_forked_child_that_attaches_is_a_user_of_its_own(empty_home: Path) -> None:
    attach_twice = """
thread = threading.Thread(target=embedded.attach)
thread.start()
while not starts():
    time.sleep(0.001)
if os.fork() == 0:
    os.closerange(0, 3)
    embedded.attach()
    (home / "attached").touch()
    while not (home / "done").exists():
        time.sleep(0.01)
else:
    thread.join()
    print("ready", flush=True)
    sys.stdin.readline()
"""
    parent = User(FORK + attach_twice).ready()
    until((empty_home / "attached").exists)
    pid = server(empty_home)
    assert pid is not None
    parent.leave()
    User().ready().leave()
    assert server(empty_home) == pid
    (empty_home / "done").touch()
    until(lambda: server(empty_home) is None)


@pytest.fixture
def stopped(empty_home: Path) -> Iterator[User]:
    """A process that came to a standstill while it starts the server."""
    user = User()
    lock = empty_home / "start.lock"
    until(lambda: lock.exists() and lock.read_text() == str(user.process.pid))
    user.process.send_signal(signal.SIGSTOP)
    yield user
    user.process.send_signal(signal.SIGCONT)


def waits(pid: int, home: Path) -> bool:
    return any(file.path == str(home / "start.lock") for file in psutil.Process(pid).open_files())


@pytest.mark.server
def test_waiting_for_the_lock_ends_and_says_who_holds_it(
    empty_home: Path, stopped: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SERVER_SECONDS", 1)
    said: list[str] = []

    def attach() -> None:
        with pytest.raises(citykit.DatabaseUnavailableError) as caught:
            embedded.attach(empty_home)
        said.append(str(caught.value))

    threads = [threading.Thread(target=attach) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(said) == 3
    assert any(f"start.lock, which process {stopped.process.pid} took" in message for message in said)
    assert all("nothing was started" in message and "CITYKIT_URL" in message for message in said)
    monkeypatch.undo()
    stopped.process.send_signal(signal.SIGCONT)
    assert answers(embedded.attach(empty_home))


@pytest.mark.server
def test_waiting_for_the_lock_can_be_interrupted(empty_home: Path, stopped: User) -> None:
    waiting = User("from citykit.database import embedded\nembedded.attach()")
    until(lambda: waits(waiting.process.pid, empty_home))
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.process.wait(30) == -signal.SIGINT
    stopped.process.send_signal(signal.SIGCONT)
    stopped.ready().leave()
    assert server(empty_home) is None


@pytest.mark.server
async def test_waiting_for_the_lock_can_be_cancelled(empty_home: Path, stopped: User) -> None:
    waiting = asyncio.create_task(embedded.attach_async(empty_home))
    await asyncio.to_thread(until, lambda: waits(os.getpid(), empty_home))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(until, lambda: not waits(os.getpid(), empty_home))
    stopped.process.send_signal(signal.SIGCONT)
    stopped.ready().leave()
    assert server(empty_home) is None  # the cancelled one is no user
    await embedded.attach_async(empty_home)
    assert server(empty_home) is not None


def test_a_user_needs_no_lock_to_find_a_server_that_is_ready(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded.attach(home)
    monkeypatch.setattr(embedded, "SERVER_SECONDS", 1)
    with embedded._Server(home)._no_other_process(threading.Event()):
        assert embedded.attach(home) == url


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
    embedded.attach(second)
    embedded._servers.pop(second).leave()
    lines = (home / "postgres" / "postmaster.pid").read_text()
    (second / "postgres" / "postmaster.pid").write_text(lines)  # names the other server
    embedded.attach(second)
    embedded._servers.pop(second).leave()
    assert server(second) is None
    assert server(home) == running
    other.leave()


def test_the_socket_is_reached_by_its_owner_alone_and_nothing_listens_on_a_port(home: Path) -> None:
    user = User().ready()
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
    pid = server(home)
    assert pid is not None
    assert not psutil.Process(pid).net_connections("inet")
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the server's workers that ended meanwhile
            assert not process.net_connections("inet")
    user.leave()


@pytest.mark.server
def test_a_home_too_deep_for_a_socket(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_HOME", str(deep(empty_home)))
    first, second = User().ready(), User().ready()
    first.leave()
    second.leave()
    assert server(deep(empty_home)) is None


@pytest.mark.server
def test_a_home_with_blanks_and_quotes(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = empty_home / 'it\'s my "data" $HOME; é'
    monkeypatch.setenv("CITYKIT_HOME", str(odd))
    User().ready().leave()
    assert server(odd) is None


OF_ANOTHER_SERVER = {
    "PGHOST": "no-such-host.invalid", "PGPORT": "nonsense", "PGUSER": "nobody", "PGPASSWORD": "wrong",
    "PGDATABASE": "nothing", "PGDATA": "/nowhere", "PGSSLMODE": "nonsense", "PGSSLROOTCERT": "/nowhere",
    "PGSSLCERT": "/nowhere", "PGSSLNEGOTIATION": "nonsense", "PGOPTIONS": "-c nonsense=1", "PGTZ": "nonsense",
    "PGSERVICE": "nothing", "PGSERVICEFILE": "/nowhere", "PGTARGETSESSIONATTRS": "nonsense",
    "PGCLIENTENCODING": "latin1", "PGPASSFILE": "/", "PGGSSLIB": "nonsense", "PGKRBSRVNAME": "nonsense",
    "PGCONNECT_TIMEOUT": "nonsense", "PGCHANNELBINDING": "require",
}  # fmt: skip


@pytest.mark.parametrize("running", [False, True], ids=["started", "running"])
def test_the_embedded_server_is_reached_whatever_the_pg_variables_say(
    home: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    first = User().ready() if running else None
    for name, value in OF_ANOTHER_SERVER.items():
        monkeypatch.setenv(name, value)
    User().ready().leave()
    for name in OF_ANOTHER_SERVER:
        monkeypatch.delenv(name)
    for name, value in OF_ANOTHER_SERVER.items() if running else ():
        with monkeypatch.context() as alone:
            alone.setenv(name, value)
            citykit.run(connected_once())
    if first:
        first.leave()
    else:
        assert server(home) is None


async def connected_once() -> None:
    engine = await citykit.connect()
    assert (await citykit.read_frame(engine, "SELECT current_user::text AS name"))["name"][0] == "postgres"
    await engine.dispose()


@pytest.mark.server
def test_an_interrupted_first_start_is_made_good(empty_home: Path) -> None:
    (empty_home / "postgres.new" / "base").mkdir(parents=True)
    User().ready().leave()
    assert (empty_home / "postgres" / "PG_VERSION").exists()
    assert not (empty_home / "postgres.new").exists()


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        (lambda home: (home / "postgres").write_text("a file"), "could not be started"),
        (lambda home: _write(home / "postgres" / "notes.txt", "mine"), "neither empty nor a PostgreSQL"),
        (lambda home: _write(home / "postgres" / "PG_VERSION", "15\n"), "PostgreSQL 15.*nothing was touched"),
    ],
)
def test_what_is_in_the_way_is_named_and_left_alone(
    empty_home: Path, obstacle: Callable[[Path], object], said: str
) -> None:
    empty_home.mkdir(exist_ok=True)
    obstacle(empty_home)
    before = sorted(str(path) for path in empty_home.rglob("*") if path.suffix != ".lock")
    with pytest.raises(citykit.DatabaseUnavailableError, match=said) as caught:
        embedded.attach(empty_home)
    assert "CITYKIT_HOME" in str(caught.value)
    assert sorted(str(path) for path in empty_home.rglob("*") if path.suffix != ".lock") == before


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_the_servers_own_last_words_are_in_the_error(home: Path) -> None:
    User().ready().leave()
    with (home / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(citykit.DatabaseUnavailableError, match="no_such_setting"):
        embedded.attach(home)


def test_a_home_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYKIT_HOME", "/proc/citykit")
    with pytest.raises(citykit.DatabaseUnavailableError, match="/proc/citykit could not be started"):
        embedded.attach()


def test_the_home_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYKIT_HOME", "relative")
    assert account.default_home() == tmp_path / "relative"
    monkeypatch.setenv("CITYKIT_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(account, "is_root", lambda: False)
    if sys.platform == "linux":
        assert account.default_home() == tmp_path / "citykit"
        monkeypatch.setattr(account, "is_root", lambda: True)
        assert account.default_home() == Path("/var/lib/citykit")


def test_without_a_home_directory_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYKIT_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(account, "is_root", lambda: False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODYS)
    with pytest.raises(
        citykit.DatabaseUnavailableError, match=r"no place for the data.*CITYKIT_HOME.*CITYKIT_URL"
    ):
        embedded.attach()
    monkeypatch.setenv("CITYKIT_HOME", "~no-such-user/citykit")
    with pytest.raises(
        citykit.DatabaseUnavailableError, match=r"no place for the data.*CITYKIT_HOME.*CITYKIT_URL"
    ):
        embedded.attach()


TELL = """
import asyncio, citykit
try:
    asyncio.run(citykit.connect())
except citykit.DatabaseUnavailableError as exc:
    print(exc)
"""
NOBODYS = 54_321  # a number that no user has
WHAT_TO_DO = "cannot run here: .* as a user that the system knows .*CITYKIT_URL"


def test_an_account_without_a_name_is_told_what_to_do(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODYS)
    with pytest.raises(citykit.DatabaseUnavailableError, match=WHAT_TO_DO):
        embedded.attach(empty_home)


@pytest.mark.server  # it asks for one, as a process that needs a Python which others may execute
@as_root
@linux
@pytest.mark.parametrize("named", [True, False], ids=["CITYKIT_HOME", "no CITYKIT_HOME"])
def test_a_process_of_an_account_without_a_name_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    monkeypatch.delenv("CITYKIT_HOME", raising=False)
    for name in ("HOME", "XDG_DATA_HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    place = Path(tempfile.mkdtemp(prefix="citykit-nameless-"))
    os.chown(place, NOBODYS, NOBODYS)
    if named:
        monkeypatch.setenv("CITYKIT_HOME", str(place))
    command = [
        "setpriv",
        f"--reuid={NOBODYS}",
        f"--regid={NOBODYS}",
        "--clear-groups",
        sys.executable,
        "-c",
        TELL,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd="/")
    shutil.rmtree(place)
    assert "CITYKIT_URL" in done.stdout
    assert re.search("a user that the system knows" if named else "CITYKIT_HOME", done.stdout)


@as_root
def test_a_data_directory_of_an_account_without_a_name(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_home / "postgres").mkdir(parents=True)
    os.chown(empty_home / "postgres", NOBODYS, NOBODYS)
    monkeypatch.setattr(embedded, "_installed", lambda: [])  # is not opened to that account
    with pytest.raises(citykit.DatabaseUnavailableError, match=WHAT_TO_DO):
        embedded.attach(empty_home)


@as_root
def test_a_system_with_neither_the_account_nor_nobody(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(citykit.DatabaseUnavailableError, match=WHAT_TO_DO):
        embedded.attach(empty_home)


@as_root
@linux
@pytest.mark.parametrize("lacks", ["setuid", "setgid", "chown"])
@pytest.mark.slow
def test_a_root_that_may_not_become_the_account_is_told_what_to_do(empty_home: Path, lacks: str) -> None:
    without = ["setpriv", f"--bounding-set=-{lacks}", f"--inh-caps=-{lacks}"]
    done = subprocess.run([*without, sys.executable, "-c", TELL], stdout=subprocess.PIPE, text=True)
    assert re.search(WHAT_TO_DO, done.stdout)
    assert server(empty_home) is None


@pytest.mark.server
@as_root
@with_setfacl
def test_root_opens_nothing_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("CITYKIT_HOME", str(closed / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    User().ready().leave()
    assert not closed.stat().st_mode & stat.S_IRWXO
    assert not (closed / "home").stat().st_mode & stat.S_IRWXO
    assert (closed / "home" / "postgres").stat().st_uid not in (0, closed.stat().st_uid)


GETS_NO_ENTRY = {"absent": None, "refused by the file system": "#!/bin/sh\nexit 1\n"}


@as_root
@pytest.mark.parametrize("setfacl", GETS_NO_ENTRY.values(), ids=GETS_NO_ENTRY.keys())
def test_where_there_are_no_access_control_lists_others_may_pass_and_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setfacl: str | None
) -> None:
    if setfacl:
        (tmp_path / "setfacl").write_text(setfacl)
        (tmp_path / "setfacl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    account.for_server(closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701


@as_root
@with_setfacl
def test_an_access_control_entry_lets_one_account_search_and_gives_nothing_back() -> None:
    closed = Path(tempfile.mkdtemp())  # not in tmp_path, whose parents are closed too
    closed.chmod(0o750)
    owner, other, stranger = (
        account._service_account(),
        account.Owner(12345, 12345),
        account.Owner(12346, 12346),
    )
    group = account.Owner(12347, closed.stat().st_gid)

    def may(who: account.Owner, what: str) -> bool:
        test = ["/bin/sh", "-c", f'test -{what} "$0"', str(closed)]
        return subprocess.run(test, cwd="/", **who.popen_options()).returncode == 0

    account._let_through(other, closed)
    account._let_through(owner, closed)
    account._let_through(owner, closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o750
    assert may(owner, "x")
    assert may(other, "x")
    assert may(group, "r")
    assert not may(owner, "r")
    assert not may(stranger, "x")
    closed.chmod(0o700)  # takes the mask away
    account._let_through(owner, closed)
    assert may(owner, "x")
    assert not may(owner, "r")
    assert not may(group, "r")
    assert not may(stranger, "x")
    closed.rmdir()


@as_root
def test_an_account_that_does_not_reach_its_data_is_told_which_right_it_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(account, "_let_through", lambda *_: None)
        with pytest.raises(citykit.DatabaseUnavailableError, match=r"nothing into its log .*\(chmod o\+x\)"):
            embedded.attach(home)
    embedded.attach(home)


@as_root
def test_root_uses_the_home_of_a_user_as_that_user(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 12345, 12345)
    assert account.for_server(tmp_path) == account.Owner(12345, 12345)


@as_root
@pytest.mark.slow
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
