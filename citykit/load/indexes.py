"""Indexes dropped before a large load and built again after it, exactly as they were, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database.locks import set_local
from citykit.load.staging import Target

MAINTENANCE_MEGABYTES = 256  # for an index build, at least

# What a plan depends on. An index of which a new one would not be an exact copy is not in `rebuildable`,
# and nothing is of a table that others build on or where the rebuild itself would show: a subscriber gets
# the TRUNCATE of a table that is published in any way, and so does who decodes the log by another plugin than
# that of publications.
_FACTS = text("""
SELECT c.relkind = 'r' AND NOT c.relrowsecurity
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid) AS alone,
       NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid
                   AND (NOT g.tgisinternal OR g.tgconstraint <> 0)) AS plain,
       ARRAY(SELECT k.conname::text FROM pg_catalog.pg_constraint k
             WHERE k.conrelid = c.oid AND k.contype = 'c') AS checks,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) AS columns,
       ARRAY(SELECT t.typname::text FROM pg_catalog.pg_attribute a
             LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                                           AND t.typnamespace = 'pg_catalog'::regnamespace
             WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) AS types,
       ARRAY(SELECT (SELECT string_agg(a.attname, chr(31)) FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
             FROM pg_catalog.pg_index i
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
               AND i.indpred IS NULL AND i.indexprs IS NULL) AS keys,
       ARRAY(SELECT (SELECT string_agg(a.attname, chr(31) ORDER BY k.place)
                     FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum)
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             JOIN pg_catalog.pg_am m ON m.oid = x.relam
             WHERE i.indrelid = c.oid AND m.amname = 'btree' AND i.indexprs IS NULL
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_index o
                                   JOIN pg_catalog.pg_class y ON y.oid = o.indexrelid
                                   JOIN pg_catalog.pg_am b ON b.oid = y.relam
                                   WHERE o.indrelid = c.oid AND b.amname = 'brin')
             ORDER BY i.indexrelid) AS orders,
       (SELECT ARRAY[a.attname, t.typname, q.seqrelid::regclass::text, q.seqmax::text,
                     s.relowner::regrole::text]::text[]
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
             AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
             AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'i'
        JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
        JOIN pg_catalog.pg_class s ON s.oid = q.seqrelid
        WHERE a.attrelid = c.oid AND a.attidentity <> '' AND q.seqincrement = 1 AND NOT q.seqcycle
        LIMIT 1) AS counter,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint
           * coalesce(nullif(greatest(c.reltuples, 0) / nullif(c.relpages, 0), 0), 60)::float8 AS rows,
       current_setting('transaction_isolation') = 'read committed' AS fresh,
       c.relkind = 'r' AND NOT c.relispartition
           AND pg_has_role(c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtenabled <> 'D')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                           WHERE (p.schemaname, p.tablename) = (n.nspname, c.relname))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots r
                           WHERE r.database = current_database() AND r.plugin <> 'pgoutput')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname IN ('citus', 'timescaledb'))
           AS exact,
       NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
                   WHERE f.contype = 'f' AND f.confrelid = c.oid)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                           WHERE g.tgrelid = c.oid AND g.tgtype & 32 = 32)
           AND has_table_privilege(c.oid, 'TRUNCATE') AS truncatable
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(:name)
""")

_INDEXES = text("""
SELECT i.indexrelid::regclass::text AS name, k.conname AS constraint_name,
       pg_get_indexdef(i.indexrelid) AS definition, pg_get_constraintdef(k.oid) AS constraint_definition,
       obj_description(i.indexrelid, 'pg_class') AS comment,
       obj_description(k.oid, 'pg_constraint') AS constraint_comment
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


@dataclass(frozen=True)
class Counter:
    """A column that the server numbers one by one, from a sequence of its own."""

    column: str
    type: str
    sequence: str  # its name in SQL
    highest: int
    owner: str  # of the sequence, its name in SQL


@dataclass(frozen=True)
class Facts:
    """What the server's catalogue says of a table."""

    rows: float  # an estimate, as the planner makes it
    alone: bool  # a table of its own file, without row-level security
    fresh: bool  # each statement of the transaction sees what was committed before it
    exact: bool  # its indexes can be dropped and built again without a trace
    truncatable: bool
    plain: bool  # no trigger and no foreign key looks at its rows
    checks: frozenset[str]  # the names of its check constraints
    types: dict[str, str | None]  # of its columns, where they are PostgreSQL's own
    keys: frozenset[frozenset[str]]  # each set of columns that is unique
    orders: tuple[tuple[str, ...], ...]  # in which b-trees sort it, if the order of its file is for no index
    counter: Counter | None


async def facts_of(connection: AsyncConnection, target: Target) -> Facts | None:
    """Ask the catalogue; None where there is no such table, for the next statement to say so."""
    found = (await connection.execute(_FACTS, {"name": target.named(connection)})).mappings().one_or_none()
    if found is None:
        return None
    facts = dict(found)
    facts["types"] = dict(zip(facts.pop("columns"), facts["types"], strict=True))
    facts["keys"] = frozenset(frozenset(names.split(chr(31))) for names in facts["keys"])
    facts["checks"] = frozenset(facts["checks"])
    facts["orders"] = tuple(tuple(names.split(chr(31))) for names in facts["orders"])
    if counter := facts["counter"]:
        facts["counter"] = Counter(counter[0], counter[1], counter[2], int(counter[3]), counter[4])
    return Facts(**facts)


async def drop_indexes(connection: AsyncConnection, target: Target) -> Sequence[RowMapping]:
    """Drop the indexes of a locked table that can be built again exactly; return what `build` needs."""
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
    table, quote = target.named(connection), connection.dialect.identifier_preparer.quote
    memory = await connection.scalar(text("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"))
    wanted = max(int(memory or 0), MAINTENANCE_MEGABYTES * 2**20)
    await set_local(connection, "maintenance_work_mem", f"{wanted // 1024}kB")
    tablespace = await connection.scalar(text("SELECT current_setting('default_tablespace')"))
    await set_local(connection, "default_tablespace", "")  # where they were: see _INDEXES
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
                literal = await connection.scalar(
                    text("SELECT quote_literal(:comment)"), {"comment": comment}
                )
                await connection.exec_driver_sql(f"COMMENT ON {kind} {named}{where} IS {literal}")
    await set_local(connection, "default_tablespace", tablespace)
    await set_local(connection, "maintenance_work_mem", f"{memory // 1024}kB")
