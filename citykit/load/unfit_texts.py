"""Which staged texts the server cannot cast to the type of their column, or only with a loss."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from citykit.database import OF_VALUES, ConditionClass, server_message, set_local, shortened, sqlstate
from citykit.load.catalogue import Facts
from citykit.load.merge import Merge
from citykit.load.refusals import Violation
from citykit.load.row_by_row import may_not_loop
from citykit.load.server_types import wider

_OF_TEXTS = (*OF_VALUES, ConditionClass.SYNTAX_ERROR_OR_ACCESS_RULE)  # the latter of some types (tsquery)

# Returns what the server says of a text that it refuses, '' of one that it would change, else NULL.
_FUNCTION = r"""
CREATE FUNCTION {function}(given pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql AS $citykit$
DECLARE
    code pg_catalog.text; said pg_catalog.text; detail pg_catalog.text; hint pg_catalog.text;
BEGIN
    PERFORM CAST(given AS {type_}); -- so that what is said is of this type
    RETURN CASE WHEN {changed} THEN '' END;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    IF code !~ '^({refusals})' THEN
        RAISE;
    END IF;
    RETURN concat_ws(chr(10), said, 'DETAIL:  ' || nullif(detail, ''), 'HINT:  ' || nullif(hint, ''));
END $citykit$
"""


def refuses_a_text(exc: BaseException) -> bool:
    """Tell whether the server could not cast a text."""
    return (sqlstate(exc) or "").startswith(_OF_TEXTS)


async def find_unfit(merge: Merge, facts: Facts) -> list[Violation]:
    """Return the staged texts that the server refuses or would change, in the order of their rows."""
    found: list[Violation] = []
    trial = await merge.connection.begin_nested()
    try:
        await set_local(merge.connection, "extra_float_digits", "1")  # all digits of a float as a text
        for name in merge.target.converted:
            found += await _unfit(merge, facts, name)
    finally:
        await trial.rollback()
    return sorted(found, key=lambda violation: violation[:2])


async def _unfit(merge: Merge, facts: Facts, name: str) -> list[Violation]:
    """Return the unfit texts of a column: by one cast of all, or one by one if the server refuses any."""
    target, connection = merge.target, merge.connection
    type_, holds_all = target.converted[name], wider(facts.columns[name])
    column = connection.dialect.identifier_preparer.quote(name)

    def ask(said: str, unfit: str) -> str:
        staged = f"pg_temp.{target.staging}"
        return f"SELECT {target.position_sql}, {column}, {said} FROM {staged} WHERE {unfit}"  # noqa: S608

    try:
        async with connection.begin_nested():
            rows = await connection.exec_driver_sql(ask("''", _changed(column, type_, holds_all)))
    except DBAPIError as exc:
        if not refuses_a_text(exc):
            raise
        if not facts.loops:
            raise may_not_loop(facts, server_message(exc)) from exc
        function = f"pg_temp.citykit_cast_{target.suffix}"
        changed, refusals = _changed("given", type_, holds_all), "|".join(_OF_TEXTS)
        await connection.exec_driver_sql(
            _FUNCTION.format(function=function, type_=type_, changed=changed, refusals=refusals)
        )
        said = f"{function}({column})"
        rows = await connection.exec_driver_sql(ask(said, f"{said} IS NOT NULL"))
        await connection.exec_driver_sql(f"DROP FUNCTION {function}")
    return [
        (position, name, given, f"refused: {shortened(said)}" if said else f"more than a {type_} holds")
        for position, given, said in map(tuple, rows)
    ]


def _changed(value: str, type_: str, holds_all: str | None) -> str:
    """Return the condition that a text loses a part when it is cast; the server refuses some by an error."""
    cast = f"CAST(CAST({value} AS {type_}) AS text)"
    if holds_all:
        return f"CAST({value} AS {holds_all}) <> CAST({cast} AS {holds_all})"
    return f"{value} IS NOT NULL AND {cast} IS NULL"
