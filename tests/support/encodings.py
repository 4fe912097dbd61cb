"""Databases in encodings other than UTF-8, for as long as a test takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit


@asynccontextmanager
async def database_in(engine: AsyncEngine, encoding: str) -> AsyncIterator[AsyncEngine]:
    """Create a database in this encoding beside that of `engine`; an engine on it, with citykit's table."""
    name = f"citykit_in_{encoding.lower()}"
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        await connection.execute(
            text(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        )
        try:
            other = await citykit.connect(engine.url.set(database=name))
            try:
                await citykit.create_tables(other)
                yield other
            finally:
                await other.dispose()
        finally:
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
