"""Which plan a load follows: a choice from facts that were read before. No I/O, no database.

Each plan has the same result as "merge" in less time. If the server refuses a row or a lock, the plan is
rolled back and ruled out, and the next one of `PLANS` is chosen. "merge" also finds out which rows are
refused and why. So the result of a load does not depend on its number of rows. A role that may not make
temporary tables has the plans that need none: "fill", "copy and rebuild", "copy".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from citykit.load.catalogue import Facts, Mode
from citykit.load.merge import OnConflict

Plan: TypeAlias = Literal["fill", "copy and rebuild", "copy", "join", "merge"]
PLANS: tuple[Plan, ...] = (
    "fill",  # an empty table: drop its indexes, TRUNCATE, COPY, build the indexes
    "copy and rebuild",  # drop the indexes, COPY beside the rows that are there, build the indexes
    "copy",  # COPY into the table as it is
    "join",  # COPY into a temporary table, one join finds what changes, then UPDATE and INSERT
    "merge",  # COPY into a temporary table, then INSERT … ON CONFLICT, or add row by row
)
EXCLUSIVE: frozenset[Plan] = frozenset({"fill", "copy and rebuild"})  # need ACCESS EXCLUSIVE
STAGED: frozenset[Plan] = frozenset({"join", "merge"})  # begin from the temporary table

FEW_ROWS = 20_000  # fewer are loaded without keeping other writers out
REBUILD_SHARE = 0.25  # of a table's rows: writing more takes longer than building its indexes again


@dataclass(frozen=True)
class Limits:
    """Numbers of rows at which another plan is the faster one."""

    few_rows: float = FEW_ROWS
    rebuild_share: float = REBUILD_SHARE


@dataclass(frozen=True)
class Wanted:
    """The properties of a load on which the choice of its plan depends."""

    columns: tuple[str, ...]
    key: tuple[str, ...]  # none: each row is a new one (on_conflict is "error" then)
    on_conflict: OnConflict
    rows: int | None  # None: a stream, whose length is not known
    repeatable: bool = True  # the rows can be sent again
    staged: bool = False  # they are in the temporary table, and no longer in the source
    callers: bool = False  # the transaction is the caller's
    sortable: bool = True  # Arrow sorts the keys as the server does
    wide: bool = False  # a row may fill a page, without room for a column of the loader's own
    converted: bool = False  # the server casts some columns from text, and may refuse a value
    rounded: bool = False  # such a cast may round or cut a value
    checked: frozenset[str] = frozenset()  # names of check constraints that no typed row violates
    not_null: frozenset[str] = frozenset()  # columns that have a value in each typed row

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that are not the key."""
        return tuple(name for name in self.columns if name not in self.key)


@dataclass(frozen=True)
class Lock:
    """The lock with which a load begins."""

    mode: Mode | None  # None: no LOCK TABLE, only the locks that each statement takes
    required: bool = False  # every plan needs it: the load waits for it as long as for any lock


def first_lock(facts: Facts, wanted: Wanted, limits: Limits) -> Lock:
    """Return the lock to ask for before the plan is chosen."""
    if facts.kind not in ("r", "p"):  # LOCK refuses a foreign table, and needs rights on a view's own tables
        return Lock(None)
    if facts.may_lock == "SHARE ROW EXCLUSIVE":
        if needs_lock(facts, wanted):
            return Lock("SHARE ROW EXCLUSIVE", required=True)
        plain = facts.kind == "r" and not facts.inherited and not facts.secured
        if plain and facts.read_committed and _is_unique(facts, wanted) and _is_large(wanted, limits):
            return Lock("SHARE ROW EXCLUSIVE")
    return Lock("ROW EXCLUSIVE" if facts.may_lock else None)


def needs_lock(facts: Facts, wanted: Wanted) -> bool:
    """Tell whether the key is DEFERRABLE, so that ON CONFLICT cannot find rows by it."""
    return wanted.on_conflict != "error" and facts.keys.get(frozenset(wanted.key)) is False


def needs_order(facts: Facts, wanted: Wanted) -> bool:
    """Tell whether updates may break a unique constraint in one order of the rows and not in another."""
    key = frozenset(wanted.key)
    # Columns that have the key among them are unique because it is, unless a NULL in them equals a NULL.
    others = (columns for columns in facts.keys if not columns >= key or columns in facts.nulls_equal - {key})
    unique = facts.partly_unique.union(*others)
    changed = {*wanted.values, *(c.name for c in facts.columns.values() if c.generated is not None)}
    return wanted.on_conflict == "update" and bool(unique if facts.rewritten else unique & changed)


