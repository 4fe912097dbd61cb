"""A helper's transaction: on which connection it is, who ends it, and when it is repeated.

The work of a helper runs in a task of its own. If the helper is cancelled, however often (a cancel scope of
anyio cancels at every await), that task is cancelled once, and it rolls back and gives its connection back
before the helper ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.util import await_only, greenlet_spawn

from citykit.database.driver import cancelled_on_server, check_loop, driver_of
from citykit.database.options import SILENCE_OPTION, SILENCE_SECONDS, Bind, option
from citykit.database.server_errors import (
    DRIVER_ERRORS,
    connection_lost,
    is_closed,
    server_errors_named,
    silent,
    sqlstate,
    unreachable,
)
from citykit.database.sqlstates import Condition
from citykit.database.urls import seconds_to_connect
from citykit.errors import CitykitError, DatabaseUnavailableError, say_interrupted
from citykit.runtime import WORKING, CallersError

T = TypeVar("T")
Work: TypeAlias = Callable[[AsyncConnection], Awaitable[T]]

CONFLICT_SECONDS = 0.05  # longest random pause before attempt 2 after a conflict; before attempt 3 twice that
ATTEMPTS = 3  # the second may get another connection of the pool that died while it was idle
OPEN_SECONDS = 10.0  # for a connection to be opened, when the pool has room for it
UNDO_SECONDS = 5.0  # for the server to take a ROLLBACK, before the connection is closed instead
ANSWER_SECONDS = 5.0  # for a new connection, which shows that the server is there
# After these the server has rolled the transaction back, even if they answer the COMMIT.
_CONFLICTS = (Condition.SERIALIZATION_FAILURE, Condition.DEADLOCK_DETECTED)
# The network does not reach the server. None: several addresses were tried, each with an error of its own.
_UNREACHABLE = (None, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN)
IN_AUTOCOMMIT = "in autocommit, it may have had a part of its effect"  # where a statement has failed
# A transaction gets its xid at its first write.
_WROTE = text("SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL")

# A view may call a function that writes, and so may a policy. Where there is neither, nothing is written.
_ONLY_READ = text("""
SELECT coalesce(bool_and(relkind IN ('r', 'p') AND NOT relrowsecurity), true)
FROM pg_catalog.pg_class WHERE oid = to_regclass('cities')
""")

# What the work does to the database. "reads": only SELECTs of citykit's own, which write nothing where
# `cities` is a table; before they are repeated, the catalogue is asked whether it is one (`_ONLY_READ`).
# "any": statements of the user's, which may write. "writes": a write of citykit's own. "one statement": of
# the user's; where the bind is in AUTOCOMMIT, it runs without BEGIN, as VACUUM has to.
Effect: TypeAlias = Literal["reads", "any", "writes", "one statement"]


async def in_transaction(
    bind: Bind,
    work: Work[T],
    *,
    effect: Effect = "writes",
    repeatable: Callable[[], bool] | None = None,
    after_conflict: Callable[[], bool] | None = None,
    doing: str = "the statement",
    undone: str = "nothing was changed",
    task_name: str | None = WORKING,
) -> T:
    """Do `work` in a transaction, by the one rule of this package.

    An engine: a connection and a transaction of its own, committed at the end. For "reads" each SELECT is a
    transaction by itself, through SQLAlchemy's AUTOCOMMIT. If the connection is lost before the COMMIT was
    sent, `work` is called again on another one, where `repeatable` allows it; None: unless `effect` is
    "writes". If the server rolls it back for a conflict (SQLSTATE 40001, 40P01), `work` is called again where
    `after_conflict` allows it; None: where `repeatable` does. At most three calls in all.

    A connection or a session: a savepoint in the caller's transaction, which this never ends.

    A CancelledError says that `doing` was interrupted, and `undone` where that is certain. The work is a task
    of its own, called `task_name`: `citykit.run` cancels those called WORKING that are left running.
    """
    repeatable = repeatable or (lambda: effect != "writes")
    attempt = _Attempt(effect, repeatable, after_conflict or repeatable)
    if not isinstance(bind, (AsyncEngine, AsyncConnection, AsyncSession)):
        raise _no_bind(bind)
    silence = option(bind, SILENCE_OPTION, SILENCE_SECONDS)
    if isinstance(bind, AsyncEngine):
        task = asyncio.create_task(_on_engine(bind, work, attempt), name=task_name)
    else:
        task = asyncio.create_task(_in_savepoint(bind, work, attempt), name=task_name)
    try:
        await _watched(task, attempt, silence)
    except asyncio.CancelledError as exc:
        await cancelled(task)
        if task.cancelled() or task.exception():
            state = undone
            if attempt.in_autocommit:
                state = IN_AUTOCOMMIT
            elif attempt.committing and attempt.wrote:
                state = "it may have been stored: it was just being committed"
        else:
            state = "it was complete" + (" and is stored" if isinstance(bind, AsyncEngine) else "")
        say_interrupted(exc, f"{doing} was interrupted; {state}")
        raise
    finally:
        task.cancel()  # no effect on one that is done; else this coroutine was closed, and may not await
    if attempt.transaction_ended:
        raise CitykitError(
            "The transaction was rolled back before the statement had returned all rows; nothing changed. "
            "Read them before the transaction ends."
        )
    try:
        return task.result()
    except CallersError as exc:
        raised = exc.error
    raise raised  # as the caller's own code has raised it


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task once and wait for its end, however often the waiting itself is cancelled."""
    task.cancel()
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it


