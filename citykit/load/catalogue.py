"""What the server's catalogue says of a table, as far as a load depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.encode import Rule
from citykit.load.staging import Target

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


_LABELS = text("""
SELECT a.attname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_enum e ON e.enumtypid IN (t.oid, t.typelem)
WHERE a.attrelid = to_regclass(:name) AND NOT a.attisdropped
GROUP BY a.attname
""")


async def with_labels(connection: AsyncConnection, table: Table, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules with the labels of the server's enums, which may differ from those of Python's."""
    name = connection.dialect.identifier_preparer.format_table(table)
    found = {row.name: tuple(row.labels) for row in await connection.execute(_LABELS, {"name": name})}

    def labelled(rule: Rule) -> Rule:
        if rule.item is not None:
            return replace(rule, item=replace(rule.item, labels=found.get(rule.name, ())))
        return replace(rule, labels=found.get(rule.name, rule.labels))

    return [labelled(rule) for rule in rules]
