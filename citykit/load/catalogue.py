"""What the server's catalogue says of a table, as far as a load depends on it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, sqlstate
from citykit.errors import CitykitError

Mode: TypeAlias = Literal["ROW EXCLUSIVE", "SHARE ROW EXCLUSIVE"]

# The type of each column of a table c, to tell whether they are still the same: its oid and its typmod.
_TYPES = """(
    SELECT json_object_agg(a.attname, json_build_array(a.atttypid::bigint, a.atttypmod))
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"""
# The columns of an index i, without those that it only includes.
_KEY_COLUMNS = """(
    SELECT json_agg(a.attname ORDER BY k.place)
    FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum)"""
# The sequences s that the default of a column a names.
_SEQUENCES = """pg_catalog.pg_attrdef f
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
         AND d.refclassid = 'pg_catalog.pg_class'::regclass
    JOIN pg_catalog.pg_class s ON s.oid = d.refobjid
    WHERE f.adrelid = c.oid AND f.adnum = a.attnum"""
# `rebuildable` is false where others would notice that the indexes are dropped and built: tables that
# inherit, event triggers, subscribers (who get the TRUNCATE of a published table), a logical decoding plugin
# other than that of publications. Also where triggers, or functions that each row calls, may use the indexes.
_FACTS = text(f"""
SELECT json_build_object(
'types', {_TYPES},
'oid', c.oid::bigint,
'name', c.relname,
'kind', c.relkind,
'rules', (SELECT json_object_agg(w.ev_type, quote_ident(w.rulename)) FROM pg_catalog.pg_rewrite w
          WHERE w.ev_class = c.oid AND w.ev_type IN ('2', '3') AND w.ev_enabled <> 'D'),
'instead', EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgtype & 64 = 64),
'secured', row_security_active(c.oid),
'inherited', EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid),
'rewritten', EXISTS (SELECT FROM pg_catalog.pg_trigger g  -- BEFORE ... FOR EACH ROW
                     WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgtype & 3 = 3
                       AND g.tgenabled <> 'D'),
'by_statement', EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
                        AND g.tgtype & 1 = 0 AND g.tgenabled <> 'D'),
'only_keys_refuse', NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid
                                AND (NOT g.tgisinternal OR g.tgconstraint <> 0))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                    AND (i.indisexclusion OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                    WHERE a.attrelid = c.oid AND a.attnum > 0
                      AND (t.typtype = 'd' OR a.attgenerated <> '')),
'constraints', (SELECT json_object_agg(k.conname, (
                    SELECT json_agg(a.attname ORDER BY u.place)
                    FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.number))
                FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid),
'checks', (SELECT json_agg(k.conname) FROM pg_catalog.pg_constraint k
           WHERE k.conrelid = c.oid AND k.contype = 'c'),
'columns', (SELECT json_agg(json_build_object(
    'name', a.attname,
    'type', (SELECT t.typname FROM pg_catalog.pg_type t
             WHERE t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace),
    'definition', format_type(base.oid, base.typmod),
    'collation', coalesce((
        SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_catalog.pg_collation o
        JOIN pg_catalog.pg_namespace n ON n.oid = o.collnamespace
        WHERE o.oid = a.attcollation AND o.collname <> 'default'), ''),
    'element', CASE WHEN coalesce(e.typnamespace, b.typnamespace) = 'pg_catalog'::regnamespace
                    THEN coalesce(e.typname, b.typname) ELSE '' END,
    'array', e.oid IS NOT NULL,
    'typmod', base.typmod,
    'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
                WHERE d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated = ''),
    'generated', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
                  WHERE d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated <> ''),
    'labels', (SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l
               WHERE l.enumtypid IN (b.oid, e.oid)),
    'domain', (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_type t
               LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typlen = -1
               WHERE t.oid = a.atttypid AND 'd' IN (t.typtype, e.typtype)),
    'not_null', a.attnotnull,
    'needed', (a.attnotnull OR base.required) AND NOT a.atthasdef AND a.attidentity = '' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid AND t.typdefault IS NOT NULL),
    'refuses', CASE WHEN a.attgenerated <> '' THEN 'generated' WHEN a.attidentity = 'a' THEN 'identity' END,
    'sequence', coalesce((  -- pg_get_serial_sequence() fails where the table is dropped meanwhile
        SELECT format('%I.%I', o.nspname, s.relname) FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_catalog.pg_namespace o ON o.oid = s.relnamespace
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
              AND d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i') LIMIT 1), (
        SELECT s.oid::regclass::text FROM {_SEQUENCES} AND s.relkind = 'S' LIMIT 1)),
    'granted', array_remove(ARRAY[
        CASE WHEN has_column_privilege(c.oid, a.attnum, 'INSERT') THEN 'INSERT' END,
        CASE WHEN has_column_privilege(c.oid, a.attnum, 'SELECT') THEN 'SELECT' END,
        CASE WHEN has_column_privilege(c.oid, a.attnum, 'UPDATE') THEN 'UPDATE' END,
        CASE WHEN NOT EXISTS (  -- a sequence whose nextval() is the default; an identity's needs no right
            SELECT FROM {_SEQUENCES}
                  AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
        ) THEN 'USAGE' END], NULL)
    ) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    CROSS JOIN LATERAL (  -- a domain's base type; its CHECK is left to the table
        WITH RECURSIVE base (depth, oid, typmod, required) AS (
            SELECT 0, a.atttypid, a.atttypmod, false
            UNION ALL
            SELECT depth + 1, coalesce(nullif(t.typbasetype, 0), (
                       SELECT b.typarray FROM pg_catalog.pg_type e
                       JOIN pg_catalog.pg_type b ON b.oid = e.typbasetype
                       WHERE e.oid = t.typelem AND e.typtype = 'd' AND t.typlen = -1)),
                   CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE -1 END,
                   required OR t.typnotnull
            FROM base JOIN pg_catalog.pg_type t USING (oid)
        )
        SELECT oid, typmod, required FROM base WHERE oid IS NOT NULL ORDER BY depth DESC LIMIT 1) base
    JOIN pg_catalog.pg_type b ON b.oid = base.oid
    LEFT JOIN pg_catalog.pg_type e ON e.oid = b.typelem AND b.typlen = -1
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
'keys', (SELECT json_agg(json_build_object('immediate', i.indimmediate, 'primary', i.indisprimary,
                    'nulls_equal', to_jsonb(i)->>'indnullsnotdistinct' = 'true',  -- from PostgreSQL 15 on
                    'columns', {_KEY_COLUMNS})
                    ORDER BY i.indexrelid)
         FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
           AND i.indpred IS NULL AND i.indexprs IS NULL),
