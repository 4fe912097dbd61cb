"""Staged rows into a table one by one, in the order of the frame: a loop of PL/pgSQL on the server.

What every plan has to equal. It takes the longest, so it is done only where the order of the rows matters and
no single statement keeps it, and to find the rows that the server refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, any_, literal_column, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from citykit.database import OF_VALUES, Condition, ConditionClass
from citykit.errors import CitykitError
from citykit.load.catalogue import Facts
from citykit.load.merge import Merge, OnConflict

# Of the names that stand beside columns, {row} and {again} are the function's own. A temporary table may be
# called like one of PostgreSQL's types, which are named with their schema therefore.
_FUNCTION = """
CREATE FUNCTION pg_temp.{function}() RETURNS SETOF pg_catalog.json LANGUAGE plpgsql AS ${function}$
#variable_conflict use_column
DECLARE
    {row} record; {again} bigint[];
    number bigint; fresh boolean; inserted bigint := 0; updated bigint := 0;
    code pg_catalog.text; said pg_catalog.text; detail pg_catalog.text; hint pg_catalog.text;
    relation pg_catalog.text; broken pg_catalog.text; filled pg_catalog.text; type pg_catalog.text;
    place pg_catalog.text; raised boolean; unfit int[]; found pg_catalog.json[];
BEGIN
    {steps}
    RETURN NEXT json_build_array(inserted, updated);
END ${function}$
"""
_EACH = """
FOR {row} IN {rows} LOOP
    {step}
END LOOP;
"""
# `place` is where the error comes from: "PL/pgSQL function f() line 1 at RAISE", in the server's language.
_REFUSED = """
BEGIN
    {step}
EXCEPTION WHEN assert_failure OR query_canceled OR OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, relation = TABLE_NAME, broken = CONSTRAINT_NAME, filled = COLUMN_NAME,
        type = PG_DATATYPE_NAME, place = PG_EXCEPTION_CONTEXT;
    raised := split_part(place, E'\\n', 1) ~ 'RAISE';
    IF code ~ '^({never})' OR NOT raised AND (code = '{used_up}' OR code !~ '^({refusals})') THEN
        RAISE;
    END IF;
    unfit := ARRAY[]::int[];
    {domains}
    found := found || json_build_object(
        'position', {row}.{position}, 'code', code, 'said', said, 'detail', detail, 'hint', hint,
        'table', relation, 'constraint', broken, 'column', filled, 'unfit', unfit, 'raised', raised);
END;
"""
# A row that refers to a later one, or whose trigger looks for it, is taken when that one is there.
_UNTIL_NONE_IS_TAKEN = """
LOOP
    found := ARRAY[]::pg_catalog.json[];
    {each}
    EXIT WHEN NOT {retried} OR cardinality(found) IN (0, coalesce(cardinality({again}), -1));
    {again} := ARRAY(SELECT (each->>'position')::bigint FROM unnest(found) AS each);
END LOOP;
RETURN QUERY SELECT unnest(found);
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


@dataclass(frozen=True)
class Refusal:
    """A staged row that the server refuses, and what it says."""

    position: int
    code: str
    said: str
    table: str  # '' where it names none, as of the constraint
    constraint: str
    columns: tuple[str, ...]  # the one that it names, or those whose domain refuses the value
    raised: bool  # by RAISE, in a trigger


async def take_turn(connection: AsyncConnection, facts: Facts) -> None:
    """Wait for other loads that add rows in the order of their frames: in two orders they could deadlock."""
    turn = text("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(:what, 0))")
    await connection.execute(turn, {"what": f"citykit: rows in order into {facts.oid}"})


async def add_one_by_one(merge: Merge, on_conflict: OnConflict) -> tuple[int, int]:
    """Add the staged rows one by one; return how many were inserted and how many updated."""
    ((inserted, updated),) = await _run(merge, _each(merge, _step(merge, on_conflict)))
    return inserted, updated


async def refused(merge: Merge, on_conflict: OnConflict, facts: Facts, *, retried: bool) -> list[Refusal]:
    """Add those staged rows that the server takes, one by one, and return the others.

    `retried`: those that are refused are tried again when the others are there, until none is taken.
    """
    quote = merge.connection.dialect.identifier_preparer.quote
    columns = merge.target.columns
    domains = [(n, quote(name), facts.columns[name].domain) for n, name in enumerate(columns)]
    refusals = (*OF_VALUES, *([Condition.INSUFFICIENT_PRIVILEGE] if facts.secured else []))  # by a policy
    step = _REFUSED.format(
        row=_row(merge),
        position=merge.target.position,
        step=_step(merge, on_conflict),
        never=ConditionClass.TRANSACTION_ROLLBACK,
        used_up=Condition.SEQUENCE_GENERATOR_LIMIT_EXCEEDED,
        refusals="|".join(refusals),
        domains="".join(
            _UNFIT.format(value=f"{_row(merge)}.{name}", domain=domain, number=number)
            for number, name, domain in domains
            if domain
        ),
    )
    steps = _UNTIL_NONE_IS_TAKEN.format(each=_each(merge, step), again=_again(merge), retried=retried)
    *found, _ = await _run(merge, steps)
    return [_refusal(each, columns) for each in found]


