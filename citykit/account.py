"""The account that the embedded server runs under.

PostgreSQL refuses to run as root. Started by root (containers, hosted notebooks), it runs as the system
user ``citykit``, which is created if the system lets us, else as ``nobody``; on a data directory that a
user has made, as that user. That account gets the right to pass through the directories on its way, and
no more: an access-control entry for it alone.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "citykit"


@dataclass(frozen=True)
class Owner:
    """Whoever owns the data directory and runs the server; None: the user of this process."""

    uid: int | None = None
    gid: int | None = None

    def popen_options(self) -> dict[str, Any]:
        """Make `subprocess` run a program under this account."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take(self, path: Path) -> None:
        """Make `path` this account's own."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def is_root() -> bool:
    """Tell whether this process may not run a server itself."""
    return os.name == "posix" and os.geteuid() == 0


def for_server(home: Path, *installed: Path) -> Owner:
    """Return who runs the server, having let that account through to `home` and to what is `installed`."""
    if not is_root():
        return Owner()
    data = home / "postgres"
    found = data.stat() if data.exists() else None
    owner = Owner(found.st_uid, found.st_gid) if found and found.st_uid else _service_account()
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
    import pwd

    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if useradd:
            command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME]
            subprocess.run(command, capture_output=True, check=False)  # may have lost a race to another
        try:
            entry = pwd.getpwnam(NAME)
        except KeyError:
            entry = pwd.getpwnam("nobody")
    return Owner(entry.pw_uid, entry.pw_gid)


def _may_search(owner: Owner, directory: Path) -> bool:
    command = ["/bin/sh", "-c", 'test -x "$0"', str(directory)]
    return subprocess.run(command, check=False, cwd="/", **owner.popen_options()).returncode == 0


# Layout of the attribute: linux/posix_acl_xattr.h
_ACCESS = "system.posix_acl_access"
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def _let_through(owner: Owner, directory: Path) -> None:
    """Let `owner`, and nobody else, search `directory`; without access-control lists, let everybody."""
    try:
        _grant_search(directory, owner)
    except (OSError, AttributeError):  # a file system or a platform without them
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)


def _grant_search(directory: Path, owner: Owner) -> None:
    mode = directory.stat().st_mode
    try:
        entries = list(struct.iter_unpack("<HHI", os.getxattr(directory, _ACCESS)[4:]))
    except OSError:
        entries = [
            (_USER_OBJ, mode >> 6 & 7, _NO_ID),
            (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
            (_OTHER, mode & 7, _NO_ID),
        ]
    masked = (_USER, _GROUP_OBJ, _GROUP)
    [old_mask] = [rights for tag, rights, _ in entries if tag == _MASK] or [7]
    # What the old mask (a chmod, say) has taken away stays away.
    kept = [
        (tag, rights & old_mask if tag in masked else rights, number)
        for tag, rights, number in entries
        if tag != _MASK
    ]
    [mine] = [rights for tag, rights, number in kept if (tag, number) == (_USER, owner.uid)] or [0]
    kept = [entry for entry in kept if entry[::2] != (_USER, owner.uid)] + [(_USER, mine | 1, owner.uid)]
    mask = 0
    for tag, rights, _ in kept:
        mask |= rights if tag in masked else 0
    kept.append((_MASK, mask, _NO_ID))
    kept.sort(key=lambda entry: (entry[0], entry[2]))
    os.setxattr(directory, _ACCESS, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in kept))