'partly_unique', (SELECT json_agg(DISTINCT a.attname) FROM pg_catalog.pg_index i
                  LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid
                  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
                       AND d.refobjid = c.oid AND (d.classid, d.objid) IN (
                           ('pg_catalog.pg_class'::regclass, i.indexrelid),
                           ('pg_catalog.pg_constraint'::regclass, k.oid))
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                       AND d.refobjsubid IN (0, a.attnum)  -- 0: the whole row is an argument of a function
                  WHERE i.indrelid = c.oid AND (i.indisexclusion
                        OR i.indisunique AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL))),
'orders', (SELECT json_agg({_KEY_COLUMNS}
                           ORDER BY i.indexrelid)
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
           JOIN pg_catalog.pg_am m ON m.oid = x.relam
           WHERE i.indrelid = c.oid AND m.amname = 'btree' AND i.indexprs IS NULL
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_index o
                                 JOIN pg_catalog.pg_class y ON y.oid = o.indexrelid
                                 JOIN pg_catalog.pg_am b ON b.oid = y.relam
                                 WHERE o.indrelid = c.oid AND b.amname = 'brin')),
'counter', (SELECT json_build_object('column', a.attname, 'type', t.typname,
                     'sequence', q.seqrelid::regclass::text, 'highest', q.seqmax,
                     'owner', s.relowner::regrole::text)
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
             AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
             AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'i'
        JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
        JOIN pg_catalog.pg_class s ON s.oid = q.seqrelid
        WHERE a.attrelid = c.oid AND a.attidentity <> '' AND q.seqincrement = 1 AND NOT q.seqcycle
        LIMIT 1),
'deferred', (SELECT json_agg(format('%I.%I', n.nspname, k.conname)) FROM pg_catalog.pg_constraint k
             JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
             WHERE k.conrelid = c.oid AND k.condeferred),
'deferrable', EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgdeferrable),
'rows', CASE WHEN c.relkind IN ('r', 'm') THEN
            pg_relation_size(c.oid) / current_setting('block_size')::bigint
            * coalesce(nullif(greatest(c.reltuples, 0) / nullif(c.relpages, 0), 0), 60)::float8 ELSE 0 END,
'read_committed', current_setting('transaction_isolation') = 'read committed',
'selectable', has_table_privilege(c.oid, 'SELECT'),
'may_lock', CASE WHEN has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE') THEN 'SHARE ROW EXCLUSIVE'
                WHEN has_table_privilege(c.oid, 'INSERT') THEN 'ROW EXCLUSIVE' END,
'truncatable', NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
                           WHERE f.contype = 'f' AND f.confrelid = c.oid)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgtype & 32 = 32)
    AND has_table_privilege(c.oid, 'TRUNCATE'),
