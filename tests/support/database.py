"""What the tests ask of the database past citykit, to judge what citykit did."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

Row = tuple[str, str, str, int, float | None, float | None]


async def stored(engine: AsyncEngine) -> dict[tuple[str, str, str], tuple[int, float | None, float | None]]:
    """Every row of the table, by its key."""
    columns = "name, country, region, population, latitude, longitude"
    async with engine.connect() as connection:
        rows = (await connection.execute(text(f"SELECT {columns} FROM cities"))).all()  # noqa: S608
    return {tuple(row[:3]): tuple(row[3:]) for row in rows}


async def scalar(engine: AsyncEngine, sql: str, **params: Any) -> Any:
    async with engine.connect() as connection:
        return await connection.scalar(text(sql), params)


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Run statements in one transaction."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


def copy_home(initialised: Path, home: Path) -> None:
    """Give a new CITYKIT_HOME what the first start would make there."""
    home.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", initialised / "postgres", home], check=True)


def crash(home: Path, how: signal.Signals) -> None:
    """Kill the embedded server, and return when the last of its processes has ended."""
    postmaster = psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().split()[0]))
    family = [postmaster, *postmaster.children(recursive=True)]
    with contextlib.suppress(psutil.NoSuchProcess):
        postmaster.send_signal(how)
    while any(_runs(process) for process in family):
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # process 1 may be slow to reap it
    except psutil.NoSuchProcess:
        return False
