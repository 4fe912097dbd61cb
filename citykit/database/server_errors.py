"""Errors of PostgreSQL, asyncpg, SQLAlchemy and the operating system, turned into this package's own."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched
from sqlalchemy import URL
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database.sqlstates import Condition, ConditionClass
from citykit.database.urls import shown_url
from citykit.errors import CitykitError, DatabaseUnavailableError, MissingTableError

_ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
DRIVER_ERRORS = (OSError, SQLAlchemyError, *_ASYNCPG_ERRORS)  # all that a connection may raise

_OF_AN_OPTION = "Change that in the URL (CITYKIT_URL), in connect_args or in the environment (PG…)."
_FILES = {"sslcert", "sslcrl", "sslkey", "sslrootcert"}  # the options of a URL that name one
_OF_A_HANDSHAKE = {"sslcert", "sslnegotiation"}  # options for which a server may just close the connection
_OF_THE_SERVER = (
    "Check that the server runs there and that CITYKIT_URL is right; "
    "without CITYKIT_URL citykit brings a server of its own."
)

# In place of the hint for INVALID_PASSWORD: asyncpg sends an empty password where it finds none.
_UNGIVEN = (
    "The URL has no password, nor has PGPASSWORD. If connect_args or a password file (passfile, PGPASSFILE, "
    "~/.pgpass) has one for this host, port, database and user, it is wrong; in such a file, asyncpg takes a "
    "\\ for a character of the password. Write it into the URL: postgresql://user:password@host:5432/database"
)
# What to do when a server refuses a connection, by SQLSTATE or, where that is not here, by the class of it;
# {user} and {database} are the URL's, in SQL.
_CONNECTION_HINTS: Mapping[str, str] = {
    Condition.INVALID_PASSWORD: "The password is wrong. A new one is set with SQL: "
    "ALTER ROLE {user} PASSWORD 'new'",
    Condition.INVALID_AUTHORIZATION_SPECIFICATION: "If there is no such role: CREATE ROLE {user} LOGIN. "
    "If it may not log in: ALTER ROLE {user} LOGIN. Else the server's pg_hba.conf needs a line, and then "
    "SELECT pg_reload_conf(): host {database} {user} all scram-sha-256",
    Condition.INVALID_CATALOG_NAME: "In the embedded PostgreSQL await citykit.connect(database=…) makes it. "
    "Elsewhere create it with SQL: CREATE DATABASE {database}",
    Condition.INSUFFICIENT_PRIVILEGE: "If it names a parameter, leave that out of the URL, of connect_args "
    "and of the environment (PG…). Else its owner gives the right with SQL: "
    "GRANT CONNECT ON DATABASE {database} TO {user}",
    ConditionClass.DATA_EXCEPTION: _OF_AN_OPTION,
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE: _OF_AN_OPTION,
    Condition.CANT_CHANGE_RUNTIME_PARAM: _OF_AN_OPTION,
    Condition.UNDEFINED_FILE: _OF_AN_OPTION,  # a library of local_preload_libraries
    Condition.TOO_MANY_CONNECTIONS: "No connection is left: close one, or raise max_connections. "
    "Those that an engine keeps idle are closed by: await engine.dispose()",
    Condition.CANNOT_CONNECT_NOW: "It is starting or stopping: try again in a moment.",
    Condition.PROTOCOL_VIOLATION: "A pooler such as pgbouncer says this. If it names a startup parameter, "
    "leave that out of the URL, of connect_args and of the environment (PG…); with SQL, a role has it on "
    "each of its connections: ALTER ROLE {user} SET statement_timeout = '600s'",
}
# In front of the hint for INVALID_AUTHORIZATION_SPECIFICATION, where the URL asks for no encryption.
_UNENCRYPTED = (
    "If the server takes encrypted connections alone (hostssl in its pg_hba.conf), write sslmode=require in "
    "place of sslmode=disable. "
)
# In front of the hint for a host that does not answer, where a URL has several of which one is chosen by its
# role: asyncpg names only the host that failed last.
_OF_ANOTHER_ROLE = (
    "Each other host does not answer either, or is not what target_session_attrs={attribute} asks for. "
)
# The classes of SQLSTATE, and SQLSTATEs, in which the next attempt to connect is refused just the same.
_PERMANENT = (
    ConditionClass.FEATURE_NOT_SUPPORTED,
    ConditionClass.DATA_EXCEPTION,
    ConditionClass.INVALID_AUTHORIZATION_SPECIFICATION,
    ConditionClass.INVALID_CATALOG_NAME,
    ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE,
    Condition.CANT_CHANGE_RUNTIME_PARAM,
    Condition.UNDEFINED_FILE,
)

_POOLER = (
    "A pooler such as pgbouncer has changed the connection, and with it the prepared statements: "
    "engine = await citykit.connect(url) makes an engine that needs none."
)
# What to do where a statement names a table that does not exist.
WITHOUT_TABLE = (
    "Create citykit's tables with await citykit.create_tables(engine), another from a frame with "
    "await citykit.create_table(engine, name, frame). A table outside of the session's search_path is "
    "written schema.table"
)
_WITH_SETTING = "await citykit.connect(url, connect_args={{'server_settings': {{%s}}}})"
# What to do when the server refuses a statement for another reason than its values, by SQLSTATE.
_STATEMENT_HINTS: Mapping[str, str] = {
    Condition.DEPENDENT_OBJECTS_STILL_EXIST: "Something else was built on the table. With SQL, which drops "
    "that too: DROP TABLE cities CASCADE",
    Condition.WRONG_OBJECT_TYPE: "An object of that name is not a table. Rename it with SQL, then "
    "create the table: ALTER TABLE cities RENAME TO other_name",
    Condition.READ_ONLY_SQL_TRANSACTION: "If the server is a standby, connect to its primary. Else: "
    + _WITH_SETTING % "'default_transaction_read_only': 'off'",
    Condition.NO_ACTIVE_SQL_TRANSACTION: "The connection is in autocommit mode. Give the engine, or first: "
    "await connection.rollback(); await connection.execution_options(isolation_level='READ COMMITTED')",
    Condition.IN_FAILED_SQL_TRANSACTION: "The transaction has failed earlier. This ends it: "
    "await connection.rollback()",
    Condition.SERIALIZATION_FAILURE: "Another transaction changed the same rows: run it again.",
    Condition.DEADLOCK_DETECTED: "Another transaction changed the same rows: run it again.",
    Condition.INSUFFICIENT_PRIVILEGE: "Its owner gives the right with SQL. For citykit's table: "
    "GRANT ALL ON cities TO {user}",
    Condition.UNDEFINED_COLUMN: "The table in the database has other columns than its model in Python. "
    "citykit's own is replaced, with all of its rows, by: await citykit.create_tables(engine, reset=True)",
    Condition.INVALID_SQL_STATEMENT_NAME: _POOLER,
    Condition.DUPLICATE_PREPARED_STATEMENT: _POOLER,
    Condition.DISK_FULL: "The server's disk is full. Free a part of it, then run it again.",
    Condition.LOCK_NOT_AVAILABLE: "Another transaction holds the table: run it again.",
    Condition.INVALID_SCHEMA_NAME: "If the statement names no schema, search_path has none that exists. This "
    "one has: " + _WITH_SETTING % "'search_path': 'public'",
    Condition.QUERY_CANCELED: "It was cancelled, or took longer than the server's statement_timeout. "
    "For more time: " + _WITH_SETTING % "'statement_timeout': '600s'",
}

_BUSY = (
    "Another statement on this connection has not ended: await it first. A stream that a loop leaves early "
    "is ended by: async with contextlib.aclosing(citykit.stream_frames(…)) as frames"
)
_NO_SESSION = (
    "A pooler in between, such as pgbouncer, may have no session left: in session mode each connection keeps "
    "one, also while it is idle. Make fewer connections than it has sessions (default_pool_size): "
    "await citykit.connect(url, pool_size=2, max_overflow=0)"
)
_NOT_STORED = "was not stored. Connect again if the server was restarted, and"
_IN_DOUBT = "may have been stored: it was just being committed. Look before you"


class ConnectionLostError(ConnectionResetError):
    """The connection ended while asyncpg waited for an answer, or before anything was sent."""


def sqlstate(exc: BaseException) -> str | None:
    """Return the server's five-character code for what went wrong, None where there is none."""
    original = getattr(exc, "orig", None) or exc
    code = getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


