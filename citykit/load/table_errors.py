"""Errors that lie in the table of a load and in no row of the frame, each with what mends the table.

It is missing, its numbering is behind or used up, or it is published without a replica identity.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import Condition, driver_error, server_message, sqlstate
from citykit.errors import CitykitError, MissingTableError
from citykit.load.catalogue import facts_of


@dataclass(frozen=True)
class Violated:
    """A unique constraint that rows broke."""

    columns: frozenset[str]  # empty where it is no constraint of the table (but an index, or a partition's)
    said: str  # by the server
    mend: str | None = None  # SQL, where the database itself gave a number twice

    def behind(self, table: str, given: Collection[str], undone: str) -> CitykitError | None:
        """Return the error of a sequence that is behind its column; None if it did not give the number."""
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
    original = driver_error(exc)
    name, of = (str(getattr(original, f"{what}_name", "")) for what in ("constraint", "table"))
    facts = await facts_of(connection, table)
    if facts is None or of != facts.name or name not in facts.constraints:
        return Violated(frozenset(), server_message(exc))
    columns = facts.constraints[name]
    sequence = facts.columns[columns[0]].sequence if len(columns) == 1 else None
    mend = None
    if sequence:
        literal = sequence.replace("'", "''")
        column = connection.dialect.identifier_preparer.quote(columns[0])
        mend = f"SELECT setval('{literal}', (SELECT max({column}) FROM {table}))"  # noqa: S608  quoted names
    return Violated(frozenset(columns), server_message(exc), mend)


# What makes a missing table, unless its `info` says otherwise.
_CREATE = "async with engine.begin() as connection: await connection.run_sync(table.metadata.create_all)"


async def missing_table(connection: AsyncConnection, into: Table, exc: BaseException) -> CitykitError | None:
    """Return the error of a table that is not there; None for other errors (a trigger's table is missing)."""
    name = connection.dialect.identifier_preparer.format_table(into)
    if sqlstate(exc) != Condition.UNDEFINED_TABLE or await facts_of(connection, name):
        return None
    create = into.info.get("create", _CREATE)
    return MissingTableError(f"there is no table {name}; nothing was loaded. Create it first: {create}")


# The publications of a table that publish updates. `identity`: the columns of its replica identity, NULL if
# it has none. Before PostgreSQL 15 there are no `attnames` and no `rowfilter`.
_PUBLISHED = text("""
SELECT quote_ident(p.pubname) AS name, to_jsonb(t) AS publication, (
           SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (
               c.relreplident = 'f' OR EXISTS (
                   SELECT FROM pg_catalog.pg_index i
                   WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid AND a.attnum = ANY (i.indkey)
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END))
       ) AS identity,
       (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
               AND i.indimmediate AND i.indisvalid) AS has_primary_key
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_publication_tables t ON (t.schemaname, t.tablename) = (n.nspname, c.relname)
JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname AND p.pubupdate
WHERE c.oid = to_regclass(:name) AND c.relkind = 'r'
""")


async def without_identity(
    connection: AsyncConnection, into: Table, exc: BaseException
) -> CitykitError | None:
    """Return the error of a published table whose updates the server refuses; None for other errors.

    Its subscribers could not tell which row was updated. The transaction has to be usable again: rolled back
    to a savepoint.
    """
    lacks = sqlstate(exc) == Condition.OBJECT_NOT_IN_PREREQUISITE_STATE
    # ON CONFLICT has this SQLSTATE too, and no detail.
    uncovered = sqlstate(exc) == Condition.INVALID_COLUMN_REFERENCE and "\n" in server_message(exc)
    if not (lacks or uncovered):
        return None
    table = connection.dialect.identifier_preparer.format_table(into)
    published = (await connection.execute(_PUBLISHED, {"name": table})).all()
    if not published or (lacks and published[0].identity):
        return None
    columns, needed = published[0].columns, published[0].identity or []
    mend = []
    filtered = uncovered and any(each.publication["rowfilter"] for each in published)
    if lacks or (filtered and set(needed) < set(columns)):  # WHERE may use columns of the identity only
        identity = "DEFAULT" if lacks and published[0].has_primary_key else "FULL"
        mend.append(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
        needed = columns
    quote = connection.dialect.identifier_preparer.quote
    for name, publication, *_ in published if uncovered else ():
        if absent := set(needed) - set(publication["attnames"]):
            listed = [quote(column) for column in columns if column in absent | set(publication["attnames"])]
            only = f" ({', '.join(listed)})" if needed != columns else ""  # FULL allows no list of columns
            rows = f" WHERE ({publication['rowfilter']})" if publication["rowfilter"] else ""
            mend += [
                f"ALTER PUBLICATION {name} DROP TABLE {table}",
                f"ALTER PUBLICATION {name} ADD TABLE {table}{only}{rows}",
            ]
    return CitykitError(
        f"table {table}: {'. '.join(server_message(exc).splitlines()[: 1 if lacks else 2])}; nothing was "
        f"loaded. on_conflict='update' needs one, even if no row is updated. With SQL: {'; '.join(mend)}"
    )


_USED_UP = text("""
SELECT q.seqrelid::regclass::text AS sequence, quote_ident(a.attname) AS name,
       q.seqmax < CASE q.seqtypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                                  ELSE 9223372036854775807 END AS bounded
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_catalog.pg_depend d
  ON d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'i'
     AND d.refclassid = 'pg_catalog.pg_class'::regclass
     AND (d.refobjid, d.refobjsubid) = (a.attrelid, a.attnum)
  OR d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
     AND d.refclassid = 'pg_catalog.pg_class'::regclass
JOIN pg_catalog.pg_sequence q ON q.seqrelid IN (d.objid, d.refobjid)
WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0
ORDER BY q.seqmax - coalesce(pg_sequence_last_value(q.seqrelid), q.seqstart) LIMIT 1
""")


async def used_up(connection: AsyncConnection, into: Table, exc: BaseException) -> CitykitError | None:
    """Return the error of a table whose sequence has no number left; None for other errors."""
    if sqlstate(exc) != Condition.SEQUENCE_GENERATOR_LIMIT_EXCEEDED:
        return None
    table = connection.dialect.identifier_preparer.format_table(into)
    found = (await connection.execute(_USED_UP, {"name": table})).one_or_none()
    if found is None:
        return None
    if found.bounded:
        mend = f"ALTER SEQUENCE {found.sequence} NO MAXVALUE"
    else:
        widen = f"ALTER TABLE {table} ALTER COLUMN {found.name} TYPE bigint"
        mend = f"{widen}; ALTER SEQUENCE {found.sequence} AS bigint"
    return CitykitError(
        f"table {table}: the sequence that numbers column {found.name} is used up ({server_message(exc)}); "
        f"nothing was loaded. Give it more numbers with SQL: {mend}"
    )
