"""Loading a frame into any table: checked, sent and merged in one transaction, and reported."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
from sqlalchemy import FromClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.database import Bind, in_transaction, lock_bound
from citykit.encode import key_of, rules_of, table_of
from citykit.load.execute import SERVER_ERRORS, Load, Outcome, PlanName
from citykit.load.merge import OnConflict
from citykit.load.order import settle_numbers
from citykit.load.plan import Limits
from citykit.load.refusals import missing_table, used_up, without_identity
from citykit.load.source import Rows, Source
from citykit.pgtypes import ENUM
from citykit.runtime import Progress, reporting, says_await

# Off, the server reads NULL in the text of an array as a text. Returns what it was.
_ARRAY_NULLS = text("""
SELECT old FROM (SELECT current_setting('array_nulls') AS old OFFSET 0) AS session
WHERE set_config('array_nulls', 'on', true) IS NOT NULL
""")
_RESTORE_ARRAY_NULLS = text("SELECT set_config('array_nulls', :nulls, true)")
OnInvalid: TypeAlias = Literal["error", "skip"]


@dataclass(frozen=True)
class LoadReport:
    """What a load did, by the database's own count and after the commit.

    Attributes
    ----------
    inserted, updated, skipped : int
        Rows; together, the valid rows of the frame. A row that changed nothing counts as skipped.
    rejects : DataFrame, shape (number of bad values, 4)
        ``row`` (the frame's index label), ``column``, ``value``, ``reason``; empty when all were valid.
    seconds : float
        From the call to the end of the transaction (to the end of the work, in a caller's own one).
    plan : {"copy", "copy and rebuild", "merge", "join", "join and rebuild"}
        How it was done: "copy" (straight into the table), "merge" (staged, then inserted by key order
        beside others who write), "join" (staged, then joined with the table while no other writes); the
        first and the last also "… and rebuild" (the indexes dropped before and built again after).
    """

    inserted: int
    updated: int
    skipped: int
    rejects: pd.DataFrame = field(repr=False, compare=False)
    seconds: float = field(compare=False)
    plan: PlanName = field(default="copy", compare=False)

    def _counts(self) -> dict[str, int]:
        counts = {"inserted": self.inserted, "updated": self.updated, "skipped": self.skipped}
        return {**counts, "bad values": len(self.rejects)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {word}" for word, count in self._counts().items())
        return f"<LoadReport: {counts} in {self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{word}</th>" for word in (*self._counts(), "seconds"))
        cells = "".join(f"<td>{count:,}</td>" for count in self._counts().values())
        table = f"<table><tr>{heads}</tr><tr>{cells}<td>{self.seconds:.2f}</td></tr></table>"
        return table + (self.rejects.to_html(index=False, max_rows=10) if len(self.rejects) else "")


@says_await
async def load_frame(
    bind: Bind,
    source: Source,
    table: type[Any] | FromClause,
    *,
    key: Sequence[str] | str | None = None,
    on_conflict: OnConflict = "error",
    on_invalid: OnInvalid = "error",
    progress: Progress = None,
) -> LoadReport:
    """Load a frame into any table: all of its rows or none.

    It equals adding the rows one by one, in order (in which a large load may not write them: only ORDER BY
    tells). The frame is not changed. Constraints that are deferred are checked before the load ends. The
    sequence of a column that the frame fills goes on after its values, if the role has the UPDATE privilege
    on it.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine: one transaction, committed. A connection or a session: a savepoint in the caller's
        transaction, which the caller commits.
    source : DataFrame, shape (n, any of the table's columns in any order)
        Or a path or an open file (see `read_file`; with options: `open_file`), Arrow data (a table, a
        record-batch reader, whatever has ``__arrow_c_stream__``: polars, DuckDB), or an iterable or async
        iterable of frames, for what is larger than memory. Columns that it lacks keep their server defaults.
        NaN, NaT, None and NA are NULL. Text in a column of numbers is read where it is ``-?[0-9]+``, also
        with ``.0`` or, if the column takes fractions, with a decimal point and an exponent; other text is a
        reject.
    table : mapped class or sqlalchemy.Table
    key : sequence of str, optional
        The columns that tell its rows apart, which have to be a unique constraint of it. None: its only
        one, besides a primary key that the database numbers.
    on_conflict : {"error", "skip", "update"}
        What happens to a row whose key is already there, in the table or earlier in the frame. "error":
        the load fails. "skip": what is there stays. "update": the columns of the frame replace what is
        there; the others stay.
    on_invalid : {"error", "skip"}
        "error": one bad value refuses the whole frame. "skip": the valid rows are loaded and the bad
        values are in the report's ``rejects``.
    progress : bool or callable, optional
        None: a bar from 200,000 rows up, in terminals and notebooks. A callable gets
        ``(rows_done, rows_total)`` while rows travel; the total of a stream is None.

    Returns
    -------
    LoadReport
        ``inserted``, ``updated``, ``skipped``, ``rejects``, ``seconds``, ``plan``.

    Raises
    ------
    InvalidFrameError
        ``error.rejects`` names every bad value by row label, column and reason.
    DuplicateKeyError
        ``error.keys`` has the key of every row already there.
    MissingTableError
        If there is no such table.
    CitykitError
        If others hold a lock on it for longer than the engine waits for one (30 s), or its own numbering of
        rows gives a number that is there already.
    ValueError
        If the key is no unique constraint, or there is not just one to choose from.

    Examples
    --------
    >>> frame = pandas.DataFrame({"name": ["Reykjavík", "Akureyri"], "population": [118_918, 18_925]})
    >>> report = await citykit.load_frame(engine, frame, citykit.City, on_conflict="update")
    >>> report.inserted
    2
    """
    return await load_rows(
        bind, source, table, key=key, on_conflict=on_conflict, on_invalid=on_invalid, progress=progress
    )


async def load_rows(
    bind: Bind,
    source: Source,
    table: type[Any] | FromClause,
    *,
    key: Sequence[str] | str | None,
    on_conflict: OnConflict,
    on_invalid: OnInvalid,
    progress: Progress = None,
    limits: Limits = Limits(),  # noqa: B008  a frozen value
) -> LoadReport:
    """Do what `load_frame` does, with other numbers of rows at which the plan changes."""
    _check_choice("on_conflict", on_conflict, OnConflict)
    _check_choice("on_invalid", on_invalid, OnInvalid)
    started = time.perf_counter()
    into = table_of(table)
    columns = key_of(into, key)
    rows = Rows(source, rules_of(into, columns), stop_at_rejects=on_invalid == "error")
    enums = any(rule.type is ENUM for rule in rows.rules)
    if not enums:
        await rows.check()
    begun, callers = False, not isinstance(bind, AsyncEngine)

    async def work(connection: AsyncConnection) -> Outcome:
        nonlocal begun
        name = connection.dialect.identifier_preparer.format_table(into)
        try:
            async with lock_bound(connection, name, "nothing was loaded"), connection.begin_nested():
                repeated, begun = begun, True
                if repeated:  # forgets the rejects of the attempt before
                    await rows.check()
                arrays = any(rule.item for rule in rows.rules)
                nulls = await connection.scalar(_ARRAY_NULLS) if arrays else "on"
                with reporting(progress, rows.total, "loading") as report:
                    outcome = await Load(
                        rows, into, columns, on_conflict, connection, report, callers, limits
                    ).run()
                if nulls != "on":
                    await connection.execute(_RESTORE_ARRAY_NULLS, {"nulls": nulls})
                if callers:  # whose transaction may have made the table
                    await settle_numbers(connection, name)
        except SERVER_ERRORS as exc:
            for explain in (missing_table, without_identity, used_up):
                if error := await explain(connection, into, exc):
                    raise error from exc
            raise
        return outcome

    inserted, updated, plan = await in_transaction(
        bind, work, repeatable=lambda: not begun, after_conflict=lambda: rows.can_repeat
    )
    skipped = rows.valid - inserted - updated
    return LoadReport(inserted, updated, skipped, rows.rejects, time.perf_counter() - started, plan)


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}, not {value!r}")
