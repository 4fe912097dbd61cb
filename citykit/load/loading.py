"""Loading a frame into any table: checked, sent and merged in one transaction, and reported."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import pandas as pd
from sqlalchemy import FromClause, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.database import Bind, in_transaction, local_setting, lock_bound
from citykit.encode import Names, key_of, rejects_frame, rules_of, table_of, unused_by
from citykit.errors import InvalidFrameError, check_choice, say_interrupted
from citykit.load.catalogue import facts_of, refuse_no_table
from citykit.load.creating import create_for
from citykit.load.execute import SERVER_ERRORS, Beside, Load, Outcome, PlanName
from citykit.load.merge import OnConflict
from citykit.load.named import described, key_in_python, key_in_sql, missing, parsed
from citykit.load.order import settle_numbers
from citykit.load.plan import Limits
from citykit.load.source import Rows, Source
from citykit.load.staging import in_utf8
from citykit.load.table_errors import missing_table, used_up, without_identity
from citykit.pgtypes import ENUM
from citykit.runtime import CallersError, Meter, Phase, Progress, reporting, says_await

OnInvalid: TypeAlias = Literal["error", "skip"]
UNDONE = "nothing was loaded"


KEPT_REJECTS = 10_000  # of the last load, for `last_rejects`

_last_rejects = rejects_frame([])


def last_rejects() -> pd.DataFrame:
    """Return the bad values of the last load of this process that failed for them or left them out.

    The first 10,000 of them are kept, until another load has bad values; ``error.rejects`` and
    ``report.rejects`` have all. With several threads or tasks, it is the load that ended last.

    Returns
    -------
    DataFrame, shape (≤ 10,000, 4)
        ``row`` (the frame's index label; None for a whole column), ``column``, ``value``, ``reason``. Empty
        if there was no such load.

    Examples
    --------
    >>> frame = pandas.DataFrame({"name": ["Atlantis"], "population": [-1]})
    >>> report = await citykit.load_cities(engine, frame, on_invalid="skip")
    >>> citykit.last_rejects()[["column", "reason"]].values.tolist()
    [['population', 'negative']]
    """
    return _last_rejects.copy()


def _remember(rejects: pd.DataFrame) -> None:
    global _last_rejects
    if len(rejects):
        _last_rejects = rejects.head(KEPT_REJECTS).copy()


@dataclass(frozen=True)
class LoadReport:
    """What a load did, by the database's own count and after the commit.

    Attributes
    ----------
    inserted, updated, skipped : int
        Rows; together, the valid rows of the frame. A row that changed nothing counts as skipped.
    rejects : DataFrame, shape (number of bad values, 4)
        ``row`` (the frame's index label), ``column``, ``value``, ``reason``; empty when all were valid. A
        row is not loaded if any of its values is here. (A column that is wrong as a whole, by its name or
        its dtype, is no reject of a report: such a load is an error, also with ``on_invalid="skip"``.)
    seconds : float
        From the call to the end of the transaction (to the end of the work, in a caller's own one).
    plan : {"copy", "copy and rebuild", "merge", "join", "join and rebuild"}
        "copy": COPY straight into the table. "merge": staged in a temporary table, then inserted in the order
        of the keys while others may write. "join": staged, then joined with the table while it is locked
        against other writers. "… and rebuild": the indexes were dropped before and built again after.
    left_out : tuple of str
        Columns of the frame that were not loaded, because the database alone fills them (``id``).
    """

    inserted: int
    updated: int
    skipped: int
    rejects: pd.DataFrame = field(repr=False, compare=False)
    seconds: float = field(compare=False)
    plan: PlanName = field(default="copy", compare=False)
    left_out: tuple[str, ...] = ()

    def _counts(self) -> dict[str, int]:
        counts = {"inserted": self.inserted, "updated": self.updated, "skipped": self.skipped}
        return {**counts, "bad values": len(self.rejects)}

    def _note(self) -> str:
        names = ", ".join(map(repr, self.left_out))
        return f"left out {names}, which the database gives itself" if names else ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {word}" for word, count in self._counts().items())
        note = f"; {self._note()}" if self.left_out else ""
        return f"<LoadReport: {counts} in {self.seconds:.2f} s{note}>"

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{word}</th>" for word in (*self._counts(), "seconds"))
        cells = "".join(f"<td>{count:,}</td>" for count in self._counts().values())
        table = f"<table><tr>{heads}</tr><tr>{cells}<td>{self.seconds:.2f}</td></tr></table>"
        note = f"<div>{html.escape(self._note())}</div>" if self.left_out else ""
        return table + note + (self.rejects.to_html(index=False, max_rows=10) if len(self.rejects) else "")


@says_await
async def load_frame(
    bind: Bind,
    source: Source,
    table: type[Any] | FromClause | str,
    *,
    key: Sequence[str] | str | None = None,
    create: bool = False,
    rename: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    on_conflict: OnConflict = "error",
    on_invalid: OnInvalid = "error",
    progress: Progress = None,
) -> LoadReport:
    """Load a frame into any table: all of its rows or none.

    It equals adding the rows one by one, in order; only their places in the table's file, and numbers that
    the database gives, may follow another order. The frame is not changed. Deferred constraints are checked
    before the load ends. The sequence of a column that the frame fills goes on after its values, if the role
    has the privilege UPDATE on it, and SELECT or USAGE.

    Parameters
    ----------
    bind : AsyncEngine, AsyncConnection or AsyncSession
        An engine: one transaction, committed. A connection or a session: a savepoint in the caller's
        transaction, which the caller commits.
    source : DataFrame, shape (n, any of the table's columns in any order)
        Or a path or an open file (see `read_file`; with options: `open_file`), Arrow data (a table, a
        record-batch reader, anything with ``__arrow_c_stream__``: polars, DuckDB), or an iterable or async
        iterable of frames, for what is larger than memory. Columns that it lacks keep their server defaults;
        one that the database alone fills (``GENERATED ALWAYS``) is left out, and the report's ``left_out``
        names it. NaN, NaT, None and NA are NULL. Text in a column of numbers is read where it is
        ``-?[0-9]+``, also with ``.0`` or, if the column takes fractions, with a decimal point and an
        exponent; other text is a reject.
    table : mapped class, sqlalchemy.Table or str
        A name, ``"readings"`` or ``"schema.readings"``, is that of any table, view or foreign table that
        takes an INSERT; its columns and keys are read from the server's catalogue. It is taken as it is
        written (``Readings`` is not ``readings``). One with a dot or a quote in it stands in double quotes.
    key : sequence of str, optional
        The columns that identify a row; they have to be a unique constraint of the table. None: its only
        one, besides a primary key that the database numbers. A table that has none takes each row as a
        new one, with ``on_conflict="error"``.
    create : bool
        Make the table first, if there is none of that name: as `create_table` does, with `key` as its
        primary key, and in the same transaction, so that a load that fails leaves no table. Of a stream the
        first piece decides the types; the columns of a text file are all text.
    rename : mapping of str to str, optional
        The table's name for a column of the source: ``{"city": "name"}``. None: none is renamed. Columns of
        a file that `open_file` has renamed or picked are known by their names there.
    columns : sequence of str, optional
        The columns to load, by their names in the table or in the source; of a file, no others are read.
        None: all, and one that the table lacks is an error.
    on_conflict : {"error", "skip", "update"}
        What happens to a row whose key is already there, in the table or earlier in the frame. "error":
        the load fails. "skip": what is there stays. "update": the columns of the frame replace what is
        there; the others stay.
    on_invalid : {"error", "skip"}
        "error": one bad value refuses the whole frame. "skip": the valid rows are loaded and the bad
        values are in the report's ``rejects``.
    progress : bool or callable, optional
        None: a bar from 200,000 rows up, in terminals and notebooks. A callable with two parameters gets
        ``(rows_done, rows_total)`` while rows are sent; the total of a stream is None. One with three gets
        ``(rows_done, rows_total, phase)`` in each phase: "checking" (not of a stream), "sending", "merging"
        or "indexing" (if the plan has them), "committing", and at the end "done". What it raises before
        "done" undoes the load.

    Returns
    -------
    LoadReport
        ``inserted``, ``updated``, ``skipped``, ``rejects``, ``seconds``, ``plan``, ``left_out``.

    Raises
    ------
    InvalidFrameError
        ``error.rejects`` names every bad value by row label, column and reason. Where a column is wrong as
        a whole (its name, or a dtype of which the table takes no value), it is one row with the label None,
        and the load fails also with ``on_invalid="skip"``.
    DuplicateKeyError
        ``error.keys`` has the key of every row already there.
    MissingTableError
        If there is no such table; it names those with similar names.
    CitykitError
        If others hold a lock on it for longer than the engine waits for one (30 s), or the table's own
        sequence gives a number that is there already.
    ValueError
        If the key is no unique constraint, `key` is None and the table has several, or a name is not valid.

    Examples
    --------
    >>> frame = pandas.DataFrame({"name": ["Reykjavík", "Akureyri"], "population": [118_918, 18_925]})
    >>> report = await citykit.load_frame(engine, frame, citykit.City, on_conflict="update")
    >>> report.inserted
    2
    """
    return await load_rows(
        bind, source, table, key=key, create=create, rename=rename, columns=columns, on_conflict=on_conflict,
        on_invalid=on_invalid, progress=progress,
    )  # fmt: skip


async def load_rows(
    bind: Bind,
    source: Source,
    table: type[Any] | FromClause | str,
    *,
    key: Sequence[str] | str | None,
    create: bool = False,
    rename: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    on_conflict: OnConflict,
    on_invalid: OnInvalid,
    progress: Progress = None,
    limits: Limits = Limits(),  # noqa: B008  a frozen value
    beside: Beside | None = None,
) -> LoadReport:
    """Do what `load_frame` does.

    `limits` are the numbers of rows at which the plan changes. `beside` is a column that a source may have
    and another table stores.
    """
    check_choice("on_conflict", on_conflict, OnConflict)
    check_choice("on_invalid", on_invalid, OnInvalid)
    started = time.perf_counter()
    by_name = isinstance(table, str)
    if create and not by_name:
        raise TypeError("create=True takes the table's name; a sqlalchemy.Table has a create() of its own")
    rows = Rows(source, [], stop_at_rejects=on_invalid == "error", names=Names(rename, columns))
    into = _Into(
        rows, parsed(table) if isinstance(table, str) else table_of(table), key, on_conflict, create, beside
    )
    if not by_name:
        into.decide()
    first: Phase = "checking" if rows.can_repeat else "sending"
    try:
        with reporting(progress, rows.expected_rows, first) as meter:
            inserted, updated, plan = await _load(bind, into, meter, limits, by_name=by_name)
    except InvalidFrameError as exc:
        _remember(exc.rejects)
        raise
    except CallersError as exc:
        raised = exc.error
    else:
        _remember(rows.rejects)
        skipped = rows.valid - inserted - updated
        left_out = tuple(sorted(rows.names.left_out))
        seconds = time.perf_counter() - started
        return LoadReport(inserted, updated, skipped, rows.rejects, seconds, plan, left_out)
    raise raised  # as the caller's own code has raised it


@dataclass
class _Into:
    """The table and the key of a load; if the table is given by its name, they are known after `look_up`."""

    rows: Rows
    table: Table
    asked_key: Sequence[str] | str | None
    on_conflict: OnConflict
    create: bool
    beside: Beside | None
    key: tuple[str, ...] = ()

    def decide(self, hint: Callable[[Sequence[str]], str] = key_in_python) -> None:
        """Decide the key, and by which rules the rows are checked. `hint` says how the table gets a key."""
        self.key = key_of(self.table, self.asked_key, hint, optional=self.on_conflict == "error")
        self.rows.rules = [*rules_of(self.table, self.key), *([self.beside.rule] if self.beside else [])]
        self.rows.names.unused = unused_by(self.table, self.key)

    async def look_up(self, connection: AsyncConnection) -> None:
        """Read the table of that name from the catalogue; make it first if it is missing and `create`."""
        name = connection.dialect.identifier_preparer.format_table(self.table)
        facts = await facts_of(connection, name)
        if facts is None and self.create:
            if not self.asked_key and self.on_conflict != "error":
                raise ValueError(
                    f"table {name} is to be made, and on_conflict={self.on_conflict!r} needs a key of it; "
                    f"{UNDONE}. Say which columns tell its rows apart: key=[…]"
                )
            first = await self.rows.first_piece()
            await create_for(connection, self.table, first, self.asked_key, self.rows.names)
            facts = await facts_of(connection, name)
        if facts is None:
            raise await missing(connection, self.table, UNDONE)
        refuse_no_table(name, facts, UNDONE)
        self.table = described(self.table, facts)
        self.decide(partial(key_in_sql, connection, self.table, facts))


async def _load(bind: Bind, into: _Into, meter: Meter, limits: Limits, *, by_name: bool) -> Outcome:
    rows = into.rows
    rows.report = meter.advance
    enums = any(rule.type is ENUM for rule in rows.rules)
    begun, callers = False, not isinstance(bind, AsyncEngine)

    async def work(connection: AsyncConnection) -> Outcome:
        nonlocal begun
        name = connection.dialect.identifier_preparer.format_table(into.table)
        try:
            async with lock_bound(connection, name, UNDONE), connection.begin_nested(), in_utf8(connection):
                repeated, begun = begun, True
                if by_name:
                    await into.look_up(connection)
                if repeated and rows.can_repeat:  # forgets the rejects of the attempt before
                    meter.begin("checking")
                    await rows.check()
                # With array_nulls off, the server reads NULL in an array literal as the text 'NULL'.
                arrays = any(rule.item for rule in rows.rules if rule.name in into.table.columns)
                nulls = local_setting(connection, "array_nulls", "on") if arrays else nullcontext()
                load = Load(
                    rows, into.table, into.key, into.on_conflict, connection, meter, callers, limits,
                    into.beside,
                )  # fmt: skip
                async with nulls:
                    outcome = await load.run()
                if callers:  # their transaction may have made the table
                    await settle_numbers(connection, name)
        except SERVER_ERRORS as exc:
            for explain in (missing_table, without_identity, used_up):
                if error := await explain(connection, into.table, exc):
                    raise error from exc
            raise
        meter.begin("committing")
        return outcome

    try:
        if not (enums or by_name):
            await rows.check()
    except asyncio.CancelledError as exc:
        say_interrupted(exc, f"the load was interrupted; {UNDONE}")
        raise
    return await in_transaction(
        bind,
        work,
        repeatable=lambda: not begun,
        after_conflict=lambda: rows.can_repeat,
        doing="the load",
        undone=UNDONE,
    )
