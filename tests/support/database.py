"""What the tests ask of the database past citykit, to judge what citykit did."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

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


def copy_home(initialised: Path, home: Path) -> None:
    """Give a new CITYKIT_HOME what the first start would make there."""
    home.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", initialised / "postgres", home], check=True)
