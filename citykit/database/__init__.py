"""A connection: which server, whose transaction, what its errors mean; and the embedded server."""

from citykit.database.account import default_home, is_root
from citykit.database.databases import drop_database, list_databases
from citykit.database.driver import driver_of, ended, started, transport_of
from citykit.database.engine import connect, leave_embedded, sessions
from citykit.database.locks import CREATING, lock, lock_bound, lock_without_queueing, locked_by
from citykit.database.options import LOCK_OPTION, LOCK_SECONDS, NUMERIC_OPTION, Bind, Numeric, option
from citykit.database.server_errors import (
    WITHOUT_TABLE,
    ConnectionLostError,
    driver_error,
    server_errors_named,
    server_message,
    shortened,
    sqlstate,
)
from citykit.database.settings import local_setting, set_local
from citykit.database.sqlstates import OF_VALUES, Condition, ConditionClass
from citykit.database.table_names import similar_tables
from citykit.database.transactions import IN_AUTOCOMMIT, Work, cancelled, in_transaction
from citykit.database.urls import shown_url

__all__ = [
    "CREATING",
    "IN_AUTOCOMMIT",
    "LOCK_OPTION",
    "LOCK_SECONDS",
    "NUMERIC_OPTION",
    "OF_VALUES",
    "WITHOUT_TABLE",
    "Bind",
    "Condition",
    "ConditionClass",
    "ConnectionLostError",
    "Numeric",
    "Work",
    "cancelled",
    "connect",
    "default_home",
    "driver_error",
    "driver_of",
    "drop_database",
    "ended",
    "in_transaction",
    "is_root",
    "leave_embedded",
    "list_databases",
    "local_setting",
    "lock",
    "lock_bound",
    "lock_without_queueing",
    "locked_by",
    "option",
    "server_errors_named",
    "server_message",
    "sessions",
    "set_local",
    "shortened",
    "shown_url",
    "similar_tables",
    "sqlstate",
    "started",
    "transport_of",
]  # fmt: skip
