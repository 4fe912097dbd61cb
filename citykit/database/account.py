"""The account that the embedded server runs under, and where its data lives.

PostgreSQL refuses to run as root. If root starts it (containers, hosted notebooks), it runs as the owner of
the data directory; of a new one, as the system user ``citykit``, which is created if possible, else as
``nobody``. That account gets search permission (x) on the directories above the data and the programs: by
an entry of the access-control list (``setfacl``) where the file system has those, else by the permission
bit for all users.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from citykit.errors import DatabaseUnavailableError

NAME = "citykit"


@dataclass(frozen=True)
class Owner:
    """The account that owns the data directory and runs the server; None: the user of this process."""

    uid: int | None = None
    gid: int | None = None

    def popen_options(self) -> dict[str, Any]:
        """Make `subprocess` run a program under this account."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take(self, path: Path) -> None:
        """Make `path` this account's own."""
        if self.uid is not None and self.gid is not None:
            try:
                os.chown(path, self.uid, self.gid)
            except OSError as exc:
                raise _cannot_run(
                    f"{path} could not be given to the user {self.uid}: {exc.strerror}"
                ) from exc

    def check_named(self) -> None:
        """Raise if the system has no name for this account: initdb does not run without one."""
        import pwd

        uid = os.geteuid() if self.uid is None else self.uid
        try:
            pwd.getpwuid(uid)
        except KeyError as exc:
            raise _cannot_run(f"the system has no user with the uid {uid}") from exc

    def check_allowed(self) -> None:
        """Raise if this process may not run a program under this account."""
        try:
            subprocess.run(["/bin/sh", "-c", ":"], check=True, cwd="/", **self.popen_options())
        except OSError as exc:
            raise _cannot_run(
                f"it refuses to run as root, and this root may not run it as user {self.uid}: {exc.strerror}"
            ) from exc


def _cannot_run(why: str) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"The embedded PostgreSQL cannot run here: {why}. "
        "Run this as a user that the system knows and that is not root, "
        "or set CITYKIT_URL to use another server.",
        transient=False,
    )


def is_root() -> bool:
    """Tell whether this process runs as root, as which PostgreSQL refuses to run."""
    return os.name == "posix" and os.geteuid() == 0


def default_home() -> Path:
    """Where the data lives: ``CITYKIT_HOME``, else the platform's directory for an application's data.

    Root's is ``/var/lib/citykit``: the account that runs the server may not enter root's home.

    Raises
    ------
    DatabaseUnavailableError
        If this user has no home directory.
    """
    named = os.environ.get("CITYKIT_HOME")
    if not named and is_root():
        return Path("/var/lib/citykit")
    try:
        return Path(named or platformdirs.user_data_path("citykit", appauthor=False)).expanduser().absolute()
    except RuntimeError as exc:  # neither HOME nor an entry in the system's list of users
        raise DatabaseUnavailableError(
            f"There is no place for the data of the embedded PostgreSQL: {exc}. "
            "Set CITYKIT_HOME to a directory that you can write to, or CITYKIT_URL to use another server.",
            transient=False,
        ) from exc


def for_server(home: Path, *installed: Path) -> Owner:
    """Return the account that runs the server, and let it reach `home` and the `installed` trees."""
    if not is_root():
        return Owner()
    data = home / "postgres"
    found = data.stat() if data.exists() else None
    owner = Owner(found.st_uid, found.st_gid) if found and found.st_uid else _service_account()
    owner.check_allowed()
    for tree in installed:
        for path in (tree, *tree.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and not mode & stat.S_IROTH:  # installed under a strict umask
                path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))
    for path in (home, *installed):
        for directory in reversed((path, *path.parents)):
            if not directory.stat().st_mode & stat.S_IXOTH and not _may_search(owner, directory):
                _let_through(owner, directory)
    return owner


def _service_account() -> Owner:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    entry = _entry(NAME)
    if entry is None and useradd:
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME]
        # It fails if another process has just created the user.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        entry = _entry(NAME)
    entry = entry or _entry("nobody")
    if entry is None:
        raise _cannot_run(f"it refuses to run as root, and there is no user {NAME} or nobody")
    return Owner(entry.pw_uid, entry.pw_gid)


def _entry(name: str) -> Any:
    """Return the system's entry of a user, None where it has none."""
    import pwd

    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _may_search(owner: Owner, directory: Path) -> bool:
    command = ["/bin/sh", "-c", 'test -x "$0"', str(directory)]
    return subprocess.run(command, check=False, cwd="/", **owner.popen_options()).returncode == 0


def _let_through(owner: Owner, directory: Path) -> None:
    """Give `owner` search permission on `directory`; without access-control lists, give it to all users."""
    mode = directory.stat().st_mode
    if setfacl := shutil.which("setfacl"):
        # Keep the mask (shown as the group's bits) as it is, plus x: setfacl would widen it by itself.
        mask = "".join(letter if mode & bit else "-" for letter, bit in (("r", 0o40), ("w", 0o20))) + "x"
        command = [setfacl, "-m", f"u:{owner.uid}:--x,m::{mask}", str(directory)]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
    directory.chmod(mode | stat.S_IXOTH)
