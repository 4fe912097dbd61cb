"""Engines: which server they are for, and what is set on each of their connections."""

from __future__ import annotations

import asyncio
import contextlib
import numbers
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import URL, AsyncAdaptedQueuePool, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from citykit.database.driver import KEEPALIVE, cancelled_on_server, keep_alive
from citykit.database.options import (
    LOCK_OPTION,
    LOCK_SECONDS,
    NUMERIC_OPTION,
    SILENCE_OPTION,
    SILENCE_SECONDS,
    Numeric,
)
from citykit.database.pool import PoolPerLoop
from citykit.database.pooler import PoolerCheck
from citykit.database.server_errors import DRIVER_ERRORS, sqlstate, unreachable
from citykit.database.sqlstates import Condition
from citykit.database.urls import (
    DATABASE,
    asyncpg_url,
    check_server_settings,
    quoted,
    seconds_to_connect,
    set_url_options,
    shown_url,
    socket_options,
    with_database,
)
from citykit.database.waking import wake_for_interrupts
from citykit.errors import DatabaseUnavailableError, check_choice
from citykit.runtime import says_await

OLDEST_SERVER = 14
MOST_SECONDS = 2_147_483  # PostgreSQL has lock_timeout in milliseconds, as a 32-bit integer
CONNECT_SECONDS = 4.5  # to open a connection, and for the server's first answer


@says_await
async def connect(
    url: str | URL | None = None,
    *,
    database: str | None = None,
    echo: bool = False,
    lock_timeout: float = LOCK_SECONDS,
    silence_timeout: float = SILENCE_SECONDS,
    numeric: Numeric = "float",
    **engine_options: Any,
) -> AsyncEngine:
    """Connect to a PostgreSQL server, and check that it answers.

    Parameters
    ----------
    url : str or sqlalchemy.URL, optional
        ``postgresql://user:password@host:port/database``, with libpq's options; several hosts are tried in
        their order; the environment's ``PG*`` variables and ``~/.pgpass`` supply what is left out. None: the
        environment variable ``CITYKIT_URL``; where that is not set, the embedded PostgreSQL of this user,
        which is started (or attached to) in ``CITYKIT_HOME`` and stopped when the last process that uses it
        ends.
    database : str, optional
        Its name, whatever its characters. In the embedded PostgreSQL it is made if it is new; on another
        server it has to exist, and it is used instead of the one in the URL. None: the environment variable
        ``CITYKIT_DATABASE`` (not where a `url` is given); else the one in the URL, or the embedded server's
        default one.
    echo : bool
        Log every statement that goes through SQLAlchemy (COPY and most reads go past it).
    lock_timeout : float
        Seconds that a helper which writes waits for a lock on its table or rows that another session holds.
        Above 0, like `silence_timeout`.
    silence_timeout : float
        Seconds after which a helper that still waits asks the server for another connection, to learn whether
        it is there. If no answer comes within 5 s more, the helper raises DatabaseUnavailableError. A
        statement that takes long is not ended by this; ``connect_args={"command_timeout": seconds}`` ends it.
    numeric : {"float", "decimal"}
        The type that :func:`read_frame`, :func:`stream_frames` and ``%%cities`` read numerics as, where their
        own argument does not say.
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
        Within 5 seconds, or ``connect_timeout`` (in the environment ``PGCONNECT_TIMEOUT``), if no server
        answers there, it refuses the login, has no such database, or is older than PostgreSQL 14.
    ValueError
        If a timeout is no number of seconds above 0, an option of the pool is no number, or `numeric` is none
        of its values.

    Examples
    --------
    >>> engine = await citykit.connect()
    """
    wanted = url or os.environ.get("CITYKIT_URL")
    database = database or (None if url else os.environ.get("CITYKIT_DATABASE"))
    _check_seconds(lock_timeout=lock_timeout, silence_timeout=silence_timeout)
    _check_numbers(engine_options)
    check_server_settings(engine_options.get("connect_args", {}))
    embedded = None if wanted else _embedded()
    target = await embedded() if embedded else asyncpg_url(wanted or "")
    if database:
        target = with_database(target, database)
    if "pool" not in engine_options and engine_options.get("poolclass") in (None, AsyncAdaptedQueuePool):
        engine_options["poolclass"] = PoolPerLoop
    seconds = seconds_to_connect(target) or CONNECT_SECONDS
    engine_options["connect_args"] = {"timeout": seconds, **engine_options.get("connect_args", {})}
    check_choice("numeric", numeric, Numeric)
    engine_options["execution_options"] = {
        LOCK_OPTION: lock_timeout,
        SILENCE_OPTION: silence_timeout,
        NUMERIC_OPTION: numeric,
        **engine_options.get("execution_options", {}),
    }
    try:
        engine = create_async_engine(target, echo=echo, **engine_options)
    except (ArgumentError, TypeError, ValueError) as exc:
        raise DatabaseUnavailableError(
            f"No engine could be made for {shown_url(target)}: {exc}", transient=False
        ) from exc
    options = socket_options(target, KEEPALIVE)
    for moment, listener in (
        ("connect", lambda opened, _: keep_alive(opened, options)),
        ("do_connect", set_url_options),
        ("do_connect", partial(_find_embedded, embedded) if embedded else PoolerCheck().connect),
        ("checkout", _refuse_closed),
        ("invalidate", _end_before_closing),
    ):
        event.listen(engine.sync_engine, moment, listener)
    try:
        try:
            version = await _version(engine, seconds)
        except DBAPIError as exc:
            if wanted or not database or sqlstate(exc) != Condition.INVALID_CATALOG_NAME:
                raise
            await _create_database(database)
            version = await _version(engine, seconds)
    except (OverflowError, TypeError, ValueError, *DRIVER_ERRORS) as exc:
        await engine.dispose()
        raise unreachable(target, exc, seconds) from exc
    except BaseException:
        await engine.dispose()
        raise
    if version < OLDEST_SERVER * 10_000:
        await engine.dispose()
        raise DatabaseUnavailableError(
            f"{shown_url(target)} is PostgreSQL {version // 10_000}; citykit needs {OLDEST_SERVER} or newer.",
            transient=False,
        )
    wake_for_interrupts(engine)
    return engine