@dataclass
class _Attempt:
    """How far a transaction has come, which decides whether it may be made again."""

    effect: Effect
    repeatable: Callable[[], bool]
    after_conflict: Callable[[], bool]
    connection: AsyncConnection | None = None  # in use at this moment
    wrote: bool = True  # or may have written; if not, a lost answer to the COMMIT does no harm
    committing: bool = False
    lost: bool = False  # an attempt before this one has lost its connection
    in_autocommit: bool = False  # the work is, where no rollback undoes it
    silent: float = 0.0  # seconds after which the connection was given up
    let_in: bool = False  # a new connection then: only its first statement was not answered
    transaction_ended: bool = False  # by the caller, whose it is

    def may_be_made_again(self) -> bool:
        return self.repeatable() and not self.committing


async def _on_engine(engine: AsyncEngine, work: Work[T], attempt: _Attempt) -> T:
    for number in range(ATTEMPTS):
        last = number == ATTEMPTS - 1
        attempt.committing, attempt.wrote = False, True
        async with _connected(engine, attempt) as connection:
            try:
                return await _transacted(connection, work, attempt)
            except DatabaseUnavailableError:
                if last or attempt.silent or not attempt.may_be_made_again():
                    raise
                attempt.lost = True
            except CitykitError as exc:
                if last or not attempt.after_conflict() or sqlstate(exc.__cause__ or exc) not in _CONFLICTS:
                    raise
        await asyncio.sleep(CONFLICT_SECONDS * random.random() * (1 + number))  # noqa: S311  no secret
    raise AssertionError


@asynccontextmanager
async def _connected(engine: AsyncEngine, attempt: _Attempt) -> AsyncIterator[AsyncConnection]:
    """Check a connection out of the engine's pool, or say why there is none."""
    connection, pool = engine.connect(), engine.sync_engine.pool
    waiting = pool.timeout() if isinstance(pool, QueuePool) else 0.0
    opening = max(OPEN_SECONDS, seconds_to_connect(engine.url))
    try:
        async with asyncio.timeout(waiting + opening):
            await connection.start()
    except (*DRIVER_ERRORS, TypeError, ValueError) as exc:
        raise unreachable(engine.url, exc) from exc
    try:
        check_loop(connection)
        attempt.connection = connection
        yield connection
    finally:
        attempt.connection = None
        with contextlib.suppress(*DRIVER_ERRORS):  # it was lost, and the pool knows
            await connection.close()


