"""Which staged rows a table refuses, and why, where only the server can tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, ConditionClass, server_message, sqlstate
from citykit.encode import POSITION
from citykit.errors import CitykitError
from citykit.load.staging import Target, staging_of

Violation: TypeAlias = tuple[int, str, Any, str]  # position, column, value, reason

# Each row of this is a rule of the table: what it is called, the columns that it is about, and a condition
# that the rows breaking it fulfil. The conditions are made of the server's own texts and quoted names.
_RULES = text("""
SELECT array_agg(a.attname::text ORDER BY u.place) AS columns,
       format('(%s) IS FALSE', pg_get_expr(k.conbin, k.conrelid)) AS broken,
       format('against %s %s', k.conname, pg_get_constraintdef(k.oid)) AS reason
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS u (number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
WHERE k.conrelid = to_regclass(:name) AND k.contype = 'c'
GROUP BY k.oid
UNION ALL
SELECT array_agg(a.attname::text ORDER BY u.place),
       format('(%s) IS NOT NULL AND NOT EXISTS (SELECT FROM %s AS referred WHERE %s)%s',
              string_agg(format('staged.%I', a.attname), ', ' ORDER BY u.place), k.confrelid::regclass,
              string_agg(format('referred.%I = staged.%I', b.attname, a.attname), ' AND '),
              CASE WHEN k.confrelid = k.conrelid THEN
                  format(' AND NOT EXISTS (SELECT FROM pg_temp.%I AS referred WHERE %s)',
                         CAST(:staging AS text),
                         string_agg(format('referred.%I = staged.%I', b.attname, a.attname), ' AND ')) END),
       format('not in %s (%s)', k.confrelid::regclass, string_agg(b.attname, ', ' ORDER BY u.place))
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY AS u (number, referred, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.referred
WHERE k.conrelid = to_regclass(:name) AND k.contype = 'f'
GROUP BY k.oid, k.conrelid, k.confrelid
UNION ALL
SELECT ARRAY[a.attname::text], format('%I IS NULL', a.attname), 'missing'
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped
""")

_DEFAULTS = text("""
SELECT a.attname AS name, CASE WHEN d.adbin IS NOT NULL AND a.attgenerated = ''
                               AND pg_get_expr(d.adbin, d.adrelid) NOT LIKE 'nextval(%'
                          THEN pg_get_expr(d.adbin, d.adrelid) ELSE 'NULL' END AS value,
       format_type(a.atttypid, a.atttypmod) AS type
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
""")


async def find_violations(connection: AsyncConnection, target: Target) -> list[Violation]:
    """Return the staged rows that break a rule of the table.

    Constraints are asked for all their rows at once. What else refused (a trigger, a domain) is found by
    halves: the one row that cannot be inserted.
    """
    quote = connection.dialect.identifier_preparer.quote
    name = {"name": target.named(connection)}
    defaults = (await connection.execute(_DEFAULTS, name)).all()
    absent = [row for row in defaults if row.name not in target.columns]
    filled = "".join(f", CAST({row.value} AS {row.type}) AS {quote(row.name)}" for row in absent)
    staged = f"(SELECT *{filled} FROM pg_temp.{target.staging}) AS staged"  # noqa: S608  the server's own texts
    found: list[Violation] = []
    for columns, broken, reason in (
        await connection.execute(_RULES, {**name, "staging": target.staging})
    ).all():
        if not set(columns) & set(target.columns):
            continue
        shown = ", ".join(map(quote, columns))
        rows = await connection.exec_driver_sql(
            f"SELECT {POSITION}, {shown} FROM {staged} WHERE {broken}"  # noqa: S608  the server's own text
        )
        for row in rows:
            position, *values = tuple(row)
            value = values[0] if len(columns) == 1 else tuple(values)
            found.append((position, ", ".join(columns), value, reason))
    return sorted(found, key=lambda violation: violation[:2]) or await _by_halves(connection, target)


async def _by_halves(connection: AsyncConnection, target: Target) -> list[Violation]:
    position = staging_of(target).c[POSITION]
    positions = list((await connection.scalars(select(position).order_by(position))).all())
    low, high = 0, len(positions)
    while high - low > 1:
        middle = (low + high) // 2
        refused = await _refusal(connection, target, positions[low:middle])
        low, high = (low, middle) if refused else (middle, high)
    last = await _refusal(connection, target, positions[low:high])
    if last is None:
        return []
    column = getattr(getattr(last.orig, "__cause__", None), "column_name", None)
    return [(positions[low], column or "", None, f"refused: {server_message(last)}")]


async def _refusal(
    connection: AsyncConnection, target: Target, positions: Sequence[int]
) -> DBAPIError | None:
    """Try to insert some staged rows, and undo it; return what the server had against them."""
    if not positions:
        return None
    columns = ", ".join(map(connection.dialect.identifier_preparer.quote, target.columns))
    trial = await connection.begin_nested()
    try:
        await connection.exec_driver_sql(
            f"INSERT INTO {target.named(connection)} ({columns}) "  # noqa: S608
            f"SELECT {columns} FROM pg_temp.{target.staging} "
            f"WHERE {POSITION} BETWEEN {int(positions[0])} AND {int(positions[-1])} ON CONFLICT DO NOTHING"
        )
        await connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
    except DBAPIError as exc:
        return exc if (sqlstate(exc) or "")[:2] in REFUSALS else None
    finally:
        await trial.rollback()
    return None


_VIOLATED = text("""
SELECT array_agg(a.attname::text) AS columns,
       CASE WHEN i.indisprimary AND i.indnkeyatts = 1 THEN min(pg_get_serial_sequence(:name, a.attname)) END
           AS sequence,
       min(format('SELECT setval(pg_get_serial_sequence(%L, %L), (SELECT max(%I) FROM %s))',
                  CAST(:name AS text), a.attname, a.attname, CAST(:name AS text))) AS mend
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
                              AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = to_regclass(:name) AND x.relname = :index AND c.relname = :table
GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts
""")


@dataclass(frozen=True)
class Violated:
    """A unique constraint that rows broke."""

    columns: frozenset[str]  # empty where it is not one of the table's own (a trigger's, a partition's)
    said: str  # by the server
    mend: str | None = None  # SQL, where the database itself gave a number twice

    def behind(self, table: str, given: Collection[str], undone: str) -> CitykitError | None:
        """Return the error that says that the numbering is behind; None where it is not to blame."""
        if self.mend is None or self.columns <= set(given):
            return None
        return CitykitError(
            f"table {table}: its numbering is behind its {', '.join(self.columns)} ({self.said}); {undone}. "
            f"Mend it with SQL, then run it again: {self.mend}"
        )


async def violated_by(connection: AsyncConnection, table: str, exc: BaseException) -> Violated:
    """Return which unique constraint of a table the rows broke that a server refused with SQLSTATE 23505.

    Its transaction has to be usable again: rolled back to a savepoint.
    """
    original = getattr(getattr(exc, "orig", None), "__cause__", None) or exc
    index, of = (getattr(original, f"{what}_name", None) for what in ("constraint", "table"))
    asked = {"name": table, "index": index or "", "table": of or ""}
    found = (await connection.execute(_VIOLATED, asked)).one_or_none()
    if found is None:
        return Violated(frozenset(), server_message(exc))
    return Violated(frozenset(found.columns), server_message(exc), found.mend if found.sequence else None)


# DEFAULT is the primary key, where the server can use it.
_WITHOUT_IDENTITY = text("""
SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
                         AND i.indimmediate AND i.indisvalid) THEN 'DEFAULT' ELSE 'FULL' END AS identity
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(:name) AND c.relkind = 'r' AND c.relreplident <> 'f'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                  WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
                    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)
  AND EXISTS (SELECT FROM pg_catalog.pg_publication_tables t
              JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname
              WHERE (t.schemaname, t.tablename) = (n.nspname, c.relname) AND p.pubupdate)
""")


async def without_identity(
    connection: AsyncConnection, table: str, exc: BaseException
) -> CitykitError | None:
    """Return the error of a published table whose updates the server refuses; None where that is not it.

    Its subscribers could not tell which row was updated. The transaction has to be usable again: rolled back
    to a savepoint.
    """
    if sqlstate(exc) != Condition.OBJECT_NOT_IN_PREREQUISITE_STATE:
        return None
    identity = await connection.scalar(_WITHOUT_IDENTITY, {"name": table})
    return identity and CitykitError(
        f"table {table}: {server_message(exc).splitlines()[0]}; nothing was loaded. "
        "on_conflict='update' needs one, even if no row is updated: "
        f"ALTER TABLE {table} REPLICA IDENTITY {identity}"
    )


# The classes of SQLSTATE by which a server refuses values: data, integrity, a trigger's exception.
REFUSALS = (
    ConditionClass.DATA_EXCEPTION,
    ConditionClass.INTEGRITY_CONSTRAINT_VIOLATION,
    ConditionClass.PLPGSQL_ERROR,
)
