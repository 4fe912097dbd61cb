"""Where the database is: engines, transactions, and the errors of a server in the words of this package."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg
from sqlalchemy import URL, AsyncAdaptedQueuePool, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from citykit.awaiting import says_await
from citykit.errors import CitykitError, DatabaseUnavailableError, MissingTableError
from citykit.loops import PoolPerLoop, check_loop
from citykit.urls import asyncpg_url, shown_url
from citykit.waking import wake_for_interrupts

Bind: TypeAlias = AsyncEngine | AsyncConnection | AsyncSession
T = TypeVar("T")

OLDEST_SERVER = 14
CONNECT_SECONDS = 4.5
_ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
DRIVER_ERRORS = (OSError, SQLAlchemyError, *_ASYNCPG_ERRORS)  # everything that a connection may raise

# What to do about a server that says no, by SQLSTATE.
_HINTS = {
    "28P01": "The password is wrong.",
    "28000": "The server does not let this user in: see its pg_hba.conf.",
    "3D000": "Create the database first: createdb NAME.",
    "53300": "It has no connection left: close some, or raise max_connections.",
    "57P03": "It is starting or stopping: try again in a moment.",
}

# What to do about a statement that it refuses for no fault of the values, likewise.
_REFUSALS = {
    "2BP01": "Something else was built on the table: drop that first.",
    "42809": "Something that is no table has its name: use another database.",
    "25006": "Use a connection that may write.",
    "25P01": "The connection is in autocommit mode: give the engine, or a connection without AUTOCOMMIT.",
    "25P02": "The transaction has failed earlier: await connection.rollback() ends it.",
    "40001": "Another transaction changed the same rows: run it again.",
    "40P01": "Another transaction changed the same rows: run it again.",
    "42501": "Ask the owner of the table for the right to do this.",
    "42703": "The table in the database has other columns than Python believes. citykit's own is replaced, "
    "with all of its rows, by await citykit.create_tables(engine, reset=True)",
    "42P10": "The table in the database has no unique constraint on this key: create one, or give another.",
    "53100": "The server's disk is full.",
    "55P03": "Another transaction holds the table: run it again.",
    "57014": "It was cancelled, or took longer than the server's statement_timeout.",
}


@says_await
async def connect(url: str | URL | None = None, *, echo: bool = False, **engine_options: Any) -> AsyncEngine:
    """Connect to a PostgreSQL server, and check that it answers.

    Parameters
    ----------
    url : str or sqlalchemy.URL, optional
        ``postgresql://user:password@host:port/database``. None: the environment variable
        ``CITYKIT_URL``; where that is not set, the embedded PostgreSQL of this user, which is started
        (or attached to) in ``CITYKIT_HOME`` and stopped when the last process that uses it ends.
    echo : bool
        Log every statement that goes through SQLAlchemy (COPY and most reads go past it).
    **engine_options
        Passed on to :func:`sqlalchemy.ext.asyncio.create_async_engine`. ``pool_size`` and the like hold
        for each event loop; a ``poolclass`` of your own is used as it is.

    Returns
    -------
    AsyncEngine
        Over asyncpg, for every event loop and thread: each loop gets connections of its own, which are
        closed when it ends. ``await engine.dispose()`` closes all that are idle.

    Raises
    ------
    DatabaseUnavailableError
        Within 5 seconds, if no server answers there, it does not let us in, or it is older than
        PostgreSQL 14.

    Examples
    --------
    >>> engine = await citykit.connect()
    """
    wanted = url or os.environ.get("CITYKIT_URL")
    if wanted:
        target = asyncpg_url(wanted)
    else:
        target = await asyncio.to_thread(_embedded)
    if "pool" not in engine_options and engine_options.get("poolclass") in (None, AsyncAdaptedQueuePool):
        engine_options["poolclass"] = PoolPerLoop
    try:
        engine = create_async_engine(target, echo=echo, **engine_options)
    except (ArgumentError, TypeError, ValueError) as exc:
        raise DatabaseUnavailableError(f"No engine could be made for {shown_url(target)}: {exc}") from exc
    try:
        async with asyncio.timeout(CONNECT_SECONDS), engine.connect() as connection:
            version = int(await connection.scalar(text("SHOW server_version_num")) or 0)
    except (OverflowError, TypeError, ValueError, *DRIVER_ERRORS) as exc:
        await engine.dispose()
        raise DatabaseUnavailableError(_unreachable(target, exc)) from exc
    except BaseException:
        await engine.dispose()
        raise
    if version < OLDEST_SERVER * 10_000:
        await engine.dispose()
        raise DatabaseUnavailableError(
            f"{shown_url(target)} is PostgreSQL {version // 10_000}; citykit needs {OLDEST_SERVER} or newer."
        )
    wake_for_interrupts(engine)
    return engine


def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return a factory of sessions whose objects stay readable after a commit.

    Examples
    --------
    >>> session_factory = citykit.sessions(engine)
    >>> async with session_factory.begin() as session:
    ...     city = await citykit.add_city(session, "Reykjavík", 118_918, country="IS")
    """
    return async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def transaction(bind: Bind, *, begin: bool = True) -> AsyncIterator[AsyncConnection]:
    """Open a transaction on `bind`, by the one rule of this package.

    An engine: a connection and a transaction of its own, committed at the end (not `begin`: only the
    connection, for one statement that goes past SQLAlchemy). A connection or a session: a savepoint in the
    caller's transaction, which this never ends.
    """
    with server_errors_named() as outcome:
        if isinstance(bind, AsyncEngine):
            async with bind.connect() as connection:
                check_loop(connection)
                if not begin:
                    yield connection
                    return
                if await _autocommits(connection):
                    await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin():
                    yield connection
                    outcome.append("may have been stored: it was just being committed. Look before you")
        elif isinstance(bind, AsyncConnection):
            check_loop(bind)
            async with bind.begin_nested():
                yield bind
        elif isinstance(bind, AsyncSession):
            check_loop(await bind.connection())
            async with bind.begin_nested():
                yield await bind.connection()  # which is when the savepoint is made
        else:
            hint = "await citykit.connect() makes one"
            if asyncio.iscoroutine(bind):
                bind.close()
                hint = "put await before the call that made it"
            elif isinstance(bind, async_sessionmaker):
                hint = "call it to make a session: async with session_factory() as session"
            raise TypeError(
                "an AsyncEngine, AsyncConnection or AsyncSession is needed, "
                f"not {type(bind).__name__}; {hint}"
            )