'rebuildable', c.relkind = 'r' AND NOT c.relispartition
    AND pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtenabled <> 'D')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                    WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D')
    AND NOT EXISTS (  -- functions of the user's: pg_depend has none of the server's own
        SELECT FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
        JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
        WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
        AND CASE d.classid
            WHEN 'pg_catalog.pg_attrdef'::regclass
                THEN EXISTS (SELECT FROM pg_catalog.pg_attrdef f WHERE (f.oid, f.adrelid) = (d.objid, c.oid))
            WHEN 'pg_catalog.pg_constraint'::regclass
                THEN EXISTS (SELECT FROM pg_catalog.pg_constraint k
                             WHERE k.oid = d.objid AND (k.conrelid = c.oid OR k.contypid IN (
                                SELECT a.atttypid FROM pg_catalog.pg_attribute a
                                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)))
            END)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                    WHERE (p.schemaname, p.tablename) = (n.nspname, c.relname))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots r
                    WHERE r.database = current_database() AND r.plugin <> 'pgoutput')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname IN ('citus', 'timescaledb')),
'temporary', has_database_privilege(current_database(), 'TEMPORARY'),
'loops', EXISTS (SELECT FROM pg_catalog.pg_language l
                 WHERE l.lanname = 'plpgsql' AND has_language_privilege(l.oid, 'USAGE')),
'database', quote_ident(current_database()),
'role', quote_ident(current_user)
)::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(:name)
""")  # noqa: S608  a text of its own
_NOW = text(f"""
SELECT c.oid::bigint AS oid, {_TYPES}::text AS types, format_type(c.reltype, NULL) AS row
FROM pg_catalog.pg_class c WHERE c.oid = to_regclass(:name)
""")  # noqa: S608


@dataclass(frozen=True)
class Column:
    """A column of the table, as the server has it."""

    name: str
    type: str | None = None  # its typname, if it is in pg_catalog
    definition: str = "text"  # the type in SQL; of a domain, its base type
    collation: str = ""  # COLLATE … in SQL, where it is not the database's
    element: str = "text"  # typname of the base type, or of an array's elements; "" if not in pg_catalog
    array: bool = False
    generated: str | None = None  # the expression of SQL by which the server computes it
    default: str | None = None  # an expression of SQL
    typmod: int = -1  # the limits of that type, as pg_attribute.atttypmod has them; -1: none
    labels: tuple[str, ...] = ()  # of an enum, or an array of one
    domain: str | None = None  # the type in SQL, where it is a domain or an array of one
    not_null: bool = False
    needed: bool = False  # it or its domain is NOT NULL, without default or identity; a trigger may fill it
    refuses: str | None = None  # "generated" or "identity" (ALWAYS), where it takes no value
    sequence: str | None = None  # the sequence that numbers it, by its name in SQL
    # What the role may do; USAGE: of the sequences that its default names.
    granted: frozenset[str] = frozenset({"INSERT", "SELECT", "UPDATE", "USAGE"})

    @property
    def digits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric(p, s); the scale may be negative, or larger than p."""
        limits = self.typmod - 4
        return None if limits < 0 else (limits >> 16 & 0xFFFF, ((limits & 0x7FF) ^ 0x400) - 0x400)


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
    """What the server's catalogue says of a table, and what the role may do."""

    columns: Mapping[str, Column]
    keys: Mapping[frozenset[str], bool]  # unique sets of columns; False: DEFERRABLE, so not for ON CONFLICT
    primary: tuple[str, ...] = ()  # the columns of the primary key, in its order
    unique: tuple[tuple[str, ...], ...] = ()  # those of each other unique key
    nulls_equal: frozenset[frozenset[str]] = frozenset()  # those that are NULLS NOT DISTINCT
    partly_unique: frozenset[str] = frozenset()  # in unique indexes of expressions or some rows, in EXCLUDE
    oid: int = 0
    types: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of each column: its oid and its typmod
    name: str = ""
    kind: str = "r"  # pg_class.relkind
    # The name in SQL of a rule for UPDATE ("2") and for INSERT ("3"), as pg_rewrite.ev_type has them.
    rules: Mapping[str, str] = field(default_factory=dict)
    instead: bool = False  # a view with INSTEAD OF triggers, which takes no ON CONFLICT
    secured: bool = False  # row security holds for the role
    inherited: bool = False  # other tables inherit from it, or are its partitions
    rewritten: bool = False  # a BEFORE trigger may replace values, before its other rules are checked
    by_statement: bool = False  # a trigger is called once for each statement
    only_keys_refuse: bool = True  # besides NOT NULL and `checks`, only unique keys can refuse a row
    checks: frozenset[str] = frozenset()  # the names of its check constraints
    constraints: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the columns of each
    orders: tuple[tuple[str, ...], ...] = ()  # columns of each b-tree; none if a BRIN index needs the order
    counter: Counter | None = None
    deferred: tuple[str, ...] = ()  # constraints that are INITIALLY DEFERRED, their names in SQL
    deferrable: bool = False  # a constraint or trigger of it, or one that refers to it, can be deferred
    rows: float = 0  # an estimate, as the planner makes it
    read_committed: bool = True  # each statement of the transaction sees what was committed before it
    selectable: bool = True  # the role may read all of it, with the system columns
    may_lock: Mode | None = "SHARE ROW EXCLUSIVE"  # the strongest mode in which the role may LOCK it
    truncatable: bool = True
    rebuildable: bool = True  # its indexes can be dropped and built again unseen by others
    temporary: bool = True  # the role may make temporary tables
    loops: bool = True  # the role may make functions of PL/pgSQL
    database: str = "postgres"  # its name in SQL
    role: str = "postgres"  # its name in SQL


