"""Database URLs: those of others understood, and shown without their secrets. No I/O."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from citykit.errors import DatabaseUnavailableError

# What a URL made for libpq (psql, psycopg, hosted databases) says, in asyncpg's words; None: it has none.
_LIBPQ_OPTIONS = {
    "sslmode": "ssl",
    "application_name": None,
    "channel_binding": None,
    "connect_timeout": None,
}


def asyncpg_url(url: str | URL) -> URL:
    """Return a URL as SQLAlchemy wants it for asyncpg, or say what is wrong with it."""
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUnavailableError(
            "The database URL cannot be read. It looks like postgresql://user:password@host:5432/database, "
            "with @ : / % in a password written as %40 %3A %2F %25."
        ) from None  # what SQLAlchemy says repeats the text, and with it the password
    if target.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnavailableError(
            f"citykit speaks to PostgreSQL, and the URL is for {target.drivername}. "
            "It looks like postgresql://user:password@host:5432/database."
        )
    query: dict[str, Any] = {}
    for name, value in target.query.items():
        word = _LIBPQ_OPTIONS.get(name, name)
        if word:
            query[word] = value
    if isinstance(password := query.pop("password", None), str):  # nothing would hide it there
        target = target.set(password=password)
    return target.set(drivername="postgresql+asyncpg", query=query)


def shown_url(url: URL) -> str:
    """Show a URL without any of its secrets."""
    query = {name: "***" if "password" in name.lower() else value for name, value in url.query.items()}
    shown = url.set(drivername="postgresql", query=query).render_as_string(hide_password=True)
    return shown.replace("%2F", "/").replace("%2A", "*")  # a socket's path, and the stars above