def server_message(exc: BaseException) -> str:
    """Return the message of the server (or of asyncpg), without the text that SQLAlchemy adds."""
    original = driver_error(exc)
    return shortened(str(original).strip()) or type(original).__name__


def driver_error(exc: BaseException) -> BaseException:
    """Return the error of asyncpg in which SQLAlchemy has wrapped it; another error as it is."""
    original = getattr(exc, "orig", None) or exc
    return getattr(original, "__cause__", None) or original


def shortened(said: str) -> str:
    """Return a message of the server with its long lines cut: it may repeat a value of any length."""
    lines = said.split("\n")
    return "\n".join(line if len(line) <= 1_000 else f"{line[:700]} … {line[-200:]}" for line in lines)


def unreachable(url: URL, exc: BaseException, seconds: float | None = None) -> DatabaseUnavailableError:
    """Return the error for a connection that could not be opened; `seconds`: the timeout, if it ran out."""
    if isinstance(exc, PoolTimeoutError):
        return DatabaseUnavailableError(
            f"No connection to {shown_url(url)}: all connections of the engine are in use and none came back "
            f"within its pool_timeout ({exc}); nothing was sent. "
            "Let their work end, or allow more: await citykit.connect(url, pool_size=20, pool_timeout=60)"
        )
    silent = isinstance(exc, TimeoutError) and not exc.args
    said = "it did not answer" if silent else server_message(exc)
    if silent and seconds:
        said = f"no answer within {seconds:g} s"
    code = sqlstate(exc) or ""
    original = driver_error(exc)
    if isinstance(original, asyncpg.InternalClientError):  # of a login: a password that is no UTF-8
        original = original.__cause__ or original
    ours = isinstance(original, (TypeError, ValueError, ssl.SSLError)) or (
        isinstance(original, (FileNotFoundError, PermissionError)) and not _FILES.isdisjoint(url.query)
    )
    permanent = ours or code.startswith(_PERMANENT)
    closed = (ConnectionResetError, asyncpg.ConnectionDoesNotExistError)
    option = (
        ours
        or isinstance(original, TargetServerAttributeNotMatched)  # which a failover may change
        or (isinstance(original, closed) and not _OF_A_HANDSHAKE.isdisjoint(url.query))
    )
    hint = _CONNECTION_HINTS.get(code) or _CONNECTION_HINTS.get(code[:2])
    hint = hint or (_OF_AN_OPTION if option else _OF_THE_SERVER)
    if code == Condition.INVALID_PASSWORD and not (url.password or os.environ.get("PGPASSWORD")):
        hint = _UNGIVEN
    if code == Condition.INVALID_AUTHORIZATION_SPECIFICATION and _asked(url, "ssl", "PGSSLMODE") == "disable":
        hint = _UNENCRYPTED + hint
    attribute = _asked(url, "target_session_attrs", "PGTARGETSESSIONATTRS")
    if attribute not in ("", "any") and isinstance(original, OSError) and "," in str(url.query.get("host")):
        hint = _OF_ANOTHER_ROLE.format(attribute=attribute) + hint
    hint = hint.format(**_in_sql(url))
    return DatabaseUnavailableError(
        f"No connection to {shown_url(url)}: {said}. {hint}", transient=not permanent
    )