async def repeated_if_lost(
    bind: Bind, work: Callable[[AsyncConnection], Awaitable[T]], *, begin: bool = True
) -> T:
    """Do `work` in a transaction, once more if an engine's connection was lost before its commit."""
    for attempt in (1, 2):
        done = False
        try:
            async with transaction(bind, begin=begin) as connection:
                result = await work(connection)
                done = True
        except DatabaseUnavailableError:
            if done or attempt == 2 or not isinstance(bind, AsyncEngine):
                raise
            await bind.dispose()  # the others in its pool are as old
        else:
            return result
    raise AssertionError


async def driver_of(connection: AsyncConnection) -> Any:
    """Return asyncpg's connection, for what SQLAlchemy has no word for."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if raw is None or raw.is_closed():
        raise ConnectionResetError("it was closed since it was last used")
    return raw


async def _autocommits(connection: AsyncConnection) -> bool:
    """Tell whether each statement would be a transaction of its own, and nothing all or nothing."""
    adapted = (await connection.get_raw_connection()).dbapi_connection
    return getattr(adapted, "isolation_level", None) == "autocommit"


@contextmanager
def server_errors_named() -> Iterator[list[str]]:
    """Raise what the server says about the state of things (not about values) as this package's errors."""
    outcome = ["was not stored. Connect again if the server was restarted, and"]
    try:
        yield outcome
    except (DBAPIError, *_ASYNCPG_ERRORS) as exc:
        if sqlstate(exc) == "42P01":
            raise MissingTableError(
                f"{server_message(exc)}. Create the tables first: await citykit.create_tables(engine)"
            ) from exc
        if _lost(exc):
            raise _connection_lost(server_message(exc), outcome[-1]) from exc
        if hint := _REFUSALS.get(sqlstate(exc) or ""):
            raise CitykitError(f"{server_message(exc)}; nothing was changed. {hint}") from exc
        if isinstance(exc, DBAPIError):
            raise
        raise CitykitError(f"{server_message(exc)}; nothing was changed.") from exc
    except (ConnectionError, FileNotFoundError) as exc:  # the latter: a socket that is gone
        raise _connection_lost(str(exc), outcome[-1]) from exc


def _connection_lost(said: str, outcome: str) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"The connection to the server was lost ({said}); what was under way {outcome} run it again."
    )


def sqlstate(exc: BaseException) -> str | None:
    """Return the server's five-character code for what went wrong, None where there is none."""
    original = getattr(exc, "orig", None) or exc
    code = getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


def server_message(exc: BaseException) -> str:
    """Return what the server (or asyncpg) said, without SQLAlchemy's frame around it."""
    original = getattr(exc, "orig", None) or exc
    original = getattr(original, "__cause__", None) or original
    return str(original).strip() or type(original).__name__


def _lost(exc: BaseException) -> bool:
    if isinstance(exc, asyncpg.InternalClientError):
        return True  # how asyncpg takes a farewell that came between two statements
    code = sqlstate(exc)
    if code is None:
        return bool(getattr(exc, "connection_invalidated", False))
    return code.startswith(("08", "57P"))


def _embedded() -> URL:
    if os.name != "posix":
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL runs on Linux and macOS only. "
            "Set CITYKIT_URL=postgresql://user:password@host/database to use another server."
        )
    from citykit import local

    return local.attach()


def _unreachable(url: URL, exc: BaseException) -> str:
    said = f"no answer within {CONNECT_SECONDS} s" if isinstance(exc, TimeoutError) else server_message(exc)
    hint = _HINTS.get(
        sqlstate(exc) or "",
        "Check that the server runs there and that CITYKIT_URL is right; "
        "without CITYKIT_URL citykit brings a server of its own.",
    )
    return f"No connection to {shown_url(url)}: {said}. {hint}"