async def _transacted(connection: AsyncConnection, work: Work[T], attempt: _Attempt) -> T:
    try:
        with server_errors_named(connection):
            if attempt.effect == "reads":  # a SELECT is a transaction by itself: two round trips less
                _synchronous(connection).execution_options(isolation_level="AUTOCOMMIT")
                if attempt.lost and not await connection.scalar(_ONLY_READ):
                    attempt.repeatable = lambda: False  # each SELECT was a transaction by itself
                    said = "cities is not a plain table, and reading it may write"
                    raise connection_lost(said, in_doubt=True)
            elif _autocommits(connection) and attempt.effect != "one statement":
                _synchronous(connection).execution_options(isolation_level="READ COMMITTED")
            attempt.in_autocommit = attempt.effect == "one statement" and _autocommits(connection)
            result = await work(connection)
            if attempt.effect == "any":
                attempt.wrote = bool(await connection.scalar(_WROTE))
        if attempt.effect != "reads":
            attempt.committing = True
            try:
                with server_errors_named(connection, in_doubt=attempt.wrote):
                    await connection.commit()
            except DatabaseUnavailableError:
                if attempt.wrote:
                    raise
    except asyncio.CancelledError:
        # The driver may be in the middle of an answer, or between the Parse and the Sync of a statement, with
        # a lock on its tables: this connection does not go back to the pool.
        await _close(connection)
        raise
    except BaseException as exc:
        await _roll_back(connection, connection.rollback)
        # After a COMMIT that failed SQLAlchemy sends no ROLLBACK, not even if the COMMIT was not sent.
        if not is_closed(connection) and driver_of(connection).is_in_transaction():
            await _close(connection)
        if attempt.silent and isinstance(exc, DatabaseUnavailableError):
            raise silent(attempt.silent, let_in=attempt.let_in, in_doubt=exc.in_doubt) from exc
        raise
    return result


async def _in_savepoint(bind: AsyncConnection | AsyncSession, work: Work[T], attempt: _Attempt) -> T:
    with server_errors_named():
        connection = await bind.connection() if isinstance(bind, AsyncSession) else bind
    if connection.sync_connection is None:
        raise CitykitError(
            "This connection was never opened; nothing was sent. Open it: "
            "async with engine.connect() as connection"
        )
    check_loop(connection)
    attempt.connection = connection
    with server_errors_named(connection), _ended_before_rollback(connection, attempt):
        attempt.in_autocommit = attempt.effect == "one statement" and _autocommits(connection)
        if attempt.in_autocommit:
            try:
                return await work(connection)
            except asyncio.CancelledError:
                await _end_cancelled(connection)
                raise
        savepoint = await bind.begin_nested()
        try:
            if isinstance(bind, AsyncSession):
                await bind.connection()  # a session sends its SAVEPOINT only here
            result = await work(connection)
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError):
                await _end_cancelled(connection)
            if not attempt.transaction_ended:
                await _roll_back(connection, savepoint.rollback)
            raise
        await savepoint.commit()  # cancelled here, SQLAlchemy closes the connection: nothing is stored
        return result


_working: WeakKeyDictionary[Connection, dict[asyncio.Task[Any], _Attempt]] = WeakKeyDictionary()


@contextmanager
def _ended_before_rollback(connection: AsyncConnection, attempt: _Attempt) -> Iterator[None]:
    """End this task when the caller rolls back the transaction or closes the connection.

    `stream_frames` may be left without being closed: Starlette's StreamingResponse does so when the client
    leaves. While the statement runs, asyncpg refuses the ROLLBACK, and the connection is not given back.
    """
    key, task = _synchronous(connection), asyncio.current_task()
    assert task is not None  # noqa: S101  for the type checker
    if key not in _working:
        _working[key] = {}
        event.listen(key, "rollback", _end_work)
        event.listen(key, "rollback_savepoint", _end_work)  # which a session rolls back first
    _working[key][task] = attempt
    try:
        yield
    finally:
        _working[key].pop(task)


def _end_work(connection: Connection, *_: object) -> None:
    for task, attempt in list(_working[connection].items()):
        if task is not asyncio.current_task():
            attempt.transaction_ended = True
            await_only(cancelled(task))