def _asked(url: URL, option: str, variable: str) -> str:
    """Return the value of an option that asyncpg takes from a URL, or else from the environment."""
    return str(url.query.get(option) or os.environ.get(variable, ""))


def _in_sql(url: URL | None) -> dict[str, str]:
    """Return the user and the database of a URL as SQL writes their names."""
    preparer: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    quote = preparer.identifier_preparer.quote
    user, database = (url.username, url.database) if url else (None, None)
    return {"user": quote(user or "your_role"), "database": quote(database or "your_database")}


def connection_lost(said: str, *, in_doubt: bool = False) -> DatabaseUnavailableError:
    """Return the error for a connection that ended; `in_doubt`: its COMMIT was sent and not answered."""
    outcome = _IN_DOUBT if in_doubt else _NOT_STORED
    return DatabaseUnavailableError(
        f"The connection to the server was lost ({said}); what was under way {outcome} run it again.",
        in_doubt=in_doubt,
    )


def silent(seconds: float, *, let_in: bool, in_doubt: bool) -> DatabaseUnavailableError:
    """Return the error for a connection that was given up; `let_in`: a new one could log in, and no more.

    A pooler lets a client in whether or not it has a session of the server for it; a server that is gone does
    not.
    """
    said = f"nothing came from it for {seconds:g} s, and "
    if not let_in:
        return connection_lost(said + "it answers no new connection", in_doubt=in_doubt)
    outcome = f"{_IN_DOUBT} run it again." if in_doubt else "was not stored."
    return DatabaseUnavailableError(
        f"The connection was given up ({said}a new one was let in but not answered); what was under way "
        f"{outcome} {_NO_SESSION}",
        in_doubt=in_doubt,
    )


