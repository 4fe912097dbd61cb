"""Poolers between citykit and the server, such as pgbouncer in transaction mode.

A pooler gives each transaction any of its connections to the server: a named prepared statement is unknown
in the next one, or another client's. Without its cache, asyncpg sends an unnamed statement together with its
parameters.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.util import await_only

WITHOUT_NAMES = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


class PoolerCheck:
    """Opens an engine's connections (SQLAlchemy's event ``do_connect``); the first checks for a pooler."""

    def __init__(self) -> None:
        self._found: bool | None = None

    def connect(self, dialect: Any, _record: object, args: Any, parameters: dict[str, Any]) -> Any:
        """Return a new connection; None: SQLAlchemy is to open it, with these `parameters`."""
        if self._found is None:
            connection = dialect.connect(*args, **parameters)
            try:
                self._found = await_only(_is_pooled(connection.driver_connection))
            finally:
                if self._found is not False:
                    connection.driver_connection.terminate()
            if not self._found:
                return connection
        if self._found:
            parameters.update(WITHOUT_NAMES)
        return None


async def _is_pooled(raw: Any) -> bool:
    """Tell whether another process answers than the one in BackendKeyData; by the simple query protocol."""
    asked = f"SELECT 1 WHERE pg_catalog.pg_backend_pid() = {raw.get_server_pid()}"
    return bool(await raw.execute(asked) != "SELECT 1")
