"""Staged rows into a table one by one, in the order of the frame: a loop of PL/pgSQL on the server.

What every plan has to equal. It takes the longest, so it is followed where the outcome depends on the order
of the rows, and to find the rows that the server refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert

from citykit.database import OF_VALUES, Condition, ConditionClass
from citykit.errors import CitykitError
from citykit.load.catalogue import Facts
from citykit.load.merge import Merge, OnConflict

# Of all names that stand beside a column's, only {row} may be a table's: the others are variables alone.
_FUNCTION = """
CREATE FUNCTION pg_temp.{function}() RETURNS SETOF json LANGUAGE plpgsql AS ${function}$
#variable_conflict use_column
DECLARE
    {row} record;
    fresh boolean; number bigint; inserted bigint := 0; updated bigint := 0;
    code text; said text; detail text; hint text; broken text; filled text; type text; place text;
    unfit int[];
BEGIN
    FOR {row} IN {rows} LOOP
        {step}
    END LOOP;
    RETURN NEXT json_build_array(inserted, updated);
END ${function}$
"""
# RAISE may give any SQLSTATE. `place` is where the error comes from: "PL/pgSQL function f() line 1 at RAISE".
_REFUSED = """
BEGIN
    {step}
EXCEPTION WHEN assert_failure OR OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, broken = CONSTRAINT_NAME, filled = COLUMN_NAME, type = PG_DATATYPE_NAME,
        place = PG_EXCEPTION_CONTEXT;
    place := split_part(place, E'\\n', 1);
    IF code ~ '^({never})' OR (code !~ '^({refusals})' AND place !~ 'RAISE$') THEN
        RAISE;
    END IF;
    unfit := ARRAY[]::int[];
    {domains}
    RETURN NEXT json_build_object(
        'position', {row}.{position}, 'code', code, 'said', said, 'detail', detail, 'hint', hint,
        'constraint', broken, 'column', filled, 'unfit', unfit, 'raised', place ~ 'RAISE$');
END;
"""
_UNFIT = """
IF type <> '' THEN
    BEGIN
        PERFORM CAST({value} AS {domain});
    EXCEPTION WHEN OTHERS THEN
        unfit := unfit || {number};
    END;