@contextmanager
def server_errors_named(
    connection: AsyncConnection | None = None, *, in_doubt: bool = False, undone: str = "nothing was changed"
) -> Iterator[None]:
    """Turn errors of the server and the driver into this package's own.

    `connection`: the one that the block uses, if it has one already. `in_doubt`: the block sends a COMMIT, so
    that a lost connection leaves its outcome unknown. `undone`: what a statement that fails leaves behind.
    """
    try:
        yield
    except (SQLAlchemyError, *_ASYNCPG_ERRORS) as exc:
        raise _as_citykits(exc, connection, in_doubt, undone) from exc
    except OSError as exc:  # of the driver's: the caller's own are carried past this (`callers_code`)
        if isinstance(exc, TimeoutError) and not in_doubt:
            raise CitykitError(
                "A statement took longer than the engine's command_timeout; nothing was changed. "
                "For more time: await citykit.connect(url, connect_args={'command_timeout': 600})"
            ) from exc
        raise connection_lost(str(exc) or type(exc).__name__, in_doubt=in_doubt) from exc


def _as_citykits(
    exc: BaseException, connection: AsyncConnection | None, in_doubt: bool, undone: str
) -> CitykitError:
    code, said = sqlstate(exc) or "", server_message(exc)
    if code == Condition.UNDEFINED_TABLE:
        return MissingTableError(f"{said}; {undone}. {WITHOUT_TABLE}")
    if is_lost(exc, connection):
        return connection_lost(said, in_doubt=in_doubt)
    if isinstance(driver_error(exc), asyncpg.InterfaceError) and "another operation is in progress" in said:
        return CitykitError(f"{said}; {undone}. {_BUSY}")
    hint = _STATEMENT_HINTS.get(code, "").format(**_in_sql(connection.engine.url if connection else None))
    if code == Condition.INSUFFICIENT_PRIVILEGE and getattr(driver_error(exc), "hint", None):
        hint = ""  # what the server said has a hint of its own: no GRANT helps
    return CitykitError(f"{said}; {undone}. {hint}".rstrip())


def is_lost(exc: BaseException, connection: AsyncConnection | None = None) -> bool:
    """Tell whether an error of the server or the driver means that the connection has ended."""
    if isinstance(exc, asyncpg.InternalClientError):
        return True  # asyncpg raises it for a FATAL ErrorResponse that came between two statements
    code = sqlstate(exc) or ""
    if code.startswith((ConditionClass.CONNECTION_EXCEPTION, ConditionClass.SHUTDOWN)) or getattr(
        exc, "connection_invalidated", False
    ):
        return True
    return not code and connection is not None and is_closed(connection)


def is_closed(connection: AsyncConnection) -> bool:
    """Tell whether the server's end, or the driver's, of a connection is known to be closed."""
    opened = connection.sync_connection
    if opened is None or opened.closed or opened.invalidated:
        return True
    driver: Any = opened.connection.driver_connection
    return driver is None or bool(driver.is_closed())
