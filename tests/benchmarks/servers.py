"""Servers of the benchmarks: the embedded programs on TCP, with stock settings or with the embedded ones."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from citykit.database import account, embedded
from tests.support.ports import held_port

STOCK: Mapping[str, str] = {}
EMBEDDED = {
    name: value for name, value in embedded.SETTINGS.items() if name not in ("listen_addresses", "port")
}


class Processes:
    """The processes of a server, whose use of the processors can be read."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = psutil.Process(postmaster)

    def seconds(self) -> float:
        """Return the CPU seconds that the server has used: by what runs, and by what ended."""
        own = self._postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                used = child.cpu_times()
                total += used.user + used.system
        return float(total)


@contextlib.contextmanager
def started(directory: Path, settings: Mapping[str, str]) -> Iterator[tuple[str, Processes]]:
    """Run a new server on a port of the loopback interface; give its URI and its processes."""
    directory.mkdir(mode=0o755)
    owner = account.for_server(directory, *embedded._installed())
    owner.take(directory)
    programs, data = embedded._programs(), directory / "data"

    def run(*command: object) -> None:
        subprocess.run(
            [str(word) for word in command],
            check=True, cwd=directory, stdout=subprocess.DEVNULL, **owner.popen_options(),
        )  # fmt: skip

    run(programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
    given = {"listen_addresses": "127.0.0.1", "unix_socket_directories": directory, **settings}
    with held_port() as port:
        options = " ".join(f"-c {name}={value}" for name, value in {**given, "port": port}.items())
        run(programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "-o", options, "start")
    try:
        postmaster = int((data / "postmaster.pid").read_text().split()[0])
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", Processes(postmaster)
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
