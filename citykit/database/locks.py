"""Locks on tables: how long they are waited for, and who holds one that was not granted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import asyncpg
from sqlalchemy import Double, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database.options import LOCK_OPTION, LOCK_SECONDS, option
from citykit.database.server_errors import DRIVER_ERRORS, sqlstate
from citykit.database.settings import set_local
from citykit.database.sqlstates import Condition
from citykit.errors import CitykitError

TRIED_AGAIN_SECONDS = 0.07  # between two attempts with NOWAIT
VACUUM_MILLISECONDS = 2_000  # twice the default deadlock_timeout, after which autovacuum gives way
CREATING = 0x6369_7479_6B69_74  # "citykit": the advisory lock that create_tables takes

Mode: TypeAlias = Literal["SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"]

# A shorter lock_timeout of the session's own stays; 0 means none. OFFSET 0 keeps the subquery apart, so that
# the setting is read before set_config() changes it.
_SHORTEN = text("""
SELECT own.setting AS before, own.seconds > 0 AND own.seconds <= :most AS is_own,
       CASE WHEN own.seconds > 0 THEN least(own.seconds, :most) ELSE :most END AS seconds,
       set_config('lock_timeout', CASE WHEN own.seconds > 0 AND own.seconds <= :most THEN own.setting
                                       ELSE round(:most * 1000) || 'ms' END, true)
FROM (SELECT current_setting('lock_timeout') AS setting,
             extract(epoch FROM current_setting('lock_timeout')::interval)::float8 AS seconds
      OFFSET 0) AS own
""").bindparams(bindparam("most", type_=Double))

_HOLDERS = text("""
SELECT l.pid, a.application_name AS application, string_agg(DISTINCT l.mode, ', ') AS modes
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND (l.locktype = 'relation' AND l.relation = to_regclass(:name)::oid
           AND (:readers OR l.mode <> 'AccessShareLock')
       OR l.locktype = 'advisory' AND l.objsubid = 1 AND :readers
           AND l.classid::bigint << 32 | l.objid::bigint = :advisory)
GROUP BY l.pid, a.application_name ORDER BY l.pid LIMIT 4
""")

# Autovacuum's lock, which VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY take, too.
_ONLY_VACUUM = text("""
SELECT bool_and(l.mode = 'ShareUpdateExclusiveLock') FROM pg_catalog.pg_locks l
WHERE l.granted AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND l.relation IN (SELECT to_regclass(name)::oid FROM unnest(CAST(:names AS text[])) AS name)
""")


@asynccontextmanager
async def lock_bound(connection: AsyncConnection, table: str, undone: str) -> AsyncIterator[float]:
    """Bound each wait for a lock in a transaction; yield the seconds.

    They are the engine's execution option ``citykit_lock_timeout``, or the session's own ``lock_timeout``,
    where it is shorter. The work is in a savepoint, after which the server can say who holds the lock.

    Parameters
    ----------
    connection : AsyncConnection
    table : str
        Its name in SQL, for the error.
    undone : str
        The state of the database, for the error: "nothing was loaded".

    Raises
    ------
    CitykitError
        If a lock was not granted in that time.
    """
    seconds = option(connection, LOCK_OPTION, LOCK_SECONDS)
    callers = connection.in_nested_transaction()
    bound = (await connection.execute(_SHORTEN, {"most": max(0.001, seconds)})).one()
    try:
        yield bound.seconds
    except (DBAPIError, asyncpg.PostgresError) as exc:
        if sqlstate(exc) != Condition.LOCK_NOT_AVAILABLE:
            raise
        raise await _not_granted(connection, table, bound.seconds, undone, own=bound.is_own) from exc
    if callers:  # a transaction of the helper's own ends here, and its settings with it
        await set_local(connection, "lock_timeout", bound.before)


async def _not_granted(
    connection: AsyncConnection,
    table: str,
    seconds: float,
    undone: str,
    *,
    own: bool = False,
    readers: bool = False,
) -> CitykitError:
    """Return the error that names the sessions which hold a table, if the server still answers."""
    asked = {"name": table, "readers": readers, "advisory": CREATING}
    try:
        holders = (await connection.execute(_HOLDERS, asked)).all()
    except DRIVER_ERRORS:
        holders = []
    held = "; ".join(
        f"process {h.pid}" + (f" ({h.application})" if h.application else "") + f" has {h.modes}"
        if h.pid
        else f"a prepared transaction has {h.modes}"
        for h in holders
    )
    settings = ", connect_args={'server_settings': {'lock_timeout': '120s'}}" if own else ""
    longer = f"await citykit.connect(url, lock_timeout=120{settings})"  # the shorter of the two holds
    return CitykitError(
        f"table {table}: a lock was not granted within {seconds:g} s (lock_timeout), because another session "
        f"holds it{': ' + held if held else ''}; {undone}. When that session has ended its transaction, "
        f"run it again; to wait longer: {longer}"
    )


async def lock(connection: AsyncConnection, table: str, mode: Mode, milliseconds: int) -> bool:
    """Lock a table; return False if that takes longer than `milliseconds` (0: NOWAIT), or is not allowed."""
    how = "" if milliseconds else " NOWAIT"
    return await locked_by(connection, f"LOCK TABLE {table} IN {mode} MODE{how}", milliseconds)


async def locked_by(connection: AsyncConnection, statement: str, milliseconds: int) -> bool:
    """Execute a statement that takes a lock; return False if another holds it or the role may not take it."""
    try:
        async with connection.begin_nested():
            if not milliseconds:
                await connection.exec_driver_sql(statement)
                return True
            before = (await connection.execute(_SHORTEN, {"most": milliseconds / 1000})).one().before
            await connection.exec_driver_sql(statement)
            await set_local(connection, "lock_timeout", before)
    except DBAPIError as exc:
        if sqlstate(exc) not in (Condition.LOCK_NOT_AVAILABLE, Condition.INSUFFICIENT_PRIVILEGE):
            raise
        return False
    return True


async def lock_without_queueing(
    connection: AsyncConnection, tables: Sequence[str], seconds: float, undone: str
) -> None:
    """Lock tables in ACCESS EXCLUSIVE mode, trying again for so many seconds.

    A session that waits for this lock would keep all later readers waiting behind it; NOWAIT does not. But
    autovacuum gives way only to a session that waits: if it may be all that is in the way, this waits once.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    statement, waited = f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE", False
    while True:
        try:
            async with connection.begin_nested():
                await connection.exec_driver_sql(f"{statement} NOWAIT")
            return
        except DBAPIError as exc:
            if sqlstate(exc) != Condition.LOCK_NOT_AVAILABLE:
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise await _not_granted(connection, tables[0], seconds, undone, readers=True) from exc
        if not waited and await connection.scalar(_ONLY_VACUUM, {"names": tables}):
            waited = True
            if await locked_by(connection, statement, VACUUM_MILLISECONDS):
                return
        await asyncio.sleep(TRIED_AGAIN_SECONDS)