def _check_seconds(**timeouts: float) -> None:
    for name, seconds in timeouts.items():
        is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
        if not (is_number and 0 < seconds <= MOST_SECONDS):
            raise ValueError(
                f"{name} is a number of seconds above 0, at most {MOST_SECONDS:,} (24 days), not {seconds!r}"
            )


def _check_numbers(engine_options: Mapping[str, Any]) -> None:
    for name in ("pool_size", "max_overflow", "pool_timeout", "pool_recycle"):
        if not isinstance(engine_options.get(name, 0), numbers.Real):
            raise ValueError(f"{name} is a number, not {engine_options[name]!r}")


async def _version(engine: AsyncEngine, seconds: float) -> int:
    """Return the server's version, or raise TimeoutError if it does not answer in so many seconds."""

    async def ask() -> int:
        async with engine.connect() as connection:
            return int(await connection.scalar(text("SHOW server_version_num")) or 0)

    asking = asyncio.ensure_future(ask())
    try:
        await asyncio.wait([asking], timeout=seconds)
        if not asking.done():
            raise TimeoutError
        return asking.result()
    finally:
        asking.cancel()  # which closes its connection, in 2 s at most


async def _create_database(name: str) -> None:
    """Make a database of the embedded server."""
    other = await connect(database=DATABASE, isolation_level="AUTOCOMMIT")
    try:
        async with other.connect() as connection:
            # Not of template1, which may have been changed. The collation is that of the cluster.
            await connection.exec_driver_sql(
                f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING 'UTF8'"
            )
    except DBAPIError as exc:
        if sqlstate(exc) not in (Condition.DUPLICATE_DATABASE, Condition.UNIQUE_VIOLATION):
            raise  # those two: another process has just made it
    finally:
        await other.dispose()


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool open another connection in place of an idle one that the server has closed."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("it was closed while it was idle")


def _end_before_closing(connection: Any, _record: object, exc: BaseException | None) -> None:
    """Let the server end a statement that was cancelled, before SQLAlchemy closes its connection."""
    if isinstance(exc, asyncio.CancelledError):
        with contextlib.suppress(asyncio.CancelledError):  # a second one; the first is still being raised
            connection.run_async(cancelled_on_server)


# Given to asyncpg, which would else take them from the PG* variables, meant for other servers.
_EMBEDDED_ALONE: dict[str, Any] = {
    "password": "",
    "ssl": False,
    "direct_tls": False,
    "target_session_attrs": "any",
    "gsslib": "gssapi",
}


def _find_embedded(
    embedded: Callable[[], Awaitable[URL]],
    _dialect: object,
    _record: object,
    _cargs: object,
    parameters: dict[str, Any],
) -> None:
    """Let each new connection go where the embedded server is now, started again if it has ended."""
    url = await_only(embedded())
    parameters.update({**_EMBEDDED_ALONE, "host": url.query["host"], "port": int(str(url.query["port"]))})


def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return a factory of sessions whose objects stay readable after a commit.

    Examples
    --------
    >>> session_factory = citykit.sessions(engine)
    >>> async with session_factory.begin() as session:
    ...     city = await citykit.add_city(session, "Reykjavík", 118_918, country="IS")
    """
    return async_sessionmaker(engine, expire_on_commit=False)


def leave_embedded() -> None:
    """Leave the embedded server in a process that a signal is about to end, without atexit."""
    if "citykit.database.embedded" in sys.modules:
        from citykit.database import embedded

        embedded.leave_all()


def _embedded() -> Callable[[], Awaitable[URL]]:
    """Return the function that starts the embedded server of CITYKIT_HOME as it is now, or attaches to it."""
    if os.name != "posix":
        raise DatabaseUnavailableError(
            "The embedded PostgreSQL runs on Linux and macOS only. "
            "Set CITYKIT_URL=postgresql://user:password@host/database to use another server.",
            transient=False,
        )
    from citykit.database import account, embedded

    return partial(embedded.attach_async, account.default_home())