END IF;
"""
# A conflict with another transaction and a sequence that is used up are no fault of a row.
_NEVER = (ConditionClass.TRANSACTION_ROLLBACK, Condition.SEQUENCE_GENERATOR_LIMIT_EXCEEDED)


@dataclass(frozen=True)
class Refusal:
    """A staged row that the server refuses, and what it says."""

    position: int
    code: str
    said: str
    constraint: str  # '' where it names none
    columns: tuple[str, ...]  # the one that it names, or those whose domain refuses the value
    raised: bool  # by RAISE, in a trigger


async def add_in_order(merge: Merge, on_conflict: OnConflict, facts: Facts) -> tuple[int, int]:
    """Add the staged rows one by one; return how many were inserted and how many updated.

    Two loads that do so wait for each other: each in the order of its own frame, they could deadlock.
    """
    turn = text("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(:what, 0))")
    await merge.connection.execute(turn, {"what": f"citykit: rows in order into {facts.oid}"})
    ((inserted, updated),) = await _run(merge, _step(merge, on_conflict))
    return inserted, updated


async def refused(merge: Merge, on_conflict: OnConflict, facts: Facts) -> list[Refusal]:
    """Add those staged rows that the server takes, one by one, and return the others."""
    quote = merge.connection.dialect.identifier_preparer.quote
    row, columns = _row(merge), merge.target.columns
    domains = [(n, quote(name), facts.columns[name].domain) for n, name in enumerate(columns)]
    refusals = (*OF_VALUES, *([Condition.INSUFFICIENT_PRIVILEGE] if facts.secured else []))  # by a policy
    step = _REFUSED.format(
        row=row,
        position=merge.target.position,
        step=_step(merge, on_conflict),
        never="|".join(_NEVER),
        refusals="|".join(refusals),
        domains="".join(
            _UNFIT.format(value=f"{row}.{name}", domain=domain, number=number)
            for number, name, domain in domains
            if domain
        ),
    )
    *found, _ = await _run(merge, step)
    return [_refusal(each, columns) for each in found]


def may_not_loop(facts: Facts, said: str) -> CitykitError:
    """Return the error for a role that may not run PL/pgSQL, where the rows have to be added one by one."""
    return CitykitError(
        f"{said}; nothing was loaded. The rows have to be added one by one, in a function of PL/pgSQL. A "
        f"superuser gives the right with SQL: GRANT USAGE ON LANGUAGE plpgsql TO {facts.role}. If there is "
        "no such language: CREATE EXTENSION plpgsql"
    )


async def _run(merge: Merge, step: str) -> list[Any]:
    """Take a step for each staged row; return what the steps returned, and then the two counts."""
    function = f"citykit_add_{merge.target.suffix}"
    rows = select(merge.staging).order_by(merge.staging.c[merge.target.position])
    create = _FUNCTION.format(function=function, row=_row(merge), rows=_sql(merge, rows), step=step)
    await merge.connection.exec_driver_sql(create)
    returned = await merge.connection.exec_driver_sql(f"SELECT pg_temp.{function}()::text")
    found = [json.loads(each) for each in returned.scalars()]
    await merge.connection.exec_driver_sql(f"DROP FUNCTION pg_temp.{function}()")
    return found


def _step(merge: Merge, on_conflict: OnConflict) -> str:
    """Return the statements that add one row and count it."""
    quote = merge.connection.dialect.identifier_preparer.quote
    row: dict[str, ColumnElement[Any]] = {
        name: literal_column(f"{_row(merge)}.{quote(name)}") for name in merge.target.columns
    }
    adding = insert(merge.table).values(row)
    if merge.arbiter and on_conflict == "update":
        adding = merge.or_update(adding)
        if merge.system_columns:
            return (
                f"{_sql(merge, adding.returning(literal_column('xmax = 0')))} INTO fresh; "
                "inserted := inserted + coalesce(fresh, false)::int; "
                "updated := updated + coalesce(NOT fresh, false)::int;"
            )
    elif merge.arbiter and on_conflict == "skip":
        adding = adding.on_conflict_do_nothing(index_elements=merge.target.key)
    inserts = _counted(merge, adding, "inserted")
    if on_conflict == "error" or (merge.arbiter and on_conflict == "skip"):
        return inserts
    stored: ClauseElement = (
        select(literal_column("1")).select_from(merge.table).where(merge.equal(merge.table.c, row))
    )
    updates = "NULL;"
    if on_conflict == "update" and merge.target.values:
        same, values = merge.equal(merge.table.c, row), {name: row[name] for name in merge.target.values}
        different = update(merge.table).values(values).where(same, merge.differs(merge.table.c, row))
        updates = _counted(merge, different, "updated")
    return f"IF EXISTS ({_sql(merge, stored)}) THEN {updates} ELSE {inserts} END IF;"


def _counted(merge: Merge, statement: ClauseElement, what: str) -> str:
    return f"{_sql(merge, statement)}; GET DIAGNOSTICS number = ROW_COUNT; {what} := {what} + number;"


def _row(merge: Merge) -> str:
    return f"citykit_row_{merge.target.suffix}"


def _sql(merge: Merge, statement: ClauseElement) -> str:
    return str(statement.compile(merge.connection.sync_connection))


def _refusal(found: Mapping[str, Any], columns: tuple[str, ...]) -> Refusal:
    more = (f"{kind.upper()}:  {found[kind]}" for kind in ("detail", "hint") if found[kind])
    named = tuple(columns[number] for number in found["unfit"]) or tuple(filter(None, [found["column"]]))
    said = "\n".join([found["said"], *more])
    return Refusal(found["position"], found["code"], said, found["constraint"], named, found["raised"])
