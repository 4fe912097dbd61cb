"""What the columns of a table take, and which of them are its key, read off SQLAlchemy's metadata. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from sqlalchemy import Column, Table, UniqueConstraint, types
from sqlalchemy import inspect as inspect_sql
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import NoInspectionAvailable

Kind: TypeAlias = Literal[
    "text", "integer", "float", "real", "numeric", "boolean", "uuid", "date", "time", "timestamp",
    "timestamptz", "interval", "json", "jsonb", "bytea", "enum", "array", "unsupported",
]  # fmt: skip

# By the most specific class in a type's ancestry; integers and floats are told apart below.
_KINDS: dict[type[types.TypeEngine[Any]], Kind] = {
    types.Enum: "enum",
    types.String: "text",
    types.Integer: "integer",
    types.Float: "float",
    pg.REAL: "real",
    types.REAL: "real",
    types.Numeric: "numeric",
    types.Boolean: "boolean",
    types.Uuid: "uuid",
    types.Date: "date",
    types.Time: "time",
    types.DateTime: "timestamp",
    types.Interval: "interval",
    pg.INTERVAL: "interval",
    pg.JSONB: "jsonb",
    types.JSON: "json",
    types.LargeBinary: "bytea",
    pg.BYTEA: "bytea",
    types.ARRAY: "array",
}
_INTEGER_BITS = ((types.SmallInteger, 16), (types.BigInteger, 64), (types.Integer, 32))
_SUPPORTED = (
    "smallint, integer, bigint, real, double precision, numeric, boolean, text, varchar, char, uuid, date, "
    "time, timestamp, timestamptz, interval, json, jsonb, bytea, enums, and one-dimensional arrays of these"
)


@dataclass(frozen=True)
class Rule:
    """What one column of a table takes; the limits of a text are on its number of characters."""

    name: str
    kind: Kind
    nullable: bool
    needed: bool = False  # in every frame
    missing: str | None = None  # what a missing value becomes
    low: float | None = None
    high: float | None = None
    meaning: str = ""  # a sentence: what is expected
    precision: int | None = None  # of a numeric: all of its digits
    scale: int | None = None  # of a numeric: its digits after the point
    labels: tuple[str, ...] = ()
    members: dict[enum.Enum, str] = field(default_factory=dict, hash=False)  # of a Python enum, their labels
    item: Rule | None = None  # what an array's elements take


def table_of(table: object) -> Table:
    """Return the table of a mapped class, or the Table that was given."""
    if isinstance(table, Table):
        return table
    try:
        mapped = inspect_sql(table).local_table
    except (NoInspectionAvailable, AttributeError):
        mapped = None
    if not isinstance(mapped, Table):
        raise TypeError(f"a mapped class or a sqlalchemy.Table is needed, not {table!r}")
    return mapped


def rules_of(table: Table, key: Sequence[str] = ()) -> list[Rule]:
    """Return the rules of the columns that a frame may fill.

    These are all but the ones that the database computes, and those it numbers itself unless they are in
    `key`.
    """
    return [
        _rule(column, in_key=column.name in key)
        for column in table.columns
        if column.computed is None and (column.identity is None or column.name in key)
    ]


def _rule(column: Column[Any], *, in_key: bool) -> Rule:
    numbered = column.table is not None and column is column.table.autoincrement_column
    rule = _typed_rule(column.name, column.type, nullable=bool(column.nullable))
    words = ("low", "high", "meaning", "missing")
    limits = {word: column.info[word] for word in words if column.info.get(word) is not None}
    supplied = column.nullable or numbered or column.server_default is not None
    needed = (in_key or not supplied) and "missing" not in limits
    return replace(rule, needed=needed, **limits)


def _typed_rule(name: str, type_: types.TypeEngine[Any], *, nullable: bool) -> Rule:
    kind = _kind(type_)
    if kind == "unsupported":
        return Rule(
            name, kind, nullable, meaning=f"{type_!r} is none of the types that can be loaded: {_SUPPORTED}."
        )
    rule = Rule(name, kind, nullable)
    if isinstance(type_, types.Enum):
        members = list(type_.enum_class) if type_.enum_class else []
        return replace(rule, labels=tuple(type_.enums), members=dict(zip(members, type_.enums, strict=False)))
    if isinstance(type_, types.String):
        return replace(rule, high=type_.length)
    if kind == "integer":
        bits = next(bits for class_, bits in _INTEGER_BITS if isinstance(type_, class_))
        return replace(rule, low=-(2 ** (bits - 1)), high=2 ** (bits - 1) - 1)
    if kind == "numeric" and isinstance(type_, types.Numeric) and type_.precision is not None:
        return replace(rule, precision=type_.precision, scale=type_.scale or 0)
    if kind in ("time", "timestamp", "timestamptz", "interval"):
        return replace(rule, precision=getattr(type_, "precision", None))  # digits of a second
    if isinstance(type_, types.ARRAY):
        item = _typed_rule(name, type_.item_type, nullable=True)
        return item if item.kind == "unsupported" else replace(rule, item=item)
    return rule


def _kind(type_: types.TypeEngine[Any]) -> Kind:
    known: list[Kind] = [_KINDS[class_] for class_ in type(type_).__mro__ if class_ in _KINDS]
    kind: Kind = known[0] if known else "unsupported"
    if isinstance(type_, types.TypeDecorator) and kind != "interval":
        return "unsupported"  # what its Python side does would be left out
    if kind in ("timestamp", "time") and getattr(type_, "timezone", False):
        return "timestamptz" if kind == "timestamp" else "unsupported"
    if isinstance(type_, types.Float) and kind == "float" and (type_.precision or 53) <= 24:
        return "real"
    if isinstance(type_, types.ARRAY):
        several = (type_.dimensions or 1) > 1 or isinstance(type_.item_type, types.ARRAY)
        return "unsupported" if several else kind
    return kind


def key_of(table: Table, key: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the columns that identify a row: those asked for, else those of the one unique constraint.

    Raises
    ------
    ValueError
        If that is no unique constraint of the table, or none was asked for and there is not just one.
    """
    unique, numbered = _unique(table)
    shown = "; ".join(f"({', '.join(columns)})" for columns in unique) or "none"
    if key is not None:
        wanted = (key,) if isinstance(key, str) else tuple(key)
        if not any(sorted(wanted) == sorted(columns) for columns in unique + numbered):
            raise ValueError(
                f"key ({', '.join(map(str, wanted))}) is no unique constraint of table {table.name!r}; "
                f"it has: {shown}. Nothing was loaded."
            )
        return wanted
    if len(unique) != 1:
        say = "Say which one tells its rows apart: key=[…]" if unique else "Give it a unique constraint"
        raise ValueError(
            f"table {table.name!r} has {len(unique) or 'no'} unique constraints: {shown}. {say}. "
            "Nothing was loaded."
        )
    return unique[0]


def _unique(table: Table) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the sets of columns that are unique, and beside them a primary key that the database numbers."""
    primary: tuple[str, ...] = tuple(column.name for column in table.primary_key.columns)
    counter = table.autoincrement_column
    numbered: list[tuple[str, ...]] = [primary] if counter is not None and primary == (counter.name,) else []
    found = [primary] if primary and not numbered else []
    constraints = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    found += sorted(tuple(column.name for column in c.columns) for c in constraints)
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        whole = index.dialect_options["postgresql"]["where"] is None
        columns = [getattr(expression, "name", None) for expression in index.expressions]
        if index.unique and whole and all(columns):
            found.append(tuple(map(str, columns)))
    return list({tuple(sorted(columns)): columns for columns in found}.values()), numbered
