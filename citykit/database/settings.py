"""Settings of the session that are changed for a part of a transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@asynccontextmanager
async def local_setting(connection: AsyncConnection, setting: str, value: str) -> AsyncIterator[None]:
    """Change a setting for a block; if that fails, the rollback restores it."""
    before = await connection.scalar(text("SELECT current_setting(:setting)"), {"setting": setting})
    await set_local(connection, setting, value)
    yield
    await set_local(connection, setting, before)


async def set_local(connection: AsyncConnection, setting: str, value: Any) -> None:
    """Change a setting for the rest of the transaction."""
    await connection.execute(
        text("SELECT set_config(:setting, :value, true)"), {"setting": setting, "value": value}
    )
