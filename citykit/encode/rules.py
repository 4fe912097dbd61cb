"""The rules for the columns of a table, and its key, from SQLAlchemy's metadata. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Column, Table, UniqueConstraint, types
from sqlalchemy import inspect as inspect_sql
from sqlalchemy.exc import NoInspectionAvailable

from citykit.pgtypes import ENUM, MOST_DIGITS, PGTYPES, Check, PgType

_BY_CLASS = {class_: row for row in PGTYPES.values() for class_ in row.declared}
_SUPPORTED = (
    ", ".join(row.sql for row in PGTYPES.values() if row.check and row is not ENUM)
    + ", enums, and one-dimensional arrays of these"
)


@dataclass(frozen=True)
class Rule:
    """The values that one column of a table takes."""

    name: str
    type: PgType | None  # of an array, that of its elements; None: it cannot be loaded
    nullable: bool
    needed: bool = False  # every frame must have the column
    missing: str | None = None  # what a missing value becomes
    low: float | None = None  # of a text: of its number of characters
    high: float | None = None
    meaning: str = ""  # a sentence: what is expected
    also: tuple[str, ...] = ()  # other names for the column in files, the likeliest first
    precision: int | None = None  # of a numeric: all of its digits; of a time: digits of a second
    scale: int | None = None  # of a numeric: its digits after the point
    labels: tuple[str, ...] = ()
    members: dict[enum.Enum, str] = field(default_factory=dict, hash=False)  # of a Python enum: their labels
    item: Rule | None = None  # of an array: the rule for its elements
    encoding: str = ""  # the database's, where it lacks characters (see `in_encoding`)
    # The server's type, if the values can be sent in binary; "": as text; None: the server was not asked yet.
    binary: str | None = field(default=None, compare=False)
    decimal: str = ""  # the decimal mark of numbers in text; '': a point
    thousands: str = ""  # the mark between their groups of three digits; '': they have none

    @property
    def check(self) -> Check | None:
        """How its values, or the elements of its arrays, are checked; None: it cannot be loaded."""
        return None if self.type is None else self.type.check

    @property
    def compared_alike(self) -> str:
        """Whether Arrow finds values equal, and sorts them, as the server does (see `PgType`)."""
        return "never" if self.type is None or self.item else self.type.compared_alike

    @property
    def typed(self) -> pa.DataType | None:
        """The Arrow type of its checked values: of a numeric with up to 38 digits, a decimal128."""
        precision, scale = self.precision or 0, self.scale or 0
        if self.type is PGTYPES["numeric"] and 0 < precision <= MOST_DIGITS and 0 <= scale <= precision:
            return pa.decimal128(precision, scale)
        return self.type and self.type.typed

    @property
    def takes_fractions(self) -> bool:
        """Whether it is a number that need not be whole."""
        limited = self.precision is not None and (self.scale or 0) <= 0
        return self.check == "float" or (self.check == "numeric" and not limited)

    def written(self, decimal: str, thousands: str) -> Rule:
        """Return the rule for a source whose text has numbers with these marks.

        If they are the same, it is for decimals in a column that takes fractions, for thousands in others.
        """
        item = self.item and self.item.written(decimal, thousands)
        if decimal == thousands:
            decimal, thousands = (decimal, "") if self.takes_fractions else ("", thousands)
        return replace(self, decimal=decimal, thousands=thousands, item=item)


def table_of(table: object) -> Table:
    """Return the table of a mapped class, or the Table that was given."""
    if isinstance(table, Table):
        return table
    try:
        mapped = inspect_sql(table).local_table
    except (NoInspectionAvailable, AttributeError):
        mapped = None
    if not isinstance(mapped, Table):
        raise TypeError(f"a mapped class, a sqlalchemy.Table or a table's name is needed, not {table!r}")
    return mapped


def rules_of(table: Table, key: Sequence[str] = ()) -> list[Rule]:
    """Return the rules of the columns that a frame may fill: all but those of `unused_by`."""
    unused = unused_by(table, key)
    return [
        _rule(column, in_key=column.name in key)
        for column in table.columns
        if column.computed is None and column.name not in unused
    ]


def unused_by(table: Table, key: Sequence[str] = ()) -> frozenset[str]:
    """Return the columns that the database alone fills: numbers of its own, and what it computes."""
    return frozenset(
        column.name
        for column in table.columns
        if column.name not in key
        and (
            column.computed is not None
            or not column.info.get("given", True)
            or (column.identity is not None and column.identity.always)
        )
    )


def _rule(column: Column[Any], *, in_key: bool) -> Rule:
    numbered = column.table is not None and column is column.table.autoincrement_column
    rule = _typed_rule(column.name, column.type, nullable=bool(column.nullable))
    words = ("low", "high", "meaning", "missing", "also")
    limits = {word: column.info[word] for word in words if column.info.get(word) is not None}
    supplied = column.nullable or numbered or column.server_default is not None
    needed = (in_key or not supplied) and "missing" not in limits
    return replace(rule, needed=needed, **limits)


def _typed_rule(name: str, declared: types.TypeEngine[Any], *, nullable: bool) -> Rule:
    if isinstance(declared, types.ARRAY) and not isinstance(declared.item_type, types.ARRAY):
        item = _typed_rule(name, declared.item_type, nullable=True)
        if item.type is not None and (declared.dimensions or 1) == 1:
            return Rule(name, item.type, nullable, item=item)
    type_ = _row_of(declared)
    rule = Rule(name, type_, nullable)
    if type_ is None:
        meaning = f"{declared!r} is none of the types that can be loaded: {_SUPPORTED}."
        return replace(rule, meaning=meaning)
    if isinstance(declared, types.Enum):
        named: Mapping[str, enum.Enum] = declared.enum_class.__members__ if declared.enum_class else {}
        # With omit_aliases=False an alias has a label, too; a member is stored under the first of its names.
        aliases = len(named) == len(declared.enums)
        members = [member for name, member in named.items() if aliases or member.name == name]
        labels = dict(zip(reversed(members), reversed(declared.enums), strict=False))
        return replace(rule, labels=tuple(declared.enums), members=labels)
    if isinstance(declared, types.String):
        return replace(rule, high=declared.length)
    if type_.check == "integer":
        limits = np.iinfo(type_.binary)
        return replace(rule, low=int(limits.min), high=int(limits.max))
    if type_.check == "numeric" and isinstance(declared, types.Numeric) and declared.precision is not None:
        return replace(rule, precision=declared.precision, scale=declared.scale or 0)
    if type_.check in ("time", "timestamp", "timestamptz", "interval"):
        return replace(rule, precision=getattr(declared, "precision", None))  # digits of a second
    return rule


def _row_of(declared: types.TypeEngine[Any]) -> PgType | None:
    """Return the row of the most specific class that has one; None where the type cannot be loaded."""
    found = next((_BY_CLASS[class_] for class_ in type(declared).__mro__ if class_ in _BY_CLASS), None)
    if isinstance(declared, types.TypeDecorator) and not isinstance(declared, types.Interval):
        return None  # its process_bind_param would not be called
    if getattr(declared, "timezone", False):
        return PGTYPES["timestamptz"] if found is PGTYPES["timestamp"] else None
    if isinstance(declared, types.Float) and found is PGTYPES["float8"] and (declared.precision or 53) <= 24:
        return PGTYPES["float4"]
    return found


def columns_of_key(key: Sequence[str] | str, undone: str = "nothing was loaded") -> tuple[str, ...]:
    """Return the columns that `key=` names.

    Raises
    ------
    TypeError
        If it is neither a name nor a list of names. `undone` says what was not done because of it.
    ValueError
        If it names a column twice.
    """
    columns = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, Iterable) else (key,)
    if not all(isinstance(name, str) for name in columns):
        raise TypeError(f'key is a name or a list of names, as in key=["name"], not {key!r}; {undone}')
    if len(set(columns)) < len(columns):
        raise ValueError(f"key names a column twice: {', '.join(columns)}; {undone}. Name each once")
    return columns


def key_of(
    table: Table,
    key: Sequence[str] | str | None,
    hint: Callable[[Sequence[str]], str],
    *,
    optional: bool = False,
) -> tuple[str, ...]:
    """Return the columns that identify a row: those asked for, else those of the one unique constraint.

    If it is `optional` and the table has no unique constraint: (). `hint` returns how to make columns unique;
    of no columns, with … in place of those that the user has to choose.

    Raises
    ------
    ValueError
        If that is no unique constraint of the table, or none was asked for and there is not just one.
    TypeError
        If `key` is neither a name nor a list of names.
    """
    unique, numbered = _unique(table)
    shown = "; ".join(f"({', '.join(columns)})" for columns in unique) or "none"
    if key is not None:
        wanted = columns_of_key(key)
        if not any(sorted(wanted) == sorted(columns) for columns in unique + numbered):
            there = wanted and all(name in table.columns for name in wanted)
            how = hint(wanted) if there else f"Its columns are {', '.join(table.columns.keys())}"
            raise ValueError(
                f"key ({', '.join(wanted)}) is no unique constraint of table {table.name!r}; "
                f"it has: {shown}. Nothing was loaded. {how}"
            )
        return wanted
    if len(unique) > 1:
        keys = " or ".join(f"key={list(columns)!r}" for columns in unique)
        raise ValueError(
            f"table {table.name!r} has {len(unique)} unique constraints: {shown}. "
            f"Nothing was loaded. Say which one tells its rows apart: {keys}"
        )
    if not unique and not optional:
        beside = f" beside ({numbered[0][0]}), which the database numbers" if numbered else ""
        raise ValueError(
            f"table {table.name!r} has no unique constraint{beside}, and so no row is known to be there "
            f"already. Nothing was loaded. {hint(())}"
        )
    return unique[0] if unique else ()


def _unique(table: Table) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the unique sets of columns, and apart from them a primary key that the database numbers."""
    primary: tuple[str, ...] = tuple(column.name for column in table.primary_key.columns)
    counter = table.autoincrement_column
    numbered: list[tuple[str, ...]] = [primary] if counter is not None and primary == (counter.name,) else []
    found = [primary] if primary and not numbered else []
    constraints = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    found += sorted(tuple(column.name for column in c.columns) for c in constraints)
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        whole = index.dialect_options["postgresql"]["where"] is None
        of_columns = all(isinstance(expression, Column) for expression in index.expressions)  # no lower(name)
        if index.unique and whole and of_columns:
            found.append(tuple(column.name for column in index.columns))
    return list({tuple(sorted(columns)): columns for columns in found}.values()), numbered
