from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support.cancelling import APPLICATION, Watch, plain_connection


@pytest.fixture
async def cancelling(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """An engine with two connections whose sessions can be told from others."""
    other = await citykit.connect(
        engine.url,
        pool_size=2,
        max_overflow=0,
        connect_args={"server_settings": {"application_name": APPLICATION}},
    )
    await citykit.add_city(engine, "b", 1)
    yield other
    await other.dispose()


@pytest.fixture
async def watch(engine: AsyncEngine) -> AsyncIterator[Watch]:
    connection = await plain_connection(engine)
    yield Watch(connection, APPLICATION)
    await connection.close()