def choose(
    facts: Facts,
    wanted: Wanted,
    held: Mode | None,
    ruled_out: Collection[Plan] = (),
    limits: Limits = Limits(),
    *,
    empty: bool = False,
) -> Plan | None:
    """Return the fastest plan that is possible; None if there is none.

    Parameters
    ----------
    facts : Facts
    wanted : Wanted
    held : {"ROW EXCLUSIVE", "SHARE ROW EXCLUSIVE"}, optional
        The lock that was granted.
    ruled_out : collection of Plan
        Plans that were tried: the lock was not granted, or the server refused a row.
    limits : Limits
    empty : bool
        Whether the table has no row. Ask under the lock.
    """
    allowed = (plan for plan in _possible(facts, wanted, held, limits, empty=empty) if plan not in ruled_out)
    return next(allowed, None)


def _possible(
    facts: Facts, wanted: Wanted, held: Mode | None, limits: Limits, *, empty: bool
) -> Iterator[Plan]:
    # No other session writes to the table, and what was written before is seen: a transaction that is not
    # READ COMMITTED sees the table as it was before the lock was granted.
    alone = held == "SHARE ROW EXCLUSIVE" and facts.read_committed
    large = _is_large(wanted, limits)
    if not wanted.staged and not wanted.rounded:
        if alone and empty and large and _may_fill(facts, wanted):
            yield "fill"
        if wanted.on_conflict == "error" and facts.kind in ("r", "p") and not facts.secured:
            if alone and wanted.repeatable and _is_worth_copying(facts, wanted, limits):
                yield "copy and rebuild"
            # Two loads that insert the same keys in different orders would deadlock.
            in_order = not facts.keys or (wanted.sortable and not large)
            if not facts.temporary or (wanted.repeatable and (alone or in_order)):
                yield "copy"
    if facts.temporary:
        if alone and large and _may_join(facts, wanted):
            yield "join"
        yield "merge"


def _may_fill(facts: Facts, wanted: Wanted) -> bool:
    # A stream cannot be sent again: if an index refuses its rows, they are moved from the table to the
    # temporary table. If anything else refused a row, they would be lost.
    explained = wanted.repeatable or (facts.temporary and _only_keys_refuse(facts, wanted))
    return facts.truncatable and may_rebuild(facts, wanted) and explained


def _is_worth_copying(facts: Facts, wanted: Wanted, limits: Limits) -> bool:
    worth = wanted.rows is not None and is_worth_a_rebuild(facts, wanted.rows, limits)
    return worth and may_rebuild(facts, wanted)


def _may_join(facts: Facts, wanted: Wanted) -> bool:
    # A trigger BEFORE INSERT also sees the rows that ON CONFLICT turns into updates; one for each statement
    # is also called where no row changes.
    triggered = facts.rewritten or facts.by_statement
    joined = facts.kind == "r" and not facts.inherited and facts.selectable and not triggered
    joined = joined and not wanted.wide
    compared = bool(wanted.key) and frozenset(wanted.key) not in facts.nulls_equal  # by =
    return joined and compared and not needs_order(facts, wanted)


def may_rebuild(facts: Facts, wanted: Wanted) -> bool:
    """Tell whether indexes may be dropped: not with trigger events pending in a caller's transaction."""
    return facts.rebuildable and not (wanted.callers and facts.deferrable)


def is_worth_a_rebuild(facts: Facts, written: int, limits: Limits) -> bool:
    """Tell whether so many rows are written faster if the indexes are built again afterwards."""
    return written >= max(limits.few_rows, limits.rebuild_share * (facts.rows + written))


def _is_large(wanted: Wanted, limits: Limits) -> bool:
    return wanted.rows is None or wanted.rows >= limits.few_rows


def _is_unique(facts: Facts, wanted: Wanted) -> bool:
    return not wanted.key or frozenset(wanted.key) in facts.keys


def _only_keys_refuse(facts: Facts, wanted: Wanted) -> bool:
    not_null = {column.name for column in facts.columns.values() if column.not_null}
    checked = facts.checks <= wanted.checked and not_null & set(wanted.columns) <= wanted.not_null
    return facts.only_keys_refuse and checked and not wanted.converted and not wanted.wide
