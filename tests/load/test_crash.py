"""What is left of a load after a crash of the embedded server: nothing of it or all, and ids that are new."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.plan import FEW_ROWS
from tests.load.test_plan import many
from tests.support.database import copy_home, crash, execute, scalar

# CITYKIT_TEST_CRASHES=1 crashes at every statement of every load; without it, at a few of one.
EVERY = bool(os.environ.get("CITYKIT_TEST_CRASHES"))
LOADS = {
    "copy": (100, 0, "error", 0),
    "merge": (100, 0, "update", 1),
    "copy and rebuild": (FEW_ROWS, 0, "error", 0),
    "copy and rebuild beside rows": (FEW_ROWS, 10, "error", 0),
    "join": (FEW_ROWS, 3 * FEW_ROWS, "skip", 1),
    "join and rebuild": (FEW_ROWS, 10, "update", 0),
    "repeated keys, skip": (FEW_ROWS, 0, "skip", 1),
    "repeated keys, update": (FEW_ROWS, 0, "update", 1),
    "repeated keys, error": (FEW_ROWS, 0, "error", 1),
}
FEW = ("copy and rebuild", "repeated keys, skip")


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialised: Path) -> AsyncIterator[Path]:
    """An embedded server of the test's own."""
    copy_home(initialised, tmp_path / "home")
    monkeypatch.setenv("CITYKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYKIT_URL", raising=False)
    yield tmp_path / "home"
    with contextlib.suppress(FileNotFoundError):
        crash(tmp_path / "home", signal.SIGQUIT)


class CrashesAt:
    """Crashes the server as the statement of this number is sent."""

    def __init__(self, home: Path, number: int, how: signal.Signals) -> None:
        self.home, self.number, self.how, self.sent = home, number, how, 0

    def __call__(self, *_: Any) -> None:
        self.sent += 1
        if self.sent == self.number:
            crash(self.home, self.how)


@contextlib.contextmanager
def listening(engine: AsyncEngine, heard: Any) -> Any:
    names = ("before_cursor_execute", "savepoint", "release_savepoint", "commit")
    for name in names:
        event.listen(engine.sync_engine, name, heard)
    try:
        yield
    finally:
        for name in names:
            event.remove(engine.sync_engine, name, heard)


async def check(engine: AsyncEngine) -> None:
    """Ids go on beyond the highest, and indexes are sound."""
    await execute(engine, "CREATE EXTENSION IF NOT EXISTS amcheck")
    sound = "SELECT count(bt_index_check(indexrelid, true)) FROM pg_index WHERE indrelid = 'cities'::regclass"
    assert await scalar(engine, sound) == 4
    highest = await scalar(engine, "SELECT coalesce(max(id), 0) FROM cities")
    city = await citykit.add_city(engine, "after the crash", 1)
    assert city.id > highest
    await execute(engine, "DELETE FROM cities WHERE name = 'after the crash'")


def rows(count: int, before: int, repeated: int) -> Any:
    frame = many(count, before)
    if repeated:
        frame.loc[count - 1, ["name", "population"]] = [frame["name"][0], 5]
    return frame


async def fresh(before: int) -> AsyncEngine:
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    if before:
        await citykit.load_cities(engine, many(before))
    return engine


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL] if EVERY else [signal.SIGQUIT])
async def test_crash_after_the_commit_gives_no_id_twice(home: Path, how: signal.Signals) -> None:
    for load in LOADS if EVERY else FEW:
        count, before, policy, repeated = LOADS[load]
        options: dict[str, Any] = {"on_conflict": policy}
        engine = await fresh(before)
        loading = citykit.load_cities(engine, rows(count, before, repeated), **options)
        if policy == "error" and repeated:
            with pytest.raises(citykit.DuplicateCityError):
                await loading
        else:
            await loading
        ids = [(await citykit.add_city(engine, f"added {n}", n)).id for n in range(3)]
        crash(home, how)
        await engine.dispose()
        engine = await citykit.connect()
        assert await scalar(engine, "SELECT max(id) FROM cities") == ids[-1], load
        await check(engine)
        await engine.dispose()


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL] if EVERY else [signal.SIGKILL])
async def test_crash_after_a_transaction_that_made_the_table_gives_no_id_twice(
    home: Path, how: signal.Signals
) -> None:
    engine = await citykit.connect()
    for count in (0, 5, FEW_ROWS) if EVERY else (5,):
        async with engine.begin() as connection:
            await citykit.create_tables(connection, reset=True)
            await citykit.load_cities(connection, many(count))
            await citykit.add_city(connection, "in the same transaction", 1)
        await citykit.add_city(engine, "after it", 1)
        crash(home, how)
        await engine.dispose()
        engine = await citykit.connect()
        await check(engine)
    await engine.dispose()


@pytest.mark.parametrize("load", LOADS if EVERY else FEW[1:])
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL] if EVERY else [signal.SIGKILL])
async def test_crash_at_a_statement_leaves_all_or_nothing(home: Path, load: str, how: signal.Signals) -> None:
    count, before, policy, repeated = LOADS[load]
    options: dict[str, Any] = {"on_conflict": policy}
    engine = await fresh(before)
    frame = rows(count, before, repeated)

    async def loaded() -> None:
        try:
            await citykit.load_cities(engine, frame, **options)
        except citykit.DuplicateCityError:
            assert policy == "error"
            assert repeated

    counting = CrashesAt(home, 0, how)
    with listening(engine, counting):
        await loaded()
    whole = await scalar(engine, "SELECT count(*) FROM cities")
    numbers = range(1, counting.sent + 1)
    for number in numbers if EVERY else numbers[-2:]:
        await execute(engine, f"DELETE FROM cities WHERE population >= {before} OR latitude = 5")  # noqa: S608
        if not before:
            await execute(engine, "TRUNCATE cities")
        with listening(engine, CrashesAt(home, number, how)), contextlib.suppress(citykit.CitykitError):
            await loaded()
        await engine.dispose()
        async with asyncio.timeout(60):
            engine = await citykit.connect()
        assert await scalar(engine, "SELECT count(*) FROM cities") in {before, whole}
        left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'citykit%' AND relpersistence = 't'"
        assert await scalar(engine, left) == 0
        await check(engine)
        if await scalar(engine, "SELECT count(*) FROM cities") == before:
            await loaded()
        assert await scalar(engine, "SELECT count(*) FROM cities") == whole
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT count(DISTINCT id) FROM cities")) == whole
    await engine.dispose()
