"""A PostgreSQL that is reached over TLS, with certificates made for it."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import held_port

# The embedded server is built without TLS.
PROGRAMS = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), "")
needs_tls = pytest.mark.skipif(
    not (PROGRAMS and shutil.which("openssl")), reason="run: apt-get install postgresql openssl"
)
PASSWORD = "p@ss/word"  # noqa: S105
HBA = """
local   all all                    trust
hostssl all ada      127.0.0.1/32  trust clientcert=verify-full
host    all babbage  127.0.0.1/32  scram-sha-256
hostssl all postgres 127.0.0.1/32  trust
"""


@dataclass(frozen=True)
class TlsServer:
    """Its port on 127.0.0.1, and the folder with ca.crt, other.crt (another CA), ada.crt and ada.key."""

    port: int
    folder: Path

    def url(self, user: str = "postgres", host: str = "localhost", **options: Any) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@{host}:{self.port}/postgres?{query}"


def _made(folder: Path, name: str, *options: str) -> None:
    """Make a key and a certificate."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        f"/CN={name}",
    ]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    subprocess.run([*command, *files, *options], check=True, capture_output=True)
    (folder / f"{name}.key").chmod(0o600)


@contextmanager
def tls_server() -> Iterator[TlsServer]:
    """Run a server; user ada needs her certificate, babbage the password, postgres nothing but TLS."""
    folder = Path(tempfile.mkdtemp(prefix="citykit-tls-"))
    folder.chmod(0o755)
    data = folder / "data"
    for authority in ("ca", "other"):
        _made(folder, authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    signed = [
        "-CA",
        str(folder / "ca.crt"),
        "-CAkey",
        str(folder / "ca.key"),
        "-addext",
        "basicConstraints=CA:false",
    ]
    _made(folder, "server", *signed, "-addext", "subjectAltName=DNS:localhost")
    _made(folder, "ada", *signed)
    programs = Path(PROGRAMS)
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        options |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, folder / "server.crt", folder / "server.key"):
            shutil.chown(path, "nobody", "nogroup")
    initdb: list[Any] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--auth=trust",
    ]
    subprocess.run(initdb, check=True, **options)
    (data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
    with held_port() as port:
        settings = {
            "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "ssl": "on",
            "ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key",
            "ssl_ca_file": folder / "ca.crt",
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(folder / "log", "wb") as log:
            running = subprocess.Popen(
                [programs / "postgres", "-D", data, *words], **{**options, "stderr": log}
            )
        try:
            create: list[Any] = [programs / "psql", "-h", folder, "-p", str(port), "-U", "postgres", "-qc"]
            deadline = time.monotonic() + 60
            sql = f"CREATE ROLE ada LOGIN SUPERUSER; CREATE ROLE babbage LOGIN PASSWORD '{PASSWORD}'"
            while subprocess.run([*create, sql], check=False, **options).returncode:
                assert running.poll() is None, (folder / "log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield TlsServer(port, folder)
        finally:
            running.send_signal(signal.SIGQUIT)
            running.wait(60)
            shutil.rmtree(folder)
