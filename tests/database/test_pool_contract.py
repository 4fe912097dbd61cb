"""What `database/pool.py` relies on in SQLAlchemy's pool: each name, and what it has to mean."""

from __future__ import annotations

import inspect
import re
import time
from typing import Any

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, Pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.database.pool import PoolPerLoop
from tests.support.database import scalar

# What SQLAlchemy calls, with the parameters that it gives, or what a pool has.
CALLED = {
    "_do_get": ["self"],
    "_invalidate": ["self", "connection", "exception", "_checkin"],
    "_close_connection": ["self", "connection", "terminate"],
    "recreate": ["self"],
    "dispose": ["self"],
    "overflow": ["self"],
    "checkedin": ["self"],
    "checkedout": ["self"],
}
HAD = ["_invoke_creator", "_dialect", "_invalidate_time", "dispatch"]
CHANGED = "SQLAlchemy's pool has changed: citykit/database/pool.py relies on"


@pytest.mark.parametrize("name", CALLED)
def test_sqlalchemy_has_the_methods_that_the_pool_overrides(name: str) -> None:
    method = getattr(AsyncAdaptedQueuePool, name, None)
    assert method, f"{CHANGED} its method {name}, which is gone"
    found = list(inspect.signature(method).parameters)
    assert found == CALLED[name], f"{CHANGED} {name}({', '.join(CALLED[name])})"


@pytest.mark.parametrize("name", HAD)
def test_sqlalchemy_has_the_attributes_that_the_pool_sets(name: str) -> None:
    creator: Any = None
    assert hasattr(AsyncAdaptedQueuePool(creator), name), f"{CHANGED} its attribute {name}, which is gone"


@pytest.mark.parametrize("name", ["_do_get", "_invoke_creator", "_close_connection", "_invalidate"])
async def test_sqlalchemy_calls_what_the_pool_overrides(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    called: list[Any] = []
    opened = await citykit.connect(engine.url)
    pool: Any = opened.pool
    assert isinstance(pool, PoolPerLoop)
    of_loop = pool._of_this_loop()
    target = of_loop if name in ("_invoke_creator", "_close_connection") else pool
    real = getattr(target, name)

    def calling(*args: Any, **options: Any) -> Any:
        called.append(args)
        return real(*args, **options)

    monkeypatch.setattr(target, name, calling)
    async with opened.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await scalar(engine, "SELECT pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1"))
    await scalar(opened, "SELECT 1")
    await opened.dispose()
    assert called, f"{CHANGED} that SQLAlchemy calls {name}"


async def test_sqlalchemy_replaces_a_connection_opened_before_invalidate_time(engine: AsyncEngine) -> None:
    opened = await citykit.connect(engine.url)
    pool: Any = opened.pool
    before = await scalar(opened, "SELECT pg_backend_pid()")
    assert await scalar(opened, "SELECT pg_backend_pid()") == before
    pool._of_this_loop()._invalidate_time = time.time()
    after = await scalar(opened, "SELECT pg_backend_pid()")
    assert after != before, f"{CHANGED} the meaning of _invalidate_time"
    await opened.dispose()


def test_the_pool_uses_no_other_private_name_of_sqlalchemys() -> None:
    source = inspect.getsource(inspect.getmodule(PoolPerLoop))  # type: ignore[arg-type]
    instance = ["_dialect", "_invoke_creator", "_invalidate_time"]
    private = {
        name for name in [*dir(AsyncAdaptedQueuePool), *dir(Pool), *instance] if re.match("_[^_]", name)
    }
    used = {name for name in private if re.search(rf"(\.|def ){name}\b", source)}
    assert used == {name for name in [*CALLED, *HAD] if name[0] == "_"}
