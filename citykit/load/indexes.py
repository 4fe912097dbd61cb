"""Indexes that are dropped before a large load and built again after it, in its transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import local_setting
from citykit.load.staging import Target

MEMORY = 256 * 2**20  # for index builds
_MORE = text("""
SELECT greatest(pg_size_bytes(current_setting(:setting)), CAST(:least AS bigint)) / 1024 || 'kB'
""")

_INDEXES = text("""
SELECT i.indexrelid::regclass::text AS name, k.conname AS constraint_name,
       pg_get_indexdef(i.indexrelid) AS definition, pg_get_constraintdef(k.oid) AS constraint_definition,
       quote_literal(obj_description(i.indexrelid, 'pg_class')) AS comment,
       quote_literal(obj_description(k.oid, 'pg_constraint')) AS constraint_comment
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
                                    AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = to_regclass(:name)
  AND i.indisvalid AND i.indisready AND i.indislive AND NOT i.indisclustered AND NOT i.indisreplident
  AND x.reltablespace = 0 AND coalesce(k.contype, 'u') <> 'x'
  AND (k.oid IS NULL OR x.reloptions IS NULL)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = x.oid AND coalesce(a.attstattarget, -1) <> -1)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_seclabel s WHERE s.objoid IN (x.oid, k.oid))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.refobjid IN (x.oid, k.oid) AND d.deptype <> 'i')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.objid IN (x.oid, k.oid) AND d.deptype IN ('e', 'x'))
ORDER BY i.indexrelid
""")


@asynccontextmanager
async def memory(connection: AsyncConnection, setting: str, least: int) -> AsyncIterator[None]:
    """Give the server so many bytes of memory in a block, or the session's own setting if that is more."""
    more = await connection.scalar(_MORE, {"setting": setting, "least": least})
    async with local_setting(connection, setting, more):
        yield


async def drop_indexes(connection: AsyncConnection, target: Target) -> Sequence[RowMapping]:
    """Drop the indexes of a locked table that can be built again as they are; return their definitions."""
    table, quote = target.named(connection), connection.dialect.identifier_preparer.quote
    indexes = (await connection.execute(_INDEXES, {"name": table})).mappings().all()
    for index in indexes:
        if constraint := index["constraint_name"]:
            await connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {quote(constraint)}")
        else:
            await connection.exec_driver_sql(f"DROP INDEX {index['name']}")
    return indexes


async def build_indexes(connection: AsyncConnection, target: Target, indexes: Sequence[RowMapping]) -> None:
    """Build dropped indexes again, in their order, with their comments."""
    if not indexes:
        return
    async with (
        memory(connection, "maintenance_work_mem", MEMORY),
        local_setting(connection, "default_tablespace", ""),  # where they were: see _INDEXES
    ):
        await _build(connection, target, indexes)


async def _build(connection: AsyncConnection, target: Target, indexes: Sequence[RowMapping]) -> None:
    table, quote = target.named(connection), connection.dialect.identifier_preparer.quote
    for index in indexes:
        comments = [("INDEX", index["name"], "", index["comment"])]
        if name := index["constraint_name"]:
            definition = f"ALTER TABLE {table} ADD CONSTRAINT {quote(name)} {index['constraint_definition']}"
            comments.append(("CONSTRAINT", quote(name), f" ON {table}", index["constraint_comment"]))
        else:
            definition = index["definition"]
        await connection.exec_driver_sql(definition)
        for kind, named, where, comment in comments:
            if comment is not None:
                await connection.exec_driver_sql(f"COMMENT ON {kind} {named}{where} IS {comment}")
