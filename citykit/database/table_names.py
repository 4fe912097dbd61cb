"""The tables and views that are named almost like one that does not exist."""

from __future__ import annotations

import difflib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_TABLES = text("""
SELECT n.nspname AS schema, c.relname AS name, pg_table_is_visible(c.oid) AS visible
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY c.oid
""")


async def similar_tables(connection: AsyncConnection, name: str) -> list[tuple[str, str | None]]:
    """Return the names and schemas of up to three, the most alike first; no schema for one in search_path."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for row in await connection.execute(_TABLES):
        table = (row.name, None if row.visible else row.schema)
        found.setdefault(row.name.casefold(), []).append(table)
    near = difflib.get_close_matches(name.casefold(), found, n=3)
    return [table for each in near for table in found[each]][:3]
