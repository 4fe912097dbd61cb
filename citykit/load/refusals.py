"""Which staged rows a table refuses, and why, where only the server can tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import false, select, text
from sqlalchemy.exc import DBAPIError

from citykit.database import (
    OF_VALUES,
    Condition,
    ConditionClass,
    driver_error,
    shortened,
    sqlstate,
)
from citykit.load.catalogue import Column, Facts
from citykit.load.merge import Merge, OnConflict
from citykit.load.row_by_row import Refusal, refused, take_turn

Violation: TypeAlias = tuple[int, str, Any, str]  # position, column, value, reason

# Each row is a rule of the table: its columns, a condition that holds for rows that break it, the reason to
# report, and the name of a foreign key. The conditions are made of the server's own texts and quoted names;
# that of a foreign key with PERIOD is NULL. Before PostgreSQL 18 there are no `conenforced`, no `conperiod`.
_RULES = text("""
SELECT array_agg(a.attname::text ORDER BY u.place) AS columns,
       format('(%s) IS FALSE', pg_get_expr(k.conbin, k.conrelid)) AS broken,
       format('against %s %s', k.conname, pg_get_constraintdef(k.oid)) AS reason,
       NULL AS reference
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS u (number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
WHERE k.conrelid = to_regclass(:name) AND k.contype = 'c'
  AND to_jsonb(k)->>'conenforced' IS DISTINCT FROM 'false'
GROUP BY k.oid
UNION ALL
SELECT array_agg(a.attname::text ORDER BY u.place),
       CASE WHEN to_jsonb(k)->>'conperiod' IS DISTINCT FROM 'true' THEN format(
           '%s AND NOT EXISTS (SELECT FROM %s AS referred WHERE %s)%s',
           format(CASE k.confmatchtype WHEN 'f' THEN 'NOT (%s) IS NULL' ELSE '(%s) IS NOT NULL' END,  -- FULL
                  string_agg(format('staged.%I', a.attname), ', ' ORDER BY u.place)),
           k.confrelid::regclass,
           string_agg(format('referred.%I = staged.%I', b.attname, a.attname), ' AND '),
           CASE WHEN k.confrelid = k.conrelid THEN
               format(' AND NOT EXISTS (SELECT FROM (%s) AS referred WHERE %s)',
                      CAST(:staged AS text),
                      string_agg(format('referred.%I = staged.%I', b.attname, a.attname), ' AND ')) END) END,
       format('not in %s (%s)', k.confrelid::regclass, string_agg(b.attname, ', ' ORDER BY u.place)),
       k.conname::text
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY AS u (number, referred, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.referred
WHERE k.conrelid = to_regclass(:name) AND k.contype = 'f'
  AND NOT EXISTS (  -- those that the server adds for each partition of the table that is referred to
      SELECT FROM pg_catalog.pg_constraint o WHERE o.oid = k.conparentid AND o.conrelid = k.conrelid)
  AND to_jsonb(k)->>'conenforced' IS DISTINCT FROM 'false'
GROUP BY k.oid, k.conrelid, k.confrelid
""")

_RAISE = "exec_stmt_raise"  # the server's function that carries out RAISE


def refuses_rows(exc: BaseException, facts: Facts) -> bool:
    """Tell whether the server refused the values of a row: another row may pass."""
    code = sqlstate(exc) or ""
    if code.startswith(ConditionClass.TRANSACTION_ROLLBACK):
        return False
    if is_raised(exc):
        return True
    if code == Condition.INSUFFICIENT_PRIVILEGE:
        return facts.secured  # by a policy: rights that the role lacks were found before
    return code.startswith(OF_VALUES) and code != Condition.SEQUENCE_GENERATOR_LIMIT_EXCEEDED


def is_raised(exc: BaseException) -> bool:
    """Tell whether RAISE, in a trigger, is what refuses a row: it may give any SQLSTATE."""
    return getattr(driver_error(exc), "server_source_function", None) == _RAISE


async def find_violations(
    merge: Merge, on_conflict: OnConflict, facts: Facts, check: str | None, *, one_by_one: bool
) -> list[Violation]:
    """Return the staged rows that the table refuses.

    One query for each constraint finds all rows that break it. If there are none, a trigger, a domain, an
    exclusion constraint or a policy refuses rows: these are found by adding the rows one by one. All of it is
    rolled back. None is found where the table refuses the statement, even without rows: by a trigger.

    Parameters
    ----------
    merge : Merge
    on_conflict : {"error", "skip", "update"}
    facts : Facts
    check : str, optional
        The statement that checks deferred constraints, if it is what has failed.
    one_by_one : bool
        Whether the rows were added so: then a reference to a later row is refused.
    """
    trial = await merge.connection.begin_nested()
    try:
        found, references = ([], set[str]()) if facts.rewritten else await _by_rules(merge, facts)
        if found:
            return found
        if check:
            await merge.connection.exec_driver_sql(check)
        if not await _takes_none(merge, on_conflict):
            return []
        await take_turn(merge.connection, facts)
        rows = await refused(merge, on_conflict, facts, retried=not one_by_one)
        return await _violations(merge, rows, facts, set() if one_by_one else references)
    finally:
        await trial.rollback()


async def _by_rules(merge: Merge, facts: Facts) -> tuple[list[Violation], set[str]]:
    """Return the rows that break a constraint, and the names of the foreign keys that were looked up."""
    connection, target = merge.connection, merge.target
    quote = connection.dialect.identifier_preparer.quote
    filled = "".join(
        f", CAST({_default(column)} AS {column.domain or column.definition}){column.collation} "
        f"AS {quote(column.name)}"
        for column in facts.columns.values()
        if column.name not in target.columns
    )
    computed = {  # what only an INSERT computes
        column.name
        for column in facts.columns.values()
        if column.name not in target.columns and (column.generated is not None or column.sequence)
    }
    every = _rows(merge)
    staged = f"(SELECT *{filled} FROM ({every}) AS every) AS staged"  # noqa: S608  the server's own texts
    rules: list[tuple[list[str], str | None, str, str | None]] = [
        ([n], f"{quote(n)} IS NULL", "missing", None)
        for n, column in facts.columns.items()
        if column.not_null
    ]
    asked = {"name": target.named(connection), "staged": every}
    rules += [
        (list(rule.columns), rule.broken, rule.reason, rule.reference)
        for rule in await connection.execute(_RULES, asked)
    ]
    found: list[Violation] = []
    references = set[str]()
    for columns, broken, reason, reference in rules:
        if not set(columns) & set(target.columns):
            continue
        if broken is None or not computed.isdisjoint(columns):
            continue
        shown = ", ".join(map(quote, columns))
        question = f"SELECT {target.position}, {shown} FROM {staged} WHERE {broken}"  # noqa: S608
        try:
            async with connection.begin_nested():
                rows = (await connection.exec_driver_sql(question)).all()
        except DBAPIError:  # no right to read the other table, or a default that only a real INSERT has
            continue
        if reference:
            references.add(reference)
        for row in rows:
            position, *values = tuple(row)
            value = values[0] if len(columns) == 1 else tuple(values)
            found.append((position, ", ".join(columns), value, reason))
    return sorted(found, key=lambda violation: violation[:2]), references


async def _takes_none(merge: Merge, on_conflict: OnConflict) -> bool:
    """Tell whether the table takes the statement that adds no row."""
    nothing = replace(merge, staging=select(merge.staging).where(false()).subquery("nothing"))
    try:
        async with merge.connection.begin_nested():
            await nothing.run(on_conflict, 0)
    except DBAPIError:
        return False
    return True


def _rows(merge: Merge) -> str:
    """Return the SELECT of the staged rows, as their columns have them."""
    return str(select(merge.staging).compile(merge.connection.sync_connection))


def _default(column: Column) -> str:
    """Return what an INSERT that leaves the column out stores there; NULL for what only that computes."""
    return "NULL" if column.default is None or column.sequence else column.default


async def _violations(
    merge: Merge, rows: Iterable[Refusal], facts: Facts, references: Collection[str]
) -> list[Violation]:
    """Return what is wrong with rows that the server refuses.

    A repeated key is not, and neither is a reference to a later row: the foreign keys that were looked up.
    """
    by_columns = defaultdict[tuple[str, ...], dict[int, str]](dict)  # the columns to blame: what was said
    for row in rows:
        refers = row.code == Condition.FOREIGN_KEY_VIOLATION and row.constraint in references
        refers = refers and row.table == facts.name
        if row.raised or not (row.code == Condition.UNIQUE_VIOLATION or refers):
            blamed = row.columns or facts.constraints.get(row.constraint) or ()
            columns = tuple(name for name in blamed if name in merge.target.columns)
            by_columns[columns][row.position] = f"refused: {shortened(row.said)}"
    found: list[Violation] = []
    for columns, said in by_columns.items():
        for position, *values in await _values(merge, columns, list(said)):
            value = values[0] if len(values) == 1 else tuple(values) or None
            found.append((position, ", ".join(columns), value, said[position]))
    return sorted(found, key=lambda violation: violation[0])


async def _values(merge: Merge, columns: Sequence[str], positions: Sequence[int]) -> Sequence[Sequence[Any]]:
    """Return the positions of some staged rows, each with its values of some columns."""
    shown = ", ".join(
        map(merge.connection.dialect.identifier_preparer.quote, (merge.target.position, *columns))
    )
    rows = await merge.connection.exec_driver_sql(
        f"SELECT {shown} FROM ({_rows(merge)}) AS staged "  # noqa: S608
        f"WHERE {merge.target.position} = ANY (CAST($1 AS bigint[]))",
        (positions,),
    )
    return [tuple(row) for row in rows]
