"""A connection: which server, whose transaction, what its errors mean; and the embedded server."""

from citykit.database.account import default_home, is_root
from citykit.database.driver import driver_of, ended, started, transport_of
from citykit.database.engine import connect, sessions
from citykit.database.locks import (
    CREATING,
    local_setting,
    lock,
    lock_bound,
    lock_without_queueing,
    locked_by,
    set_local,
)
from citykit.database.server_errors import ConnectionLostError, server_message, sqlstate
from citykit.database.sqlstates import Condition, ConditionClass
from citykit.database.transactions import Bind, cancelled, in_transaction
from citykit.database.urls import shown_url

__all__ = [
    "CREATING", "Bind", "Condition", "ConditionClass", "ConnectionLostError", "cancelled", "connect",
    "default_home", "driver_of", "ended", "in_transaction", "is_root", "local_setting", "lock", "lock_bound",
    "lock_without_queueing", "locked_by", "server_message", "sessions", "set_local", "shown_url",
    "sqlstate", "started", "transport_of",
]  # fmt: skip
