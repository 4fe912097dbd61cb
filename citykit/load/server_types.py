"""The rules of a load's columns beside the types that the server has for them. No I/O.

The server's type may hold less than the declared one, may be cast from text, or may compare values in its own
way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from citykit.encode import Rule, is_in_binary
from citykit.load.catalogue import Column, Facts
from citykit.pgtypes import ENUM, PGTYPES


def rules_of_the_server(rules: Sequence[Rule], facts: Facts) -> list[Rule]:
    """Return the rules with the labels of the server's enums, and its types where those hold less.

    Otherwise the server would refuse a value without naming its row (an integer into a smallint), or change
    it (a timestamp into a date).
    """

    def ruled(rule: Rule) -> Rule:
        column = facts.columns.get(rule.name)
        if column is None or rule.type is None or column.array is not (rule.item is not None):
            return replace(rule, binary="")
        if rule.item is not None:
            item = _narrowed(rule.item, column)
            rule = replace(rule, type=item.type, item=item)
        else:
            rule = _narrowed(rule, column)
        of_enum = column.labels and rule.item is None
        name = ENUM.name if of_enum else column.type or ""
        in_binary = facts.kind in ("r", "p") and not is_converted(rule, column) and is_in_binary(rule, name)
        return replace(rule, binary=name if in_binary else "")

    return [ruled(rule) for rule in rules]


_WHOLE = {"int2": 5, "int4": 10, "int8": 19}  # digits of the largest value
_MOMENTS = frozenset({"date", "timestamp", "timestamptz"})
# By the declared type, the stored types that hold each of its values.
_HOLD = {
    "int2": {"int4", "int8", "float4", "float8"},
    "int4": {"int8", "float8"},
    "int8": set[str](),
    "float4": {"float8", "numeric"},
    "float8": {"numeric"},
    "numeric": set[str](),
}


def is_converted(rule: Rule, column: Column) -> bool:
    """Tell whether the server casts the column's values from text, and may refuse one."""
    declared, stored = (rule.item or rule).type, PGTYPES.get(column.element)
    if column.array is not (rule.item is not None) or declared is None:
        return True
    if column.labels:
        return declared.check not in ("text", "enum")
    if stored is None or {stored.name, declared.name} <= _HOLD.keys():
        return stored is None
    # An interval of some fields only (interval day) drops the others; the mask of all is 0x7FFF.
    in_part = stored.check == "interval" and column.typmod >> 16 & 0x7FFF != 0x7FFF
    return in_part or stored.check != ("text" if declared is ENUM else declared.check)


# Types that have no operator =, or one that finds different values equal (boxes of the same area).
_NOT_COMPARED = frozenset({"box", "circle", "json", "line", "lseg", "path", "point", "polygon", "xml"})
# For types that may round or cut a text: a type that keeps all of it.
_WIDER = {
    "bit": "varbit", "bpchar": "text", "date": "timestamptz", "float4": "numeric", "float8": "numeric",
    "interval": "interval", "numeric": "numeric", "time": "timetz", "timestamp": "timestamptz",
    "timestamptz": "timestamptz", "varbit": "varbit", "varchar": "text",
}  # fmt: skip


def comparable(column: Column) -> str | None:
    """Return the type in SQL to which a column's values are cast before they are compared; None for none."""
    if column.element in _NOT_COMPARED:
        return "text"
    # A domain over an enum has no operator =, and an array of a domain none with one of the base type.
    is_cast = column.domain and (column.array or column.element not in PGTYPES)
    return column.definition if is_cast else None


def sorted_alike(rule: Rule, column: Column | None) -> bool:
    """Tell whether Arrow finds a column's values equal, and sorts them, as the server does."""
    stored = PGTYPES.get(column.element) if column else None
    if column is None or stored is None or stored.compared_alike == "never":
        return False
    if rule.compared_alike == "in the C collation":
        return column.collation == ' COLLATE pg_catalog."C"'
    return rule.compared_alike == "always"


def wider(column: Column) -> str | None:
    """Return the SQL type that keeps what the column's type may round or cut; None: it keeps every text."""
    drops = column.typmod >= 0 or column.element in ("date", "float4", "float8", "time", "timestamp")
    type_ = _WIDER.get(column.element) if drops else None
    return type_ and type_ + ("[]" if column.array else "")


def _narrowed(rule: Rule, column: Column) -> Rule:
    declared, stored = rule.type, PGTYPES.get(column.element)
    if declared is ENUM or (column.labels and declared is not None and declared.check == "text"):
        return replace(rule, labels=column.labels or rule.labels)
    if declared is None or stored is None:
        return rule
    limits = column.typmod - 4  # of a text: its characters
    if stored.check == declared.check == "text":
        short = limits >= 0 and (rule.high is None or limits < rule.high)
        return replace(rule, high=limits) if short else rule
    if {stored.name, declared.name} <= _MOMENTS or stored.check == declared.check in ("time", "interval"):
        digits = column.typmod & 0xFFFF  # of a second
        known = [p for p in (rule.precision, None if digits > 6 else digits) if p is not None]
        return replace(rule, type=stored, precision=min(known, default=None))
    if not {stored.name, declared.name} <= _HOLD.keys():
        return rule
    if stored.name == "numeric":
        if column.digits is None:
            return rule
        precision, scale = column.digits
        before = precision - scale  # digits before the point
        if scale >= 0 and _WHOLE.get(declared.name, 10**6) <= before:
            return rule
        if declared is stored and rule.precision is not None:
            before = min(before, rule.precision - (rule.scale or 0))
            scale = min(scale, rule.scale or 0)
        return replace(rule, type=stored, precision=before + scale, scale=scale)
    if stored is declared or stored.name in _HOLD[declared.name]:
        return rule
    rule = replace(rule, type=stored, precision=None, scale=None)
    if stored.check != "integer":
        return rule
    whole = np.iinfo(stored.binary)
    low = int(whole.min if rule.low is None else max(whole.min, rule.low))
    return replace(rule, low=low, high=int(whole.max if rule.high is None else min(whole.max, rule.high)))