async def _roll_back(connection: AsyncConnection, rollback: Callable[[], Awaitable[None]]) -> None:
    """Roll back; close the connection if the server does not take the ROLLBACK."""
    if not is_closed(connection):
        try:
            async with asyncio.timeout(UNDO_SECONDS):
                await rollback()
        except (TimeoutError, *DRIVER_ERRORS):
            pass
        else:
            return
    await _close(connection)


async def _close(connection: AsyncConnection) -> None:
    """Close a connection; a statement that runs there is cancelled first, and has 2 s to end."""
    await _end_cancelled(connection)
    if not connection.closed and not connection.invalidated:
        with contextlib.suppress(*DRIVER_ERRORS):
            await connection.invalidate()


async def _end_cancelled(connection: AsyncConnection) -> None:
    """Let the server end a cancelled statement, also where the first CancelRequest was lost."""
    with contextlib.suppress(*DRIVER_ERRORS):
        await cancelled_on_server(driver_of(connection))


def _autocommits(connection: AsyncConnection) -> bool:
    """Tell whether the connection is in autocommit: each statement is a transaction of its own."""
    adapted = _synchronous(connection).connection.dbapi_connection
    return getattr(adapted, "isolation_level", None) == "autocommit"


def _synchronous(connection: AsyncConnection) -> Connection:
    """Return SQLAlchemy's own connection, for calls that do no I/O."""
    assert connection.sync_connection is not None  # noqa: S101  for the type checker: it was just opened
    return connection.sync_connection


async def _watched(task: asyncio.Task[Any], attempt: _Attempt, seconds: float) -> None:
    """Wait for a task; close its connection when the server is silent and cannot be reached any more.

    A statement may take hours in which nothing comes, so a second connection asks whether the server is still
    there: it is if it lets that one in, or refuses it.
    """
    while not task.done():
        await asyncio.wait([task], timeout=seconds)
        connection = attempt.connection
        if task.done() or connection is None or is_closed(connection):
            continue
        attempt.let_in = False
        asking = asyncio.ensure_future(_is_there(connection.engine, attempt))
        try:
            await asyncio.wait([task, asking], return_when=asyncio.FIRST_COMPLETED)
            ours = attempt.connection is connection and not is_closed(connection)
            # Behind a pooler, a connection in a transaction has its session, whatever another one waits for.
            has_session = ours and attempt.let_in and driver_of(connection).is_in_transaction()
            if asking.done() and not asking.result() and ours and not has_session:
                attempt.silent = seconds + ANSWER_SECONDS
                driver_of(connection).terminate()
        finally:
            asking.cancel()


async def _is_there(engine: AsyncEngine, attempt: _Attempt) -> bool:
    """Tell whether the server of an engine answers a new connection, beside those of its pool."""
    pool = engine.sync_engine.pool.recreate()

    def ask() -> None:
        other = pool.connect()
        attempt.let_in = True
        try:
            other.cursor().execute("SELECT 1")
        finally:
            other.invalidate()

    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await greenlet_spawn(ask)
    except (TimeoutError, ConnectionError):
        return False
    except OSError as exc:  # TLS, a name look-up, too many open files: these say nothing about the server
        return exc.errno not in _UNREACHABLE
    # The server has refused the connection, or this process could not ask. It is any error: without
    # Engine.connect around it, the pool raises those of SQLAlchemy's adapter for asyncpg as they are, and a
    # password that connect_args has as a function may raise what it likes. None may end the statement.
    except Exception:
        return True
    return True


def _no_bind(bind: object) -> TypeError:
    hint = "await citykit.connect() makes one"
    if asyncio.iscoroutine(bind):
        bind.close()
        hint = "put await before the call that made it"
    elif isinstance(bind, async_sessionmaker):
        hint = "call it to make a session: async with session_factory() as session"
    return TypeError(
        f"an AsyncEngine, AsyncConnection or AsyncSession is needed, not {type(bind).__name__}; {hint}"
    )