async def facts_of(connection: AsyncConnection, table: str) -> Facts | None:
    """Ask the catalogue about a table, by its name in SQL; None if it does not exist or is being dropped."""
    found = await connection.scalar(_FACTS, {"name": table})
    facts = json.loads(found) if found else {}
    return None if facts.get("selectable") is None else _facts(facts)


async def is_still(connection: AsyncConnection, table: str, facts: Facts, columns: Collection[str]) -> bool:
    """Tell whether a table, by its name in SQL, is the one that the facts are about.

    Raises
    ------
    CitykitError
        If these columns have other types now: the rows were checked by those of the facts.
    """
    now = (await connection.execute(_NOW, {"name": table})).one_or_none()
    if now is None:
        return False
    types = json.loads(now.types or "{}")
    same = all(types.get(name) == facts.types.get(name) for name in columns)
    if same and not facts.read_committed:
        known = [name for name in columns if name in facts.types]
        same = [facts.types[name][0] for name in known] == await _parsed(connection, now.row, known)
    if not same:
        raise CitykitError(f"table {table} was altered meanwhile; nothing was loaded. Run it again")
    return bool(now.oid == facts.oid)


async def _parsed(connection: AsyncConnection, row: str, columns: Sequence[str]) -> list[int]:
    """Return the oids of the types of some columns of a row type, by the parser; [] if one is gone.

    The parser knows what was committed last. A SELECT from pg_attribute, in a transaction that is not READ
    COMMITTED, has the columns as they were at its first statement. The parser does not tell their typmods.
    """
    quote = connection.dialect.identifier_preparer.quote
    oids = (f"pg_typeof((CAST(NULL AS {row})).{quote(name)})::oid::bigint" for name in columns)
    try:
        return list((await connection.exec_driver_sql(f"SELECT {', '.join(oids)}")).one())
    except DBAPIError as exc:
        if sqlstate(exc) != Condition.UNDEFINED_COLUMN:
            raise
        return []


# By pg_class.relkind: kinds that take no rows, and kinds that take rows and are no tables.
_TAKES_NO_ROWS = {"m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX", "I": "INDEX", "c": "TYPE"}
_TAKES_ROWS = {"v": "VIEW", "f": "FOREIGN TABLE"}


def refuse_no_table(name: str, facts: Facts, undone: str, *, views: bool = True) -> None:
    """Raise an error if the name is that of something else; `views`: views and foreign tables may pass."""
    if kind := _TAKES_NO_ROWS.get(facts.kind) or (not views and _TAKES_ROWS.get(facts.kind)):
        raise CitykitError(
            f"{name} is a {kind.lower()}, no table; {undone}. Give it another name with SQL, "
            f"then create the table: ALTER {kind} {name} RENAME TO other_name"
        )


def _facts(found: dict[str, Any]) -> Facts:
    columns = (
        Column(
            **{**each, "granted": frozenset(each["granted"]), "labels": tuple(each["labels"] or ())},
        )
        for each in found["columns"]
    )
    keys: dict[frozenset[str], bool] = {}
    listed = found["keys"] or ()
    for key in listed:
        names = frozenset(key["columns"])
        keys[names] = keys.get(names, True) and key["immediate"]
    return Facts(
        **{
            **found,
            "columns": {column.name: column for column in columns},
            "keys": keys,
            "nulls_equal": frozenset(frozenset(key["columns"]) for key in listed if key["nulls_equal"]),
            "primary": next((tuple(key["columns"]) for key in listed if key["primary"]), ()),
            "unique": tuple(tuple(key["columns"]) for key in listed if not key["primary"]),
            "partly_unique": frozenset(found["partly_unique"] or ()),
            "constraints": found["constraints"] or {},
            "rules": found["rules"] or {},
            "checks": frozenset(found["checks"] or ()),
            "orders": tuple(tuple(names) for names in found["orders"] or ()),
            "counter": Counter(**found["counter"]) if found["counter"] else None,
            "deferred": tuple(found["deferred"] or ()),
        }
    )
