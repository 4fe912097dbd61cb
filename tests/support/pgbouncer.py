"""A real pgbouncer in transaction mode before the server of the tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.ports import held_port
from tests.support.proxy import proxied

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="run: apt-get install pgbouncer")


@asynccontextmanager
async def pooled(engine: AsyncEngine, **settings: object) -> AsyncIterator[URL]:
    """Yield the URL of a pgbouncer that has two connections to the engine's server for all its clients.

    It reaches the server through a proxy of the test: pgbouncer runs under an account that may not open the
    embedded server's socket.
    """
    assert PGBOUNCER is not None
    folder = tempfile.mkdtemp(prefix="citykit-pgbouncer-")
    os.chmod(folder, 0o755)  # noqa: S103
    with held_port() as port:
        async with proxied(engine, lambda data: ([data], False)) as server:
            target = f"host=127.0.0.1 port={server.port} user={server.username} dbname={server.database}"
            password = f" password='{server.password}'" if server.password else ""
            options = {
                "listen_addr": "127.0.0.1",
                "listen_port": port,
                "unix_socket_dir": "",
                "auth_type": "any",
            }
            options |= {"pool_mode": "transaction", "default_pool_size": 2, **settings}
            lines = ["[databases]", f"cities = {target}{password}", "[pgbouncer]"]
            lines += [f"{name} = {value}" for name, value in options.items()]
            with open(f"{folder}/pgbouncer.ini", "w", encoding="utf-8") as written:  # noqa: ASYNC230
                written.write("\n".join(lines) + "\n")
            account = ["-u", "nobody"] if os.geteuid() == 0 else []  # it does not run as root
            running = await asyncio.create_subprocess_exec(PGBOUNCER, *account, written.name)
            try:
                await _listens(port, running)
                yield URL.create("postgresql", "ada", host="127.0.0.1", port=port, database="cities")
            finally:
                if (ended := running.returncode) is None:
                    running.kill()
                await running.wait()
                shutil.rmtree(folder)
                assert ended is None, f"pgbouncer has ended by itself: {ended}"


async def _listens(port: int, running: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while True:
            assert running.returncode is None, "pgbouncer does not start: its log says why"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
