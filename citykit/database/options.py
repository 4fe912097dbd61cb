"""What a helper is given to work on, and the options of citykit's own that its engine has."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from citykit.database.server_errors import server_errors_named

Bind: TypeAlias = AsyncEngine | AsyncConnection | AsyncSession
Numeric: TypeAlias = Literal["float", "decimal"]
T = TypeVar("T")

# The names of the options among an engine's execution_options, and their values where `connect` made none.
LOCK_OPTION, LOCK_SECONDS = "citykit_lock_timeout", 30.0  # of waiting for a lock, in a helper that writes
SILENCE_OPTION, SILENCE_SECONDS = "citykit_silence_timeout", 30.0  # of a helper; then the server is asked
NUMERIC_OPTION = "citykit_numeric"  # the type that numerics are read as, where a helper is not told


def option(bind: Bind, name: str, default: T) -> T:
    """Return an option of citykit's own that `connect` has given an engine (its execution_options)."""
    with server_errors_named():  # a session without an engine, or with one for each of its tables
        sync = bind.get_bind() if isinstance(bind, AsyncSession) else bind.sync_engine
    value: T = sync.get_execution_options().get(name, default)
    return value
