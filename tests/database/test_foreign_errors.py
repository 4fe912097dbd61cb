"""Whatever the driver raises, and wherever, reaches the user as an error of citykit."""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.database.test_faults import HELPERS as ANSWERED
from tests.support.cancelling import bound
from tests.support.database import stored
from tests.support.failing import Failing

EVERY = bool(os.environ.get("CITYKIT_EVERY_AWAIT"))  # set it for all helpers, binds and families
FEW, MANY = 5, 25_000
FAMILIES: dict[str, Callable[[], Exception]] = {
    "asyncpg.PostgresError": lambda: asyncpg.exceptions.OutOfMemoryError("injected"),
    "asyncpg.InterfaceError": lambda: asyncpg.InterfaceError("injected"),
    "asyncpg.InternalClientError": lambda: asyncpg.InternalClientError("injected"),
    "sqlalchemy": lambda: sqlalchemy.exc.InvalidRequestError("injected"),
    "OSError": lambda: OSError(errno.EIO, "injected"),
    "ConnectionResetError": lambda: ConnectionResetError("injected"),
    "TimeoutError": lambda: TimeoutError("injected"),
}


def frame(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"n{number}" for number in range(rows)], "population": range(rows)})


HELPERS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    **ANSWERED,
    "load_frame": lambda bind: citykit.load_frame(bind, frame(FEW), citykit.City),
    "create_table": lambda bind: citykit.create_table(bind, "made", frame(FEW), if_exists="replace"),
    "load_cities, many": lambda bind: citykit.load_cities(bind, frame(MANY), on_conflict="update"),
}


@asynccontextmanager
async def failing_engine(engine: AsyncEngine) -> AsyncIterator[tuple[AsyncEngine, Failing]]:
    failing = Failing()
    options = {"connection_class": failing.connection_class(), "async_creator_fn": failing.connect}
    other = await citykit.connect(engine.url, connect_args=options)
    yield other, failing
    await other.dispose()


def test_every_public_helper_that_takes_a_bind_is_tried() -> None:
    takes = {name for name in citykit.__all__ if "bind" in _parameters(getattr(citykit, name))}
    assert takes <= {name.partition(" ")[0].strip(",") for name in HELPERS}


def _parameters(thing: Any) -> set[str]:
    return set(inspect.signature(thing).parameters) if inspect.isfunction(thing) else set()


SELECTED = {
    "family": FAMILIES if EVERY else ["asyncpg.PostgresError", "OSError", "TimeoutError"],
    "kind": ["engine", "connection", "session"] if EVERY else ["engine", "connection"],
    "helper": HELPERS if EVERY else ["add_city", "load_cities", "read_frame by COPY"],
}


@pytest.mark.parametrize("family", SELECTED["family"])
@pytest.mark.parametrize("kind", SELECTED["kind"])
@pytest.mark.parametrize("helper", SELECTED["helper"])
async def test_no_error_of_a_dependency_reaches_the_user(
    engine: AsyncEngine, helper: str, kind: str, family: str
) -> None:
    async with failing_engine(engine) as (other, failing):
        failing.error = FAMILIES[family]
        number = 0
        while True:
            number += 1
            async with engine.begin() as connection:
                await connection.execute(text("DELETE FROM cities"))
            await other.dispose()  # so that opening a connection may fail, too
            async with bound(other, kind) as bind:
                failing.operations, failing.at = 0, number
                try:
                    await HELPERS[helper](bind)
                except citykit.CitykitError as exc:
                    if kind == "engine" and not getattr(exc, "in_doubt", False):
                        assert await stored(engine) == {}
                finally:
                    failing.at = 0
            failed = failing.operations >= number
            if not failed:
                break
            await HELPERS["biggest_cities"](other)  # the pool has no connection that does not work
    assert number > 2


async def test_a_statement_that_outlasts_the_command_timeout_is_named(engine: AsyncEngine) -> None:
    other = await citykit.connect(engine.url, connect_args={"command_timeout": 0.3})
    for sql in ("SELECT pg_sleep(600)::text", "SELECT now() FROM pg_sleep(600)"):
        with pytest.raises(citykit.CitykitError, match=r"command_timeout.*nothing was changed"):
            await citykit.read_frame(other, sql)
    assert (await citykit.biggest_cities(other)).empty
    await other.dispose()


# The caller's own code

RAISED: dict[str, Callable[[], BaseException]] = {
    **FAMILIES,
    "ClientCannotConnectError": lambda: asyncpg.ClientCannotConnectError("of another server"),
    "DatabaseUnavailableError": lambda: citykit.DatabaseUnavailableError("of another server"),
    "StopAsyncIteration": StopAsyncIteration,
    "KeyboardInterrupt": KeyboardInterrupt,
}


def iterated(rows: int, error: BaseException) -> Iterator[pd.DataFrame]:
    if rows:
        yield frame(rows)
    raise error


async def iterated_in_the_loop(rows: int, error: BaseException) -> AsyncIterator[pd.DataFrame]:
    for piece in iterated(rows, error):
        yield piece


def arrow(rows: int, error: BaseException) -> pa.RecordBatchReader:
    schema = pa.schema({"name": pa.string(), "population": pa.int64()})
    batches = (pa.RecordBatch.from_pandas(piece, schema) for piece in iterated(rows, error))
    return pa.RecordBatchReader.from_batches(schema, batches)


@pytest.mark.parametrize("kind", ["engine", "connection", "session"])
@pytest.mark.parametrize("rows", [0, FEW, MANY])
@pytest.mark.parametrize("family", RAISED)
async def test_an_error_of_the_source_of_rows_reaches_the_user_as_it_is(
    engine: AsyncEngine, family: str, rows: int, kind: str
) -> None:
    error = RAISED[family]()
    sources: list[Any] = [iterated(rows, error)]
    if not isinstance(error, StopAsyncIteration):  # which ends an asynchronous iterator
        sources.append(iterated_in_the_loop(rows, error))
    for source in sources:
        for policy in ("error", "update"):
            options: dict[str, Any] = {"on_conflict": policy}
            async with bound(engine, kind) as bind:
                with pytest.raises(type(error)) as caught:
                    await citykit.load_cities(bind, source, **options)
                assert caught.value is error
                assert len(await citykit.biggest_cities(bind)) == 0
            assert await stored(engine) == {}
            source = iterated(rows, error)


@pytest.mark.parametrize("rows", [0, FEW, MANY])
@pytest.mark.parametrize("family", RAISED)
async def test_an_error_of_an_arrow_source_is_what_arrow_makes_of_it(
    engine: AsyncEngine, family: str, rows: int
) -> None:
    with pytest.raises(BaseException) as alone:  # noqa: PT011
        pa.RecordBatchReader.from_stream(arrow(rows, RAISED[family]())).read_all()
    with pytest.raises(alone.type) as caught:
        await citykit.load_cities(engine, arrow(rows, RAISED[family]()))
    assert str(caught.value) == str(alone.value)
    assert await stored(engine) == {}


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("family", RAISED)
async def test_an_error_of_a_progress_function_reaches_the_user_as_it_is(
    engine: AsyncEngine, family: str, rows: int
) -> None:
    error = RAISED[family]()

    def progress(_done: int, _total: int | None) -> None:
        raise error

    with pytest.raises(type(error)) as loading:
        await citykit.load_cities(engine, frame(rows), progress=progress)
    assert loading.value is error
    assert await stored(engine) == {}
    with pytest.raises(type(error)) as reading:
        await citykit.read_frame(engine, f"SELECT now() FROM generate_series(1, {rows})", progress=progress)  # noqa: S608
    assert reading.value is error