def may_not_loop(facts: Facts, said: str) -> CitykitError:
    """Return the error for a role that may not run PL/pgSQL, where the rows have to be taken one by one."""
    return CitykitError(
        f"{said}; nothing was loaded. The rows have to be taken one by one, in a function of PL/pgSQL. A "
        f"superuser gives the right with SQL: GRANT USAGE ON LANGUAGE plpgsql TO {facts.role}. If there is "
        "no such language: CREATE EXTENSION plpgsql"
    )


async def _run(merge: Merge, steps: str) -> list[Any]:
    """Run a function of these steps; return what they returned, and then the two counts."""
    function = f"citykit_add_{merge.target.suffix}"
    create = _FUNCTION.format(function=function, row=_row(merge), again=_again(merge), steps=steps)
    await merge.connection.exec_driver_sql(create)
    returned = await merge.connection.exec_driver_sql(f"SELECT pg_temp.{function}()::pg_catalog.text")
    found = [json.loads(each) for each in returned.scalars()]
    await merge.connection.exec_driver_sql(f"DROP FUNCTION pg_temp.{function}()")
    return found


def _each(merge: Merge, step: str) -> str:
    """Return a loop over the staged rows in their order: all, or those to take again."""
    position: ColumnElement[Any] = merge.staging.c[merge.target.position]
    again: ColumnElement[Any] = literal_column(_again(merge))
    rows = select(merge.staging).where(or_(again.is_(None), position == any_(again))).order_by(position)
    return _EACH.format(row=_row(merge), rows=_sql(merge, rows), step=step)


def _step(merge: Merge, on_conflict: OnConflict) -> str:
    """Return the statements that add one row and count it."""
    quote = merge.connection.dialect.identifier_preparer.quote
    row: dict[str, ColumnElement[Any]] = {
        name: literal_column(f"{_row(merge)}.{quote(name)}") for name in merge.target.columns
    }
    new = insert(merge.table).values(row)
    if on_conflict == "error":
        return _counted(merge, new, "inserted")
    if on_conflict == "update" and merge.arbiter and merge.system_columns:
        upsert: Any = merge.or_update(new).returning(literal_column("xmax = 0"))
        return f"""{_sql(merge, upsert)} INTO fresh;
            inserted := inserted + coalesce(fresh, false)::int;
            updated := updated + coalesce(NOT fresh, false)::int;"""
    replaces = "NULL;"
    if on_conflict == "update" and merge.target.values:
        replaces = _counted(merge, merge.replacement(row), "updated")
    if merge.arbiter:
        inserts = _counted(merge, new.on_conflict_do_nothing(index_elements=merge.target.key), "inserted")
        return f"{inserts} IF number = 0 THEN {replaces} END IF;"
    stored = _sql(merge, select(merge.stored(row)))
    return f"IF ({stored}) THEN {replaces} ELSE {_counted(merge, new, 'inserted')} END IF;"


def _counted(merge: Merge, statement: ClauseElement, what: str) -> str:
    return f"{_sql(merge, statement)}; GET DIAGNOSTICS number = ROW_COUNT; {what} := {what} + number;"


def _row(merge: Merge) -> str:
    return f"citykit_row_{merge.target.suffix}"


def _again(merge: Merge) -> str:
    return f"citykit_again_{merge.target.suffix}"


def _sql(merge: Merge, statement: ClauseElement) -> str:
    return str(statement.compile(merge.connection.sync_connection))


def _refusal(found: Mapping[str, Any], columns: tuple[str, ...]) -> Refusal:
    more = (f"{kind.upper()}:  {found[kind]}" for kind in ("detail", "hint") if found[kind])
    named = tuple(columns[number] for number in found["unfit"]) or tuple(filter(None, [found["column"]]))
    said = "\n".join([found["said"], *more])
    table, constraint, raised = (found[name] for name in ("table", "constraint", "raised"))
    return Refusal(found["position"], found["code"], said, table, constraint, named, raised)
